"""Receives blobs: in order, bounded, resumable, and acknowledged only once they are on disk with the right hash."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Final, TypeVar

from hetal import limits
from hetal._pb import hetal_pb2 as pb
from hetal.errors import (
    BlobConflictError,
    ChunkOrderError,
    ConnectionFailedError,
    DiskFullError,
    HashMismatchError,
    HetalError,
    InputError,
    OversizedError,
    QuotaError,
    ShuttingDownError,
    StateError,
    TruncatedError,
    UnknownBlobError,
)
from hetal.protocol.messages import BlobCommitted, State
from hetal.server.failpoints import failpoint
from hetal.server.identity import Caller
from hetal.server.jobs import Job, Jobs
from hetal.server.log import event
from hetal.server.quota import Quotas
from hetal.server.store.files import READ_BYTES
from hetal.server.store.metadata import BlobRow
from hetal.server.store.store import Store
from hetal.server.threads import in_thread

SHA256_BYTES: Final = 32
SHUTTING_DOWN_TEXT: Final = "the server is shutting down"
_Message = TypeVar("_Message", pb.UploadBlobRequest, pb.PredictRequest)


class Receiver:
    """Appends chunks to a file and hashes them. Blocking."""

    def __init__(self, path: Path, offset: int, total_bytes: int) -> None:
        # Without a buffer: where the disk is full, what is written is known, and closing writes no more.
        self._file = FileIO(path, "r+" if offset else "w")
        failpoint("upload.opened")
        self._hash = hashlib.sha256()
        self._total_bytes = total_bytes
        self.offset = 0
        while self.offset < offset:
            data = self._file.read(min(READ_BYTES, offset - self.offset))
            if not data:
                raise ChunkOrderError(f"only {self.offset} of {offset} bytes are on disk")
            self._hash.update(data)
            self.offset += len(data)

    def append(self, offset: int, data: bytes) -> None:
        if offset != self.offset:
            raise ChunkOrderError(f"a chunk at offset {offset} came where {self.offset} was due")
        if not data:
            raise InputError("an empty chunk")
        if self.offset + len(data) > self._total_bytes:
            raise OversizedError(f"more bytes came than the {self._total_bytes} announced")
        failpoint("upload.chunk")
        view = memoryview(data)
        while view:
            written = self._file.write(view)
            self._hash.update(view[:written])
            self.offset += written
            view = view[written:]
        failpoint("upload.written")

    def keep(self) -> None:
        """What came is on disk when this returns; nothing more can be appended."""
        with self._file:
            failpoint("upload.sync")
            os.fsync(self._file.fileno())
            failpoint("upload.synced")

    def digest(self) -> bytes:
        return self._hash.digest()

    def close(self) -> None:
        self._file.close()


@dataclass(slots=True, eq=False)
class _Stream:
    """A running upload; ``ended`` is why the server broke it off."""

    task: asyncio.Task[pb.BlobStatus]
    ended: HetalError | None = None

    async def end(self, reason: HetalError) -> None:
        self.ended = reason
        self.task.cancel()
        await asyncio.wait({self.task})


class Uploads:
    """All running uploads of a server. A new stream for a blob takes over from a stale one."""

    def __init__(self, store: Store, jobs: Jobs, quotas: Quotas) -> None:
        self._store = store
        self._jobs = jobs
        self._quotas = quotas
        self._active: dict[tuple[str, str], _Stream] = {}
        self._closing = False

    async def receive(self, stream: AsyncIterator[pb.UploadBlobRequest], caller: Caller) -> pb.BlobStatus:
        """Take one upload stream to its end or its break."""
        first = await _next(stream)
        if first is None or first.WhichOneof("part") != "header":
            raise InputError("the first message of an upload is its header")
        header = first.header
        job = self._jobs.get(header.job_id, caller)
        self._check(job, header)
        key = (job.id, header.name)
        # A dead connection may hold the blob until its keepalive runs out; and others may want it, too.
        while (stale := self._active.get(key)) is not None:
            await self._end(key, stale, StateError(f"another stream took over the upload of blob {header.name}"))
            event("upload taken over", job=job.id, blob=header.name)
        if self._closing:
            raise ShuttingDownError(SHUTTING_DOWN_TEXT)
        running = _Stream(asyncio.ensure_future(self._receive(job, header, stream)))
        self._active[key] = running
        try:
            return await running.task
        except asyncio.CancelledError:
            if running.ended is not None:
                raise running.ended from None
            running.task.cancel()
            await asyncio.wait({running.task})
            raise
        finally:
            if self._active.get(key) is running:
                del self._active[key]

    async def stat(self, job: Job, names: list[str]) -> list[pb.BlobStatus]:
        """What is on disk of the named blobs, or of all of the job's."""
        for name in names:
            _require_listed(job, name)
        return await in_thread(self._stat, job.id, names or list(job.checked.blobs))

    async def revoke_job(self, job_id: str) -> None:
        """Break off every upload of a job."""
        for key, stream in [item for item in self._active.items() if item[0][0] == job_id]:
            await self._end(key, stream, StateError("the job was cancelled or deleted"))

    async def close(self) -> None:
        """Break off all uploads: their clients go on at the next start, from what is on disk then."""
        self._closing = True
        await asyncio.gather(
            *(self._end(key, stream, ShuttingDownError(SHUTTING_DOWN_TEXT)) for key, stream in self._active.items())
        )

    def _check(self, job: Job, header: pb.UploadHeader) -> None:
        _require_listed(job, header.name)
        bytes_max = job.checked.blobs[header.name]
        if len(header.sha256) != SHA256_BYTES:
            raise InputError(f"a SHA-256 has {SHA256_BYTES} bytes, not {len(header.sha256)}")
        if header.bytes < 1:
            raise InputError(f"blob {header.name} is empty")
        if header.bytes > bytes_max:
            raise OversizedError(f"blob {header.name} has {header.bytes} bytes; the manifest allows {bytes_max}")

    async def _end(self, key: tuple[str, str], stream: _Stream, reason: HetalError) -> None:
        await stream.end(reason)
        if self._active.get(key) is stream:
            del self._active[key]

    async def _receive(
        self, job: Job, header: pb.UploadHeader, stream: AsyncIterator[pb.UploadBlobRequest]
    ) -> pb.BlobStatus:
        row = BlobRow(bytes(header.sha256), header.bytes)
        committed = await in_thread(self._store.metadata.blob, job.id, header.name)
        if committed is not None:
            if committed.sha256 != row.sha256:
                raise BlobConflictError(f"blob {header.name} is committed with other content")
            return _status(header.name, committed)
        if job.machine.state is not State.UPLOADING:
            raise StateError(f"the job is {job.machine.state.value} and takes no more blobs")
        if await in_thread(self._store.link, job.id, header.name, row):
            await self._jobs.dispatch(job, BlobCommitted(header.name))
            return _status(header.name, row)
        offset = await in_thread(self._prepare, job, header)
        if header.offset != offset:
            raise ChunkOrderError(f"the upload starts at offset {header.offset}; {offset} bytes are committed")
        path = self._store.files.partial(job.id, header.name)
        async with self._quotas.room(job.owner, path, header.bytes):
            receiver = await in_thread(Receiver, path, offset, header.bytes)
            return await self._append(job, header, receiver, stream)

    async def _append(
        self, job: Job, header: pb.UploadHeader, receiver: Receiver, stream: AsyncIterator[pb.UploadBlobRequest]
    ) -> pb.BlobStatus:
        row = BlobRow(bytes(header.sha256), header.bytes)
        try:
            while (message := await _next(stream)) is not None:
                if message.WhichOneof("part") != "chunk":
                    raise InputError("an upload has one header")
                offset, data = message.chunk.offset, message.chunk.data
                # With many streams every copy of a chunk counts: none waits for the next one.
                del message
                await in_thread(receiver.append, offset, data)
                del data
        finally:
            # Also of a broken stream: StatBlobs tells the client that these bytes need not come again.
            await in_thread(receiver.keep)
        if receiver.offset < header.bytes:
            event("upload truncated", job=job.id, blob=header.name, bytes=receiver.offset, of=header.bytes)
            return pb.BlobStatus(name=header.name, committed_bytes=receiver.offset, sha256=row.sha256)
        if receiver.digest() != row.sha256:
            await in_thread(self._store.discard_partial, job.id, header.name)
            raise HashMismatchError(f"blob {header.name} does not have the announced SHA-256; its bytes were discarded")
        await in_thread(self._store.commit, job.id, header.name, row)
        failpoint("upload.committed")
        await self._jobs.dispatch(job, BlobCommitted(header.name))
        failpoint("upload.heard")
        return _status(header.name, row)

    def _prepare(self, job: Job, header: pb.UploadHeader) -> int:
        """Offset to go on at; a partial of other content starts over."""
        store = self._store
        offset = store.files.partial_bytes(job.id, header.name)
        if store.metadata.partial(job.id, header.name) != header.sha256 or offset > header.bytes:
            store.discard_partial(job.id, header.name)
            store.metadata.set_partial(job.id, header.name, bytes(header.sha256))
            offset = 0
        stored = sum(row.size_bytes for row in store.metadata.blobs(job.id).values())
        if stored + header.bytes > limits.JOB_BYTES_MAX:
            raise QuotaError(f"the job's blobs would exceed {limits.JOB_BYTES_MAX} bytes")
        if store.files.free_bytes() < header.bytes - offset + limits.DISK_RESERVE_BYTES:
            raise DiskFullError(f"the server's disk has no room for the {header.bytes} bytes of blob {header.name}")
        return offset

    def _stat(self, job_id: str, names: list[str]) -> list[pb.BlobStatus]:
        store = self._store
        committed = store.metadata.blobs(job_id)
        found = []
        for name in names:
            row = committed.get(name)
            if row is not None:
                found.append(_status(name, row))
                continue
            announced = store.metadata.partial(job_id, name)
            size = store.files.partial_bytes(job_id, name) if announced is not None else 0
            found.append(pb.BlobStatus(name=name, committed_bytes=size, sha256=announced or b""))
        return found


async def receive_file(stream: AsyncIterator[pb.PredictRequest], path: Path, total_bytes: int, sha256: bytes) -> None:
    """Store the chunks of a Predict stream; the file is complete and has the right hash when this returns."""
    receiver = await in_thread(Receiver, path, 0, total_bytes)
    try:
        while receiver.offset < total_bytes:
            message = await _next(stream)
            if message is None:
                raise TruncatedError(f"{receiver.offset} of {total_bytes} bytes came")
            if message.WhichOneof("part") != "chunk":
                raise InputError("a prediction has one header")
            await in_thread(receiver.append, message.chunk.offset, message.chunk.data)
    finally:
        await in_thread(receiver.close)
    if receiver.digest() != sha256:
        raise HashMismatchError("the features do not have the announced SHA-256")


def _require_listed(job: Job, name: str) -> None:
    if name not in job.checked.blobs:
        raise UnknownBlobError(f"the job's manifest lists no blob {name[:100]!r}")


def _status(name: str, row: BlobRow) -> pb.BlobStatus:
    return pb.BlobStatus(name=name, committed_bytes=row.size_bytes, complete=True, sha256=row.sha256)


async def _next(stream: AsyncIterator[_Message]) -> _Message | None:
    """The next message, None at the end. A silent stream is broken off: it would hold its blob for ever."""
    try:
        return await asyncio.wait_for(stream.__anext__(), limits.UPLOAD_IDLE_S)
    except StopAsyncIteration:
        return None
    except asyncio.TimeoutError:
        raise ConnectionFailedError(f"no message came for {limits.UPLOAD_IDLE_S} s") from None
