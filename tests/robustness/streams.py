"""Streams that clients leave: cancelled, reset and abandoned, of every kind; and what they leave in the memory."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import psutil
from crash import Keeper, record_upload
from proxy import Proxy

from hetal._pb import hetal_pb2 as pb
from hetal._pb.hetal_pb2_grpc import HetalStub
from hetal.protocol.channel_options import client_options
from hetal.protocol.job import PROTOCOL_VERSION
from hetal.protocol.messages import BlobRef, State
from hetal.protocol.server_machine import Snapshot
from hetal.server.store.files import write_atomically
from hetal.server.store.metadata import JobRow
from hetal.server.store.store import Store

MIB = 1 << 20
WAITING = uuid.uuid4().hex
LOGITS = "logits/00001"
AT_ONCE = 8
# One connection in this many streams is reset in the middle of all that it carries.
RESET_EVERY = 100
SAMPLE_S = 0.05


def waiting_job(data: Path) -> None:
    """A job whose first epoch waits for its answer, as a server leaves it on disk."""
    store = Store(data)
    store.files.make_job(WAITING)
    refs = []
    for name in (LOGITS, "model/00001"):
        content = os.urandom(4 * MIB)
        write_atomically(store.files.result(WAITING, name), content)
        refs.append(BlobRef(name, len(content), hashlib.sha256(content).digest()))
    manifest = record_upload().manifest.SerializeToString(deterministic=True)
    snapshot = Snapshot(State.AWAITING_CLIENT, 1, logits=refs[0], model=refs[1])
    store.metadata.add_job(JobRow(WAITING, "local", "waiting", manifest, 1.0, snapshot.to_json()))
    store.close()


@dataclass(eq=False)
class Streams:
    """Opens streams of all kinds to one server and leaves them."""

    stub: Any
    job_id: str

    async def upload(self) -> None:
        """Cancelled after a chunk."""
        call = self.stub.UploadBlob()
        header = pb.UploadHeader(job_id=self.job_id, name="train/x/00000", bytes=640_000, sha256=os.urandom(32))
        await call.write(pb.UploadBlobRequest(header=header))
        await call.write(pb.UploadBlobRequest(chunk=pb.UploadChunk(offset=0, data=bytes(256 * 1024))))
        call.cancel()

    async def mute_upload(self) -> None:
        """Cancelled after its header."""
        call = self.stub.UploadBlob()
        header = pb.UploadHeader(job_id=self.job_id, name="train/x/00001", bytes=800_000, sha256=os.urandom(32))
        await call.write(pb.UploadBlobRequest(header=header))
        call.cancel()

    async def wrong_upload(self) -> None:
        """Refused by the server."""
        call = self.stub.UploadBlob()
        header = pb.UploadHeader(job_id=self.job_id, name="train/x/00002", bytes=1 << 40, sha256=os.urandom(32))
        await call.write(pb.UploadBlobRequest(header=header))
        with contextlib.suppress(grpc.aio.AioRpcError):
            await call

    async def train(self) -> None:
        """Cancelled after the first event; a later one takes over, which may be before."""
        call = self.stub.Train()
        await call.write(pb.TrainRequest(job_id=WAITING, attach=pb.Attach(session="s")))
        await call.read()
        call.cancel()

    async def refused_train(self) -> None:
        """Refused by the server: the session is another."""
        call = self.stub.Train()
        await call.write(pb.TrainRequest(job_id=self.job_id, attach=pb.Attach()))
        await call.read()

    async def download(self) -> None:
        """Cancelled after a chunk of several."""
        call = self.stub.DownloadModel(pb.DownloadRequest(job_id=WAITING, blob=LOGITS))
        await call.read()
        call.cancel()

    async def predict(self) -> None:
        """Cancelled before its features."""
        call = self.stub.Predict()
        header = pb.PredictHeader(job_id=WAITING, samples=1, bytes=1_000, sha256=os.urandom(32))
        await call.write(pb.PredictRequest(header=header))
        call.cancel()

    @property
    def kinds(self) -> list[Callable[[], Awaitable[None]]]:
        return [
            self.upload,
            self.mute_upload,
            self.wrong_upload,
            self.train,
            self.refused_train,
            self.download,
            self.predict,
        ]


async def leave(port: int, count: int) -> None:
    """Open and leave that many streams, a few at a time, over connections some of which are reset."""
    async with Proxy(port) as proxy:
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{proxy.port}", options=client_options())
        stub: Any = HetalStub(channel)
        request = pb.CreateJobRequest(
            idempotency_key="streams", manifest=record_upload().manifest, protocol_version=PROTOCOL_VERSION
        )
        job = await stub.CreateJob(request, wait_for_ready=True)
        kinds = Streams(stub, job.id).kinds
        for start in range(0, count, AT_ONCE):
            calls = [asyncio.ensure_future(kinds[number % len(kinds)]()) for number in range(start, start + AT_ONCE)]
            if start % RESET_EVERY < AT_ONCE:
                proxy.reset()
            for outcome in await asyncio.gather(*calls, return_exceptions=True):
                if not isinstance(outcome, (grpc.aio.AioRpcError, asyncio.InvalidStateError, type(None))):
                    raise outcome
        await channel.close()


async def level_bytes(front: psutil.Process, port: int, count: int) -> int:
    """Resident memory in the second half of that many streams: the median, for allocators come and go by MiB."""
    samples: list[int] = []

    async def watch() -> None:
        while True:
            samples.append(front.memory_info().rss)
            await asyncio.sleep(SAMPLE_S)

    await leave(port, count // 2)
    watching = asyncio.ensure_future(watch())
    await leave(port, count - count // 2)
    watching.cancel()
    await asyncio.wait({watching})
    return int(median(samples))


async def growth_bytes(directory: Path, warm_up: int, count: int) -> tuple[int, int]:
    """Growth of the front's resident memory over ``count`` streams after a warm-up, and its size then."""
    keeper = Keeper(directory)
    waiting_job(keeper.data)
    async with keeper:
        front = psutil.Process(keeper.process.pid)
        before = await level_bytes(front, keeper.port, warm_up)
        after = await level_bytes(front, keeper.port, count)
    assert keeper.deaths == 0 and keeper.status == 0
    return after - before, after
