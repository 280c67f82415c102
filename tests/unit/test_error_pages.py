"""The catalogue of errors: complete in the code, and the page that is written from it."""

from __future__ import annotations

import importlib.util
import pickle
import re
from pathlib import Path
from types import ModuleType

import grpc
import pytest

from hetal.errors import CATALOGUE, HetalError, from_code

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("error_pages", ROOT / "scripts" / "error_pages.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(pages: ModuleType) -> None:
    assert pages.PAGE.read_text() == pages.page(), "run scripts/error_pages.py"


@pytest.mark.parametrize("code", sorted(CATALOGUE))
def test_each_error_has_a_meaning_a_remedy_a_status_and_a_side(pages: ModuleType, code: str) -> None:
    cls = CATALOGUE[code]
    assert cls.__dict__.get("__doc__"), f"{cls.__name__} has no docstring"
    assert pages.meaning(cls).endswith(".")
    assert cls.default_hint.endswith(".")
    assert cls.status in grpc.StatusCode.__members__
    assert pages.arises(cls, pages.sides()) in ("client", "server", "both")
    assert re.fullmatch(r"[A-Z]+(_[A-Z]+)*", code)


def test_codes_are_unique_and_survive_the_wire() -> None:
    classes, pending = set(), [HetalError]
    while pending:
        cls = pending.pop()
        classes.add(cls)
        pending += cls.__subclasses__()
    assert {cls.code for cls in classes} == set(CATALOGUE)
    assert len(classes) == len(CATALOGUE)
    for code, cls in CATALOGUE.items():
        error = pickle.loads(pickle.dumps(from_code(code, "text", "hint")))
        assert (type(error), error.message, error.hint) == (cls, "text", "hint")


def test_every_error_can_occur(pages: ModuleType) -> None:
    made = pages.sides()
    # Three are made by their code alone, on the side that hears of them.
    by_code = {"HetalError"} | {cls.__name__ for cls in CATALOGUE.values() if cls.__name__ not in made}
    sources = "\n".join(path.read_text() for path in (ROOT / "hetal").rglob("*.py") if path.name != "errors.py")
    assert [name for name in sorted(by_code) if not re.search(rf"\b{name}\b", sources)] == []


def test_links_of_the_table_lead_to_sections(pages: ModuleType) -> None:
    text = pages.page()
    anchors = {line.removeprefix("## ").lower() for line in text.splitlines() if line.startswith("## ")}
    links = set(re.findall(r"\(#([\w]+)\)", text))
    assert links == anchors
    assert len(anchors) == len(CATALOGUE)
