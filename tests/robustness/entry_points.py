"""Mutants of everything that the front process reads, and the verdict on what it says to them.

Also run by scripts/fuzz_entry_points.py. An entry point answers, or raises an error of the catalogue; anything else is
a failure. The calls go through the real interceptors into the real handlers of a running server.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import grpc
import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from hetal._pb import hetal_pb2 as pb
from hetal.ckks.framing import Kind, frame, join, kind_of, split, unframe
from hetal.ckks.presets import TEST_PRESET, preset
from hetal.cli.demo import dataset
from hetal.client import Client, SoftmaxSpec
from hetal.client.encrypt import Encryptor
from hetal.errors import HetalError, WorkerDiedError
from hetal.kernels.plan import plan
from hetal.protocol.job import PROTOCOL_VERSION, JobSpec
from hetal.protocol.server_machine import ServerJob, Snapshot
from hetal.protocol.wire import manifest_from_proto, manifest_to_proto
from hetal.server.app import Server
from hetal.server.config import ServerConfig
from hetal.server.store.metadata import BlobRow, JobRow
from hetal.server.store.store import Store
from hetal.server.training import _message

Generator = np.random.Generator
FAILURE = "FAILED "
ANSWERED = "answered"
NO_MESSAGE = "no message"
DIGEST = bytes(range(32))
CALL_TIMEOUT_S = 20.0
JOBS_KEPT = 12
ROWS = 3
SOUND_SHARE = 0.05
SERVICE = "/hetal.v1.Hetal/"
METHODS = pb.DESCRIPTOR.services_by_name["Hetal"].methods_by_name
RPCS = tuple(METHODS)
INTEGERS = (
    0,
    1,
    2,
    3,
    7,
    16,
    255,
    1 << 16,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    (1 << 63) - 1,
    (1 << 64) - 1,
)
REALS = (0.0, -0.0, 1.0, -1.0, 1e-300, 1e300, math.inf, -math.inf, math.nan, 5e-324)
TEXTS = ("", "a", "x" * 300, "../../x", "keys/mult", "model", "logits/00001", "\0", "é", "name\n", "[::]", "{}", "'--")
SPECIMEN = JobSpec(
    parameters=preset(TEST_PRESET),
    train_samples=16,
    validation_samples=4,
    features=3,
    classes=2,
    batch_size=8,
    epochs_max=2,
)
BLOBS = {"keys/mult": 100_000, "train/x/00000": 5_000, "validation/x": 5_000}
CONTENTS = {name: frame(Kind.CIPHERTEXTS, DIGEST, join([name.encode() * 40])) for name in BLOBS}


# -- mutations --------------------------------------------------------------------------------------------------------


def pick(rng: Generator, options: Sequence[Any]) -> Any:
    return options[int(rng.integers(len(options)))]


def mutant_bytes(rng: Generator, data: bytes, other: bytes = b"") -> bytes:
    """One to four small damages: bits, bytes, cuts, repetitions, insertions, lengths, and parts of another object."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(len(out) + 1))
        size = int(rng.integers(1, 17))
        match int(rng.integers(8)):
            case 0 if out:
                out[at % len(out)] ^= 1 << int(rng.integers(8))
            case 1 if out:
                out[at % len(out)] = pick(rng, (0, 1, 0x7F, 0x80, 0xFF, int(rng.integers(256))))
            case 2:
                del out[at : at + size]
            case 3:
                out[at:at] = rng.bytes(size)
            case 4:
                out[at:at] = out[at : at + size]
            case 5:
                del out[at:]
            case 6:
                width = int(pick(rng, (1, 2, 4, 8)))
                value = int(pick(rng, INTEGERS)) & ((1 << 8 * width) - 1)
                out[at : at + width] = value.to_bytes(width, pick(rng, ("little", "big")))
            case _:
                start = int(rng.integers(len(other) + 1))
                out[at:at] = other[start : start + 4 * size]
    return bytes(out)


def mutate_message(rng: Generator, message: Message) -> None:
    """Give one field, somewhere inside, an odd value; or drop it; or repeat it."""
    # A call for a job that there is not ends at once, so most calls keep the id.
    fields = [field for field in message.DESCRIPTOR.fields if field.name != "job_id" or rng.random() < 0.2]
    if not fields:
        return
    inner = [field for field in fields if field.type == FieldDescriptor.TYPE_MESSAGE]
    field = pick(rng, inner if inner and rng.random() < 0.6 else fields)
    if field.is_repeated:
        _mutate_repeated(rng, getattr(message, field.name), field)
    elif rng.random() < 0.1:
        message.ClearField(field.name)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        inner = getattr(message, field.name)
        inner.SetInParent()
        mutate_message(rng, inner)
    else:
        setattr(message, field.name, _value(rng, field, getattr(message, field.name)))


def _mutate_repeated(rng: Generator, values: Any, field: FieldDescriptor) -> None:
    if len(values) and rng.random() < 0.3:
        del values[int(rng.integers(len(values)))]
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        if len(values) and rng.random() < 0.7:
            mutate_message(rng, pick(rng, values))
        elif len(values):
            values.add().CopyFrom(values[0])
        else:
            values.add()
    elif len(values) and rng.random() < 0.7:
        at = int(rng.integers(len(values)))
        values[at] = _value(rng, field, values[at])
    else:
        values.extend([_value(rng, field, None)] * int(pick(rng, (1, 2, 50))))


def _value(rng: Generator, field: FieldDescriptor, present: Any) -> Any:
    match field.type:
        case FieldDescriptor.TYPE_UINT32:
            near = (int(present or 0) + int(rng.integers(-1, 2))) & 0xFFFFFFFF
            return pick(rng, (*(value for value in INTEGERS if value < 1 << 32), near))
        case FieldDescriptor.TYPE_UINT64:
            return pick(rng, (*INTEGERS, (int(present or 0) + int(rng.integers(-1, 2))) & ((1 << 64) - 1)))
        case FieldDescriptor.TYPE_DOUBLE:
            return pick(rng, REALS)
        case FieldDescriptor.TYPE_BOOL:
            return bool(rng.integers(2))
        case FieldDescriptor.TYPE_STRING:
            if present and rng.random() < 0.5:
                return mutant_bytes(rng, present.encode()).decode("utf-8", "replace")
            return pick(rng, TEXTS)
        case FieldDescriptor.TYPE_BYTES:
            return mutant_bytes(rng, present or b"")
    raise ValueError(f"no values for type {field.type}")


def mutant_message(rng: Generator, message: Message, other: bytes = b"") -> bytes:
    """The message serialised, with odd values, damaged bytes, or both."""
    copy = type(message)()
    copy.CopyFrom(message)
    kind = rng.random()
    if kind < 0.7:
        for _ in range(int(rng.integers(1, 4))):
            mutate_message(rng, copy)
    data = copy.SerializeToString()
    return mutant_bytes(rng, data, other) if kind > 0.6 else data


def mutant_text(rng: Generator, text: str) -> str:
    """JSON with a value replaced, or damaged as bytes."""
    if rng.random() < 0.5:
        return mutant_bytes(rng, text.encode()).decode("utf-8", "replace")
    return json.dumps(_mutant_json(rng, json.loads(text)))


def _mutant_json(rng: Generator, value: Any) -> Any:
    odd = (None, True, -1, 1e308, math.nan, "", "x", [], {}, [1], {"a": 1}, 1 << 70, "1" * 5000)
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = pick(rng, list(value))
        if rng.random() < 0.15:
            return {name: inner for name, inner in value.items() if name != key}
        return value | {key: _mutant_json(rng, value[key])}
    return pick(rng, odd)


# -- pure entry points ------------------------------------------------------------------------------------------------


def verdict(read: Callable[[], object], allowed: tuple[type[Exception], ...] = ()) -> str:
    try:
        read()
    except HetalError as error:
        return error.code
    except DecodeError:
        return NO_MESSAGE
    except allowed as error:
        return type(error).__name__
    except Exception as error:
        return f"{FAILURE}{type(error).__name__}: {error}"[:200]
    return ANSWERED


def framing(rng: Generator) -> str:
    """The frame of a blob, its head alone, and the list of objects inside."""
    sound = frame(pick(rng, list(Kind)), DIGEST, join([b"first", b"second" * 9]))
    data = mutant_bytes(rng, sound, sound)
    match int(rng.integers(3)):
        case 0:
            return verdict(lambda: unframe(data, Kind.CIPHERTEXTS, DIGEST))
        case 1:
            return verdict(lambda: kind_of(data))
    payload = mutant_bytes(rng, join([b"first", b"second" * 9]), sound)
    return verdict(lambda: split(payload))


MANIFEST = manifest_to_proto(SPECIMEN, key_tag="tag", blobs=BLOBS, name="specimen")


def manifest(rng: Generator) -> str:
    data = mutant_message(rng, MANIFEST, MANIFEST.SerializeToString())
    return verdict(lambda: manifest_from_proto(pb.Manifest.FromString(data), allow_insecure=True))


def _snapshots() -> list[str]:
    from hetal.protocol.early_stopping import Decision
    from hetal.protocol.messages import BlobRef, FailureInfo, State

    ref = BlobRef("logits/00001", 10, bytes(32))
    return [
        Snapshot().to_json(),
        Snapshot(state=State.AWAITING_CLIENT, epoch=1, logits=ref, model=ref).to_json(),
        Snapshot(
            state=State.FINISHED, epoch=2, best_epoch=1, decisions={1: Decision(False, True)}, model=ref, best_model=ref
        ).to_json(),
        Snapshot(state=State.FAILED, failure=FailureInfo("INTERNAL", "text", "hint")).to_json(),
    ]


SNAPSHOTS = _snapshots()
RECORDS = (
    {"event": "progress", "phase": "training", "epoch": 1, "iteration": 2, "iterations_max": 9, "seconds": 0.5},
    {
        "event": "epoch",
        "epoch": 1,
        "logits": {"bytes": 3, "sha256": "00" * 32},
        "model": {"bytes": 3, "sha256": "0" * 64},
    },
    {"event": "failed", "code": "INTERNAL", "message": "text", "hint": "hint"},
)


def snapshot(rng: Generator) -> str:
    """A job's state as the database holds it, and the machine that it makes."""
    text = mutant_text(rng, pick(rng, SNAPSHOTS))
    return verdict(lambda: ServerJob(frozenset(BLOBS), 3, frozenset(), Snapshot.from_json(text)))


def worker_line(rng: Generator) -> str:
    """An event of a worker process, which parses what clients sent."""
    record = _mutant_json(rng, dict(pick(rng, RECORDS)))
    if not isinstance(record, dict):
        return "no object"
    return verdict(lambda: _message(record), (WorkerDiedError,))


class StoredMetadata:
    """A database of two jobs with blobs, and what a start says to damaged copies of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        store = Store(folder / "sound")
        for number in range(2):
            job = f"{number:032x}"
            row = JobRow(job, "local", f"key{number}", MANIFEST.SerializeToString(), 1.0, SNAPSHOTS[number])
            store.metadata.add_job(row)
            store.files.make_job(job)
            store.metadata.set_partial(job, "validation/x", bytes(32))
            store.metadata.add_blob(job, "keys/mult", BlobRow(hashlib.sha256(CONTENTS["keys/mult"]).digest(), 9))
        store.metadata._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        store.close()
        self._sound = (folder / "sound" / "hetal.sqlite3").read_bytes()

    def __call__(self, rng: Generator) -> str:
        with tempfile.TemporaryDirectory(dir=self._folder) as name:
            root = Path(name)
            (root / "hetal.sqlite3").write_bytes(mutant_bytes(rng, self._sound, self._sound))
            return verdict(lambda: self._read(root))

    @staticmethod
    def _read(root: Path) -> None:
        store = Store(root)
        try:
            for row in store.metadata.jobs():
                store.metadata.blobs(row.id)
                Snapshot.from_json(row.snapshot)
                manifest_from_proto(pb.Manifest.FromString(row.manifest), allow_insecure=True)
            store.metadata.ended()
            store.owner_bytes("local")
        finally:
            store.close()


# -- calls ------------------------------------------------------------------------------------------------------------


class AbortedError(Exception):
    """What a handler's context raises to end a call."""


class Context:
    """A call as a handler sees it, of an unencrypted connection."""

    def __init__(self) -> None:
        self.code = ""

    async def abort(self, status: grpc.StatusCode, text: str, trailing_metadata: Sequence[tuple[str, Any]]) -> None:
        self.code = str(dict(trailing_metadata)["hetal-code"])
        raise grpc.aio.AbortError

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"transport_security_type": [b"insecure"]}


@dataclass
class Calls:
    """The handlers of a running server, behind its interceptors, fed with bytes."""

    server: Server
    interceptors: list[Any]
    methods: dict[str, Any]
    jobs: list[str]
    finished: str = ""
    features: bytes = b""
    made: int = 0

    async def call(self, rpc: str, requests: Sequence[bytes]) -> str:
        """Verdict on one call. A request that is no message is refused by gRPC itself."""
        handler = await self._handler(rpc)
        context = Context()
        try:
            messages = [handler.request_deserializer(data) for data in requests]
        except DecodeError:
            return NO_MESSAGE
        try:
            await asyncio.wait_for(self._run(handler, messages, context), CALL_TIMEOUT_S)
        except (AbortedError, grpc.aio.AbortError):
            return f"{FAILURE}{rpc} crashed" if context.code == "INTERNAL" else context.code
        except Exception as error:
            return f"{FAILURE}{rpc}: {type(error).__name__}: {error}"[:200]
        return ANSWERED

    async def _handler(self, rpc: str) -> Any:
        async def continuation(_: Any) -> Any:
            return self.methods[rpc]

        for interceptor in reversed(self.interceptors):
            continuation = _chained(interceptor, continuation)
        return await continuation(SimpleNamespace(method=SERVICE + rpc, invocation_metadata=()))

    @staticmethod
    async def _run(handler: Any, messages: list[Any], context: Context) -> None:
        async def stream() -> AsyncIterator[Any]:
            for message in messages:
                yield message

        request = stream() if handler.request_streaming else messages[0]
        method = next(
            m for m in (handler.unary_unary, handler.unary_stream, handler.stream_unary, handler.stream_stream) if m
        )
        if handler.response_streaming:
            async for response in method(request, context):
                handler.response_serializer(response)
        else:
            handler.response_serializer(await method(request, context))

    # -- sound requests -----------------------------------------------------------------------------------------------

    async def job(self, rng: Generator) -> str:
        """A job that may be harmed: a new one now and then, the oldest deleted in its place."""
        if len(self.jobs) < JOBS_KEPT or rng.random() < 0.1:
            await self.make_job()
        if len(self.jobs) > JOBS_KEPT:
            await self.call("DeleteJob", [pb.DeleteJobRequest(job_id=self.jobs.pop(0)).SerializeToString()])
        return str(pick(rng, self.jobs))

    async def make_job(self) -> str:
        self.made += 1
        request = pb.CreateJobRequest(
            idempotency_key=f"sound{self.made}", manifest=MANIFEST, protocol_version=PROTOCOL_VERSION
        )
        handler = await self._handler("CreateJob")
        job = await handler.unary_unary(request, Context())
        self.jobs.append(job.id)
        return str(job.id)

    async def fuzz(self, rpc: str, rng: Generator) -> str:
        """One mutant of one call."""
        sound = await self.sound(rpc, rng)
        if len(sound) > 1:
            sound = _mutant_stream(rng, sound)
        # Some calls are sound but for their content or order.
        hit = int(rng.integers(len(sound))) if rng.random() > SOUND_SHARE else -1
        other = pick(rng, sound).SerializeToString()
        requests = [
            mutant_message(rng, message, other) if index == hit else message.SerializeToString()
            for index, message in enumerate(sound)
        ]
        before = set(self.jobs)
        outcome = await self.call(rpc, requests)
        if rpc == "CreateJob" and outcome == ANSWERED:
            await self._forget_others(before)
        return outcome

    async def _forget_others(self, known: set[str]) -> None:
        for job in [job for job in self.server._jobs.all() if job.manifest.name != "witness"]:
            if job.id not in known and job.id != self.finished:
                await self.call("DeleteJob", [pb.DeleteJobRequest(job_id=job.id).SerializeToString()])

    async def sound(self, rpc: str, rng: Generator) -> list[Message]:
        job = await self.job(rng)
        name = str(pick(rng, list(BLOBS)))
        data = CONTENTS[name]
        chunks = [pb.UploadChunk(offset=at, data=data[at : at + 256]) for at in range(0, len(data), 256)]
        digest = hashlib.sha256(data).digest()
        match rpc:
            case "CreateJob":
                key = f"fuzz{rng.integers(1 << 60)}"
                return [pb.CreateJobRequest(idempotency_key=key, manifest=MANIFEST, protocol_version=PROTOCOL_VERSION)]
            case "StatBlobs":
                return [pb.StatBlobsRequest(job_id=job, names=pick(rng, ([], [name], list(BLOBS))))]
            case "DownloadModel":
                blob = str(pick(rng, ("model", "logits/00001")))
                return [
                    pb.DownloadRequest(job_id=self.finished or job, blob=blob, offset=int(pick(rng, (0, 0, 1 << 20))))
                ]
            case "UploadBlob":
                header = pb.UploadHeader(job_id=job, name=name, bytes=len(data), sha256=digest)
                return [pb.UploadBlobRequest(header=header), *(pb.UploadBlobRequest(chunk=chunk) for chunk in chunks)]
            case "Predict":
                # Damaged features with the hash that they have now and then: these reach the worker.
                if self.features and rng.random() < 0.02:
                    data = mutant_bytes(rng, self.features) if rng.random() < 0.5 else self.features
                    digest, chunks = hashlib.sha256(data).digest(), [pb.UploadChunk(data=data)]
                header = pb.PredictHeader(job_id=self.finished or job, samples=ROWS, bytes=len(data), sha256=digest)
                return [pb.PredictRequest(header=header), *(pb.PredictRequest(chunk=chunk) for chunk in chunks)]
            case "Train":
                attach = pb.TrainRequest(job_id=job, attach=pb.Attach(session="session"))
                answers = [pb.TrainRequest(**{verb: {"epoch": 1, "best": True}}) for verb in ("continue", "stop")]
                return [attach, *answers[: int(rng.integers(3))]]
        asked = METHODS[rpc].input_type
        return [getattr(pb, asked.name)(**({"job_id": job} if "job_id" in asked.fields_by_name else {}))]


def _mutant_stream(rng: Generator, messages: list[Message]) -> list[Message]:
    """Now and then a message is missing, twice there, or in another's place."""
    out = list(messages)
    at, to = int(rng.integers(len(out))), int(rng.integers(len(out)))
    match int(rng.integers(8)):
        case 0 if len(out) > 1:
            del out[at]
        case 1:
            out.insert(to, out[at])
        case 2:
            out[at], out[to] = out[to], out[at]
    return out


def _chained(interceptor: Any, continuation: Any) -> Any:
    async def chained(details: Any) -> Any:
        return await interceptor.intercept_service(continuation, details)

    return chained


@asynccontextmanager
async def calls(data_dir: Path, **options: Any) -> AsyncIterator[Calls]:
    """A running server, with a tap at its handlers."""
    config = ServerConfig(data_dir=data_dir, allow_insecure=True, threads=1, **options)
    taps: list[tuple[list[Any], dict[str, Any]]] = []
    make = grpc.aio.server

    def tapped(interceptors: list[Any], options: Any) -> Any:
        server = make(interceptors=interceptors, options=options)
        methods: dict[str, Any] = {}
        taps.append((interceptors, methods))
        register = server.add_registered_method_handlers

        def keep(service: str, handlers: dict[str, Any]) -> None:
            if service == SERVICE.strip("/"):
                methods.update(handlers)
            register(service, handlers)

        server.add_registered_method_handlers = keep
        return server

    with patch.object(grpc.aio, "server", tapped):
        server = await Server.start(config)
    try:
        yield Calls(server, *taps[0], jobs=[])
    finally:
        await server.stop(grace_s=1)


async def witness(running: Calls) -> Callable[[], Any]:
    """A job in the middle of its upload, of which no mutant knows the id; gives what it looks like."""
    manifest_of_it = pb.Manifest()
    manifest_of_it.CopyFrom(MANIFEST)
    manifest_of_it.name = "witness"
    handler = await running._handler("CreateJob")
    request = pb.CreateJobRequest(idempotency_key="witness", manifest=manifest_of_it, protocol_version=PROTOCOL_VERSION)
    job = await handler.unary_unary(request, Context())
    data = CONTENTS["keys/mult"]
    header = pb.UploadHeader(job_id=job.id, name="keys/mult", bytes=len(data), sha256=hashlib.sha256(data).digest())
    parts = [pb.UploadBlobRequest(header=header), pb.UploadBlobRequest(chunk=pb.UploadChunk(data=data))]
    if await running.call("UploadBlob", [part.SerializeToString() for part in parts]) != ANSWERED:
        raise AssertionError("the witness could not upload")

    async def looks() -> tuple[bytes, bytes]:
        status = await (await running._handler("StatBlobs")).unary_unary(pb.StatBlobsRequest(job_id=job.id), Context())
        found = await (await running._handler("GetJob")).unary_unary(pb.GetJobRequest(job_id=job.id), Context())
        return found.SerializeToString(deterministic=True), status.SerializeToString(deterministic=True)

    return looks


async def http(rng: Generator, port: int) -> str:
    """One damaged request to the status page's server; it answers or closes."""
    sound = b"GET " + pick(rng, (b"/", b"/metrics", b"/healthz")) + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: *\r\n\r\n"
    data = mutant_bytes(rng, sound, sound)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        writer.write_eof()
        answer = await asyncio.wait_for(reader.read(1 << 20), CALL_TIMEOUT_S)
    except ConnectionError:
        return "closed"
    finally:
        writer.close()
    if not answer:
        return "closed"
    status = answer.split(b" ")[1].decode()
    if status.startswith("5"):
        return f"{FAILURE}status {status}"
    return ANSWERED if status == "200" else status


PURE: dict[str, Callable[[Generator], str]] = {
    "framing": framing,
    "manifest": manifest,
    "snapshot": snapshot,
    "worker line": worker_line,
}


def failures(counts: Counter[str]) -> int:
    return sum(number for outcome, number in counts.items() if outcome.startswith(FAILURE))


async def garbage(rng: Generator, port: int) -> str:
    """Bytes that are nearly HTTP/2 on the port of the calls; gRPC itself reads them."""
    call = b"\0\0\0\4\0\0\0\0\0" + b"\0\0\x2e\1\4\0\0\0\1" + (SERVICE + "GetServerInfo").encode()
    sound = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + call + rng.bytes(int(rng.integers(64)))
    data = mutant_bytes(rng, sound, sound)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        writer.write_eof()
        answer = await asyncio.wait_for(reader.read(1 << 16), CALL_TIMEOUT_S)
    except ConnectionError:
        return "closed"
    finally:
        writer.close()
    return ANSWERED if answer else "closed"


async def train(port: int) -> tuple[str, list[float], bytes]:
    """A real, short training against the server: its job, the validation losses, and encrypted features of ``ROWS``."""
    data = dataset("wine")
    async with Client(f"127.0.0.1:{port}") as client:
        job = await client.train(
            *(data.x_train[::3], data.y_train[::3], data.x_val, data.y_val),
            preset_name=TEST_PRESET,
            epochs=2,
            weight_bound=4.0,
            softmax=SoftmaxSpec(extensions=2),
            name="witness",
        )
    features = Encryptor(job.spec, plan(job.spec), job.keys).features(job.model.prepared(data.x_test[:ROWS]))
    return job.id, job.history.losses, features
