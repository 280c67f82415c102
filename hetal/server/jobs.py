"""The jobs of a server: carries out the effects of their state machines, and shares out the worker slots."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Coroutine
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, TypeVar

from google.protobuf.message import DecodeError

from hetal import limits
from hetal._pb import hetal_pb2 as pb
from hetal.errors import (
    ComputeQuotaError,
    HetalError,
    InputError,
    IntegrityError,
    JobNotFoundError,
    QuotaError,
    ShuttingDownError,
    VersionError,
)
from hetal.protocol.job import PROTOCOL_VERSION
from hetal.protocol.messages import (
    Attach,
    BlobCommitted,
    Cancel,
    ClientGone,
    CloseClient,
    Continue,
    Detach,
    Emit,
    Enqueue,
    Event,
    FailureInfo,
    KeepModel,
    Persist,
    Queued,
    ServerEffect,
    ServerMessage,
    ServerRestarted,
    Shortage,
    SlotGranted,
    StartClientTimer,
    StartWorker,
    State,
    Stop,
    StopClientTimer,
    StopWorker,
    WorkerContinue,
    WorkerFailed,
    WorkerProgress,
)
from hetal.protocol.server_machine import TERMINAL, ServerJob, Snapshot
from hetal.protocol.wire import CheckedManifest, manifest_from_proto
from hetal.server.admission import Memory, memory_bytes
from hetal.server.config import ServerConfig
from hetal.server.failpoints import failpoint
from hetal.server.identity import Caller
from hetal.server.log import event
from hetal.server.placement import Placement
from hetal.server.queue import FairQueue
from hetal.server.quota import Quotas
from hetal.server.resources import shortage
from hetal.server.store.files import tree_bytes
from hetal.server.store.metadata import JobRow
from hetal.server.store.sizes import Sizes
from hetal.server.store.store import Store
from hetal.server.telemetry import Telemetry
from hetal.server.threads import in_thread
from hetal.server.training import Training

EVENTS_WAITING_MAX = 1_000
# Whoever sent one of these hears that it did not happen, and may send it again.
ANSWERABLE = (Attach, BlobCommitted, Cancel, Continue, Stop)

T = TypeVar("T")
Events = asyncio.Queue[Event | HetalError | None]


@dataclass(slots=True, eq=False)
class Job:
    """A job in memory.

    Attributes:
        memory_bytes: estimate of what its worker needs.
        ended_unix_s: since when it is at an end, None while it goes on.
        lock: orders the messages to the machine.
        slot: whether it may have a worker, and has its share of the memory.
    """

    id: str
    owner: str
    manifest: pb.Manifest
    checked: CheckedManifest
    created_unix_s: float
    machine: ServerJob
    memory_bytes: int
    ended_unix_s: float | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    clients: dict[str, Events] = field(default_factory=dict)
    training: Training | None = None
    slot: bool = False
    timer: asyncio.TimerHandle | None = None


class Jobs:
    """Everything a server knows of its jobs."""

    def __init__(
        self, store: Store, config: ServerConfig, telemetry: Telemetry, quotas: Quotas, placement: Placement
    ) -> None:
        self._store = store
        self._config = config
        self._telemetry = telemetry
        self._sizes = Sizes(self._bytes_stored)
        self._placement = placement
        self._quotas = quotas
        self._jobs: dict[str, Job] = {}
        self._waiting: FairQueue[Job] = FairQueue()
        self._memory = Memory(None if config.memory_gib is None else int(config.memory_gib * limits.GIB))
        self._slots_free = config.jobs_running
        self._tasks: set[asyncio.Task[None]] = set()
        self._dispatching: set[asyncio.Future[Any]] = set()
        self._creating = asyncio.Lock()
        self._closing = False

    # -- life of the server -------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Take up every stored job where it was."""
        ended = await in_thread(self._store.metadata.ended)
        for row in await in_thread(self._store.metadata.jobs):
            committed = await in_thread(self._store.metadata.blobs, row.id)
            try:
                job = self._make(row, frozenset(committed))
            except HetalError as error:
                event("job unreadable", level=logging.ERROR, job=row.id, code=error.code)
                continue
            if job.machine.state in TERMINAL:
                job.ended_unix_s = ended.get(job.id, time.time())
            self._jobs[job.id] = job
        for job in list(self._jobs.values()):
            await self.dispatch(job, ServerRestarted())

    async def close(self, drain_s: float) -> None:
        """End streams at once and workers after their iteration, within ``drain_s``; jobs go on at the next start."""
        self._closing = True
        for job in self._jobs.values():
            self._cancel_timer(job)
            for events in job.clients.values():
                events.put_nowait(ShuttingDownError("the server is shutting down"))
        trainings = [job.training for job in self._jobs.values() if job.training is not None]
        await asyncio.gather(*(training.drain(drain_s) for training in trainings))
        if self._tasks | self._dispatching:
            await asyncio.wait(self._tasks | self._dispatching, timeout=max(1.0, drain_s))

    # -- calls --------------------------------------------------------------------------------------------------------

    def get(self, job_id: str, caller: Caller) -> Job:
        """The job of that id. One that the caller may not see does not exist for it."""
        job = self._jobs.get(job_id)
        if job is None or not caller.sees(job.owner):
            raise JobNotFoundError(f"there is no job {job_id[:64]!r}")
        return job

    def all(self) -> list[Job]:
        return sorted(self._jobs.values(), key=lambda job: job.created_unix_s)

    def queue(self) -> tuple[str, ...]:
        """Jobs that wait for a worker, the next one first."""
        return tuple(job.id for job in self._waiting)

    def seen_by(self, caller: Caller) -> list[Job]:
        return [job for job in self.all() if caller.sees(job.owner)]

    def states(self, owner: str) -> list[State]:
        """States of an owner's jobs."""
        return [job.machine.state for job in self._jobs.values() if job.owner == owner]

    async def create(self, request: pb.CreateJobRequest, caller: Caller) -> Job:
        """Register a job of the caller's, or find the one that the same key and manifest made."""
        if request.protocol_version != PROTOCOL_VERSION:
            raise VersionError(f"the client speaks protocol {request.protocol_version}, the server {PROTOCOL_VERSION}")
        key = request.idempotency_key
        if not 1 <= len(key) <= limits.IDEMPOTENCY_KEY_CHARS_MAX or not key.isprintable():
            raise InputError(f"an idempotency key has 1 to {limits.IDEMPOTENCY_KEY_CHARS_MAX} printable characters")
        checked = manifest_from_proto(request.manifest, allow_insecure=self._config.allow_insecure)
        return await self._whole(self._create(request, checked, caller))

    async def _create(self, request: pb.CreateJobRequest, checked: CheckedManifest, caller: Caller) -> Job:
        manifest = request.manifest.SerializeToString(deterministic=True)
        # One after the other: calls that see the same room left must not all take it.
        async with self._creating:
            known = await in_thread(self._store.metadata.job_of_key, caller.owner, request.idempotency_key)
            if known is not None:
                if known.manifest != manifest:
                    raise InputError("the idempotency key was used with another manifest")
                return self.get(known.id, caller)
            self._memory.check(memory_bytes(checked))
            if len(self._jobs) >= limits.JOBS_MAX:
                raise QuotaError(f"the server holds {limits.JOBS_MAX} jobs")
            await self._quotas.check_new_job(caller.owner, self.states(caller.owner))
            row = JobRow(
                id=uuid.uuid4().hex,
                owner=caller.owner,
                idempotency_key=request.idempotency_key,
                manifest=manifest,
                created_unix_s=time.time(),
                snapshot=Snapshot().to_json(),
            )
            await in_thread(self._store.files.make_job, row.id)
            await in_thread(self._store.metadata.add_job, row)
            failpoint("job.row")
            job = self._make(row, frozenset())
            self._jobs[job.id] = job
            self._telemetry.job_created(job.id, job.machine)
        event("job created", job=job.id, owner=job.owner, blobs=len(job.checked.blobs), classes=job.checked.job.classes)
        return job

    async def attach(self, job: Job, session: str = "") -> tuple[str, Events]:
        """A client's token, and the queue of its events; an error or None in it ends the stream."""
        client, events = uuid.uuid4().hex, Events()
        job.clients[client] = events
        try:
            await self.dispatch(job, Attach(client, session))
        except HetalError:
            del job.clients[client]
            raise
        return client, events

    async def detach(self, job: Job, client: str) -> None:
        job.clients.pop(client, None)
        await self.dispatch(job, Detach(client))

    async def cancel(self, job: Job) -> None:
        await self.dispatch(job, Cancel())

    async def delete(self, job: Job) -> int:
        """Remove a job with all its data. Bytes freed; the same again for a job that was deleted meanwhile."""
        async with job.lock:
            if job.id not in self._jobs:
                return await self.deleted(job.id, Caller(job.owner))
            await self._release(job)
            try:
                freed = await in_thread(self._store.delete_job, job.id)
            except Exception as error:
                if (short := shortage(error)) is not None:
                    await self._fail_unsaved(job, short)
                raise
            del self._jobs[job.id]
            self._cancel_timer(job)
            for events in job.clients.values():
                events.put_nowait(JobNotFoundError("the job was deleted"))
        self._telemetry.job_deleted(job.id)
        self._sizes.forget(job.id)
        event("job deleted", job=job.id, bytes=freed)
        return freed

    async def deleted(self, job_id: str, caller: Caller) -> int:
        """Bytes that the deletion of a job freed.

        Raises:
            JobNotFoundError: no job of that id that the caller could see was deleted.
        """
        found = await in_thread(self._store.metadata.deleted, job_id)
        if found is None or not caller.sees(found[0]):
            raise JobNotFoundError(f"there is no job {job_id[:64]!r}")
        return found[1]

    def ended_before(self, unix_s: float) -> list[Job]:
        """Jobs that are at an end since before that time."""
        return [job for job in self.all() if job.ended_unix_s is not None and job.ended_unix_s < unix_s]

    async def to_proto(self, job: Job, *, brief: bool = False) -> pb.Job:
        """The job as the wire shows it; ``brief`` leaves the blob lists out, which may be long."""
        snap = job.machine.snapshot
        stored = await self._sizes.of(job.id)
        message = pb.Job(
            id=job.id,
            state=f"JOB_STATE_{snap.state.value}",
            manifest=job.manifest,
            epoch=snap.epoch,
            best_epoch=snap.best_epoch,
            blobs=() if brief else job.checked.blobs,
            created_unix_s=job.created_unix_s,
            bytes_stored=stored,
            owner=job.owner,
        )
        if brief:
            message.manifest.ClearField("blobs")
        if snap.failure is not None:
            failure = snap.failure
            message.failure.CopyFrom(pb.Failure(code=failure.code, message=failure.message, hint=failure.hint))
        return message

    # -- the machine's effects ----------------------------------------------------------------------------------------

    async def dispatch(self, job: Job, message: ServerMessage, source: Training | None = None) -> None:
        """Give a message to the job's machine and carry out what it says. Messages of a replaced worker are dropped.

        A cancelled caller, such as a stream that broke, leaves nothing half done.
        """
        await self._whole(self._dispatch(job, message, source))

    async def _whole(self, work: Coroutine[Any, Any, T]) -> T:
        """Do all of it, also when the caller is cancelled."""
        task = asyncio.ensure_future(work)
        self._dispatching.add(task)
        task.add_done_callback(self._dispatching.discard)
        return await asyncio.shield(task)

    async def _dispatch(self, job: Job, message: ServerMessage, source: Training | None) -> None:
        async with job.lock:
            if job.id not in self._jobs or (source is not None and job.training is not source):
                return
            saved = job.machine.copy()
            before = saved.state
            for effect in job.machine.handle(message):
                try:
                    await self._carry_out(job, effect)
                except Exception as error:
                    short = shortage(error)
                    if short is None or not isinstance(effect, Persist):
                        raise
                    # What is not on disk has not happened.
                    job.machine = saved
                    if isinstance(message, ANSWERABLE):
                        raise short from error
                    await self._fail_unsaved(job, short)
                    break
            self._telemetry.job_heard(job.id, message, before, job.machine)

    async def _fail_unsaved(self, job: Job, short: HetalError) -> None:
        """Fail a job that cannot be saved: on disk it is where it was, and goes on from there after a restart."""
        event("job cannot be saved", level=logging.ERROR, job=job.id, code=short.code)
        for effect in job.machine.handle(Shortage(FailureInfo(short.code, short.message, short.hint))):
            try:
                await self._carry_out(job, effect)
            except Exception as error:
                if shortage(error) is None or not isinstance(effect, Persist):
                    raise

    async def _carry_out(self, job: Job, effect: ServerEffect) -> None:
        match effect:
            case Persist():
                text = job.machine.snapshot.to_json()
                job.ended_unix_s = time.time() if job.machine.state in TERMINAL else None
                failpoint("snapshot.before")
                await in_thread(self._store.metadata.save_snapshot, job.id, text, job.ended_unix_s)
                failpoint("snapshot.after")
            case Enqueue():
                self._waiting.push(job.owner, job)
                self._grant()
            case StartWorker(restarts):
                await self._start_worker(job, restarts)
            case WorkerContinue(epoch, logits_max, kept):
                failpoint("answer.taken")
                if job.training is not None:
                    await job.training.go_on(epoch, logits_max, kept)
            case StopWorker():
                self._spawn(self._release(job))
            case Emit(client, emitted):
                self._emit(job, client, emitted)
            case CloseClient(client):
                if client in job.clients:
                    job.clients[client].put_nowait(None)
            case KeepModel(epochs):
                await in_thread(self._remove_models, job.id, epochs)
                failpoint("models.removed")
            case StartClientTimer():
                self._cancel_timer(job)
                loop = asyncio.get_running_loop()
                job.timer = loop.call_later(
                    self._config.client_wait_s, lambda: self._spawn(self.dispatch(job, ClientGone()))
                )
            case StopClientTimer():
                self._cancel_timer(job)

    def _emit(self, job: Job, client: str, emitted: Event) -> None:
        events = job.clients.get(client)
        if events is None:
            return
        if isinstance(emitted, WorkerProgress) and events.qsize() > EVENTS_WAITING_MAX:
            return
        if isinstance(emitted, Queued):
            running = self._config.jobs_running - self._slots_free
            emitted = Queued(self._waiting.ahead(job) + running - job.slot)
        failpoint("event.before")
        events.put_nowait(emitted)

    async def _start_worker(self, job: Job, restarts: int) -> None:
        if job.training is not None:
            await job.training.stop()
        training = Training(
            job_id=job.id,
            manifest=job.manifest,
            answered_epoch=job.machine.answered_epoch,
            ranges=job.machine.ranges,
            kept=job.machine.kept,
            delay_s=_backoff_s(restarts),
            store=self._store,
            config=self._config,
            placement=self._placement,
            memory_bytes=job.memory_bytes,
        )
        job.training = training
        self._spawn(self._work(job, training))

    async def _work(self, job: Job, training: Training) -> None:
        """Run a worker on its owner's time."""

        async def report(message: ServerMessage) -> None:
            await self.dispatch(job, message, training)

        async def used_up(error: ComputeQuotaError) -> None:
            await report(WorkerFailed(FailureInfo(error.code, error.message, error.hint)))

        try:
            async with self._quotas.working(job.owner, used_up):
                await training.run(report)
        except ComputeQuotaError as error:
            await used_up(error)

    def _release(self, job: Job) -> Coroutine[Any, Any, None]:
        """Leave the queue at once; the slot is free when the worker's memory is."""
        self._waiting.remove(job)
        training, job.training = job.training, None
        slot, job.slot = job.slot, False

        async def finish() -> None:
            if training is not None:
                await training.stop()
            if slot:
                self._slots_free += 1
                self._memory.give(job.memory_bytes)
                self._grant()

        return finish()

    def _grant(self) -> None:
        """Start what may start. The next job waits for its memory, and none overtakes it: else large ones never ran."""
        while self._slots_free and not self._closing:
            job = self._waiting.head()
            if job is None or not self._memory.fits(job.memory_bytes):
                return
            self._waiting.pop()
            job.slot = True
            self._slots_free -= 1
            self._memory.take(job.memory_bytes)
            self._spawn(self._granted(job))

    async def _granted(self, job: Job) -> None:
        # The job may have been cancelled meanwhile, which gave the slot to another.
        failpoint("slot.granted")
        if job.slot:
            await self.dispatch(job, SlotGranted())

    # -- parts --------------------------------------------------------------------------------------------------------

    def _make(self, row: JobRow, committed: frozenset[str]) -> Job:
        try:
            manifest = pb.Manifest.FromString(row.manifest)
        except DecodeError as error:
            raise IntegrityError(f"a job's manifest is unreadable: {error}") from error
        # A job that was admitted stays, even when the server is started without --allow-insecure later.
        checked = manifest_from_proto(manifest, allow_insecure=True)
        machine = ServerJob(
            frozenset(checked.blobs),
            checked.job.epochs_max,
            committed,
            Snapshot.from_json(row.snapshot),
            self._config.worker_restarts,
        )
        return Job(row.id, row.owner, manifest, checked, row.created_unix_s, machine, memory_bytes(checked))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        # What a job does in its own time belongs to no request.
        task = Context().run(asyncio.ensure_future, work)
        self._tasks.add(task)
        task.add_done_callback(self._reap)

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            event("task failed", level=logging.ERROR, error=error)

    @staticmethod
    def _cancel_timer(job: Job) -> None:
        if job.timer is not None:
            job.timer.cancel()
            job.timer = None

    def _bytes_stored(self, job_id: str) -> int:
        return self._store.metadata.blob_bytes(job_id) + tree_bytes(self._store.files.job(job_id))

    def _remove_models(self, job_id: str, keep: tuple[int, ...]) -> None:
        wanted = {f"model-{epoch:05d}" for epoch in keep}
        for path in self._store.files.results(job_id).glob("model-*"):
            if path.name not in wanted:
                path.unlink(missing_ok=True)


def _backoff_s(restarts: int) -> float:
    """Pause before a worker's start number ``restarts`` + 1."""
    pauses = limits.WORKER_RESTART_BACKOFF_S
    return pauses[min(restarts, len(pauses)) - 1] if restarts else 0.0
