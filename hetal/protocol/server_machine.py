"""The server's side of a job as a pure machine: ``handle(message) -> effects``.

    UPLOADING -> QUEUED -> TRAINING -> AWAITING_CLIENT -> TRAINING ... -> FINISHED | FAILED | CANCELLED

The machine decides, the job manager acts. Everything that must survive a crash is in :class:`Snapshot`; a ``Persist``
effect stands before every effect that another party can see. An epoch that waits for its answer needs no worker: when
the worker is gone by the time of a Continue, the job queues again and goes on from its checkpoint.
"""

from __future__ import annotations

import json
from copy import copy
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from hetal import limits
from hetal.errors import (
    CATALOGUE,
    AlreadyAttachedError,
    CancelledError,
    ClientGoneError,
    HetalError,
    IntegrityError,
    MissingBlobError,
    StateError,
    UnknownBlobError,
    WorkerDiedError,
)
from hetal.protocol.early_stopping import Decision
from hetal.protocol.job import MODEL
from hetal.protocol.messages import (
    Attach,
    BlobCommitted,
    BlobRef,
    Cancel,
    ClientGone,
    CloseClient,
    Continue,
    Detach,
    Emit,
    Enqueue,
    Event,
    Failed,
    FailureInfo,
    Finished,
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
    Validation,
    WorkerContinue,
    WorkerDied,
    WorkerEpochDone,
    WorkerFailed,
    WorkerProgress,
)

TERMINAL: Final = frozenset({State.FINISHED, State.FAILED, State.CANCELLED})


@dataclass(slots=True)
class Snapshot:
    """The durable part of a job.

    Attributes:
        epoch: last epoch that is trained, from 1.
        decisions: the client's answer per epoch.
        logits, model: results of ``epoch``.
        best_model: classifier of ``best_epoch``.
        failure: set in FAILED and CANCELLED.
    """

    state: State = State.UPLOADING
    epoch: int = 0
    best_epoch: int = 0
    decisions: dict[int, Decision] = field(default_factory=dict)
    logits: BlobRef | None = None
    model: BlobRef | None = None
    best_model: BlobRef | None = None
    failure: FailureInfo | None = None

    def to_json(self) -> str:
        values = asdict(self)
        values["state"] = self.state.value
        return json.dumps(values, default=bytes.hex, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Snapshot:
        """Raises an :class:`IntegrityError` where the text is no snapshot."""
        try:
            values = json.loads(text)
            return cls(
                state=State(values["state"]),
                epoch=int(values["epoch"]),
                best_epoch=int(values["best_epoch"]),
                decisions={int(epoch): _decision(d) for epoch, d in values["decisions"].items()},
                logits=_blob_ref(values["logits"]),
                model=_blob_ref(values["model"]),
                best_model=_blob_ref(values["best_model"]),
                failure=FailureInfo(**values["failure"]) if values["failure"] else None,
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(f"a job's snapshot is unreadable: {error}") from error


class ServerJob:
    """One job.

    Args:
        blobs: names that the client must upload before training starts.
        epochs_max: a Continue at this epoch ends the training like a Stop.
        committed: names already on disk.
        snapshot: of a job that existed before.
        restarts_max: how often the worker of one epoch may die before the job fails.
    """

    def __init__(
        self,
        blobs: frozenset[str],
        epochs_max: int,
        committed: frozenset[str] = frozenset(),
        snapshot: Snapshot | None = None,
        restarts_max: int = limits.WORKER_RESTARTS_MAX,
    ) -> None:
        self.blobs = blobs
        self.epochs_max = epochs_max
        self.restarts_max = restarts_max
        self.missing = set(blobs - committed)
        self.snapshot = snapshot if snapshot is not None else Snapshot()
        self.client: str | None = None
        self.session = ""
        self.worker = False
        self.restarts = 0
        self.progress: WorkerProgress | None = None

    @property
    def state(self) -> State:
        return self.snapshot.state

    @property
    def answered_epoch(self) -> int:
        """Last epoch that the client has answered."""
        return max(self.snapshot.decisions, default=0)

    def copy(self) -> ServerJob:
        """The machine as it is, to return to where what follows cannot be written to disk.

        Blobs that are committed meanwhile are so for both.
        """
        twin = copy(self)
        twin.snapshot = replace(self.snapshot, decisions=dict(self.snapshot.decisions))
        return twin

    @property
    def ranges(self) -> dict[int, float]:
        """By epoch: the range that its answer named."""
        decisions = self.snapshot.decisions
        return {epoch: decision.logits_max for epoch, decision in decisions.items() if decision.logits_max}

    @property
    def kept(self) -> tuple[int, ...]:
        """The mini-batches that an answer chose to go on with; empty where none did."""
        return next((decision.kept for decision in self.snapshot.decisions.values() if decision.kept), ())

    def handle(self, message: ServerMessage) -> list[ServerEffect]:
        """Effects to carry out in order.

        Messages of workers, timers and streams may come late and are then ignored; a message of a client that does not
        fit raises, and leaves the machine unchanged.

        Raises:
            StateError, AlreadyAttachedError, MissingBlobError, UnknownBlobError
        """
        match message:
            case BlobCommitted():
                return self._blob_committed(message)
            case Attach():
                return self._attach(message)
            case Detach():
                return self._detach(message)
            case SlotGranted():
                return self._slot_granted()
            case WorkerProgress():
                return self._worker_progress(message)
            case WorkerEpochDone():
                return self._epoch_done(message)
            case Continue() | Stop():
                return self._answer(message)
            case WorkerDied():
                return self._worker_died(message)
            case WorkerFailed():
                return self._worker_failed(message)
            case Shortage():
                return self._shortage(message)
            case Cancel():
                return self._cancel()
            case ClientGone():
                return self._client_gone()
            case ServerRestarted():
                return self._restarted()

    # -- uploads ------------------------------------------------------------------------------------------------------

    def _blob_committed(self, message: BlobCommitted) -> list[ServerEffect]:
        if message.name not in self.blobs:
            raise UnknownBlobError(f"the manifest does not list blob {message.name}")
        if self.state is not State.UPLOADING:
            raise self._illegal(message)
        self.missing.discard(message.name)
        if self.missing:
            return []
        self.snapshot.state = State.QUEUED
        return [Persist(), Enqueue()]

    # -- the client's stream ------------------------------------------------------------------------------------------

    def _attach(self, message: Attach) -> list[ServerEffect]:
        stale: list[ServerEffect] = []
        if self.client is not None and self.client != message.client:
            if not message.session or message.session != self.session:
                raise AlreadyAttachedError("another client is attached to this job")
            stale = [CloseClient(self.client)]
        if self.missing and self.state is State.UPLOADING:
            raise MissingBlobError(f"{len(self.missing)} blobs are not uploaded, among them {min(self.missing)}")
        resumed = self._resume() if self._resumable() else []
        event = self._last_event()
        emitted: list[ServerEffect] = [Emit(message.client, event)] if event is not None else []
        if self.state in TERMINAL:
            return [*emitted, CloseClient(message.client)]
        self.client, self.session = message.client, message.session
        timer: list[ServerEffect] = [StartClientTimer()] if self.state is State.AWAITING_CLIENT else []
        return [*resumed, *stale, *emitted, *timer]

    def _detach(self, message: Detach) -> list[ServerEffect]:
        if self.client != message.client:
            return []
        self.client = None
        return [StartClientTimer()] if self.state is State.AWAITING_CLIENT else []

    def _last_event(self) -> Event | None:
        snap = self.snapshot
        match snap.state:
            case State.QUEUED:
                return Queued()
            case State.TRAINING:
                return self.progress
            case State.AWAITING_CLIENT:
                return self._validation()
            case State.FINISHED:
                return self._finished()
            case State.FAILED | State.CANCELLED if snap.failure is not None:
                return Failed(snap.failure)
        return None

    def _answer(self, message: Continue | Stop) -> list[ServerEffect]:
        snap = self.snapshot
        logits_max, kept = (message.logits_max, message.kept) if isinstance(message, Continue) else (0.0, ())
        decision = Decision(isinstance(message, Stop), message.best, logits_max, kept)
        known = snap.decisions.get(message.epoch)
        if known is not None:
            if known != decision:
                raise StateError(f"epoch {message.epoch} is answered already, and otherwise")
            return []
        if self.state is not State.AWAITING_CLIENT:
            raise self._illegal(message)
        if self.client != message.client:
            raise StateError("attach before answering")
        if message.epoch != snap.epoch:
            raise StateError(f"epoch {snap.epoch} waits for an answer, not epoch {message.epoch}")
        snap.decisions[message.epoch] = decision
        # A client that calls no epoch the best gets the last one's classifier.
        ends = decision.stop or message.epoch >= self.epochs_max
        if decision.best or (ends and snap.best_model is None):
            snap.best_epoch, snap.best_model = snap.epoch, snap.model
        keep = KeepModel((snap.best_epoch,) if snap.best_epoch else ())
        if ends:
            snap.state = State.FINISHED
            return [Persist(), StopClientTimer(), *self._stop_worker(), keep, *self._close(self._finished())]
        if self.worker:
            snap.state = State.TRAINING
            return [Persist(), StopClientTimer(), keep, WorkerContinue(message.epoch, logits_max, kept)]
        snap.state = State.QUEUED
        return [Persist(), StopClientTimer(), keep, Enqueue(), Emit(message.client, Queued())]

    def _client_gone(self) -> list[ServerEffect]:
        if self.state is not State.AWAITING_CLIENT:
            return []
        return self._fail(ClientGoneError(f"epoch {self.snapshot.epoch} was left unanswered for too long"))

    def _cancel(self) -> list[ServerEffect]:
        if self.state is State.CANCELLED:
            return []
        if self.state in TERMINAL:
            raise self._illegal(Cancel())
        return self._fail(CancelledError("the job was cancelled"), State.CANCELLED)

    # -- the worker ---------------------------------------------------------------------------------------------------

    def _slot_granted(self) -> list[ServerEffect]:
        if self.state is not State.QUEUED:
            # The slot came too late: give it back.
            return [] if self.worker else [StopWorker()]
        self.snapshot.state = State.TRAINING
        self.worker, self.restarts, self.progress = True, 0, None
        return [Persist(), StartWorker(0)]

    def _worker_progress(self, message: WorkerProgress) -> list[ServerEffect]:
        if self.state is not State.TRAINING:
            return []
        self.progress = message
        return self._emit(message)

    def _epoch_done(self, message: WorkerEpochDone) -> list[ServerEffect]:
        snap = self.snapshot
        if self.state is not State.TRAINING:
            return []
        if message.epoch != self.answered_epoch + 1:
            return self._fail(
                WorkerDiedError(f"the worker reported epoch {message.epoch} after epoch {self.answered_epoch}")
            )
        snap.epoch, snap.logits, snap.model = message.epoch, message.logits, message.model
        snap.state = State.AWAITING_CLIENT
        self.restarts = 0
        return [Persist(), StartClientTimer(), *self._emit(self._validation())]

    def _worker_died(self, message: WorkerDied) -> list[ServerEffect]:
        if not self.worker:
            return []
        if self.state is State.AWAITING_CLIENT:
            return self._stop_worker()
        self.restarts += 1
        if self.restarts > self.restarts_max:
            return self._fail(WorkerDiedError(f"the compute process ended {self.restarts} times; {message.detail}"))
        return [StartWorker(self.restarts)]

    def _worker_failed(self, message: WorkerFailed) -> list[ServerEffect]:
        if not self.worker:
            return []
        return self._fail(message.failure)

    def _shortage(self, message: Shortage) -> list[ServerEffect]:
        if self.state is State.UPLOADING or self.state in TERMINAL:
            return []
        return self._fail(message.failure)

    def _restarted(self) -> list[ServerEffect]:
        self.client, self.worker, self.restarts, self.progress = None, False, 0, None
        match self.state:
            case State.UPLOADING if not self.missing:
                # The last blob was committed, and the front died before it could queue the job.
                self.snapshot.state = State.QUEUED
                return [Persist(), Enqueue()]
            case State.QUEUED:
                return [Enqueue()]
            case State.TRAINING:
                self.snapshot.state = State.QUEUED
                return [Persist(), Enqueue()]
            case State.AWAITING_CLIENT:
                return [StartClientTimer()]
        return []

    # -- parts --------------------------------------------------------------------------------------------------------

    def _resumable(self) -> bool:
        failure = self.snapshot.failure
        if self.state is State.UPLOADING:
            # The last blob is committed, and the disk was full when the job was to be queued.
            return True
        if self.state is not State.FAILED or failure is None:
            return False
        return CATALOGUE.get(failure.code, HetalError).retryable

    def _resume(self) -> list[ServerEffect]:
        snap = self.snapshot
        snap.failure = None
        if snap.epoch > self.answered_epoch:
            snap.state = State.AWAITING_CLIENT
            return [Persist()]
        snap.state = State.QUEUED
        return [Persist(), Enqueue()]

    def _fail(self, error: HetalError | FailureInfo, state: State = State.FAILED) -> list[ServerEffect]:
        failure = error if isinstance(error, FailureInfo) else FailureInfo(error.code, error.message, error.hint)
        self.snapshot.state, self.snapshot.failure = state, failure
        return [Persist(), StopClientTimer(), *self._stop_worker(), *self._close(Failed(failure))]

    def _stop_worker(self) -> list[ServerEffect]:
        self.worker = False
        return [StopWorker()]

    def _close(self, event: Event) -> list[ServerEffect]:
        client, self.client = self.client, None
        return [] if client is None else [Emit(client, event), CloseClient(client)]

    def _emit(self, event: Event) -> list[ServerEffect]:
        return [] if self.client is None else [Emit(self.client, event)]

    def _validation(self) -> Validation:
        snap = self.snapshot
        if snap.logits is None:
            raise StateError("no epoch waits for an answer")
        return Validation(snap.epoch, snap.logits)

    def _finished(self) -> Finished:
        snap = self.snapshot
        if snap.best_model is None:
            raise StateError("the job has no classifier")
        return Finished(snap.epoch, snap.best_epoch, replace(snap.best_model, name=MODEL))

    def _illegal(self, message: ServerMessage) -> StateError:
        return StateError(f"{type(message).__name__} is not allowed while the job is {self.state.value}")


def _decision(values: dict[str, Any]) -> Decision:
    return Decision(**{**values, "kept": tuple(values.get("kept", ()))})


def _blob_ref(values: dict[str, str | int] | None) -> BlobRef | None:
    if values is None:
        return None
    return BlobRef(str(values["name"]), int(values["size_bytes"]), bytes.fromhex(str(values["sha256"])))
