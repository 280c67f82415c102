"""What left the client: one line of JSON for every message, with its size and hash, in a file for each job.

The journal holds nothing that the server does not have: sizes, hashes and public names. It is written by whatever turns
messages into bytes, so it names exactly the bytes that gRPC is given.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from hetal import limits
from hetal._pb import hetal_pb2 as pb
from hetal.ckks.framing import Kind, kind_of
from hetal.errors import HetalError, InputError

Serializer = Callable[[Any], bytes]

FOLDER_VARIABLE: Final = "HETAL_JOURNAL_DIR"
WITHOUT_JOB: Final = "others"
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,80}")

EVERYBODY: Final = "client and server"
CLIENT: Final = "client only"
# Whom the content of a message can tell something. Evaluation keys compute, and decrypt nothing.
READERS: Final = {
    "request": EVERYBODY,
    "manifest": EVERYBODY,
    "blob header": EVERYBODY,
    "evaluation keys": EVERYBODY,
    "encrypted features": CLIENT,
    "encrypted labels": CLIENT,
    "encrypted weights": CLIENT,
    "attach": EVERYBODY,
    "continue or stop": EVERYBODY,
}
_KINDS_OF_BLOBS: Final = {
    "keys/": ("evaluation keys", {Kind.MULT_KEY, Kind.ROTATION_KEYS}),
    "train/x/": ("encrypted features", {Kind.CIPHERTEXTS}),
    "train/y/": ("encrypted labels", {Kind.CIPHERTEXTS}),
    "validation/": ("encrypted features", {Kind.CIPHERTEXTS}),
    "initial/": ("encrypted weights", {Kind.CIPHERTEXTS}),
    "predict/": ("encrypted features", {Kind.CIPHERTEXTS}),
}
PREDICTION: Final = "predict/x"
UNKNOWN: Final = "unknown"


@dataclass(frozen=True, slots=True)
class Entry:
    """One message.

    Attributes:
        at_unix_s: when it was handed to gRPC.
        rpc: the call's name.
        kind: one of ``READERS``, or ``UNKNOWN`` for bytes that are not framed as their name says.
        name: of the blob; empty for other messages.
        size_bytes: of the serialised message.
        sha256: of the serialised message, in hexadecimal.
        wire_offset: where the recorded wire holds it; None where nothing is recorded.
    """

    at_unix_s: float
    rpc: str
    kind: str
    name: str
    size_bytes: int
    sha256: str
    wire_offset: int | None = None

    @property
    def readers(self) -> str:
        """Who can read the content."""
        return READERS.get(self.kind, "anybody: no ciphertext and no message that hetal knows")


@dataclass(frozen=True, slots=True)
class Search:
    """The client's own search of the recorded wire, with all secrets in memory, when a training ended.

    Attributes:
        windows: looked for; wire_bytes: looked through; found: places with a secret in the clear.
    """

    at_unix_s: float
    windows: int
    wire_bytes: int
    found: tuple[str, ...]


def default_folder() -> Path:
    """``$HETAL_JOURNAL_DIR``, else a folder for the state of programs in the user's home."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return Path(named)
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "hetal" / "journal"


class Journal:
    """The journals of one client, a file for each job.

    Args:
        folder: of the files; made when missing.
        wire: also record every byte there, in a file for each job.
    """

    def __init__(self, folder: Path | None = None, wire: Path | None = None) -> None:
        self.folder = folder or default_folder()
        self.wire = wire

    def sent(self, job: str, rpc: str, kind: str, name: str, data: bytes) -> None:
        """Note one message before it leaves.

        Raises:
            InputError: the journal cannot be written; nothing has been sent.
        """
        stem = _stem(job)
        try:
            offset = None
            if self.wire is not None:
                offset = _append(self.wire / f"{stem}.wire", data)
            digest = hashlib.sha256(data).hexdigest()
            self._line(stem, "message", Entry(time.time(), rpc, kind, name, len(data), digest, offset))
        except OSError as error:
            raise InputError(
                f"cannot write the journal of what is sent: {error}", hint=f"Name a folder in {FOLDER_VARIABLE}."
            ) from error

    def searched(self, job: str, search: Search) -> None:
        """Note the result of a search."""
        self._line(_stem(job), "search", search)

    def named(self, provisional: str, job: str) -> None:
        """The server has named the job that was noted under a provisional name."""
        for folder, suffix in ((self.folder, "jsonl"), (self.wire, "wire")):
            if folder is not None:
                source, target = folder / f"{_stem(provisional)}.{suffix}", folder / f"{_stem(job)}.{suffix}"
                if source.exists() and not target.exists():
                    source.rename(target)

    def wire_file(self, job: str) -> Path | None:
        """Where the job's bytes are recorded."""
        return None if self.wire is None else self.wire / f"{_stem(job)}.wire"

    def read(self, job: str) -> tuple[list[Entry], list[Search]]:
        """All messages and searches of a job, oldest first.

        Raises:
            InputError: there is no journal of the job, or it is damaged.
        """
        path = self.folder / f"{_stem(job)}.jsonl"
        entries: list[Entry] = []
        searches: list[Search] = []
        try:
            for line in path.read_text(encoding="utf-8").splitlines():
                record = json.loads(line)
                what = record.pop("what")
                if what == "message":
                    entries.append(Entry(**record))
                else:
                    searches.append(Search(**record | {"found": tuple(record["found"])}))
        except FileNotFoundError:
            raise InputError(
                f"there is no journal of job {job!r} in {self.folder}",
                hint=f"Ask where the job was trained, or name the folder with --journal or {FOLDER_VARIABLE}.",
            ) from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is no journal: {error}") from error
        return entries, searches

    def _line(self, stem: str, what: str, record: Entry | Search) -> None:
        line = json.dumps({"what": what} | asdict(record)) + "\n"
        _append(self.folder / f"{stem}.jsonl", line.encode())


class JournalledChannel:
    """A gRPC channel that notes each message as it becomes bytes. Stands where a generated stub wants a channel.

    gRPC itself gets bytes and no serialiser, so that nothing else can be sent than what is noted.
    """

    def __init__(self, channel: Any, journal: Journal) -> None:
        self._channel = channel
        self._journal = journal

    def unary_unary(self, path: str, request_serializer: Serializer, **options: Any) -> Callable[..., Any]:
        return self._single(self._channel.unary_unary(path, **options), path, request_serializer)

    def unary_stream(self, path: str, request_serializer: Serializer, **options: Any) -> Callable[..., Any]:
        return self._single(self._channel.unary_stream(path, **options), path, request_serializer)

    def stream_unary(self, path: str, request_serializer: Serializer, **options: Any) -> Callable[..., Any]:
        return self._many(self._channel.stream_unary(path, **options), path, request_serializer)

    def stream_stream(self, path: str, request_serializer: Serializer, **options: Any) -> Callable[..., Any]:
        return self._many(self._channel.stream_stream(path, **options), path, request_serializer)

    def _single(self, call: Any, path: str, serialize: Serializer) -> Callable[..., Any]:
        def start(request: Any, **options: Any) -> Any:
            return call(self._noted(_Stream(path), request, serialize), **options)

        return start

    def _many(self, call: Any, path: str, serialize: Serializer) -> Callable[..., Any]:
        def start(requests: AsyncIterator[Any], **options: Any) -> Any:
            async def noted() -> AsyncIterator[bytes]:
                stream = _Stream(path)
                async for request in requests:
                    yield self._noted(stream, request, serialize)

            return call(noted(), **options)

        return start

    def _noted(self, stream: _Stream, request: Any, serialize: Serializer) -> bytes:
        data = serialize(request)
        job, kind, name = stream.label(request)
        self._journal.sent(job, stream.rpc, kind, name, data)
        return data


class _Stream:
    """What the messages of one call are: a chunk belongs to the header before it."""

    def __init__(self, path: str) -> None:
        self.rpc = path.rpartition("/")[2]
        self._job = ""
        self._name = ""
        self._kind = UNKNOWN

    def label(self, request: Any) -> tuple[str, str, str]:
        """(job, kind, blob) of the next message."""
        if isinstance(request, pb.CreateJobRequest):
            return request.idempotency_key, "manifest", ""
        if isinstance(request, pb.UploadBlobRequest | pb.PredictRequest):
            return self._part(request)
        if isinstance(request, pb.TrainRequest):
            self._job = request.job_id or self._job
            return self._job, "attach" if request.WhichOneof("message") == "attach" else "continue or stop", ""
        return getattr(request, "job_id", ""), "request", ""

    def _part(self, request: pb.UploadBlobRequest | pb.PredictRequest) -> tuple[str, str, str]:
        if request.WhichOneof("part") == "header":
            self._job = request.header.job_id
            self._name = PREDICTION if isinstance(request, pb.PredictRequest) else request.header.name
            # A stream that goes on in the middle of a blob cannot see the frame's head; its first stream has.
            self._kind = _kind_of_blob(self._name)[0]
            return self._job, "blob header", self._name
        if request.chunk.offset == 0:
            self._kind = _checked_kind(self._name, request.chunk.data)
        return self._job, self._kind, self._name


def _kind_of_blob(name: str) -> tuple[str, set[Kind]]:
    return next((value for prefix, value in _KINDS_OF_BLOBS.items() if name.startswith(prefix)), (UNKNOWN, set()))


def _checked_kind(name: str, head: bytes) -> str:
    """The blob's kind where its bytes begin with the frame of such an object."""
    kind, frames = _kind_of_blob(name)
    try:
        return kind if kind_of(head) in frames else UNKNOWN
    except HetalError:
        return UNKNOWN


def _stem(job: str) -> str:
    """A file name of a job's; what is no plain name is hashed, and no job's messages are lost for its name."""
    if not job:
        return WITHOUT_JOB
    return job if _NAME.fullmatch(job) else hashlib.sha256(job.encode()).hexdigest()[:32]


def _append(path: Path, data: bytes) -> int:
    """Add to a file that only its owner may read; the offset of what was added."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(handle, "ab") as file:
        offset = file.seek(0, os.SEEK_END)
        file.write(data)
    return offset


def wire_messages(path: Path, entries: list[Entry]) -> Iterator[tuple[Entry, bool]]:
    """Each recorded message, and whether the wire's bytes have its hash."""
    with path.open("rb") as file:
        for entry in entries:
            if entry.wire_offset is not None and entry.size_bytes <= limits.MESSAGE_BYTES_MAX:
                file.seek(entry.wire_offset)
                yield entry, hashlib.sha256(file.read(entry.size_bytes)).hexdigest() == entry.sha256
