"""``scripts/measure_gpu.py`` on an emulated device: its stages, its file, and what it needs to be installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hetal.native.cuda.emulated import compiler

SCRIPT = Path(__file__).parents[2] / "scripts" / "measure_gpu.py"


@pytest.mark.full
@pytest.mark.skipif(compiler() is None, reason="needs a C++ compiler")
def test_all_stages_pass(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    command = [sys.executable, str(SCRIPT), "--driver", "emulated", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(out.read_text())
    assert report["passed"] and report["facts"]["device"] == "emulated"
    stages = report["stages"]
    assert list(stages) == ["residues", "bootstrap_check", "engine", "keys", "training", "matmul"]
    assert stages["residues"]["compared"] > 300 and stages["residues"]["different"] == []
    assert stages["bootstrap_check"]["replays"] == 3
    assert stages["engine"]["bootstrap"]["seconds"] > 0
    assert stages["keys"]["half"]["counts"]["key_misses"] > 0 == stages["keys"]["all"]["counts"].get("key_misses", 0)
    assert stages["training"]["iteration"]["seconds"] > 0 and stages["training"]["bootstraps"] > 0


def test_without_the_device_it_says_so(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    command = [sys.executable, str(SCRIPT), "--number", "99", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "DEVICE_UNAVAILABLE" in done.stderr


def test_it_needs_numpy_alone() -> None:
    """A machine that is lent for a while has a checkout and little else."""
    code = """
import runpy, sys
runpy.run_path(sys.argv[1], run_name="other")
installed = {name for name, module in sys.modules.items() if "site-packages" in (getattr(module, "__file__", "") or "")}
print(*{name.split(".")[0] for name in installed})
"""
    done = subprocess.run([sys.executable, "-c", code, str(SCRIPT)], capture_output=True, text=True, check=True)
    assert {name for name in done.stdout.split() if not name.startswith("_")} == {"numpy"}
