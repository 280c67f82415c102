"""A real server that runs out of disk or memory, is asked twice, or has more jobs than room: nothing is lost."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from test_server import BLOBS, CHUNK, DATA, Link, answer, attach, awaiting, refused, upload_messages

from hetal import limits
from hetal._pb import hetal_pb2 as pb
from hetal.protocol.job import KEYS_MULT
from hetal.server import failpoints
from hetal.server.admission import memory_bytes
from hetal.server.config import ServerConfig
from hetal.server.failpoints import VARIABLE, Strike

Arm = Callable[..., None]


@pytest.fixture
async def link(tmp_path: Path) -> AsyncIterator[Link]:
    link = Link(ServerConfig(data_dir=tmp_path / "data", allow_insecure=True, threads=1))
    await link.open()
    yield link
    await link.close()


@pytest.fixture
def arm() -> Iterator[Arm]:
    """Let the disk of this process be full at these points alone."""

    def now(*points: str, passage: int = 1) -> None:
        failpoints._armed.clear()
        failpoints._passages.clear()
        failpoints._armed.update({point: Strike("full", passage) for point in points})

    yield now
    now()


async def get(link: Link, job: Any) -> Any:
    return await link.stub.GetJob(pb.GetJobRequest(job_id=job.id))


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(1_000):
        if await condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come about within 10 s")


async def upload_all(link: Link, job: Any) -> None:
    for name in BLOBS:
        await link.upload(job, name, f"{name} {job.id}".encode() * 50)


# -- calls that come twice ----------------------------------------------------------------------------------------


async def test_a_deletion_may_be_repeated(link: Link) -> None:
    job = await link.create()
    await link.upload(job, KEYS_MULT, DATA)
    request = pb.DeleteJobRequest(job_id=job.id)
    both = await asyncio.gather(link.stub.DeleteJob(request), link.stub.DeleteJob(request))
    await link.close()
    await link.open()
    again = await link.stub.DeleteJob(request)
    assert {freed.bytes_freed for freed in (*both, again)} == {len(DATA)}
    async with refused("JOB_NOT_FOUND"):
        await link.stub.DeleteJob(pb.DeleteJobRequest(job_id="another"))


async def test_an_answer_may_be_repeated_and_not_changed(link: Link) -> None:
    job = await awaiting(link)
    events = await link.train(attach(job), answer("stop", 1))
    assert events[-1].HasField("finished")
    assert (await link.train(attach(job)))[-1] == events[-1]
    for verb in ("stop", "continue"):
        await link.train(attach(job), answer(verb, 1))
    assert (await get(link, job)).best_epoch == 1


# -- full disks ---------------------------------------------------------------------------------------------------


async def test_a_full_disk_ends_an_upload_and_keeps_what_came(link: Link, arm: Arm) -> None:
    job = await link.create()
    await link.upload(job, KEYS_MULT, DATA, end=CHUNK)
    arm("upload.chunk")
    async with refused("DISK_FULL"):
        await link.upload(job, KEYS_MULT, DATA, start=CHUNK)
    arm("object.link")
    async with refused("DISK_FULL"):
        await link.upload(job, KEYS_MULT, DATA, start=CHUNK)
    arm()
    assert (await link.stat(job, KEYS_MULT)).committed_bytes == len(DATA)
    assert (await link.upload(job, KEYS_MULT, DATA, start=len(DATA))).complete


async def test_a_job_that_cannot_be_written_is_not_made(link: Link, arm: Arm) -> None:
    for point in ("job.folder", "db.changed"):
        arm(point)
        async with refused("DISK_FULL"):
            await link.create()
        arm()
    assert not (await link.stub.ListJobs(pb.ListJobsRequest())).jobs
    assert (await link.create()).id


async def test_what_cannot_be_written_has_not_happened(link: Link, arm: Arm) -> None:
    job = await awaiting(link)
    for message in (answer("stop", 1), answer("continue", 1)):
        arm("snapshot.before")
        async with refused("DISK_FULL"):
            await link.train(attach(job), message)
        assert (await get(link, job)).state == pb.JOB_STATE_AWAITING_CLIENT
    async with refused("DISK_FULL"):
        await link.stub.CancelJob(pb.CancelJobRequest(job_id=job.id))
    arm("db.changed")
    async with refused("DISK_FULL"):
        await link.stub.DeleteJob(pb.DeleteJobRequest(job_id=job.id))
    arm()
    assert (await link.train(attach(job), answer("stop", 1)))[-1].HasField("finished")


async def test_the_last_blob_on_a_full_disk(link: Link, arm: Arm) -> None:
    job = await link.create()
    (first, second) = BLOBS
    await link.upload(job, first, b"one" * 100)
    arm("snapshot.before")
    async with refused("DISK_FULL"):
        await link.upload(job, second, b"two" * 100)
    assert (await link.stat(job, second)).complete
    async with refused("DISK_FULL"):
        await link.train(attach(job))
    arm()
    assert (await link.train(attach(job)))[-1].failed.code == "FRAME_INVALID", "a worker has read the blobs"


async def test_a_job_without_room_for_its_state_fails_and_can_be_resumed(link: Link, arm: Arm) -> None:
    job, other = await link.create(), await link.create("other")
    (first, second) = BLOBS
    await link.upload(job, first, b"one" * 100)
    # From the second snapshot on: the job is queued and cannot be told to train.
    arm("snapshot.before", passage=2)
    await link.upload(job, second, b"two" * 100)

    async def failed() -> bool:
        return bool((await get(link, job)).state == pb.JOB_STATE_FAILED)

    await until(failed)
    assert (await get(link, job)).failure.code == "DISK_FULL"
    await link.upload(other, first, b"one" * 100)
    arm()
    assert (await link.train(attach(job)))[-1].failed.code == "FRAME_INVALID", "it ran"
    assert (await get(link, other)).state == pb.JOB_STATE_UPLOADING


@pytest.mark.parametrize(("action", "code"), [("memory", "OUT_OF_MEMORY"), ("full", "DISK_FULL")])
async def test_a_shortage_in_a_worker_ends_its_job_alone(
    link: Link, monkeypatch: pytest.MonkeyPatch, action: str, code: str
) -> None:
    monkeypatch.setenv(VARIABLE, f"train.begin={action}")
    job, other = await link.create(), await link.create("other")
    await upload_all(link, job)
    assert (await link.train(attach(job)))[-1].failed.code == code
    assert (await get(link, other)).state == pb.JOB_STATE_UPLOADING
    monkeypatch.delenv(VARIABLE)
    assert (await link.train(attach(job)))[-1].failed.code == "FRAME_INVALID", "attaching resumed it"


# -- room for jobs ------------------------------------------------------------------------------------------------


async def test_a_job_too_large_for_the_server_is_refused_at_once(tmp_path: Path) -> None:
    link = Link(ServerConfig(data_dir=tmp_path, allow_insecure=True, memory_gib=0.1))
    await link.open()
    async with refused("JOB_TOO_LARGE"):
        await link.create()
    await link.close()


async def test_a_job_waits_for_memory_although_a_slot_is_free(tmp_path: Path) -> None:
    link = Link(ServerConfig(data_dir=tmp_path, allow_insecure=True, jobs_running=2, threads=1))
    await link.open()
    first = await link.create("first")
    need = memory_bytes(link.server._jobs.all()[0].checked)
    await link.close()
    link.config = replace(link.config, memory_gib=1.5 * need / limits.GIB)
    await link.open()
    second = await link.create("second")
    await upload_all(link, first)

    async def started() -> bool:
        return bool(psutil.Process().children())

    await until(started)
    (worker,) = psutil.Process().children()
    worker.suspend()
    await upload_all(link, second)
    await asyncio.sleep(0.3)
    assert (await get(link, second)).state == pb.JOB_STATE_QUEUED
    worker.resume()
    assert (await link.train(attach(second)))[-1].failed.code == "FRAME_INVALID"
    await link.close()


async def test_jobs_at_their_end_are_removed_after_the_configured_time(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RETENTION_CHECK_S", 0.02)
    job, other = await link.create(), await link.create("other")
    await link.upload(job, KEYS_MULT, DATA)
    await link.stub.CancelJob(pb.CancelJobRequest(job_id=job.id))
    await link.close()
    link.config = replace(link.config, retention_s=3600.0)
    await link.open()
    await asyncio.sleep(0.2)
    assert (await get(link, job)).state == pb.JOB_STATE_CANCELLED
    await link.close()
    link.config = replace(link.config, retention_s=0.0)
    await link.open()

    async def gone() -> bool:
        return [found.id for found in (await link.stub.ListJobs(pb.ListJobsRequest())).jobs] == [other.id]

    await until(gone)
    assert not list((link.config.data_dir / "objects").glob("??/*"))


# -- streams ------------------------------------------------------------------------------------------------------


async def test_of_many_streams_for_one_blob_one_gets_through(link: Link) -> None:
    job = await link.create()
    header, *chunks = upload_messages(job.id, KEYS_MULT, DATA)
    stale = [link.stub.UploadBlob() for _ in range(8)]
    await asyncio.gather(*(call.write(header) for call in stale))
    await asyncio.gather(*(call.write(chunks[0]) for call in stale), return_exceptions=True)
    await asyncio.sleep(0.1)
    offset = (await link.stat(job, KEYS_MULT)).committed_bytes
    assert (await link.upload(job, KEYS_MULT, DATA, start=offset)).complete
    # The later ones found more bytes on disk than their headers said.
    outcomes: list[Any] = await asyncio.gather(*stale, return_exceptions=True)
    codes = {dict(outcome.trailing_metadata())["hetal-code"] for outcome in outcomes}
    assert codes <= {"ILLEGAL_STATE", "CHUNK_OUT_OF_ORDER"}
    stored = next((link.config.data_dir / "objects").glob("??/*"))
    assert hashlib.sha256(stored.read_bytes()).digest() == hashlib.sha256(DATA).digest()


async def test_a_server_that_stops_says_so_and_keeps_the_upload(link: Link) -> None:
    job = await link.create()
    header, *chunks = upload_messages(job.id, KEYS_MULT, DATA)
    call = link.stub.UploadBlob()
    await call.write(header)
    await call.write(chunks[0])

    async def came() -> bool:
        return bool((await link.stat(job, KEYS_MULT)).committed_bytes == CHUNK)

    await until(came)
    stopping = asyncio.ensure_future(link.server.stop())
    async with refused("SERVER_SHUTTING_DOWN"):
        await call
    await asyncio.wait_for(stopping, 10)
    await link.channel.close()
    await link.open()
    assert (await link.stat(job, KEYS_MULT)).committed_bytes == CHUNK
