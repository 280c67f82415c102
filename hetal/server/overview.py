"""The whole server at one moment, as plain values: what the metrics and the status page show. No secrets, no names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hetal.protocol.messages import State
from hetal.protocol.server_machine import ServerJob
from hetal.server.devices import Device
from hetal.server.health import Check

STARTING: Final = "starting"
OTHER_PHASE: Final = "other"
# A training's phases come from the worker, which parses what strangers sent: others than these are not repeated.
WORKER_PHASES: Final = ("loading keys", "training", "validating")
PHASES: Final = (
    *(state.value.lower().replace("_", " ") for state in State if state is not State.TRAINING),
    STARTING,
    *WORKER_PHASES,
    OTHER_PHASE,
)


@dataclass(frozen=True, slots=True)
class JobView:
    """One job.

    Attributes:
        phase: one of ``PHASES``.
        epoch: the one in work, or the last that is done.
        iteration, iterations_max: of the present phase; iterations_max 0 where unknown.
        seconds_per_iteration: 0 until known.
        queue_position: from 1; 0 when it does not wait for a worker.
        failure: an error's code, or empty.
        device: that its worker computes on, or empty.
        pid: of its worker.
    """

    id: str
    phase: str
    epoch: int
    epochs_max: int
    iteration: int
    iterations_max: int
    seconds_per_iteration: float
    queue_position: int
    failure: str
    created_unix_s: float
    device: str
    pid: int | None

    @property
    def ended(self) -> bool:
        return self.phase in {state.value.lower() for state in (State.FINISHED, State.FAILED, State.CANCELLED)}


@dataclass(frozen=True, slots=True)
class WorkerUse:
    """What the worker of a job uses: resident memory, processor time since its start, and cores since the last look."""

    job_id: str
    resident_bytes: int
    cpu_seconds: float
    cores: float


@dataclass(frozen=True, slots=True)
class Overview:
    unix_s: float
    version: str
    backend: str
    workers_max: int
    jobs: tuple[JobView, ...]
    workers: tuple[WorkerUse, ...]
    devices: tuple[Device, ...]
    disk_free_bytes: int
    disk_total_bytes: int
    checks: tuple[Check, ...]

    @property
    def ready(self) -> bool:
        return all(check.ok for check in self.checks)


def phase_of(machine: ServerJob) -> str:
    """One of ``PHASES``: the state of a job, and in its training the phase that its worker tells."""
    if machine.state is State.TRAINING:
        return STARTING if machine.progress is None else worker_phase(machine.progress.phase)
    return str(machine.state.value).lower().replace("_", " ")


def worker_phase(text: str) -> str:
    return text if text in WORKER_PHASES else OTHER_PHASE
