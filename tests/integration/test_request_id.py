"""One request id on both sides: in the client's log, in the server's log, in the error that a user sees."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from hetal import request_id
from hetal._pb import hetal_pb2 as pb
from hetal._pb import hetal_pb2_grpc
from hetal.cli.main import EXIT_ERROR, main
from hetal.client import Client
from hetal.client.log import LOG as CLIENT_LOG
from hetal.client.log import configure as log_calls
from hetal.errors import JobNotFoundError
from hetal.log import Log
from hetal.request_id import REQUEST_ID_KEY
from hetal.server.app import Server
from hetal.server.config import ServerConfig
from hetal.server.log import LOG as SERVER_LOG


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def silenced() -> Any:
    """The loggers as they were, whatever a test does with them."""
    kept = [(log.logger, log.logger.handlers[:], log.logger.level, log.logger.propagate) for log in _LOGS]
    yield
    for logger, handlers, level, propagate in kept:
        for handler in set(logger.handlers) - set(handlers):
            handler.close()
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


_LOGS: tuple[Log, ...] = (CLIENT_LOG, SERVER_LOG)


@pytest.fixture
async def server(tmp_path: Path, silenced: None) -> AsyncIterator[Server]:
    SERVER_LOG.send_to(logging.FileHandler(tmp_path / "server.log"), as_json=True)
    server = await Server.start(ServerConfig(data_dir=tmp_path / "data"))
    yield server
    await server.stop(grace_s=1)


async def test_both_logs_and_the_error_name_the_request(server: Server, tmp_path: Path) -> None:
    log_calls(tmp_path / "client.log")
    async with Client(f"127.0.0.1:{server.port}") as client:
        await client.info()
        with pytest.raises(JobNotFoundError) as caught:
            await client.get("nothing")
    name = caught.value.request_id
    assert request_id.adopted(name) == name
    assert str(caught.value).endswith(f"(request {name})")
    theirs = [line for line in lines(tmp_path / "server.log") if line.get("request") == name]
    assert [(line["event"], line["rpc"], line["code"]) for line in theirs] == [("rpc", "GetJob", "JOB_NOT_FOUND")]
    ours = [line for line in lines(tmp_path / "client.log") if line["request"] == name]
    assert [(line["event"], line.get("rpc"), line.get("code")) for line in ours] == [
        ("call", "GetJob", None),
        ("failed", None, "JOB_NOT_FOUND"),
    ]
    others = {line["request"] for line in lines(tmp_path / "client.log")} - {name}
    assert len(others) == 1, "each call has a name of its own"


async def test_a_name_unfit_for_a_log_is_replaced_and_told(server: Server, tmp_path: Path) -> None:
    sent = ("", "x" * 65, 'a" event="forged', "good-One_1")
    told = []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub: Any = hetal_pb2_grpc.HetalStub(channel)
        for name in sent:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.GetJob(pb.GetJobRequest(job_id="nothing"), metadata=((REQUEST_ID_KEY, name),))
            told.append(dict(caught.value.trailing_metadata() or ())[REQUEST_ID_KEY])
    assert told[3] == "good-One_1"
    assert all(len(name) == 32 and name.isalnum() for name in told[:3])
    assert [line["request"] for line in lines(tmp_path / "server.log") if line["event"] == "rpc"] == told


def test_the_command_line_names_the_request_and_logs_the_call(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, silenced: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hetal.limits.RECONNECT_ATTEMPTS_MAX", 0)
    log = tmp_path / "calls.jsonl"
    assert main(["jobs", "list", "--server", "127.0.0.1:1", "--log", str(log)]) == EXIT_ERROR
    message, hint, request = capsys.readouterr().err.splitlines()
    assert message.startswith("error [SERVER_UNREACHABLE]: ") and hint.startswith("hint: ")
    assert {line["request"] for line in lines(log)} == {request.removeprefix("request: ")}
