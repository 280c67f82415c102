"""Kill -9 at named points: a server that is started again whenever it dies, and a client that goes on.

The client sends recorded bytes, so that two trainings of the same recording must give the same classifier bit for bit
(servers draw no randomness), and it keeps a ledger of what was acknowledged.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import sys
import uuid
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc

from hetal._pb import hetal_pb2 as pb
from hetal._pb.hetal_pb2_grpc import HetalStub
from hetal.ckks.presets import TEST_PRESET, preset
from hetal.cli.demo import dataset
from hetal.client.dataset import prepare
from hetal.client.encrypt import Encryptor
from hetal.client.keys import KeySet
from hetal.client.session import job_spec
from hetal.client.transport import BROKEN
from hetal.kernels.plan import plan
from hetal.protocol.channel_options import client_options
from hetal.protocol.job import KEYS_MULT, PROTOCOL_VERSION, JobSpec, SoftmaxSpec
from hetal.protocol.wire import manifest_to_proto
from hetal.server.failpoints import FRONT, LATCH_VARIABLE, VARIABLE
from hetal.server.store.files import tree_bytes

T = TypeVar("T")

CHUNK = 256 * 1024
# What each half of a job's life passes; the rest of the front's points lie in trainings.
UPLOADING = tuple(name for name in FRONT if name.split(".")[0] in ("job", "db", "upload", "object", "delete"))
TRAINING = tuple(name for name in FRONT if name not in UPLOADING)
# Of one step of a job, over all deaths of the server in it.
DEADLINE_S = 900
PAUSE_S = 0.1
WATCH_S = 0.05


@dataclass(frozen=True)
class Recording:
    """What a client sends for one job, and how many epochs it lets pass."""

    manifest: pb.Manifest
    blobs: dict[str, bytes]
    epochs: int

    @property
    def complete(self) -> bool:
        """Whether the job can train."""
        return {blob.name for blob in self.manifest.blobs} == self.blobs.keys()


def record_training(epochs: int = 12, batch_size: int | None = None) -> Recording:
    """A real job at the test preset: keys and data of some wines."""
    data = dataset("wine")
    prepared = prepare(data.x_train[::3], data.y_train[::3], data.x_val, data.y_val, standardize=True, seed=0)
    spec = job_spec(
        prepared,
        preset_name=TEST_PRESET,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=1.0,
        weight_bound=4.0,
        softmax=SoftmaxSpec(extensions=2),
    )
    keys = KeySet.generate(spec.parameters)
    encryptor = Encryptor(spec, plan(spec), keys)
    blobs = {KEYS_MULT: keys.mult_key_blob()}
    blobs |= dict(keys.rotation_key_blobs(encryptor.plan.rotations))
    blobs |= dict(encryptor.blobs(prepared))
    sizes = {name: len(data) for name, data in blobs.items()}
    return Recording(manifest_to_proto(spec, key_tag=keys.key_tag, blobs=sizes), blobs, epochs)


def record_upload() -> Recording:
    """A job that lacks one blob, and so never trains."""
    spec = JobSpec(
        parameters=preset(TEST_PRESET),
        train_samples=8,
        validation_samples=4,
        features=3,
        classes=2,
        batch_size=8,
        epochs_max=3,
    )
    blobs = {f"train/x/{i:05d}": hashlib.sha256(b"%d" % i).digest() * (20_000 + 7_000 * i) for i in range(3)}
    sizes = {KEYS_MULT: 1_000} | {name: len(data) for name, data in blobs.items()}
    return Recording(manifest_to_proto(spec, key_tag="tag", blobs=sizes), blobs, 0)


class Keeper:
    """Keeps one server alive on one port and one data directory.

    Args:
        lives: points armed in each life of the server, one after another; after the last one it lives unarmed.
        options: further flags of ``hetal serve``.
        latched: whether a point strikes once, and not whenever it is passed.

    Attributes:
        deaths: of servers so far.
        expected: exit statuses after which it starts again.
    """

    def __init__(
        self,
        directory: Path,
        lives: Sequence[Sequence[str]] = (),
        options: Sequence[str] = (),
        *,
        latched: bool = True,
    ) -> None:
        self.data = directory / "data"
        self.latch = directory / "latch"
        self.latch.mkdir(parents=True)
        self.deaths = 0
        self.expected = {-9}
        self._latched = latched
        self._log = directory / "serve.log"
        self._lives = list(lives)
        self._armed: Sequence[str] = ()
        self._options = tuple(options)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])

    async def __aenter__(self) -> Keeper:
        await self._start()
        self._watching = asyncio.ensure_future(self._watch())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._watching.cancel()
        await asyncio.wait({self._watching})
        if self.process.returncode is None:
            self.process.terminate()
        self.status = await self.process.wait()

    @property
    def struck(self) -> set[str]:
        """Points that have."""
        return {path.name for path in self.latch.iterdir()}

    @property
    def done(self) -> bool:
        """Whether every point of every life has struck."""
        return not self._lives and not self._left()

    def check(self) -> None:
        """Raise what ended the keeping."""
        if self._watching.done():
            self._watching.result()

    def _left(self) -> list[str]:
        struck = self.struck
        return [point for point in self._armed if point.partition("=")[0] not in struck]

    async def _start(self) -> None:
        # A life may end before its workers reach their points.
        left = self._left() if self._latched else []
        self._armed = [*left, *(self._lives.pop(0) if self._lives else ())]
        armed = ",".join(point if "=" in point else f"{point}=kill" for point in self._armed)
        with self._log.open("ab") as log:
            self.process: Process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "hetal.cli.main", "serve", "--listen", f"127.0.0.1:{self.port}"),
                *("--data-dir", str(self.data), "--allow-insecure", "--threads", "1", *self._options),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env={**os.environ, VARIABLE: armed} | ({LATCH_VARIABLE: str(self.latch)} if self._latched else {}),
            )
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        # It may die before it listens: there are jobs to take up.
        assert line.startswith(b"listening") or await self.process.wait() < 0, self._log.read_text()[-2_000:]

    async def _watch(self) -> None:
        while True:
            if self.process.returncode is not None:
                assert self.process.returncode in self.expected, self._log.read_text()[-2_000:]
                self.deaths += 1
                await self._start()
            elif self._armed and not self._left() and self._lives:
                # The points of this life were its workers', or the server is just about to die.
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self.process.wait(), 0.2)
                if self.process.returncode is None:
                    self.process.kill()
                    await self.process.wait()
            await asyncio.sleep(WATCH_S)


@dataclass
class Ledger:
    """What the server has acknowledged of one job.

    Attributes:
        bytes: by blob, as StatBlobs said.
        epochs: answered.
    """

    bytes: dict[str, int] = field(default_factory=dict)
    epochs: int = 0


class Driver:
    """A client of one server that lets nothing stop it."""

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{keeper.port}", options=client_options())
        self.stub: Any = HetalStub(self._channel)

    async def __aenter__(self) -> Driver:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._channel.close()

    async def run(self, recording: Recording) -> bytes:
        """A job from its creation to its deletion. Its classifier, or nothing where it cannot train."""
        ledger = Ledger()
        job_id = await self._create(recording)
        for name, data in recording.blobs.items():
            await self._upload(job_id, name, data, ledger)
        await self._retried(lambda: self._check(job_id, recording, ledger))
        model = b""
        if recording.complete:
            finished = await self._retried(lambda: self._train(job_id, recording, ledger))
            model = await self._retried(lambda: self._download(job_id, finished.blob))
            assert hashlib.sha256(model).digest() == finished.sha256
            await self._retried(lambda: self._check(job_id, recording, ledger))
        await self._delete(job_id)
        return model

    async def _retried(self, attempt: Callable[[], Awaitable[T]]) -> T:
        deadline = asyncio.get_running_loop().time() + DEADLINE_S
        while True:
            try:
                return await attempt()
            except grpc.aio.AioRpcError as error:
                code = dict(error.trailing_metadata() or ()).get("hetal-code")
                passing = code in ("SERVER_SHUTTING_DOWN", "JOB_ALREADY_ATTACHED", "CHUNK_OUT_OF_ORDER")
                if not passing and (code is not None or error.code() not in BROKEN):
                    raise
                if asyncio.get_running_loop().time() > deadline:
                    raise
            self.keeper.check()
            await asyncio.sleep(PAUSE_S)

    async def _create(self, recording: Recording) -> str:
        request = pb.CreateJobRequest(
            idempotency_key=uuid.uuid4().hex, manifest=recording.manifest, protocol_version=PROTOCOL_VERSION
        )
        job = await self._retried(lambda: self.stub.CreateJob(request, timeout=10))
        again = await self._retried(lambda: self.stub.CreateJob(request, timeout=10))
        assert again.id == job.id, "an acknowledged job is lost"
        return str(job.id)

    async def _stat(self, job_id: str, name: str, ledger: Ledger) -> Any:
        """The state of a blob, which must not be behind what was said before."""
        (status,) = (await self.stub.StatBlobs(pb.StatBlobsRequest(job_id=job_id, names=[name]), timeout=10)).blobs
        assert status.committed_bytes >= ledger.bytes.get(name, 0), f"acknowledged bytes of {name} are lost"
        ledger.bytes[name] = status.committed_bytes
        return status

    async def _upload(self, job_id: str, name: str, data: bytes, ledger: Ledger) -> None:
        sha256 = hashlib.sha256(data).digest()

        async def attempt() -> None:
            status = await self._stat(job_id, name, ledger)
            if status.complete:
                assert status.sha256 == sha256
                return
            start = status.committed_bytes
            header = pb.UploadHeader(job_id=job_id, name=name, bytes=len(data), sha256=sha256, offset=start)
            parts = [pb.UploadBlobRequest(header=header)]
            for offset in range(start, len(data), CHUNK):
                chunk = pb.UploadChunk(offset=offset, data=data[offset : offset + CHUNK])
                parts.append(pb.UploadBlobRequest(chunk=chunk))
            done = await self.stub.UploadBlob(iter(parts))
            assert done.complete
            ledger.bytes[name] = done.committed_bytes

        await self._retried(attempt)

    async def _check(self, job_id: str, recording: Recording, ledger: Ledger) -> None:
        """What was acknowledged is known to the server, and on disk bit for bit."""
        for name, data in recording.blobs.items():
            status = await self._stat(job_id, name, ledger)
            sha256 = hashlib.sha256(data).digest()
            assert status.complete and status.sha256 == sha256, f"acknowledged blob {name} is lost"
            stored = self.keeper.data / "objects" / sha256.hex()[:2] / sha256.hex()
            assert stored.read_bytes() == data, f"acknowledged blob {name} is damaged"

    async def _train(self, job_id: str, recording: Recording, ledger: Ledger) -> Any:
        stream = self.stub.Train()
        await stream.write(pb.TrainRequest(job_id=job_id, attach=pb.Attach(session=job_id)))
        try:
            async for event in stream:
                match event.WhichOneof("event"):
                    case "validation":
                        epoch = event.validation.epoch
                        assert epoch >= ledger.epochs, "an answered epoch is asked for again after a later one"
                        ledger.epochs = epoch
                        logits = await self._download(job_id, event.validation.blob)
                        assert hashlib.sha256(logits).digest() == event.validation.sha256
                        verb = "stop" if epoch == recording.epochs else "continue"
                        # Of a broken stream the next read tells why.
                        with suppress(asyncio.InvalidStateError):
                            await stream.write(pb.TrainRequest(**{verb: {"epoch": epoch, "best": True}}))
                    case "finished":
                        assert event.finished.epochs == recording.epochs
                        return event.finished
                    case "failed":
                        raise AssertionError(str(event.failed))
        finally:
            stream.cancel()
        raise AssertionError("the stream ended without a result")

    async def _download(self, job_id: str, blob: str) -> bytes:
        """From where the last stream broke off."""
        data = bytearray()

        async def attempt() -> None:
            async for chunk in self.stub.DownloadModel(pb.DownloadRequest(job_id=job_id, blob=blob, offset=len(data))):
                assert chunk.offset == len(data)
                data.extend(chunk.data)

        await self._retried(attempt)
        return bytes(data)

    async def _delete(self, job_id: str) -> None:
        request = pb.DeleteJobRequest(job_id=job_id)
        freed = await self._retried(lambda: self.stub.DeleteJob(request, timeout=10))
        again = await self._retried(lambda: self.stub.DeleteJob(request, timeout=10))
        assert freed.bytes_freed == again.bytes_freed > 0
        assert not (self.keeper.data / "jobs" / job_id).exists()
        listed = (await self._retried(lambda: self.stub.ListJobs(pb.ListJobsRequest(), timeout=10))).jobs
        if not listed:
            assert tree_bytes(self.keeper.data / "objects") == 0


@dataclass(frozen=True)
class Storm:
    """How often the server died, where, and the classifiers of all jobs."""

    deaths: int
    struck: set[str]
    models: list[bytes]


async def undisturbed(recording: Recording, directory: Path) -> bytes:
    """The classifier of a training in which nothing happens."""
    async with Keeper(directory) as keeper, Driver(keeper) as driver:
        model = await driver.run(recording)
    assert keeper.status == 0 and keeper.deaths == 0
    return model


async def storm(recording: Recording, lives: Sequence[Sequence[str]], directory: Path) -> Storm:
    """Run jobs until every point has struck; nothing that was acknowledged may be lost."""
    models = []
    async with Keeper(directory, lives, ("--worker-restarts", "1000")) as keeper, Driver(keeper) as driver:
        while not keeper.done:
            models.append(await driver.run(recording))
    assert keeper.status == 0
    return Storm(keeper.deaths, keeper.struck, models)


def pairs(front: Sequence[str], worker: Sequence[str]) -> list[list[str]]:
    """Lives with one point of the front each, among which those of the workers are shared out."""
    lives = [[point] for point in front]
    for number, point in enumerate(worker):
        lives[number % len(lives)].append(point)
    return lives
