"""Reads that status calls need wait for no write."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hetal.server.store.metadata import BlobRow, JobRow, Metadata
from hetal.server.store.sizes import Sizes
from hetal.server.threads import in_thread, read_in_thread


def test_sizes_are_read_while_a_transaction_is_open(tmp_path: Path) -> None:
    metadata = Metadata(tmp_path / "db")
    metadata.add_job(JobRow("job", "owner", "key", b"manifest", 0.0, "{}"))
    metadata.add_blob("job", "a", BlobRow(b"a" * 32, 40))
    metadata.add_blob("job", "b", BlobRow(b"b" * 32, 2))
    with ThreadPoolExecutor(1) as other, metadata.transaction() as db:
        db.execute("DELETE FROM blobs")
        assert other.submit(metadata.blob_bytes, "job").result(timeout=10) == 42, "what is committed"
    assert metadata.blob_bytes("job") == metadata.blob_bytes("nothing") == 0
    metadata.close()


async def test_short_reads_run_while_every_other_thread_waits() -> None:
    disk = threading.Event()
    waiting = [asyncio.ensure_future(in_thread(disk.wait)) for _ in range(100)]
    try:
        assert await asyncio.wait_for(read_in_thread(lambda x: x + 1, 1), 10) == 2
    finally:
        disk.set()
        await asyncio.gather(*waiting)


async def test_sizes_are_told_while_the_disk_is_busy() -> None:
    disk, size = threading.Event(), 7
    disk.set()

    def measure(_: str) -> int:
        disk.wait(30)
        return size

    sizes = Sizes(measure)
    assert await sizes.of("job") == 7
    disk.clear()
    size = 8
    assert [await asyncio.wait_for(sizes.of("job"), 10) for _ in range(3)] == [7, 7, 7], "what was known"
    first = asyncio.create_task(sizes.of("other"))
    assert not (await asyncio.wait({first}, timeout=0.1))[0], "nothing is known of it yet"
    disk.set()
    assert await first == await sizes.of("job") == 8


async def test_a_measurement_that_fails_is_told_and_tried_again() -> None:
    broken = True

    def measure(_: str) -> int:
        if broken:
            raise OSError("gone")
        return 7

    sizes = Sizes(measure)
    with pytest.raises(OSError, match="gone"):
        await sizes.of("job")
    broken = False
    assert await sizes.of("job") == 7


async def test_a_caller_that_leaves_stops_no_measurement() -> None:
    disk = threading.Event()
    sizes = Sizes(lambda _: int(disk.wait(30)))
    leaver, stayer = (asyncio.create_task(sizes.of("job")) for _ in range(2))
    await asyncio.sleep(0.05)
    leaver.cancel()
    disk.set()
    assert await stayer == 1
    sizes.forget("job")
    assert await sizes.of("job") == 1
