"""Jobs and blob references in SQLite. Every write is durable when the call returns."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hetal import limits
from hetal.errors import BackendError
from hetal.server.failpoints import failpoint

# A database remembers in user_version how many of these scripts made it; the rest run when it is opened.
MIGRATIONS: Final = (
    """
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
""",
    """
CREATE TABLE owned (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    manifest BLOB NOT NULL,
    created_unix_s REAL NOT NULL,
    snapshot TEXT NOT NULL,
    UNIQUE (owner, idempotency_key)
) STRICT;
INSERT INTO owned SELECT id, 'local', idempotency_key, manifest, created_unix_s, snapshot FROM jobs;
DROP TABLE jobs;
ALTER TABLE owned RENAME TO jobs;
""",
    """
ALTER TABLE jobs ADD COLUMN ended_unix_s REAL;
CREATE TABLE deleted (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    bytes_freed INTEGER NOT NULL
) STRICT;
""",
    """
CREATE TABLE compute (
    owner TEXT NOT NULL,
    day INTEGER NOT NULL,
    seconds REAL NOT NULL,
    PRIMARY KEY (owner, day)
) STRICT;
""",
)
JOB_COLUMNS: Final = "id, owner, idempotency_key, manifest, created_unix_s, snapshot"


@dataclass(frozen=True, slots=True)
class JobRow:
    id: str
    owner: str
    idempotency_key: str
    manifest: bytes
    created_unix_s: float
    snapshot: str


@dataclass(frozen=True, slots=True)
class BlobRow:
    sha256: bytes
    size_bytes: int


class Metadata:
    """Call it from any thread. One connection behind a lock, and one to read what waits for no write."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._reading = threading.Lock()
        self._reader = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            (state,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
            if state != "ok":
                raise sqlite3.DatabaseError(state)
            self._migrate(path)
            self._db.execute("PRAGMA foreign_keys = ON")
            self._reader.execute("PRAGMA query_only = ON")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        with self._lock, self._reading:
            self._reader.close()
            self._db.close()

    def _migrate(self, path: Path) -> None:
        # Foreign keys are off meanwhile: dropping a table would delete what refers to it.
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            raise BackendError(
                f"{path} was written by a newer release", hint="Install that release, or choose another --data-dir."
            )
        for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
            self._db.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT;")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, and on disk at the end."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                failpoint("db.begin")
                yield self._db
                failpoint("db.changed")
                self._db.execute("COMMIT")
            except BaseException:
                # SQLite rolls back by itself where its disk is full.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            failpoint("db.committed")

    # -- jobs ---------------------------------------------------------------------------------------------------------

    def add_job(self, row: JobRow) -> JobRow:
        """The stored job of that owner's idempotency key: ``row`` itself when the key is new."""
        with self.transaction() as db:
            found = self.job_of_key(row.owner, row.idempotency_key)
            if found is not None:
                return found
            values = (row.id, row.owner, row.idempotency_key, row.manifest, row.created_unix_s, row.snapshot)
            db.execute(f"INSERT INTO jobs ({JOB_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)", values)
            return row

    def job_of_key(self, owner: str, idempotency_key: str) -> JobRow | None:
        with self._lock:
            row = self._db.execute(
                f"SELECT {JOB_COLUMNS} FROM jobs WHERE owner = ? AND idempotency_key = ?", (owner, idempotency_key)
            ).fetchone()
            return None if row is None else JobRow(*row)

    def jobs(self) -> list[JobRow]:
        with self._lock:
            rows = self._db.execute(f"SELECT {JOB_COLUMNS} FROM jobs ORDER BY created_unix_s, id")
            return [JobRow(*row) for row in rows]

    def save_snapshot(self, job_id: str, snapshot: str, ended_unix_s: float | None = None) -> None:
        """``ended_unix_s``: since when the job is at an end, None for a job that goes on."""
        with self.transaction() as db:
            values = (snapshot, ended_unix_s, job_id)
            db.execute("UPDATE jobs SET snapshot = ?, ended_unix_s = ? WHERE id = ?", values)

    def ended(self) -> dict[str, float]:
        """Since when jobs are at an end, by id."""
        with self._lock:
            rows = self._db.execute("SELECT id, ended_unix_s FROM jobs WHERE ended_unix_s IS NOT NULL")
            return dict(rows.fetchall())

    def delete_job(self, job_id: str, bytes_freed: int) -> None:
        """Forget a job but for the fact that it was deleted: the call may come again."""
        with self.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO deleted (id, owner, bytes_freed) SELECT id, owner, ? FROM jobs WHERE id = ?",
                (bytes_freed, job_id),
            )
            db.execute(
                "DELETE FROM deleted WHERE number <= (SELECT MAX(number) FROM deleted) - ?",
                (limits.DELETED_JOBS_REMEMBERED,),
            )
            db.execute("DELETE FROM jobs WHERE id = ?", (job_id,))

    def deleted(self, job_id: str) -> tuple[str, int] | None:
        """Owner and freed bytes of a job that was deleted."""
        with self._lock:
            row = self._db.execute("SELECT owner, bytes_freed FROM deleted WHERE id = ?", (job_id,)).fetchone()
            return None if row is None else (str(row[0]), int(row[1]))

    # -- blobs --------------------------------------------------------------------------------------------------------

    def blobs(self, job_id: str) -> dict[str, BlobRow]:
        with self._lock:
            rows = self._db.execute("SELECT name, sha256, bytes FROM blobs WHERE job_id = ?", (job_id,))
            return {name: BlobRow(sha256, size) for name, sha256, size in rows}

    def blob_bytes(self, job_id: str) -> int:
        """Size of a job's blobs. Not behind a transaction, which may wait for the disk: status calls ask for it."""
        with self._reading:
            (size,) = self._reader.execute(
                "SELECT coalesce(sum(bytes), 0) FROM blobs WHERE job_id = ?", (job_id,)
            ).fetchone()
            return int(size)

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

    def referenced(self, sha256: bytes, *, but_by: str) -> bool:
        """Whether a committed blob of another job has that content."""
        with self._lock:
            found = self._db.execute("SELECT 1 FROM blobs WHERE sha256 = ? AND job_id <> ? LIMIT 1", (sha256, but_by))
            return found.fetchone() is not None

    def owns(self, job_id: str, row: BlobRow) -> bool:
        """Whether the job's owner has committed a blob of that content, in any job."""
        with self._lock:
            found = self._db.execute(
                "SELECT 1 FROM blobs JOIN jobs ON jobs.id = blobs.job_id WHERE blobs.sha256 = ? AND blobs.bytes = ? "
                "AND jobs.owner = (SELECT owner FROM jobs WHERE id = ?) LIMIT 1",
                (row.sha256, row.size_bytes, job_id),
            )
            return found.fetchone() is not None

    def hashes(self) -> set[bytes]:
        """Contents that a committed or an announced blob refers to."""
        with self._lock:
            rows = self._db.execute("SELECT sha256 FROM blobs UNION SELECT sha256 FROM partials")
            return {row[0] for row in rows}

    # -- owners -------------------------------------------------------------------------------------------------------

    def owned(self, owner: str) -> tuple[list[str], int]:
        """Ids of an owner's jobs, and the bytes of their manifests and of the contents of their blobs."""
        with self._lock:
            jobs = list(self._db.execute("SELECT id, length(manifest) FROM jobs WHERE owner = ?", (owner,)))
            (contents,) = self._db.execute(
                "SELECT coalesce(sum(bytes), 0) FROM (SELECT DISTINCT blobs.sha256, blobs.bytes FROM blobs "
                "JOIN jobs ON jobs.id = blobs.job_id WHERE jobs.owner = ?)",
                (owner,),
            ).fetchone()
            return [job_id for job_id, _ in jobs], contents + sum(size for _, size in jobs)

    def add_compute(self, owner: str, day: int, seconds: float, oldest_day: int) -> None:
        """Count what a worker of the owner's took on a day since 1970, and forget days before ``oldest_day``."""
        with self.transaction() as db:
            db.execute("DELETE FROM compute WHERE day < ?", (oldest_day,))
            db.execute(
                "INSERT INTO compute VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET seconds = seconds + excluded.seconds",
                (owner, day, seconds),
            )

    def compute_seconds(self, owner: str, first_day: int) -> float:
        """Counted seconds of an owner from that day on."""
        with self._lock:
            (seconds,) = self._db.execute(
                "SELECT coalesce(sum(seconds), 0.0) FROM compute WHERE owner = ? AND day >= ?", (owner, first_day)
            ).fetchone()
            return float(seconds)

    # -- partial uploads ----------------------------------------------------------------------------------------------

    def partial(self, job_id: str, name: str) -> bytes | None:
        """The hash that an unfinished upload announced."""
        with self._lock:
            row = self._db.execute(
                "SELECT sha256 FROM partials WHERE job_id = ? AND name = ?", (job_id, name)
            ).fetchone()
            return None if row is None else bytes(row[0])

    def partials(self) -> list[tuple[str, str]]:
        """Job and blob name of every unfinished upload."""
        with self._lock:
            return list(self._db.execute("SELECT job_id, name FROM partials"))

    def set_partial(self, job_id: str, name: str, sha256: bytes) -> None:
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO partials VALUES (?, ?, ?)", (job_id, name, sha256))

    def drop_partial(self, job_id: str, name: str) -> None:
        with self.transaction() as db:
            db.execute("DELETE FROM partials WHERE job_id = ? AND name = ?", (job_id, name))
