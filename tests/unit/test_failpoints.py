"""Failpoints: each has one place in the code, and does what it is armed for in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import hetal.server
from hetal.errors import InputError
from hetal.server.failpoints import LATCH_VARIABLE, POINTS, VARIABLE, Strike, failpoint, parse

SOURCES = Path(hetal.server.__file__).parent


def passes(armed: str, script: str, latch: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, VARIABLE: armed, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    if latch is not None:
        environment[LATCH_VARIABLE] = str(latch)
    code = f"from hetal.server.failpoints import failpoint\n{script}"
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)


def test_every_point_has_one_place_and_every_place_a_point() -> None:
    found = [
        name
        for path in SOURCES.rglob("*.py")
        for name in re.findall(r'(?<!def )failpoint\("(.*?)"\)', path.read_text())
    ]
    assert sorted(found) == sorted(POINTS)
    assert len(POINTS) >= 25


def test_an_unarmed_point_does_nothing() -> None:
    for name in POINTS:
        failpoint(name)


def test_a_kill_strikes_at_its_passage_and_once_a_latch(tmp_path: Path) -> None:
    script = "for turn in range(3): failpoint('db.begin'); print(turn, flush=True)"
    died = passes("db.begin=kill@3", script, tmp_path)
    assert (died.returncode, died.stdout) == (-signal.SIGKILL, "0\n1\n")
    assert (tmp_path / "db.begin").exists()
    assert passes("db.begin=kill@3", script, tmp_path).returncode == 0
    assert passes("db.changed=kill", script).returncode == 0


@pytest.mark.parametrize(("action", "error"), [("full", "No space left on device"), ("memory", "MemoryError")])
def test_a_shortage_lasts(action: str, error: str) -> None:
    script = "for _ in range(2):\n  try: failpoint('file.write')\n  except Exception as e: print(repr(e))"
    assert passes(f"file.write={action}", script).stdout.count(error) == 2


def test_the_variable_is_checked() -> None:
    assert parse("db.begin=kill@2,file.write=full") == {"db.begin": Strike("kill", 2), "file.write": Strike("full")}
    assert parse("") == {}
    for text in ("db.begin", "db.begin=burn", "nowhere=kill", "db.begin=kill@x"):
        with pytest.raises(InputError):
            parse(text)
