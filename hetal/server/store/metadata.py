"""Jobs and blob references in SQLite. Every write is durable when the call returns."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY,
    idempotency_key TEXT NOT NULL UNIQUE,
    manifest BLOB NOT NULL,
    created_unix_s REAL NOT NULL,
    snapshot TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS blobs (
    job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    sha256 BLOB NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (job_id, name)
) STRICT;
CREATE INDEX IF NOT EXISTS blobs_by_hash ON blobs (sha256);
CREATE TABLE IF NOT EXISTS partials (
    job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    sha256 BLOB NOT NULL,
    PRIMARY KEY (job_id, name)
) STRICT;
"""


@dataclass(frozen=True, slots=True)
class JobRow:
    id: str
    idempotency_key: str
    manifest: bytes
    created_unix_s: float
    snapshot: str


@dataclass(frozen=True, slots=True)
class BlobRow:
    sha256: bytes
    size_bytes: int


class Metadata:
    """One connection behind a lock; call it from any thread."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA foreign_keys = ON")
        self._db.executescript(SCHEMA)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, and on disk at the end."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    # -- jobs ---------------------------------------------------------------------------------------------------------

    def add_job(self, row: JobRow) -> JobRow:
        """The stored job of that idempotency key: ``row`` itself when the key is new."""
        with self.transaction() as db:
            found = db.execute("SELECT * FROM jobs WHERE idempotency_key = ?", (row.idempotency_key,)).fetchone()
            if found is not None:
                return JobRow(*found)
            values = (row.id, row.idempotency_key, row.manifest, row.created_unix_s, row.snapshot)
            db.execute("INSERT INTO jobs VALUES (?, ?, ?, ?, ?)", values)
            return row

    def jobs(self) -> list[JobRow]:
        with self._lock:
            return [JobRow(*row) for row in self._db.execute("SELECT * FROM jobs ORDER BY created_unix_s, id")]

    def save_snapshot(self, job_id: str, snapshot: str) -> None:
        with self.transaction() as db:
            db.execute("UPDATE jobs SET snapshot = ? WHERE id = ?", (snapshot, job_id))

    def delete_job(self, job_id: str) -> None:
        with self.transaction() as db:
            db.execute("DELETE FROM jobs WHERE id = ?", (job_id,))

    # -- blobs --------------------------------------------------------------------------------------------------------

    def blobs(self, job_id: str) -> dict[str, BlobRow]:
        with self._lock:
            rows = self._db.execute("SELECT name, sha256, bytes FROM blobs WHERE job_id = ?", (job_id,))
            return {name: BlobRow(sha256, size) for name, sha256, size in rows}

    def blob(self, job_id: str, name: str) -> BlobRow | None:
        with self._lock:
            row = self._db.execute(
                "SELECT sha256, bytes FROM blobs WHERE job_id = ? AND name = ?", (job_id, name)
            ).fetchone()
            return None if row is None else BlobRow(*row)

    def add_blob(self, job_id: str, name: str, row: BlobRow) -> None:
        with self.transaction() as db:
            db.execute("INSERT INTO blobs VALUES (?, ?, ?, ?)", (job_id, name, row.sha256, row.size_bytes))
            db.execute("DELETE FROM partials WHERE job_id = ? AND name = ?", (job_id, name))

    def referenced(self, sha256: bytes) -> bool:
        """Whether a committed blob of any job has that content."""
        with self._lock:
            return self._db.execute("SELECT 1 FROM blobs WHERE sha256 = ? LIMIT 1", (sha256,)).fetchone() is not None

    def hashes(self) -> set[bytes]:
        """Contents that a committed or an announced blob refers to."""
        with self._lock:
            rows = self._db.execute("SELECT sha256 FROM blobs UNION SELECT sha256 FROM partials")
            return {row[0] for row in rows}

    # -- partial uploads ----------------------------------------------------------------------------------------------

    def partial(self, job_id: str, name: str) -> bytes | None:
        """The hash that an unfinished upload announced."""
        with self._lock:
            row = self._db.execute(
                "SELECT sha256 FROM partials WHERE job_id = ? AND name = ?", (job_id, name)
            ).fetchone()
            return None if row is None else bytes(row[0])

    def set_partial(self, job_id: str, name: str, sha256: bytes) -> None:
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO partials VALUES (?, ?, ?)", (job_id, name, sha256))

    def drop_partial(self, job_id: str, name: str) -> None:
        with self.transaction() as db:
            db.execute("DELETE FROM partials WHERE job_id = ? AND name = ?", (job_id, name))
