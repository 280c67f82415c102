"""The one place that calls and jobs report to; counts them, logs them, and traces them where that was asked for."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from hetal import request_id
from hetal.protocol.messages import ServerMessage, State, WorkerDied, WorkerEpochDone, WorkerProgress
from hetal.protocol.server_machine import TERMINAL, ServerJob
from hetal.server.identity import current
from hetal.server.log import event
from hetal.server.metrics import Metrics, known_code
from hetal.server.overview import phase_of
from hetal.server.tracing import Tracing

OK: Final = "OK"
CANCELLED: Final = "CANCELLED"
# Probes come every few seconds for ever.
QUIET: Final = frozenset({"Check", "Watch"})


@dataclass(slots=True)
class Call:
    """One call in progress; ``code`` is what it ends with."""

    code: str = CANCELLED


class Telemetry:
    """Cheap enough for the event loop: no I/O."""

    def __init__(self, metrics: Metrics, tracing: Tracing | None = None) -> None:
        self.metrics = metrics
        self._tracing = tracing
        self._iterations: dict[str, int] = {}

    # -- calls --------------------------------------------------------------------------------------------------------

    @contextmanager
    def call(self, method: str, metadata: Mapping[str, Any]) -> Iterator[Call]:
        """Around a call with this metadata, in the task that gRPC made for it. One that sets no code was cancelled."""
        began, call = time.monotonic(), Call()
        request = request_id.adopted(metadata.get(request_id.REQUEST_ID_KEY))
        # Never reset: nothing else runs in the task, and the tasks that it starts inherit the name.
        request_id.current.set(request)
        tracing = self._tracing if method not in QUIET else None
        span = tracing.call_began(method, request, metadata) if tracing is not None else None
        running = self.metrics.calls_running.labels(method)
        running.inc()
        try:
            yield call
        finally:
            seconds = time.monotonic() - began
            running.dec()
            code = call.code if call.code in (OK, CANCELLED) else known_code(call.code)
            self.metrics.calls.labels(method, code).inc()
            self.metrics.call_seconds.labels(method).observe(seconds)
            if code not in (OK, CANCELLED):
                self.metrics.rejects.labels(code).inc()
            if tracing is not None and span is not None:
                tracing.call_ended(span, code, failed=code not in (OK, CANCELLED))
            if method not in QUIET:
                who = current.get()
                owner = who.owner if who is not None else None
                event("rpc", rpc=method, owner=owner, code=call.code, seconds=round(seconds, 3))

    def counted(self, method: str, handler: Any) -> tuple[Any, Any]:
        """The handler's deserialiser and serialiser, with the bytes that go through them counted."""
        received, sent = self.metrics.received.labels(method), self.metrics.sent.labels(method)
        read, write = handler.request_deserializer, handler.response_serializer

        def deserialize(data: bytes) -> Any:
            received.inc(len(data))
            return read(data)

        def serialize(message: Any) -> Any:
            data = write(message)
            sent.inc(len(data))
            return data

        return deserialize, serialize

    # -- jobs ---------------------------------------------------------------------------------------------------------

    def job_created(self, job_id: str, machine: ServerJob) -> None:
        self._trace(job_id, machine)

    def job_heard(self, job_id: str, message: ServerMessage, before: State, machine: ServerJob) -> None:
        """After a job's machine has taken a message."""
        match message:
            case WorkerProgress():
                self._progress(job_id, message)
            case WorkerEpochDone():
                self.metrics.epochs.inc()
            case WorkerDied():
                self.metrics.worker_deaths.inc()
        self._trace(job_id, machine)
        if machine.state is before:
            return
        event("job state", job=job_id, state=machine.state.value, epoch=machine.snapshot.epoch)
        if machine.state in TERMINAL:
            failure = machine.snapshot.failure
            self.metrics.job_ended(machine.state, failure.code if failure is not None else "")
            self._iterations.pop(job_id, None)

    def job_deleted(self, job_id: str) -> None:
        self._iterations.pop(job_id, None)
        if self._tracing is not None:
            self._tracing.job_deleted(job_id)

    def _trace(self, job_id: str, machine: ServerJob) -> None:
        if self._tracing is not None:
            failure = machine.snapshot.failure
            code = failure.code if failure is not None else ""
            self._tracing.job_in(job_id, phase_of(machine), ended=machine.state in TERMINAL, failure=code)

    def _progress(self, job_id: str, message: WorkerProgress) -> None:
        """A worker repeats the duration of its last iteration until it has done another; 0 says that it began anew."""
        last = self._iterations.get(job_id, 0)
        self._iterations[job_id] = message.iteration
        if message.seconds_per_iteration > 0 and message.iteration > last:
            self.metrics.iteration_seconds.observe(message.seconds_per_iteration)
            if self._tracing is not None:
                self._tracing.iteration_done(job_id, message.iteration, message.seconds_per_iteration)
