"""Bytes on disk: content-addressed objects, partial uploads, and the results of each job.

objects/<2 hex>/<64 hex>     committed blobs, named by their SHA-256, shared between jobs
jobs/<id>/partial/<hash>     unfinished uploads, named by the hash of the blob's name
jobs/<id>/results/<name>     what the worker writes: checkpoint, logits, classifiers
scratch/<name>               features to predict, and their logits; emptied at every start
reserve                      nothing: room to note a deletion where the disk is full
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from hetal import limits
from hetal.server.failpoints import failpoint

READ_BYTES: Final = 1 << 20


def fsync_dir(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace ``path`` as a whole; it is on disk when this returns. Where that fails, ``path`` is as it was."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            failpoint("file.write")
            file.write(data)
            file.flush()
            failpoint("file.written")
            os.fsync(file.fileno())
        failpoint("file.synced")
        os.replace(temporary, path)
        failpoint("file.renamed")
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_dir(path.parent)


def result_file(name: str) -> str:
    """File name of a result blob such as ``logits/00001``."""
    return name.replace("/", "-")


def tree_bytes(path: Path) -> int:
    """Size in bytes of all files below ``path``; files that vanish meanwhile count nothing."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            total += file_bytes(Path(folder, name))
    return total


def file_bytes(path: Path) -> int:
    """Size of a file; 0 where there is none."""
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


class Files:
    """Paths and the few operations on them that must survive a crash."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.objects = root / "objects"
        self.jobs = root / "jobs"
        self.scratch = root / "scratch"
        shutil.rmtree(self.scratch, ignore_errors=True)
        for folder in (self.objects, self.jobs, self.scratch):
            folder.mkdir(parents=True, exist_ok=True)
        self._reserve = root / "reserve"
        self.keep_reserve()

    def object(self, sha256: bytes) -> Path:
        digits = sha256.hex()
        return self.objects / digits[:2] / digits

    def object_hashes(self) -> Iterator[bytes]:
        for path in self.objects.glob("??/*"):
            yield bytes.fromhex(path.name)

    def job(self, job_id: str) -> Path:
        return self.jobs / job_id

    def results(self, job_id: str) -> Path:
        return self.job(job_id) / "results"

    def result(self, job_id: str, name: str) -> Path:
        return self.results(job_id) / result_file(name)

    def partial(self, job_id: str, name: str) -> Path:
        return self.job(job_id) / "partial" / hashlib.sha256(name.encode()).hexdigest()

    def make_job(self, job_id: str) -> None:
        for folder in (self.job(job_id) / "partial", self.results(job_id)):
            folder.mkdir(parents=True, exist_ok=True)
            fsync_dir(folder.parent)
        fsync_dir(self.jobs)
        failpoint("job.folder")

    def partial_bytes(self, job_id: str, name: str) -> int:
        return file_bytes(self.partial(job_id, name))

    def promote(self, partial: Path, sha256: bytes) -> None:
        """Give a complete, flushed upload the name of an object as well.

        The partial keeps its name until the commit is recorded: after a crash in between the upload goes on at its end.
        """
        target = self.object(sha256)
        if not target.parent.exists():
            target.parent.mkdir(exist_ok=True)
            fsync_dir(self.objects)
        failpoint("object.link")
        with suppress(FileExistsError):
            os.link(partial, target)
        failpoint("object.linked")
        fsync_dir(target.parent)
        failpoint("object.synced")

    def remove_object(self, sha256: bytes) -> int:
        """Bytes freed."""
        path = self.object(sha256)
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return 0
        return size

    def remove_job(self, job_id: str) -> int:
        """Bytes freed."""
        size = tree_bytes(self.job(job_id))
        shutil.rmtree(self.job(job_id), ignore_errors=True)
        return size

    def keep_reserve(self) -> None:
        """Hold some bytes of the disk back, if there are any, for a deletion when it is full."""
        with suppress(OSError), open(self._reserve, "ab") as file:
            os.posix_fallocate(file.fileno(), 0, limits.DELETION_RESERVE_BYTES)

    def spend_reserve(self) -> None:
        """Give them back to the disk."""
        self._reserve.unlink(missing_ok=True)

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.root).free
