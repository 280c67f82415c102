"""What a newcomer meets first: the Python finder, the CI entry, and the commands that the documents print."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from hetal.ckks.presets import PRESETS, preset

ROOT = Path(__file__).resolve().parents[2]
FIND_PYTHON = ROOT / "scripts" / "find_python"
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
)
FENCE = re.compile(r"^```(?:console|sh)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def find_python(home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": str(home / "bin"), "HOME": str(home), **environment}
    return subprocess.run(["/bin/sh", str(FIND_PYTHON)], env=env, capture_output=True, text=True, timeout=60)


def fake_python(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def commands(document: str) -> list[str]:
    """Command lines of the fenced blocks, without prompts and output."""
    found: list[str] = []
    for block in FENCE.findall((ROOT / document).read_text()):
        lines = block.splitlines()
        prompted = [line[2:] for line in lines if line.startswith("$ ")]
        found += prompted or [line for line in lines if line.strip()]
    return found


def tracked_text_files() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        timeout=60,
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name.decode() for name in listing.stdout.split(b"\0") if name]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()]


def make_targets() -> set[str]:
    return set(re.findall(r"^([.\w-]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE)) - {".PHONY"}


def parse(parser: argparse.ArgumentParser, command: str) -> argparse.Namespace:
    try:
        return parser.parse_args(shlex.split(command)[1:])
    except SystemExit as stop:
        if stop.code == 0:
            return argparse.Namespace()
        pytest.fail(f"the parser refuses `{command}`")


class TestFindPython:
    def test_without_any_python_one_sentence_tells_what_to_install(self, tmp_path: Path) -> None:
        result = find_python(tmp_path)
        assert result.returncode == 1
        assert result.stdout == ""
        assert result.stderr.count("\n") == 1
        assert "python3.10-venv" in result.stderr
        assert "pyenv install 3.10" in result.stderr

    def test_a_command_that_starts_no_python_is_passed_over(self, tmp_path: Path) -> None:
        fake_python(tmp_path / "bin" / "python3.10", 'echo "version manager: command not found" >&2; exit 127')
        result = find_python(tmp_path)
        assert result.returncode == 1
        assert "rejected" not in result.stderr

    def test_a_rejected_python_is_named_with_its_reason(self, tmp_path: Path) -> None:
        fake_python(tmp_path / "bin" / "python3", 'echo "cpython 3.11 has no OpenFHE wheel"; exit 1')
        result = find_python(tmp_path)
        assert result.returncode == 1
        assert "python3: cpython 3.11 has no OpenFHE wheel" in result.stderr
        assert result.stderr.count("\n") == 1

    def test_the_running_python_is_accepted(self, tmp_path: Path) -> None:
        # The probe asks for ensurepip too, so the interpreter behind a virtual environment answers as well as its base.
        result = find_python(tmp_path, HETAL_PYTHON=sys.executable)
        assert result.returncode == 0, result.stderr
        assert result.stdout.strip() == sys.executable

    def test_pyenv_versions_are_searched(self, tmp_path: Path) -> None:
        fake_python(tmp_path / ".pyenv/versions/3.10.99/bin/python", f'exec "{sys.executable}" "$@"')
        result = find_python(tmp_path)
        assert result.returncode == 0, result.stderr
        assert Path(result.stdout.strip()).exists()

    def test_another_interpreter_version_is_rejected_by_the_probe(self, tmp_path: Path) -> None:
        # The same probe under an interpreter that claims to be 3.11.
        script = tmp_path / "claim.py"
        script.write_text("import sys\nsys.version_info = (3, 11, 0, 'final', 0)\nexec(sys.argv[1])\n")
        fake_python(tmp_path / "bin" / "python3", f'exec "{sys.executable}" "{script}" "$2"')
        result = find_python(tmp_path)
        assert result.returncode == 1
        assert "3.11 has no OpenFHE wheel" in result.stderr


class TestCommands:
    def test_ci_calls_check_and_test_and_nothing_else(self) -> None:
        lines = (ROOT / ".ci" / "run").read_text().splitlines()
        assert lines[0].startswith("#!")
        steps = [line for line in lines[1:] if line and not line.startswith(("#", "set ", "cd "))]
        assert steps == ["make check", "make test"]
        assert "set -e" in lines
        assert os.access(ROOT / ".ci" / "run", os.X_OK)

    def test_readme_shows_demo_and_test_first(self) -> None:
        assert commands("README.md")[:2] == ["make demo", "make test"]

    @pytest.mark.parametrize("document", DOCUMENTS)
    def test_every_make_target_in_a_document_exists(self, document: str) -> None:
        text = (ROOT / document).read_text()
        named = set(re.findall(r"`make ([.\w-]+)`", text))
        named |= {word for line in commands(document) for word in re.findall(r"\bmake ([.\w-]+)", line)}
        assert named <= make_targets()

    def test_makefile_help_names_real_targets(self) -> None:
        named = set(re.findall(r"@echo 'make ([.\w-]+)", (ROOT / "Makefile").read_text()))
        assert named
        assert named <= make_targets()

    def test_every_hetal_command_in_the_documents_parses(self) -> None:
        from hetal.cli.main import build_parser

        lines = [line for document in DOCUMENTS for line in commands(document) if line.startswith("hetal ")]
        assert {"serve", "train", "predict", "demo"} <= {shlex.split(line)[1] for line in lines}
        for line in lines:
            parse(build_parser(), line)

    def test_every_import_of_the_readme_exists(self) -> None:
        blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
        imports = [line for block in blocks for line in block.splitlines() if line.startswith(("import ", "from "))]
        assert imports
        for line in imports:
            exec(line, {})

    def test_a_wrong_option_would_be_noticed(self) -> None:
        from hetal.cli.main import build_parser

        with pytest.raises(SystemExit) as stop:
            build_parser().parse_args(["serve", "--no-such-option"])
        assert stop.value.code == 2


class TestDocuments:
    def test_preset_table_of_the_readme_is_that_of_the_code(self) -> None:
        rows = re.findall(
            r"^\| `([\w-]+)` \| 2\^(\d+) \| (\d+) \|.*\| (\d+) \|$", (ROOT / "README.md").read_text(), re.MULTILINE
        )
        expected = []
        for name in PRESETS:
            params = preset(name)
            usable = params.bootstrap_output_level - params.bootstrap_input_level
            expected.append((name, str(params.spec.log2_ring_dimension), str(params.log_qp_bits), str(usable)))
        assert rows == expected

    @pytest.mark.parametrize("document", DOCUMENTS)
    def test_relative_links_lead_somewhere(self, document: str) -> None:
        for target in re.findall(r"\]\(([^)#]+)", (ROOT / document).read_text()):
            if "://" not in target:
                assert ((ROOT / document).parent / target).exists(), target

    def test_no_tracked_file_names_a_registry_a_machine_path_or_unfinished_work(self) -> None:
        # Spelled in pieces, so that this file does not contain what it looks for.
        unfinished = "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X"))
        registry = r"(?:pypi|pythonhosted)\." + "org"
        path = r"(?<![\w.$}])/(?:ro" + r"ot|ho" + r"me|wo" + r"rk|op" + r"t)/\w"
        forbidden = re.compile(rf"\b(?:{unfinished})\b|{registry}|{path}")
        hits = [
            f"{file.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
            for file in tracked_text_files()
            if file.name != "LICENSE"
            for number, line in enumerate(file.read_text(errors="replace").splitlines(), 1)
            if forbidden.search(line)
        ]
        assert hits == []
