"""Shares of owners, on real servers: what is refused, what it says, and that nothing is lost by it."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from hetal import limits
from hetal._pb import hetal_pb2 as pb
from hetal._pb import hetal_pb2_grpc
from hetal.ckks.presets import TEST_PRESET, preset
from hetal.cli.certs import make_certificates
from hetal.cli.demo import dataset
from hetal.client import Client, KeySet, SoftmaxSpec, Tls
from hetal.errors import ComputeQuotaError
from hetal.protocol.channel_options import client_options
from hetal.protocol.job import KEYS_MULT, PROTOCOL_VERSION, JobSpec
from hetal.protocol.wire import manifest_to_proto
from hetal.server.app import Server
from hetal.server.config import ServerConfig
from hetal.server.store.store import Store

SPEC = JobSpec(
    parameters=preset(TEST_PRESET),
    train_samples=8,
    validation_samples=4,
    features=3,
    classes=2,
    batch_size=8,
    epochs_max=3,
)
BLOBS = {KEYS_MULT: 1 << 20, "train/x/00000": 1 << 20}
DATA = bytes(range(256)) * 1000
MANIFEST_BYTES = len(manifest_to_proto(SPEC, key_tag="tag", blobs=BLOBS).SerializeToString())
TODAY = int(time.time() // 86_400)


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("certs")
    make_certificates(directory, [], ["alice", "bob"], timedelta(days=1))
    return directory


@asynccontextmanager
async def serving(certs: Path, data_dir: Path, **options: Any) -> AsyncIterator[str]:
    files = {"tls_cert": certs / "server.pem", "tls_key": certs / "server-key.pem", "tls_client_ca": certs / "ca.pem"}
    config = ServerConfig(data_dir=data_dir, allow_insecure=True, threads=1, **files, **options)
    server = await Server.start(config)
    try:
        yield f"127.0.0.1:{server.port}"
    finally:
        await server.stop(grace_s=5)


@asynccontextmanager
async def stub(address: str, certs: Path, name: str) -> AsyncIterator[Any]:
    tls = Tls(ca=certs / "ca.pem", cert=certs / f"client-{name}.pem", key=certs / f"client-{name}-key.pem")
    async with grpc.aio.secure_channel(address, tls.credentials(), options=client_options()) as channel:
        yield hetal_pb2_grpc.HetalStub(channel)


async def create(calls: Any, key: str) -> Any:
    manifest = manifest_to_proto(SPEC, key_tag="tag", blobs=BLOBS)
    return await calls.CreateJob(
        pb.CreateJobRequest(idempotency_key=key, manifest=manifest, protocol_version=PROTOCOL_VERSION)
    )


def upload(calls: Any, job: Any, name: str, data: bytes) -> Any:
    header = pb.UploadHeader(job_id=job.id, name=name, bytes=len(data), sha256=hashlib.sha256(data).digest())
    chunk = pb.UploadChunk(data=data)
    return calls.UploadBlob(iter([pb.UploadBlobRequest(header=header), pb.UploadBlobRequest(chunk=chunk)]))


@asynccontextmanager
async def refused(code: str, *values: object) -> AsyncIterator[None]:
    """The call inside fails with that code, and names those values."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield
    assert dict(caught.value.trailing_metadata() or ()).get("hetal-code") == code, caught.value
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    for value in values:
        assert str(value) in (caught.value.details() or "")


async def test_jobs(tmp_path: Path, certs: Path) -> None:
    async with (
        serving(certs, tmp_path, owner_jobs_max=2, owner_jobs_stored_max=3) as address,
        stub(address, certs, "alice") as alice,
        stub(address, certs, "bob") as bob,
    ):
        first, _ = await create(alice, "1"), await create(alice, "2")
        async with refused("OWNER_QUOTA_EXCEEDED", "cn:alice", "2 unfinished jobs", "at most 2"):
            await create(alice, "3")
        # The share is each owner's own, and a repeated call asks for nothing new.
        assert (await create(alice, "1")).id == first.id
        assert (await create(bob, "3")).owner == "cn:bob"
        await alice.CancelJob(pb.CancelJobRequest(job_id=first.id))
        assert (await create(alice, "3")).id
        await alice.CancelJob(pb.CancelJobRequest(job_id=(await create(alice, "3")).id))
        async with refused("OWNER_QUOTA_EXCEEDED", "3 jobs", "at most 3"):
            await create(alice, "4")
        await alice.DeleteJob(pb.DeleteJobRequest(job_id=first.id))
        assert (await create(alice, "4")).id


async def test_many_at_once_get_no_more(tmp_path: Path, certs: Path) -> None:
    async with serving(certs, tmp_path, owner_jobs_max=2) as address, stub(address, certs, "alice") as alice:
        keys = [str(number % 5) for number in range(20)]
        outcomes = await asyncio.gather(*(create(alice, key) for key in keys), return_exceptions=True)
        made = {outcome.id for outcome in outcomes if not isinstance(outcome, BaseException)}
        assert len(made) == 2
        codes = {dict(o.trailing_metadata())["hetal-code"] for o in outcomes if isinstance(o, grpc.aio.AioRpcError)}
        assert codes == {"OWNER_QUOTA_EXCEEDED"}
        assert {job.id for job in (await alice.ListJobs(pb.ListJobsRequest())).jobs} == made


async def test_shares_are_told(tmp_path: Path, certs: Path) -> None:
    async with serving(certs, tmp_path, owner_jobs_max=9) as address, stub(address, certs, "alice") as alice:
        first, _ = await create(alice, "1"), await create(alice, "2")
        await alice.CancelJob(pb.CancelJobRequest(job_id=first.id))
        found = await alice.GetShares(pb.GetSharesRequest())
        assert (found.owner, found.jobs, found.unfinished_jobs, found.unfinished_jobs_max) == ("cn:alice", 2, 1, 9)
        assert (found.bytes, found.bytes_max) == (2 * MANIFEST_BYTES, limits.OWNER_BYTES_MAX)
        assert (found.compute_minutes, found.compute_days) == (0, limits.COMPUTE_WINDOW_DAYS)
        async with stub(address, certs, "bob") as bob:
            assert (await bob.GetShares(pb.GetSharesRequest())).jobs == 0


async def test_bytes(tmp_path: Path, certs: Path) -> None:
    most = 2 * len(DATA) - 1
    async with (
        serving(certs, tmp_path, owner_bytes_max=most) as address,
        stub(address, certs, "alice") as alice,
        stub(address, certs, "bob") as bob,
    ):
        one, two = await create(alice, "1"), await create(alice, "2")
        # Two that come at once see the same room; one of them gets it.
        outcomes = await asyncio.gather(
            upload(alice, one, KEYS_MULT, DATA), upload(alice, two, KEYS_MULT, DATA[::-1]), return_exceptions=True
        )
        assert sorted(isinstance(outcome, Exception) for outcome in outcomes) == [False, True]
        kept, other = (one, two) if not isinstance(outcomes[0], Exception) else (two, one)
        async with refused("OWNER_QUOTA_EXCEEDED", "cn:alice", f"stores {len(DATA) + 2 * MANIFEST_BYTES} bytes", most):
            await upload(alice, other, "train/x/00000", DATA[1:] + DATA[:1])
        # What is there already takes no room a second time.
        assert (await upload(alice, other, KEYS_MULT, DATA if kept is one else DATA[::-1])).complete
        foreign = await create(bob, "1")
        assert (await upload(bob, foreign, KEYS_MULT, DATA)).complete
        for job in (one, two):
            await alice.DeleteJob(pb.DeleteJobRequest(job_id=job.id))
        again = await create(alice, "3")
        assert (await upload(alice, again, "train/x/00000", DATA[1:] + DATA[:1])).complete


async def test_a_broken_upload_counts_what_came(tmp_path: Path, certs: Path) -> None:
    async with (
        serving(certs, tmp_path, owner_bytes_max=len(DATA) + MANIFEST_BYTES) as address,
        stub(address, certs, "alice") as alice,
    ):
        job = await create(alice, "1")
        digest = hashlib.sha256(DATA).digest()
        header = pb.UploadHeader(job_id=job.id, name=KEYS_MULT, bytes=len(DATA), sha256=digest)
        half = pb.UploadChunk(data=DATA[: len(DATA) // 2])
        parts = [pb.UploadBlobRequest(header=header), pb.UploadBlobRequest(chunk=half)]
        status = await alice.UploadBlob(iter(parts))
        assert (status.complete, status.committed_bytes) == (False, len(DATA) // 2)
        async with refused("OWNER_QUOTA_EXCEEDED", MANIFEST_BYTES + len(DATA) // 2, MANIFEST_BYTES + len(DATA)):
            await upload(alice, job, "train/x/00000", DATA[: len(DATA) // 2 + 1])
        # The rest of what was begun still fits.
        header.offset = len(DATA) // 2
        rest = pb.UploadChunk(offset=header.offset, data=DATA[header.offset :])
        assert (
            await alice.UploadBlob(iter([pb.UploadBlobRequest(header=header), pb.UploadBlobRequest(chunk=rest)]))
        ).complete


async def state_of(calls: Any, job: Any) -> Any:
    """The job once it has failed."""
    for _ in range(400):
        found = await calls.GetJob(pb.GetJobRequest(job_id=job.id))
        if found.state == pb.JOB_STATE_FAILED:
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(f"the job did not fail: {found}")


async def test_minutes_before_work(tmp_path: Path, certs: Path) -> None:
    async with serving(certs, tmp_path) as address, stub(address, certs, "alice") as alice:
        job = await create(alice, "1")
        await upload(alice, job, KEYS_MULT, DATA)
    store = Store(tmp_path)
    store.metadata.add_compute("cn:alice", TODAY, 601.0, TODAY - limits.COMPUTE_WINDOW_DAYS)
    store.close()
    async with (
        serving(certs, tmp_path, owner_compute_minutes_max=10) as address,
        stub(address, certs, "alice") as alice,
        stub(address, certs, "bob") as bob,
    ):
        async with refused("COMPUTE_QUOTA_EXCEEDED", "cn:alice", "10.0 compute minutes", "of 10"):
            await create(alice, "2")
        assert (await create(bob, "1")).id
        await upload(alice, job, "train/x/00000", DATA[::-1])
        failure = (await state_of(alice, job)).failure
        assert failure.code == "COMPUTE_QUOTA_EXCEEDED" and "of 10" in failure.message and failure.hint
    async with serving(certs, tmp_path) as address, stub(address, certs, "alice") as alice:
        # With minutes again a client that attaches takes the job up; these keys are none, as its worker finds.
        stream = alice.Train()
        await stream.write(pb.TrainRequest(job_id=job.id, attach=pb.Attach()))
        events = [event async for event in stream]
        assert events[-1].failed.code == "FRAME_INVALID"


async def test_minutes_during_work(tmp_path: Path, certs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "COMPUTE_TICK_S", 0.1)
    data, keys = dataset("wine"), tmp_path / "keys"
    tls = Tls(ca=certs / "ca.pem", cert=certs / "client-alice.pem", key=certs / "client-alice-key.pem")
    arrays = (data.x_train[::3], data.y_train[::3], data.x_val, data.y_val)
    options = {"preset_name": TEST_PRESET, "epochs": 2, "weight_bound": 4.0, "softmax": SoftmaxSpec(extensions=2)}
    few = 0.2 / 60
    async with (
        serving(certs, tmp_path / "data", owner_compute_minutes_max=few) as address,
        Client(address, tls) as client,
    ):
        with pytest.raises(ComputeQuotaError, match=r"cn:alice used .* compute minutes of 0\.003"):
            await client.train(*arrays, keep_keys=keys, **options)
        (job,) = await client.jobs()
        assert job.failure.code == "COMPUTE_QUOTA_EXCEEDED"
    async with serving(certs, tmp_path / "data") as address, Client(address, tls) as client:
        resumed = await client.resume(job.id, KeySet.load(keys, preset(TEST_PRESET), None), *arrays)
        assert (resumed.id, resumed.history.epochs) == (job.id, 2)
    store = Store(tmp_path / "data")
    used_s = store.metadata.compute_seconds("cn:alice", TODAY - 1)
    assert used_s > 0.2
    assert store.metadata.compute_seconds("cn:bob", TODAY - 1) == 0
    store.close()
