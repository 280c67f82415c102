"""What the two state machines take in and give out. Plain values: no gRPC, no I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from hetal.protocol.early_stopping import Decision


class State(str, Enum):
    """States of a job; the names are those of the wire without their prefix."""

    UPLOADING = "UPLOADING"
    QUEUED = "QUEUED"
    TRAINING = "TRAINING"
    AWAITING_CLIENT = "AWAITING_CLIENT"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True, slots=True)
class BlobRef:
    """A result on the server's disk: name, size and SHA-256."""

    name: str
    size_bytes: int
    sha256: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class FailureInfo:
    """An error of the tree in :mod:`hetal.errors`, as a value."""

    code: str
    message: str
    hint: str


# -- into the server's machine ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BlobCommitted:
    name: str


@dataclass(frozen=True, slots=True)
class Attach:
    """A stream. One of the same session, where that is not empty, takes over from a stream that broke unnoticed."""

    client: str
    session: str = ""


@dataclass(frozen=True, slots=True)
class Detach:
    client: str


@dataclass(frozen=True, slots=True)
class SlotGranted:
    """A worker may start for this job."""


@dataclass(frozen=True, slots=True)
class WorkerProgress:
    phase: str
    epoch: int
    iteration: int
    iterations_max: int
    seconds_per_iteration: float


@dataclass(frozen=True, slots=True)
class WorkerEpochDone:
    """The validation logits and the classifier of an epoch are on disk."""

    epoch: int
    logits: BlobRef
    model: BlobRef


@dataclass(frozen=True, slots=True)
class Continue:
    client: str
    epoch: int
    best: bool
    logits_max: float = 0.0
    kept: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Stop:
    client: str
    epoch: int
    best: bool


@dataclass(frozen=True, slots=True)
class WorkerDied:
    """The worker process ended without a word."""

    detail: str = "no detail is known"


@dataclass(frozen=True, slots=True)
class WorkerFailed:
    failure: FailureInfo


@dataclass(frozen=True, slots=True)
class Shortage:
    """The server has no disk or memory left to go on with this job."""

    failure: FailureInfo


@dataclass(frozen=True, slots=True)
class Cancel:
    pass


@dataclass(frozen=True, slots=True)
class ClientGone:
    """The client left an epoch unanswered for longer than the configured time."""


@dataclass(frozen=True, slots=True)
class ServerRestarted:
    """The front process started anew; no worker and no client is connected."""


ServerMessage = (
    BlobCommitted
    | Attach
    | Detach
    | SlotGranted
    | WorkerProgress
    | WorkerEpochDone
    | Continue
    | Stop
    | WorkerDied
    | WorkerFailed
    | Shortage
    | Cancel
    | ClientGone
    | ServerRestarted
)


# -- events: server to client -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Queued:
    jobs_ahead: int = 0


@dataclass(frozen=True, slots=True)
class Validation:
    """Encrypted validation logits of an epoch wait to be fetched and answered."""

    epoch: int
    blob: BlobRef


@dataclass(frozen=True, slots=True)
class Finished:
    epochs: int
    best_epoch: int
    model: BlobRef


@dataclass(frozen=True, slots=True)
class Failed:
    failure: FailureInfo


Event = Queued | WorkerProgress | Validation | Finished | Failed


# -- out of the server's machine ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Persist:
    """Write the snapshot to disk before any effect that follows."""


@dataclass(frozen=True, slots=True)
class Enqueue:
    """Ask the scheduler for a worker slot."""


@dataclass(frozen=True, slots=True)
class StartWorker:
    """Start a worker from the last checkpoint, or from the beginning where there is none."""

    restarts: int


@dataclass(frozen=True, slots=True)
class WorkerContinue:
    epoch: int
    logits_max: float = 0.0
    kept: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class StopWorker:
    """End the worker if there is one, give its slot back, and leave the queue."""


@dataclass(frozen=True, slots=True)
class Emit:
    """Send an event to the attached client."""

    client: str
    event: Event


@dataclass(frozen=True, slots=True)
class CloseClient:
    """End the client's stream after what was emitted."""

    client: str


@dataclass(frozen=True, slots=True)
class KeepModel:
    """Of the classifiers on disk only these epochs' are still needed."""

    epochs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StartClientTimer:
    """Start the wait for the client's answer, or start it over."""


@dataclass(frozen=True, slots=True)
class StopClientTimer:
    pass


ServerEffect = (
    Persist
    | Enqueue
    | StartWorker
    | WorkerContinue
    | StopWorker
    | Emit
    | CloseClient
    | KeepModel
    | StartClientTimer
    | StopClientTimer
)


# -- the client's machine -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Connected:
    """A Train stream is open."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The Train stream broke."""


@dataclass(frozen=True, slots=True)
class Decided:
    """The client's own verdict on the validation logits of ``epoch``."""

    epoch: int
    decision: Decision


ClientMessage = Connected | Disconnected | Decided | Queued | WorkerProgress | Validation | Finished | Failed


@dataclass(frozen=True, slots=True)
class SendAttach:
    pass


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Fetch, decrypt and judge these logits, then report :class:`Decided`."""

    validation: Validation


@dataclass(frozen=True, slots=True)
class SendContinue:
    epoch: int
    best: bool
    logits_max: float = 0.0
    kept: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class SendStop:
    epoch: int
    best: bool


@dataclass(frozen=True, slots=True)
class Report:
    """Tell the user."""

    event: Queued | WorkerProgress


@dataclass(frozen=True, slots=True)
class Complete:
    """The training is over; fetch the classifier."""

    finished: Finished


@dataclass(frozen=True, slots=True)
class Fail:
    failure: FailureInfo


ClientEffect = SendAttach | Evaluate | SendContinue | SendStop | Report | Complete | Fail
