"""Quick versions of the benchmarks of a running server: memory and hashes are asserted, times are not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def result(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["machine"]["cores"] > 0
    return found


def test_uploads_at_once_arrive_whole_in_bounded_memory(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    arguments = ("--clients", "32", "--mib", "8", "--dir", str(tmp_path), "--out", str(out))
    found = result(run("uploads.py", *arguments))
    assert found["hashes_right"] and found["rss_growth_mib"] <= 256
    assert found == json.loads(out.read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_uploads_refuse_a_disk_without_room(tmp_path: Path) -> None:
    done = run("uploads.py", "--clients", "1000", "--mib", str(1 << 30), "--dir", str(tmp_path))
    assert done.returncode == 2 and "are free" in done.stderr


def test_states_are_asked_while_jobs_train() -> None:
    found = result(run("status_latency.py", "--jobs", "2", "--epochs", "2"))
    assert found["calls"] > 10
    assert 0 < found["p50_ms"] <= found["p99_ms"] <= found["max_ms"]
