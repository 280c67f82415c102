"""Reads that status calls need wait for no write."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hetal.server.store.metadata import BlobRow, JobRow, Metadata
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
