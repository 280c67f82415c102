"""Connections that break, stall, crawl or die unnoticed: no byte is lost, hardly any is sent twice, trainings go on."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from proxy import Proxy

from hetal import limits
from hetal._pb import hetal_pb2 as pb
from hetal.ckks.presets import TEST_PRESET, preset
from hetal.cli.demo import dataset
from hetal.client import Client, Progress, SoftmaxSpec
from hetal.client.dataset import prepare
from hetal.client.transport import Transport
from hetal.kernels.simulate import simulate
from hetal.protocol.job import KEYS_MULT, PROTOCOL_VERSION, JobSpec
from hetal.protocol.messages import BlobRef, State
from hetal.protocol.server_machine import Snapshot
from hetal.protocol.wire import manifest_to_proto
from hetal.server.app import Server
from hetal.server.config import ServerConfig

MIB = limits.MIB
JOB = JobSpec(
    parameters=preset(TEST_PRESET),
    train_samples=8,
    validation_samples=4,
    features=3,
    classes=2,
    batch_size=8,
    epochs_max=3,
)
# Headers, frames, handshakes and the calls between.
OVERHEAD_BYTES = 16 * 1024


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    """A server that notices a dead connection after a minute and more, and clients that do within seconds."""
    monkeypatch.setattr(limits, "MIN_PING_INTERVAL_S", 0)
    server = await Server.start(ServerConfig(data_dir=tmp_path / "data", allow_insecure=True, threads=1))
    monkeypatch.setattr(limits, "KEEPALIVE_S", 1)
    monkeypatch.setattr(limits, "KEEPALIVE_TIMEOUT_S", 2)
    yield server
    await server.stop(grace_s=1)


@pytest.fixture
async def proxy(server: Server) -> AsyncIterator[Proxy]:
    async with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
async def transport(proxy: Proxy) -> AsyncIterator[Transport]:
    transport = Transport(f"127.0.0.1:{proxy.port}")
    yield transport
    await transport.close()


async def create(transport: Transport) -> str:
    request = pb.CreateJobRequest(
        idempotency_key=uuid.uuid4().hex,
        manifest=manifest_to_proto(JOB, key_tag="tag", blobs={KEYS_MULT: 64 * MIB, "train/x/00000": 1}),
        protocol_version=PROTOCOL_VERSION,
    )
    return str((await transport.call("CreateJob", request)).id)


async def uploaded(transport: Transport, job_id: str, data: bytes) -> bool:
    status = (await transport.call("StatBlobs", pb.StatBlobsRequest(job_id=job_id, names=[KEYS_MULT]))).blobs[0]
    return bool(status.complete and status.sha256 == hashlib.sha256(data).digest())


def breaks(proxy: Proxy, fault: str, marks: list[float]) -> None:
    """Let the fault come when that many bytes have passed."""

    def strike(sent: int) -> None:
        if marks and sent > marks[0]:
            marks.pop(0)
            getattr(proxy, fault)()

    proxy.on_sent = strike


@pytest.mark.parametrize(
    ("fault", "bytes_per_s"), [("reset", None), ("reset", 30e6), ("half_open", 30e6), ("cut_server", None)]
)
async def test_at_most_one_chunk_is_sent_twice_a_break(
    proxy: Proxy, transport: Transport, fault: str, bytes_per_s: float | None
) -> None:
    data, job_id = os.urandom(16 * MIB), await create(transport)
    marks = [3.3 * MIB, 9.7 * MIB]
    proxy.sent, proxy.bytes_per_s = 0, bytes_per_s
    breaks(proxy, fault, marks)
    await transport.upload(job_id, KEYS_MULT, data)
    assert not marks
    count = proxy.connections - 1
    print("sent twice a break, in chunks:", (proxy.sent - len(data)) / count / limits.CHUNK_BYTES)
    assert count >= 2
    assert len(data) < proxy.sent <= len(data) + count * (limits.CHUNK_BYTES + OVERHEAD_BYTES)
    assert await uploaded(transport, job_id, data)


async def test_a_stall_costs_nothing_but_its_time(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "KEEPALIVE_TIMEOUT_S", 20)
    patient = Transport(f"127.0.0.1:{proxy.port}")
    data, job_id = os.urandom(8 * MIB), await create(patient)
    stalls: list[asyncio.Task[None]] = []

    def stall(sent: int) -> None:
        if sent > 3 * MIB and not stalls:
            stalls.append(asyncio.get_running_loop().create_task(proxy.stall(2.5)))

    proxy.sent, proxy.on_sent = 0, stall
    await patient.upload(job_id, KEYS_MULT, data)
    assert stalls and proxy.connections == 1, "a stall is no break"
    assert proxy.sent < len(data) + OVERHEAD_BYTES
    assert await uploaded(patient, job_id, data)
    await patient.close()


async def test_a_hundredth_of_the_bandwidth_is_enough(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "KEEPALIVE_TIMEOUT_S", 20)
    patient = Transport(f"127.0.0.1:{proxy.port}")
    whole, job_id = os.urandom(16 * MIB), await create(patient)
    began = time.monotonic()
    await patient.upload(job_id, KEYS_MULT, whole)
    # Two seconds' worth of what is left.
    proxy.bytes_per_s = len(whole) / (time.monotonic() - began) / 100
    data, job_id = os.urandom(int(2 * proxy.bytes_per_s)), await create(patient)
    proxy.sent = 0
    await patient.upload(job_id, KEYS_MULT, data)
    assert proxy.connections == 1, "pings get through, too"
    assert proxy.sent < len(data) + OVERHEAD_BYTES
    assert await uploaded(patient, job_id, data)
    await patient.close()


async def test_a_training_goes_on_by_itself(proxy: Proxy) -> None:
    """Through a connection that breaks in each of the ways, one while keys go up and others in the training."""
    data = dataset("wine")
    arrays = (data.x_train[::3], data.y_train[::3], data.x_val, data.y_val)
    faults = {
        ("keys and data", 3): "reset",
        ("keys and data", 6): "half_open",
        ("training", 1): "half_open",
        ("epoch", 2): "cut_server",
        ("training", 2): "reset",
    }
    due = dict(faults)

    def strike(step: Progress) -> None:
        fault = due.pop((step.phase, step.done), None)
        if fault is not None:
            getattr(proxy, fault)()

    async with Client(f"127.0.0.1:{proxy.port}") as client:
        job = await client.train(
            *arrays,
            preset_name=TEST_PRESET,
            epochs=3,
            weight_bound=4.0,
            softmax=SoftmaxSpec(extensions=2),
            progress=strike,
        )
    assert not due
    assert proxy.connections > len(faults)
    prepared = prepare(*arrays, standardize=True, seed=0)
    plain: Any = simulate(job.spec, prepared.x_train, prepared.y_train, prepared.x_val, prepared.y_val)
    assert np.linalg.norm(job.model.weights - plain.weights) < 1e-2 * np.linalg.norm(plain.weights)
    assert job.history.epochs == 3


async def test_a_download_goes_on_at_its_offset(proxy: Proxy, transport: Transport, server: Server) -> None:
    """Of logits that no worker wrote: any bytes do."""
    job_id = await create(transport)
    logits = os.urandom(12 * MIB)
    (job,) = server._jobs.all()
    server._store.files.result(job_id, "logits/00001").write_bytes(logits)
    sha256 = hashlib.sha256(logits).digest()
    job.machine.snapshot = Snapshot(State.AWAITING_CLIENT, 1, logits=BlobRef("logits/00001", len(logits), sha256))
    count, proxy.received = 3, 0

    async def strike() -> None:
        for mark in (2 * MIB, 5 * MIB, 9 * MIB):
            while proxy.received < mark:
                await asyncio.sleep(0.001)
            proxy.reset()

    proxy.bytes_per_s = 60e6
    striking = asyncio.ensure_future(strike())
    assert await transport.download(job_id, "logits/00001", len(logits), sha256) == logits
    await striking
    assert proxy.connections > count
