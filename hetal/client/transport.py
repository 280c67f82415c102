"""The client's side of gRPC: one channel, errors as exceptions of the catalogue, retries, resumable transfers."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar, cast

import grpc

from hetal import limits, request_id
from hetal._pb import hetal_pb2 as pb
from hetal._pb.hetal_pb2_grpc import HetalStub
from hetal.client import trace_context
from hetal.client.journal import Journal, JournalledChannel
from hetal.client.log import event
from hetal.client.tls import Tls, open_channel, refusal
from hetal.errors import (
    ChunkOrderError,
    ConnectionFailedError,
    HashMismatchError,
    HetalError,
    OversizedError,
    from_code,
)
from hetal.protocol.channel_options import client_options

CODE_KEY: Final = "hetal-code"
HINT_KEY: Final = "hetal-hint-bin"
# How gRPC itself says that a connection broke: a server's own errors have a code. INTERNAL is what a stream ends with
# whose message could not be sent any more.
BROKEN: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.INTERNAL)
T = TypeVar("T")


def error_of(error: grpc.aio.AioRpcError, address: str) -> HetalError:
    """The exception that the server raised, or a :class:`ConnectionFailedError`."""
    trailing: dict[str, str | bytes] = dict(cast(Any, error.trailing_metadata() or ()))
    code = trailing.get(CODE_KEY)
    if isinstance(code, str):
        hint = trailing.get(HINT_KEY)
        return from_code(code, error.details() or code, hint.decode() if isinstance(hint, bytes) else None)
    if error.code() in BROKEN:
        return ConnectionFailedError(f"the server at {address} does not answer: {error.details()}")
    return HetalError(f"gRPC {error.code().name}: {error.details()}")


class _Calls:
    """The service's calls, each with the name of the present request."""

    def __init__(self, channel: grpc.aio.Channel, journal: Journal) -> None:
        self._stub: Any = HetalStub(JournalledChannel(channel, journal))

    def __getattr__(self, method: str) -> Callable[..., Any]:
        call = getattr(self._stub, method)

        def start(request: Any, *, timeout: float | None = None) -> Any:
            name = request_id.current.get() or request_id.new()
            event("call", rpc=method, request=name)
            return call(
                request, timeout=timeout, metadata=((request_id.REQUEST_ID_KEY, name), *trace_context.metadata())
            )

        return start


class Hesitation:
    """The pause after a stream's header, in which the server may refuse the stream.

    gRPC loses what a server says while a message is on its way: the stream then ends with INTERNAL. Each time that
    happens the next attempt gives the server longer to say it again.
    """

    def __init__(self) -> None:
        self._pause_s = 0.0
        self._call: Any = None

    @property
    def refused(self) -> bool:
        """Whether the call is over. A message that is sent nevertheless would cancel it, and hide why."""
        return self._call is not None and bool(self._call.done())

    @contextmanager
    def learn(self, call: Any) -> Iterator[None]:
        """Around what is read from the stream."""
        self._call = call
        try:
            yield
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INTERNAL:
                self._pause_s = min(max(2 * self._pause_s, limits.REFUSAL_PAUSE_S), limits.RECONNECT_BACKOFF_S[-1])
            raise

    async def pause(self) -> None:
        """After the header."""
        await asyncio.sleep(self._pause_s)


class Transport:
    """One connection to one server.

    Attributes:
        bytes_sent, bytes_received: payload of blobs, both ways.
        journal: of every message sent.
    """

    def __init__(
        self, address: str, tls: Tls | None = None, *, allow_plaintext: bool = False, journal: Journal | None = None
    ) -> None:
        self.address = address
        self.journal = journal or Journal()
        self.bytes_sent = 0
        self.bytes_received = 0
        self._tls = tls
        self._met = False
        self._channel = open_channel(address, tls, allow_plaintext=allow_plaintext, options=client_options())
        self.stub: Any = _Calls(self._channel, self.journal)

    async def close(self) -> None:
        await self._channel.close(None)

    async def call(self, method: str, request: Any) -> Any:
        """A unary call, retried while the server is unreachable."""

        async def attempt() -> Any:
            return await getattr(self.stub, method)(request, timeout=limits.UNARY_DEADLINE_S)

        return await self.retried(attempt)

    async def retried(
        self,
        attempt: Callable[[], Awaitable[T]],
        progress: Callable[[], object] | None = None,
        retry_on: tuple[type[HetalError], ...] = (ConnectionFailedError,),
    ) -> T:
        """Repeat ``attempt`` on broken connections, with growing pauses. Each attempt is a request of its own name.

        Args:
            progress: a value that changes when an attempt got further; the count of attempts then starts anew.
            retry_on: errors of the server that another attempt may cure.
        """
        failures, mark = 0, progress() if progress else None
        while True:
            with request_id.request():
                began = time.monotonic()
                try:
                    result = await attempt()
                except HetalError as error:
                    _tell(error, began)
                    raise
                except grpc.aio.AioRpcError as error:
                    known = error_of(error, self.address)
                    _tell(known, began)
                    if not isinstance(known, retry_on):
                        raise known from error
                    if progress and progress() != mark:
                        failures, mark = 0, progress()
                        self._met = True
                    failures += 1
                    last = failures > limits.RECONNECT_ATTEMPTS_MAX
                    # Two sides that met once have the right files; only waiting helps until that has failed too.
                    if isinstance(known, ConnectionFailedError) and (last or not self._met):
                        known = await refusal(self.address, self._tls) or known
                    if last or not isinstance(known, retry_on):
                        raise known from error
                else:
                    self._met = True
                    event("answered", seconds=round(time.monotonic() - began, 3))
                    return result
            await asyncio.sleep(backoff_s(failures))

    async def upload(self, job_id: str, name: str, data: bytes) -> None:
        """Send one blob, going on where a broken stream ended. Returns once the server has committed it."""
        sha256 = hashlib.sha256(data).digest()
        view = memoryview(data)
        hesitation = Hesitation()
        sent = 0

        async def attempt() -> None:
            nonlocal sent
            status = await self.stub.StatBlobs(
                pb.StatBlobsRequest(job_id=job_id, names=[name]), timeout=limits.UNARY_DEADLINE_S
            )
            known = status.blobs[0]
            if known.complete and known.sha256 == sha256:
                return
            # A partial upload of other content is the server's to discard.
            start = known.committed_bytes if known.sha256 == sha256 else 0

            async def parts() -> AsyncIterator[pb.UploadBlobRequest]:
                nonlocal sent
                yield pb.UploadBlobRequest(
                    header=pb.UploadHeader(job_id=job_id, name=name, bytes=len(data), sha256=sha256, offset=start)
                )
                await hesitation.pause()
                for offset in range(start, len(data), limits.UPLOAD_MESSAGE_BYTES):
                    if hesitation.refused:
                        return
                    chunk = bytes(view[offset : offset + limits.UPLOAD_MESSAGE_BYTES])
                    yield pb.UploadBlobRequest(chunk=pb.UploadChunk(offset=offset, data=chunk))
                    sent = offset + len(chunk)
                    self.bytes_sent += len(chunk)

            call = self.stub.UploadBlob(parts())
            with hesitation.learn(call):
                await settled(call)

        # A broken stream may still be written to disk when StatBlobs tells where it is.
        await self.retried(attempt, lambda: sent, (ConnectionFailedError, ChunkOrderError))

    async def download(self, job_id: str, blob: str, bytes_expected: int, sha256: bytes | None) -> bytes:
        """Fetch one result, resuming at the offset reached.

        Args:
            bytes_expected: no more is taken.
            sha256: what the server announced; None for a result of an earlier attachment, which only its frame checks.
        """
        if bytes_expected > limits.BLOB_BYTES_MAX:
            raise OversizedError(
                f"the server announces {bytes_expected} bytes; BLOB_BYTES_MAX is {limits.BLOB_BYTES_MAX}"
            )
        received = bytearray()

        async def attempt() -> None:
            request = pb.DownloadRequest(job_id=job_id, blob=blob, offset=len(received))
            async for chunk in self.stub.DownloadModel(request):
                if chunk.offset != len(received) or len(received) + len(chunk.data) > bytes_expected:
                    raise HashMismatchError(f"the server sent other bytes of {blob} than it announced")
                received.extend(chunk.data)
                self.bytes_received += len(chunk.data)

        await self.retried(attempt, lambda: len(received))
        data = bytes(received)
        if sha256 is not None and hashlib.sha256(data).digest() != sha256:
            raise HashMismatchError(f"{blob} does not have the SHA-256 that the server announced")
        return data


def _tell(error: HetalError, began: float) -> None:
    """Give the error the name of the request that met it, and a line in the log."""
    if not error.request_id:
        error.request_id = request_id.current.get()
        seconds = round(time.monotonic() - began, 3)
        event("failed", level=logging.WARNING, code=error.code, message=error.message, seconds=seconds)


async def settled(call: Awaitable[T]) -> T:
    """Like ``await call``, but a call that gRPC cancels by itself, because it ended while it was written to, is broken.

    Else it would look as if the caller had been cancelled.
    """

    async def answer() -> T:
        return await call

    task = asyncio.ensure_future(answer())
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        task.cancel()
        raise
    if task.cancelled():
        none = grpc.aio.Metadata()
        raise grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, none, none, "the call ended while it was written to", "")
    return task.result()


def backoff_s(failures: int) -> float:
    """Pause before attempt ``failures`` + 1."""
    pauses = limits.RECONNECT_BACKOFF_S
    return pauses[min(failures, len(pauses)) - 1]
