"""A real server seen from outside: metrics, health and readiness over HTTP and gRPC, and an HTTP front that holds."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from hetal import limits
from hetal.ckks.presets import TEST_PRESET
from hetal.cli.demo import dataset
from hetal.client import Client, Progress
from hetal.errors import InputError, JobNotFoundError
from hetal.server.app import Server
from hetal.server.config import ServerConfig, parse_http_address
from hetal.server.health import SERVICE, Health
from hetal.server.store.store import Store

DATA = dataset("wine")
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


async def get(server: Server, path: str, method: str = "GET", **headers: str) -> Answer:
    def fetch() -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=30)
        try:
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    return await asyncio.to_thread(fetch)


async def raw(server: Server, data: bytes) -> bytes:
    """Everything the server answers to these bytes, until it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.http_port)
    try:
        writer.write(data)
        return await asyncio.wait_for(reader.read(), 30)
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def samples(server: Server) -> Samples:
    answer = await get(server, "/metrics")
    assert answer.status == 200 and answer.headers["Content-Type"].startswith("text/plain")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


async def health(server: Server) -> int:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        return (await stub.Check(health_pb2.HealthCheckRequest(service=SERVICE))).status


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    monkeypatch.setattr("hetal.limits.OVERVIEW_INTERVAL_S", 0.0)
    monkeypatch.setattr("hetal.limits.HEALTH_INTERVAL_S", 0.05)
    config = ServerConfig(data_dir=tmp_path / "data", allow_insecure=True, threads=1, http_address="0")
    server = await Server.start(config)
    yield server
    await server.stop(grace_s=1)


# -- health -------------------------------------------------------------------------------------------------------


async def test_alive_and_ready(server: Server) -> None:
    assert (await get(server, "/healthz")).body == b"ok\n"
    ready = await get(server, "/readyz")
    assert (ready.status, ready.body) == (200, b"ok disk\nok database\nok serving\n")
    assert await health(server) == health_pb2.HealthCheckResponse.SERVING


async def test_a_full_disk_makes_it_not_ready_until_there_is_room(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as full:
        full.setattr("hetal.limits.DISK_RESERVE_BYTES", 1 << 62)
        ready = await get(server, "/readyz")
        assert ready.status == 503 and b"no disk" in ready.body
        assert value(await samples(server), "hetal_ready", check="disk") == 0
        await asyncio.sleep(0.5)
        assert await health(server) == health_pb2.HealthCheckResponse.NOT_SERVING
        assert (await get(server, "/healthz")).status == 200, "it lives; a restart would not make room"
    await asyncio.sleep(0.5)
    assert (await get(server, "/readyz")).status == 200
    assert await health(server) == health_pb2.HealthCheckResponse.SERVING


async def test_neither_starting_nor_draining_nor_without_database_is_ready(tmp_path: Path) -> None:
    store = Store(tmp_path)
    health = Health(store)

    async def failing() -> list[str]:
        return [f"{check.name}: {check.detail}" for check in await health.checks() if not check.ok]

    assert await failing() == ["serving: the server is starting"]
    await health.serving()
    assert await failing() == []
    await health.drain()
    assert await failing() == ["serving: the server is shutting down"]
    store.close()
    assert (await failing())[0] == "database: ProgrammingError"


# -- metrics ------------------------------------------------------------------------------------------------------


async def test_calls_bytes_and_rejects_are_counted(server: Server) -> None:
    async with Client(f"127.0.0.1:{server.port}") as client:
        await client.info()
        for _ in range(2):
            with pytest.raises(JobNotFoundError):
                await client.get("nothing")
    found = await samples(server)
    assert value(found, "hetal_rpcs_total", method="GetServerInfo", code="OK") == 1
    assert value(found, "hetal_rpcs_total", method="GetJob", code="JOB_NOT_FOUND") == 2
    assert value(found, "hetal_rejects_total", code="JOB_NOT_FOUND") == 2
    assert value(found, "hetal_received_bytes_total", method="GetJob") == 2 * len(b"\n\x07nothing")
    assert value(found, "hetal_sent_bytes_total", method="GetServerInfo") > 50
    assert value(found, "hetal_rpcs_running", method="GetJob") == 0
    assert value(found, "hetal_rpc_seconds_count", method="GetJob") == 2
    assert value(found, "hetal_disk_free_bytes") < value(found, "hetal_disk_bytes")
    assert value(found, "hetal_device_memory_used_bytes", device="cpu") > 0
    assert value(found, "process_resident_memory_bytes") > 1e7


async def test_a_training_is_seen_in_its_phases(server: Server) -> None:
    seen: list[Samples] = []
    looks: list[asyncio.Task[None]] = []

    niceness: set[int] = set()

    async def look() -> None:
        with suppress(psutil.NoSuchProcess):
            niceness.update(child.nice() for child in psutil.Process().children())
        seen.append(await samples(server))

    def progress(step: Progress) -> None:
        looks.append(asyncio.get_running_loop().create_task(look()))

    async with Client(f"127.0.0.1:{server.port}") as client:
        job = await client.train(
            *(DATA.x_train[::3], DATA.y_train[::3], DATA.x_val, DATA.y_val),
            preset_name=TEST_PRESET,
            epochs=2,
            weight_bound=4.0,
            logits_max=32.0,
            progress=progress,
        )
    await asyncio.gather(*looks)
    phases = {
        dict(labels)["phase"] for found in seen for (name, labels), n in found.items() if name == "hetal_jobs" and n
    }
    assert {"uploading", "loading keys", "training"} <= phases
    assert "other" not in phases
    working = [found for found in seen if value(found, "hetal_workers_running")]
    assert max(value(found, "hetal_worker_resident_bytes", job_id=job.id) for found in working) > 5e7
    assert psutil.Process().nice() + limits.WORKER_NICENESS in niceness, "the front answers before workers compute"
    last = await samples(server)
    iterations = job.spec.batches * job.history.epochs
    assert value(last, "hetal_iteration_seconds_count") == iterations
    assert 0 < value(last, "hetal_iteration_seconds_sum") < job.seconds["training"]
    assert value(last, "hetal_epochs_total") == job.history.epochs
    assert value(last, "hetal_jobs_ended_total", state="finished", code="") == 1
    assert value(last, "hetal_jobs", phase="finished") == 1
    assert value(last, "hetal_received_bytes_total", method="UploadBlob") >= job.bytes_sent
    assert value(last, "hetal_sent_bytes_total", method="DownloadModel") >= job.bytes_received


# -- the HTTP front -----------------------------------------------------------------------------------------------


async def test_only_get_and_head_of_known_paths(server: Server) -> None:
    assert (await get(server, "/nothing")).status == 404
    assert (await get(server, "/../etc/passwd")).status == 404
    refused = await get(server, "/metrics", "POST")
    assert (refused.status, refused.headers["Allow"]) == (405, "GET, HEAD")
    head = await get(server, "/healthz", "HEAD")
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", "3")
    assert (await get(server, "/healthz?x=1")).status == 200


async def test_a_name_that_points_to_loopback_reads_nothing(server: Server) -> None:
    assert (await get(server, "/metrics", Host="evil.example")).status == 421
    assert (await get(server, "/metrics", Host=f"evil.example:{server.http_port}")).status == 421
    for name in ("localhost", f"localhost:{server.http_port}", "127.0.0.1", "[::1]:80"):
        assert (await get(server, "/healthz", Host=name)).status == 200


@pytest.mark.parametrize(
    "data, status",
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET http://elsewhere/ HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/2\r\n\r\n", b"400"),
        (b"GET /healthz HTTP/1.1\r\nno field\r\n\r\n", b"400"),
        (b"GET /healthz HTTP/1.1\r\nHost : evil\r\n\r\n", b"400"),
        (b"GET /" + b"x" * (2 * limits.HTTP_HEAD_BYTES_MAX) + b" HTTP/1.1\r\n\r\n", b"431"),
        (b"\xff\x00 / HTTP/1.1\r\n\r\n", b"405"),
    ],
)
async def test_malformed_requests(server: Server, data: bytes, status: bytes) -> None:
    answer = await raw(server, data)
    assert answer.split(b" ")[1] == status
    assert (await get(server, "/healthz")).status == 200


async def test_who_says_nothing_and_who_reads_nothing_is_cut_off(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hetal.limits.HTTP_TIMEOUT_S", 0.2)
    assert await raw(server, b"GET /healthz HTT") == b""
    answer = await raw(server, b"GET /healthz HTTP/1.1\r\n\r\n")
    assert answer.endswith(b"ok\n"), "and closed although the other side did not close"


async def test_more_connections_than_allowed_are_closed_and_the_rest_goes_on(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hetal.limits.HTTP_CONNECTIONS_MAX", 3)
    idle = [await asyncio.open_connection("127.0.0.1", server.http_port) for _ in range(3)]
    await asyncio.sleep(0.1)
    assert await raw(server, b"GET /healthz HTTP/1.1\r\n\r\n") == b""
    for _, writer in idle:
        writer.close()
    await asyncio.sleep(0.1)
    assert (await get(server, "/healthz")).status == 200


async def test_addresses(tmp_path: Path, server: Server) -> None:
    assert parse_http_address("7444") == ("127.0.0.1", 7444)
    assert parse_http_address("[::]:7444") == ("[::]", 7444)
    for text in ("", "host", "host:70000"):
        with pytest.raises(InputError):
            ServerConfig(data_dir=tmp_path, http_address=text).check()
    taken = ServerConfig(data_dir=tmp_path / "other", http_address=str(server.http_port))
    with pytest.raises(InputError, match="for HTTP"):
        await Server.start(taken)
    await (await Server.start(ServerConfig(data_dir=tmp_path / "other"))).stop()
