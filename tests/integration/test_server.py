"""A real server over real gRPC on loopback, driven with raw stubs: faults, resumption, life cycle, wire errors."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hetal import limits
from hetal._pb import hetal_pb2 as pb
from hetal._pb import hetal_pb2_grpc
from hetal.ckks.presets import preset
from hetal.errors import BackendError, InputError, from_code
from hetal.protocol.channel_options import client_options
from hetal.protocol.early_stopping import Decision
from hetal.protocol.job import KEYS_MULT, PROTOCOL_VERSION, JobSpec
from hetal.protocol.messages import BlobRef, State
from hetal.protocol.server_machine import Snapshot
from hetal.protocol.wire import manifest_to_proto
from hetal.server.app import Server
from hetal.server.config import ServerConfig, parse_address
from hetal.server.health import SERVICE
from hetal.server.store.files import tree_bytes, write_atomically
from hetal.server.store.store import Store

JOB = JobSpec(
    parameters=preset("insecure-test"),
    train_samples=8,
    validation_samples=4,
    features=3,
    classes=2,
    batch_size=8,
    epochs_max=3,
)
BLOBS = {KEYS_MULT: 1 << 20, "train/x/00000": 1 << 20}
DATA = bytes(range(256)) * 1000
CHUNK = 100_000


class Link:
    """One server and one channel to it; both can be started anew on the same data."""

    def __init__(self, config: ServerConfig) -> None:
        self.config = config

    async def open(self) -> None:
        self.server = await Server.start(self.config)
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.server.port}", options=client_options())
        self.stub: Any = hetal_pb2_grpc.HetalStub(self.channel)

    async def close(self) -> None:
        await self.channel.close()
        await self.server.stop(grace_s=1)

    async def create(
        self, key: str = "key", manifest: pb.Manifest | None = None, version: int = PROTOCOL_VERSION
    ) -> Any:
        manifest = manifest if manifest is not None else manifest_to_proto(JOB, key_tag="tag", blobs=BLOBS)
        return await self.stub.CreateJob(
            pb.CreateJobRequest(idempotency_key=key, manifest=manifest, protocol_version=version)
        )

    async def upload(self, job: Any, name: str, data: bytes, **options: Any) -> Any:
        return await self.stub.UploadBlob(iter(upload_messages(job.id, name, data, **options)))

    async def stat(self, job: Any, name: str) -> Any:
        return (await self.stub.StatBlobs(pb.StatBlobsRequest(job_id=job.id, names=[name]))).blobs[0]

    async def train(self, *messages: pb.TrainRequest) -> list[pb.TrainEvent]:
        """All events of a Train stream with these requests, which stays open until the server ends it."""
        call = self.stub.Train()
        for message in messages:
            await call.write(message)
        return [event async for event in call]


def upload_messages(
    job_id: str,
    name: str,
    data: bytes,
    *,
    sha256: bytes | None = None,
    announced: int | None = None,
    start: int = 0,
    end: int | None = None,
) -> list[pb.UploadBlobRequest]:
    header = pb.UploadHeader(
        job_id=job_id,
        name=name,
        bytes=len(data) if announced is None else announced,
        sha256=hashlib.sha256(data).digest() if sha256 is None else sha256,
        offset=start,
    )
    stop = len(data) if end is None else end
    return [pb.UploadBlobRequest(header=header)] + [
        pb.UploadBlobRequest(chunk=pb.UploadChunk(offset=at, data=data[at : min(at + CHUNK, stop)]))
        for at in range(start, stop, CHUNK)
    ]


@contextlib.asynccontextmanager
async def refused(code: str) -> AsyncIterator[None]:
    """The call inside fails with that code, its status and its hint on the wire."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield
    metadata = dict(caught.value.trailing_metadata() or ())
    assert metadata.get("hetal-code") == code, caught.value
    known = from_code(code, "")
    assert caught.value.code() is grpc.StatusCode[known.status]
    assert isinstance(metadata["hetal-hint-bin"], bytes) and metadata["hetal-hint-bin"]


def attach(job: Any) -> pb.TrainRequest:
    return pb.TrainRequest(job_id=job.id, attach=pb.Attach())


def answer(verb: str, epoch: int, best: bool = True) -> pb.TrainRequest:
    return pb.TrainRequest(**{verb: {"epoch": epoch, "best": best}})


@pytest.fixture
async def link(tmp_path: Path) -> AsyncIterator[Link]:
    link = Link(ServerConfig(data_dir=tmp_path / "data", allow_insecure=True, threads=1))
    await link.open()
    yield link
    await link.close()


# -- jobs ---------------------------------------------------------------------------------------------------------


async def test_info_and_health(link: Link) -> None:
    info = await link.stub.GetServerInfo(pb.GetServerInfoRequest())
    assert info.protocol_version == PROTOCOL_VERSION and info.insecure_allowed
    assert {"default", "insecure-test"} <= set(info.presets)
    health = health_pb2_grpc.HealthStub(link.channel)
    for service in ("", SERVICE):
        found = await health.Check(health_pb2.HealthCheckRequest(service=service))
        assert found.status == health_pb2.HealthCheckResponse.SERVING


async def test_insecure_parameters_are_refused(tmp_path: Path) -> None:
    link = Link(ServerConfig(data_dir=tmp_path))
    await link.open()
    assert "insecure-test" not in (await link.stub.GetServerInfo(pb.GetServerInfoRequest())).presets
    async with refused("PARAMETERS_INSECURE"):
        await link.create()
    job = replace(JOB, parameters=preset("default"))
    assert (await link.create(manifest=manifest_to_proto(job, key_tag="tag", blobs=BLOBS))).id
    await link.close()


async def test_create_is_checked_and_idempotent(link: Link) -> None:
    wrong = manifest_to_proto(JOB, key_tag="tag", blobs=BLOBS)
    wrong.parameter_digest = bytes(32)
    async with refused("PARAMETER_HASH_MISMATCH"):
        await link.create(manifest=wrong)
    async with refused("VERSION_MISMATCH"):
        await link.create(version=99)
    async with refused("INVALID_INPUT"):
        await link.create(key="")
    job = await link.create()
    assert (job.state, list(job.blobs)) == (pb.JOB_STATE_UPLOADING, list(BLOBS))
    assert (await link.create()).id == job.id
    async with refused("INVALID_INPUT"):
        await link.create(manifest=manifest_to_proto(JOB, key_tag="other", blobs=BLOBS))
    listed = (await link.stub.ListJobs(pb.ListJobsRequest())).jobs
    assert [found.id for found in listed] == [job.id]


async def test_unknown_jobs(link: Link) -> None:
    ghost = pb.Job(id="nothing")
    calls: list[Awaitable[Any]] = [
        link.stub.GetJob(pb.GetJobRequest(job_id=ghost.id)),
        link.stub.CancelJob(pb.CancelJobRequest(job_id=ghost.id)),
        link.stub.DeleteJob(pb.DeleteJobRequest(job_id=ghost.id)),
        link.stub.StatBlobs(pb.StatBlobsRequest(job_id=ghost.id)),
        link.upload(ghost, KEYS_MULT, DATA),
        link.train(attach(ghost)),
    ]
    for call in calls:
        async with refused("JOB_NOT_FOUND"):
            await call


async def test_cancel_then_nothing_goes(link: Link) -> None:
    job = await link.create()
    for _ in range(2):
        cancelled = await link.stub.CancelJob(pb.CancelJobRequest(job_id=job.id))
        assert (cancelled.state, cancelled.failure.code) == (pb.JOB_STATE_CANCELLED, "JOB_CANCELLED")
    async with refused("ILLEGAL_STATE"):
        await link.upload(job, KEYS_MULT, DATA)
    assert [event.failed.code for event in await link.train(attach(job))] == ["JOB_CANCELLED"]


async def test_delete_frees_the_bytes(link: Link) -> None:
    job, other = await link.create(), await link.create("other")
    await link.upload(job, KEYS_MULT, DATA)
    await link.upload(other, KEYS_MULT, DATA)
    await link.upload(job, "train/x/00000", DATA[:-1], end=CHUNK)
    assert (await link.stub.GetJob(pb.GetJobRequest(job_id=job.id))).bytes_stored == len(DATA) + CHUNK
    deleted = await link.stub.DeleteJob(pb.DeleteJobRequest(job_id=job.id))
    assert deleted.bytes_freed == CHUNK, "the shared blob stays"
    assert (await link.stat(other, KEYS_MULT)).complete
    assert (await link.stub.DeleteJob(pb.DeleteJobRequest(job_id=other.id))).bytes_freed == len(DATA)
    assert tree_bytes(link.config.data_dir / "objects") == tree_bytes(link.config.data_dir / "jobs") == 0
    async with refused("JOB_NOT_FOUND"):
        await link.stub.GetJob(pb.GetJobRequest(job_id=job.id))


# -- uploads ------------------------------------------------------------------------------------------------------


async def test_upload_commits_and_repeats_harmlessly(link: Link) -> None:
    job = await link.create()
    for _ in range(2):
        status = await link.upload(job, KEYS_MULT, DATA)
        assert (status.complete, status.committed_bytes) == (True, len(DATA))
    async with refused("BLOB_CONFLICT"):
        await link.upload(job, KEYS_MULT, DATA[:-1])


async def test_known_content_is_not_sent_twice(link: Link) -> None:
    await link.upload(await link.create(), KEYS_MULT, DATA)
    status = await link.upload(await link.create("other"), "train/x/00000", DATA, end=0)
    assert status.complete


async def test_truncated_upload_resumes_at_its_offset(link: Link) -> None:
    job = await link.create()
    status = await link.upload(job, KEYS_MULT, DATA, end=CHUNK)
    assert (status.complete, status.committed_bytes) == (False, CHUNK)
    assert (await link.stat(job, KEYS_MULT)).committed_bytes == CHUNK
    assert (await link.upload(job, KEYS_MULT, DATA, start=CHUNK)).complete


async def test_resume_after_a_server_restart(link: Link) -> None:
    job = await link.create()
    await link.upload(job, KEYS_MULT, DATA, end=2 * CHUNK)
    await link.close()
    await link.open()
    assert (await link.stub.GetJob(pb.GetJobRequest(job_id=job.id))).state == pb.JOB_STATE_UPLOADING
    status = await link.stat(job, KEYS_MULT)
    assert (status.committed_bytes, status.sha256) == (2 * CHUNK, hashlib.sha256(DATA).digest())
    assert (await link.upload(job, KEYS_MULT, DATA, start=2 * CHUNK)).complete


async def test_chunks_out_of_order(link: Link) -> None:
    job = await link.create()
    header, first, second, third = upload_messages(job.id, KEYS_MULT, DATA)
    for faulty in ([header, second, first, third], [header, first, first, second, third], [header, first, third]):
        async with refused("CHUNK_OUT_OF_ORDER"):
            await link.stub.UploadBlob(iter(faulty))
        offset = (await link.stat(job, KEYS_MULT)).committed_bytes
        assert offset in (0, CHUNK)
        async with refused("CHUNK_OUT_OF_ORDER"):
            await link.upload(job, KEYS_MULT, DATA, start=offset + 1)
        # Another announced hash starts over.
        await link.upload(job, KEYS_MULT, DATA, sha256=bytes(32), end=0)
    assert (await link.upload(job, KEYS_MULT, DATA)).complete


async def test_wrong_hash_discards_the_bytes(link: Link) -> None:
    job = await link.create()
    async with refused("HASH_MISMATCH"):
        await link.upload(job, KEYS_MULT, DATA, sha256=bytes(32))
    assert (await link.stat(job, KEYS_MULT)).committed_bytes == 0
    assert (await link.upload(job, KEYS_MULT, DATA)).complete


async def test_another_announced_hash_restarts_a_partial(link: Link) -> None:
    job = await link.create()
    await link.upload(job, KEYS_MULT, DATA, end=CHUNK)
    other = DATA[::-1]
    async with refused("CHUNK_OUT_OF_ORDER"):
        await link.upload(job, KEYS_MULT, other, start=CHUNK)
    assert (await link.upload(job, KEYS_MULT, other)).complete


async def test_oversized_uploads(link: Link) -> None:
    job = await link.create()
    async with refused("OBJECT_TOO_LARGE"):
        await link.upload(job, KEYS_MULT, DATA, announced=len(DATA) - 1)
    async with refused("OBJECT_TOO_LARGE"):
        await link.upload(job, KEYS_MULT, DATA, announced=BLOBS[KEYS_MULT] + 1)


async def test_malformed_uploads(link: Link) -> None:
    job = await link.create()
    header, first, *_ = upload_messages(job.id, KEYS_MULT, DATA)
    for messages in ([], [first], [header, header], [header, pb.UploadBlobRequest(chunk=pb.UploadChunk(offset=0))]):
        async with refused("INVALID_INPUT"):
            await link.stub.UploadBlob(iter(messages))
    for options in ({"sha256": b"short"}, {"announced": 0}):
        async with refused("INVALID_INPUT"):
            await link.upload(job, KEYS_MULT, DATA, **options)
    async with refused("BLOB_UNKNOWN"):
        await link.upload(job, "train/x/99999", DATA)
    async with refused("BLOB_UNKNOWN"):
        await link.stat(job, "../x")


async def test_a_new_stream_takes_over_from_a_stale_one(link: Link) -> None:
    job = await link.create()
    header, first, *_ = upload_messages(job.id, KEYS_MULT, DATA)
    stale = link.stub.UploadBlob()
    await stale.write(header)
    await stale.write(first)
    for _ in range(100):
        if (await link.stat(job, KEYS_MULT)).sha256:
            break
        await asyncio.sleep(0.02)
    # Whatever the stale stream has written by then, a stream that starts at the committed offset gets through.
    with contextlib.suppress(grpc.aio.AioRpcError):
        await link.upload(job, KEYS_MULT, DATA, start=len(DATA) - 1)
    async with refused("ILLEGAL_STATE"):
        await stale
    offset = (await link.stat(job, KEYS_MULT)).committed_bytes
    assert (await link.upload(job, KEYS_MULT, DATA, start=offset)).complete


async def test_a_broken_stream_keeps_what_was_written(link: Link) -> None:
    job = await link.create()
    header, first, *_ = upload_messages(job.id, KEYS_MULT, DATA)
    call = link.stub.UploadBlob()
    await call.write(header)
    await call.write(first)
    await asyncio.sleep(0.2)
    call.cancel()
    await asyncio.sleep(0.2)
    offset = (await link.stat(job, KEYS_MULT)).committed_bytes
    assert offset == CHUNK
    assert (await link.upload(job, KEYS_MULT, DATA, start=offset)).complete


# -- training -----------------------------------------------------------------------------------------------------


async def awaiting(link: Link, epoch: int = 1) -> Any:
    """A job whose epoch waits for its answer, as a server that was killed at that moment leaves it on disk."""
    job = await link.create()
    await link.close()
    store = Store(link.config.data_dir)
    refs = []
    for name in (f"logits/{epoch:05d}", f"model/{epoch:05d}"):
        data = name.encode() * 200_000
        write_atomically(store.files.result(job.id, name), data)
        refs.append(BlobRef(name, len(data), hashlib.sha256(data).digest()))
    decisions = {before: Decision(False, False) for before in range(1, epoch)}
    snapshot = Snapshot(State.AWAITING_CLIENT, epoch, decisions=decisions, logits=refs[0], model=refs[1])
    store.metadata.save_snapshot(job.id, snapshot.to_json())
    store.close()
    await link.open()
    return job


async def download(link: Link, job: Any, blob: str, offset: int = 0) -> bytes:
    data = b""
    async for chunk in link.stub.DownloadModel(pb.DownloadRequest(job_id=job.id, blob=blob, offset=offset)):
        assert chunk.offset == offset + len(data)
        data += chunk.data
    assert offset + len(data) == chunk.total_bytes
    return data


async def test_train_stream_begins_with_attach(link: Link) -> None:
    job = await link.create()
    async with refused("BLOB_MISSING"):
        await link.train(attach(job))
    async with refused("ILLEGAL_STATE"):
        await link.train(pb.TrainRequest(job_id=job.id, stop=pb.Stop(epoch=1)))


async def test_answer_reattach_and_download(link: Link) -> None:
    job = await awaiting(link)
    first = link.stub.Train()
    await first.write(attach(job))
    event = await first.read()
    assert event.validation.blob == "logits/00001"
    async with refused("JOB_ALREADY_ATTACHED"):
        await link.train(attach(job))
    first.cancel()
    logits = await download(link, job, event.validation.blob)
    assert hashlib.sha256(logits).digest() == event.validation.sha256
    assert len(logits) > 2 * limits.CHUNK_BYTES
    assert await download(link, job, "logits/00001", 7) == logits[7:]
    assert await download(link, job, "logits/00001", len(logits)) == b""
    async with refused("CHUNK_OUT_OF_ORDER"):
        await download(link, job, "logits/00001", len(logits) + 1)
    async with refused("ILLEGAL_STATE"):
        await download(link, job, "model")
    async with refused("BLOB_UNKNOWN"):
        await download(link, job, "logits/00002")
    async with refused("BLOB_UNKNOWN"):
        await download(link, job, KEYS_MULT)
    events = await link.train(attach(job), answer("stop", 1))
    assert [event.WhichOneof("event") for event in events] == ["validation", "finished"]
    assert (events[1].finished.best_epoch, events[1].finished.blob) == (1, "model")
    # A client that missed the end hears it again, also after a restart.
    await link.close()
    await link.open()
    (again,) = await link.train(attach(job))
    assert again.finished == events[1].finished
    assert hashlib.sha256(await download(link, job, "model")).digest() == again.finished.sha256
    found = await link.stub.GetJob(pb.GetJobRequest(job_id=job.id))
    assert (found.state, found.epoch, found.best_epoch) == (pb.JOB_STATE_FINISHED, 1, 1)
    async with refused("ILLEGAL_STATE"):
        await link.stub.CancelJob(pb.CancelJobRequest(job_id=job.id))


@pytest.mark.parametrize(
    "message", [answer("stop", 2), answer("continue", 1), answer("stop", 3), "attach", "foreign", "pruned"]
)
async def test_illegal_messages_end_the_stream_and_change_nothing(link: Link, message: Any) -> None:
    job = await awaiting(link, epoch=2)
    if message == "attach":
        message = attach(job)
    expected = "ILLEGAL_STATE"
    if message == "foreign":
        message, expected = pb.TrainRequest(job_id="other", stop=pb.Stop(epoch=2)), "INVALID_INPUT"
    elif message == "pruned":
        named = {"epoch": 2, "best": True, "kept": [0]}
        message, expected = pb.TrainRequest(**{"continue": named}), "INVALID_INPUT"
    elif message == answer("stop", 2):
        # The one that is allowed, so that the others are not refused for another reason.
        assert (await link.train(attach(job), message))[-1].HasField("finished")
        return
    async with refused(expected):
        await link.train(attach(job), message)
    found = await link.stub.GetJob(pb.GetJobRequest(job_id=job.id))
    assert (found.state, found.best_epoch) == (pb.JOB_STATE_AWAITING_CLIENT, 0)
    assert (await link.train(attach(job), answer("stop", 2)))[-1].HasField("finished")


async def test_a_client_that_stays_away_fails_the_job_until_it_returns(link: Link) -> None:
    link.config = replace(link.config, client_wait_s=0.2)
    job = await awaiting(link)
    for _ in range(100):
        found = await link.stub.GetJob(pb.GetJobRequest(job_id=job.id))
        if found.state == pb.JOB_STATE_FAILED:
            break
        await asyncio.sleep(0.05)
    assert found.failure.code == "CLIENT_GONE"
    events = await link.train(attach(job), answer("stop", 1))
    assert [event.WhichOneof("event") for event in events] == ["validation", "finished"]


async def test_keys_that_are_none_fail_the_job_with_their_code(link: Link) -> None:
    job = await link.create()
    for name in BLOBS:
        await link.upload(job, name, name.encode() * 50)
    events = await link.train(attach(job))
    assert events[-1].failed.code == "FRAME_INVALID"
    assert events[-1].failed.hint
    found = await link.stub.GetJob(pb.GetJobRequest(job_id=job.id))
    assert (found.state, found.failure.code) == (pb.JOB_STATE_FAILED, "FRAME_INVALID")


async def test_a_worker_that_keeps_dying_fails_only_its_job(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WORKER_RESTART_BACKOFF_S", (0.01, 0.01, 0.01))
    job = await link.create()
    for name in BLOBS:
        await link.upload(job, name, name.encode() * 50)
    stream = asyncio.ensure_future(link.train(attach(job)))
    killed: set[int] = set()
    while not stream.done():
        for child in psutil.Process().children():
            if child.pid not in killed:
                killed.add(child.pid)
                child.send_signal(signal.SIGKILL)
        await asyncio.sleep(0.005)
    assert (await stream)[-1].failed.code == "WORKER_DIED"
    assert len(killed) == limits.WORKER_RESTARTS_MAX + 1
    assert (await link.stub.GetServerInfo(pb.GetServerInfoRequest())).version


async def test_predict_needs_a_finished_job_and_whole_features(link: Link) -> None:
    job = await awaiting(link)

    async def predict(data: bytes, header: pb.PredictHeader) -> None:
        chunk = pb.UploadChunk(offset=0, data=data)
        call = link.stub.Predict(iter([pb.PredictRequest(header=header), pb.PredictRequest(chunk=chunk)]))
        async for _ in call:
            pass

    digest = hashlib.sha256(b"abcd").digest()
    good = pb.PredictHeader(job_id=job.id, samples=1, bytes=4, sha256=digest)
    async with refused("ILLEGAL_STATE"):
        await predict(b"abcd", good)
    await link.train(attach(job), answer("stop", 1))
    async with refused("FRAME_TRUNCATED"):
        await predict(b"abc", good)
    async with refused("OBJECT_TOO_LARGE"):
        await predict(b"abcde", good)
    async with refused("HASH_MISMATCH"):
        await predict(b"abce", good)
    async with refused("INVALID_INPUT"):
        await predict(b"abcd", pb.PredictHeader(job_id=job.id, samples=0, bytes=4, sha256=digest))
    assert not list((link.config.data_dir / "scratch").iterdir())


# -- the process --------------------------------------------------------------------------------------------------


async def test_what_cannot_start_says_why(link: Link, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="in use"):
        await Server.start(link.config)
    with pytest.raises(InputError, match="listen"):
        await Server.start(ServerConfig(data_dir=tmp_path / "other", port=link.server.port))
    with pytest.raises(InputError, match="port"):
        await Server.start(ServerConfig(data_dir=tmp_path / "other", port=70_000))


def test_addresses() -> None:
    assert parse_address("[::1]:80") == ("[::1]", 80)
    for text in ("", "host", "host:", ":80", "host:x"):
        with pytest.raises(InputError):
            parse_address(text)


SERVE = """
import argparse, sys
from hetal.cli import serve
parser = argparse.ArgumentParser()
serve.add_parser(parser.add_subparsers())
args = parser.parse_args(sys.argv[1:])
sys.exit(args.run(args))
"""


def test_serve_announces_itself_and_ends_on_sigterm(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        SERVE,
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--data-dir",
        str(tmp_path),
        "--log-json",
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        host, port = parse_address(line.removeprefix("listening on ").strip())
        assert host == "127.0.0.1" and port > 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
        log = process.stderr.read()
    assert '"event": "server stopped"' in log
