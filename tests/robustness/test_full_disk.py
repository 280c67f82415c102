"""A disk that is really full: a small one of its own, mounted for the test."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from hetal import limits
from hetal._pb import hetal_pb2 as pb
from hetal.ckks.presets import TEST_PRESET, preset
from hetal.client.transport import Transport
from hetal.errors import DiskFullError
from hetal.protocol.job import KEYS_MULT, PROTOCOL_VERSION, JobSpec
from hetal.protocol.wire import manifest_to_proto
from hetal.server.app import Server
from hetal.server.config import ServerConfig

MIB = limits.MIB
DATA = bytes(range(256)) * 8192
JOB = JobSpec(
    parameters=preset(TEST_PRESET),
    train_samples=8,
    validation_samples=4,
    features=3,
    classes=2,
    batch_size=8,
    epochs_max=3,
)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("a file system can be mounted by root alone")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture
async def transport(disk: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Transport]:
    # Uploads stop long before the disk is full; here another program fills it.
    monkeypatch.setattr(limits, "DISK_RESERVE_BYTES", 0)
    server = await Server.start(ServerConfig(data_dir=disk / "data", allow_insecure=True))
    transport = Transport(f"127.0.0.1:{server.port}")
    yield transport
    await transport.close()
    await server.stop(grace_s=1)


def fill(disk: Path) -> Path:
    path = disk / "of another program"
    with path.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))
    return path


async def create(transport: Transport, key: str) -> str:
    manifest = manifest_to_proto(JOB, key_tag="tag", blobs={KEYS_MULT: 4 * MIB, "train/x/00000": 1})
    request = pb.CreateJobRequest(idempotency_key=key, manifest=manifest, protocol_version=PROTOCOL_VERSION)
    return str((await transport.call("CreateJob", request)).id)


async def begin(transport: Transport, job_id: str, data: bytes) -> None:
    """Half of an upload."""
    header = pb.UploadHeader(job_id=job_id, name=KEYS_MULT, bytes=len(data), sha256=hashlib.sha256(data).digest())
    chunk = pb.UploadChunk(offset=0, data=data[: len(data) // 2])

    async def parts() -> AsyncIterator[pb.UploadBlobRequest]:
        yield pb.UploadBlobRequest(header=header)
        yield pb.UploadBlobRequest(chunk=chunk)

    assert (await transport.stub.UploadBlob(parts())).committed_bytes == len(data) // 2


async def test_a_full_disk_ends_what_writes_and_a_deletion_frees_it(disk: Path, transport: Transport) -> None:
    old, new = await create(transport, "old"), await create(transport, "new")
    await transport.upload(old, KEYS_MULT, DATA[::-1])
    await begin(transport, new, DATA)
    filler = fill(disk)
    with pytest.raises(DiskFullError):
        await transport.upload(new, KEYS_MULT, DATA)
    with pytest.raises(DiskFullError):
        await create(transport, "another")
    listed = (await transport.call("ListJobs", pb.ListJobsRequest())).jobs
    assert {job.id for job in listed} == {old, new}
    deleted = await transport.call("DeleteJob", pb.DeleteJobRequest(job_id=old))
    assert deleted.bytes_freed == len(DATA)
    await transport.upload(new, KEYS_MULT, DATA)
    filler.unlink()
    assert await create(transport, "another")
    reserve = disk / "data" / "reserve"
    assert reserve.stat().st_blocks * 512 >= limits.DELETION_RESERVE_BYTES
