"""Lines of the log, as text and as JSON, from the front and from a worker."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from typing import Any

import pytest

from hetal import request_id
from hetal.log import Log


@pytest.fixture
def log() -> Log:
    return Log("hetal.test")


def lines(log: Log, *, as_json: bool, **fields: Any) -> list[str]:
    out = io.StringIO()
    log.send_to(logging.StreamHandler(out), as_json=as_json)
    log.event("thing happened", **fields)
    return out.getvalue().splitlines()


def test_text_and_json(log: Log) -> None:
    (line,) = lines(log, as_json=False, count=3, text='a "b"', nothing=None)
    assert line.partition(" ")[2] == 'level=INFO event="thing happened" count=3 text="a \\"b\\""'
    (line,) = lines(log, as_json=True, count=3, text="a\nb")
    record = json.loads(line)
    assert record.pop("time").endswith("Z")
    assert record == {"level": "INFO", "event": "thing happened", "count": 3, "text": "a\nb"}


def test_a_request_and_common_fields_are_named(log: Log) -> None:
    log.common["job"] = "j1"
    with request_id.request() as name:
        (line,) = lines(log, as_json=True)
        assert (json.loads(line)["request"], json.loads(line)["job"]) == (name, "j1")
    assert "request" not in json.loads(lines(log, as_json=True)[0])


def test_a_line_cannot_be_forged(log: Log) -> None:
    (line,) = lines(log, as_json=False, text="x\n2026 level=INFO event=forged", level2="a=b")
    assert "\\n2026" in line and 'level2="a=b"' in line


def test_a_traceback_stays_in_its_line(log: Log) -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError as error:
        (line,) = lines(log, as_json=False, error=error)
        (record,) = lines(log, as_json=True, error=error)
    assert "ValueError: first\\nsecond" in line
    assert "ValueError: first\nsecond" in json.loads(record)["traceback"]


def test_a_worker_names_its_job() -> None:
    command = [sys.executable, "-m", "hetal.server.worker", "--parent", str(os.getpid()), "--job", "j1"]
    done = subprocess.run(
        [*command, "--threads", "1", "--backend", "native", "--device", "cpu", "--log-json"],
        input='{"command": "train"}\n',
        capture_output=True,
        text=True,
        timeout=60,
    )
    record = json.loads(done.stderr)
    assert (record["event"], record["job"]) == ("worker crashed", "j1") and "KeyError" in record["traceback"]
    assert json.loads(done.stdout)["code"] == "INTERNAL"
