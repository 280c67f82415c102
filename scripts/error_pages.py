"""Writes docs/errors.md from hetal/errors.py; with --check only tells whether it is up to date.

Where an error arises is read off the sources: the packages that make one of its class.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path

from hetal.errors import CATALOGUE, HetalError

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "errors.md"
SIDES = {"client": "client", "server": "server"}
HEAD = """# Errors

<!-- Written by scripts/error_pages.py from hetal/errors.py. -->

Every error that hetal raises on purpose has a code. It is an attribute of the exception, and stands in the command
line's `error [CODE]: ...`, in the gRPC trailing metadata `hetal-code`, in the server's log and in its metrics; a hint
comes with it. Codes stay; messages may change. *Arises* tells which side finds the fault: what the server finds travels
to the client, which raises the same class. *Again* tells whether the same call may succeed later without a change.

| code | arises | again | gRPC status |
|---|---|---|---|
"""


@cache
def sides() -> dict[str, set[str]]:
    """By class name, the sides whose modules make such an error; what both sides use counts for both."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in sorted((ROOT / "hetal").rglob("*.py")):
        package = path.relative_to(ROOT / "hetal").parts[0]
        # A command runs where its user is; the one that serves is the server's.
        side = "server" if path.name == "serve.py" else SIDES.get("client" if package == "cli" else package, "both")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                found[node.func.id].add(side)
    return found


def arises(cls: type[HetalError], found: dict[str, set[str]]) -> str:
    where = found.get(cls.__name__, set())
    return next(iter(where)) if len(where) == 1 else "both"


def page() -> str:
    """The whole document."""
    found = sides()
    table, sections = [], []
    for code, cls in sorted(CATALOGUE.items()):
        again = "yes" if cls.retryable else "no"
        table.append(f"| [`{code}`](#{code.lower()}) | {arises(cls, found)} | {again} | `{cls.status}` |")
        sections.append(
            f"## {code}\n\n{meaning(cls)}\n\n"
            f"**What to do.** {cls.default_hint}\n\n"
            f"Python: `hetal.errors.{cls.__name__}`, a kind of `{cls.__mro__[1].__name__}`.\n"
        )
    return HEAD + "\n".join(table) + "\n\n" + "\n".join(sections)


def meaning(cls: type[HetalError]) -> str:
    """The first paragraph of the class's own docstring."""
    if cls is HetalError:
        return "A fault that hetal did not foresee. The other side learns this code alone; the log has the rest."
    text = inspect.cleandoc(cls.__dict__["__doc__"] or "")
    return " ".join(text.split("\n\n")[0].split())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    text = page()
    if options.check:
        if PAGE.read_text(encoding="utf-8") != text:
            print("docs/errors.md is out of date: run scripts/error_pages.py", file=sys.stderr)
            return 1
        return 0
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
