"""Metadata and files together. Blocking: the front calls it in a thread."""

from __future__ import annotations

import fcntl
import os
import re
import sqlite3
import threading
from collections.abc import Collection
from pathlib import Path
from typing import IO, Final

from hetal.errors import BackendError, BlobConflictError, StoreCorruptError
from hetal.server.failpoints import failpoint
from hetal.server.resources import shortage
from hetal.server.store.files import Files, file_bytes, tree_bytes
from hetal.server.store.metadata import BlobRow, Metadata

# A job's id is the name of a folder, which is removed with the job.
JOB_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Store:
    """One data directory, owned by one server.

    The lock makes "is this content still needed" and the change that follows one step, so that a deletion never takes
    an object from under an upload that was just told it need not send it.
    """

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock_file = _own(root)
        self._lock = threading.RLock()
        self.files = Files(root)
        path = root / "hetal.sqlite3"
        try:
            self.metadata = Metadata(path)
            try:
                self._sweep()
            except BaseException:
                self.metadata.close()
                raise
        except sqlite3.DatabaseError as error:
            self._lock_file.close()
            raise shortage(error) or StoreCorruptError(f"{path} is damaged: {error}") from error
        except BaseException:
            self._lock_file.close()
            raise

    def close(self) -> None:
        self.metadata.close()
        self._lock_file.close()

    def link(self, job_id: str, name: str, row: BlobRow) -> bool:
        """Commit a blob whose content the job's owner has stored already; False where that is not so.

        Content of other owners does not count: who knows a hash alone must not learn whether anybody has its bytes.
        """
        with self._lock:
            if not self.metadata.owns(job_id, row):
                return False
            path = self.files.object(row.sha256)
            if not path.exists() or path.stat().st_size != row.size_bytes:
                return False
            self.metadata.add_blob(job_id, name, row)
            self.files.partial(job_id, name).unlink(missing_ok=True)
            return True

    def commit(self, job_id: str, name: str, row: BlobRow) -> None:
        """Commit a complete partial upload, flushed and with the right hash."""
        with self._lock:
            present = self.metadata.blob(job_id, name)
            if present is not None:
                if present.sha256 != row.sha256:
                    raise BlobConflictError(f"blob {name} is committed with other content")
                return
            partial = self.files.partial(job_id, name)
            self.files.promote(partial, row.sha256)
            self.metadata.add_blob(job_id, name, row)
            partial.unlink()

    def discard_partial(self, job_id: str, name: str) -> None:
        self.files.partial(job_id, name).unlink(missing_ok=True)
        self.metadata.drop_partial(job_id, name)

    def delete_job(self, job_id: str) -> int:
        """Remove a job and every object that no other job refers to. Bytes freed."""
        with self._lock:
            rows = set(self.metadata.blobs(job_id).values())
            alone = [row for row in rows if not self.metadata.referenced(row.sha256, but_by=job_id)]
            freed = sum(row.size_bytes for row in alone) + tree_bytes(self.files.job(job_id))
            try:
                self.metadata.delete_job(job_id, freed)
            except (OSError, sqlite3.Error) as error:
                if shortage(error) is None:
                    raise
                self.files.spend_reserve()
                self.metadata.delete_job(job_id, freed)
            failpoint("delete.row")
            for row in alone:
                self.files.remove_object(row.sha256)
            failpoint("delete.objects")
            self.files.remove_job(job_id)
            self.files.keep_reserve()
            return freed

    def owner_bytes(self, owner: str, but_for: Collection[Path] = ()) -> int:
        """Bytes on disk for an owner's jobs, a content that several of them hold once; without the named files."""
        jobs, total = self.metadata.owned(owner)
        total += sum(tree_bytes(self.files.job(job_id)) for job_id in jobs)
        for path in but_for:
            if path.parent.parent.name in jobs:
                total -= file_bytes(path)
        return total

    def _sweep(self) -> None:
        """Finish commits and deletions that a crash cut short."""
        known = self.metadata.hashes()
        for sha256 in list(self.files.object_hashes()):
            if sha256 not in known:
                self.files.remove_object(sha256)
        jobs = {row.id for row in self.metadata.jobs()}
        for job_id in jobs | {job_id for job_id, _ in self.metadata.partials()}:
            if not JOB_ID.fullmatch(job_id):
                raise StoreCorruptError(f"the database names a job {job_id[:80]!r}")
        for folder in list(self.files.jobs.iterdir()):
            if folder.name not in jobs:
                self.files.remove_job(folder.name)
        unfinished = {self.files.partial(job_id, name) for job_id, name in self.metadata.partials()}
        for partial in list(self.files.jobs.glob("*/partial/*")):
            if partial not in unfinished:
                partial.unlink()


def _own(root: Path) -> IO[str]:
    lock = open(root / "lock", "w")  # noqa: SIM115
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise BackendError(
            f"data directory {root} is in use by another server",
            hint="Stop the other server, or choose another --data-dir.",
        ) from error
    lock.write(str(os.getpid()))
    lock.flush()
    return lock
