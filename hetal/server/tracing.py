"""OpenTelemetry spans of calls, of a job's phases and of its iterations. Loads nothing until :meth:`Tracing.start`.

One trace a job: a span from its creation, or from the server's start, to its end; below it a span per phase, below that
a span per iteration. A call is a trace of its own, or a part of its caller's where it carries a trace context.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hetal import limits
from hetal._version import __version__
from hetal.errors import BackendError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import Span


@dataclass(slots=True)
class _JobSpans:
    job: Span
    phase_name: str
    phase: Span


class Tracing:
    """Make one with :meth:`start`."""

    def __init__(self, processor: SpanProcessor) -> None:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._api = trace
        self._propagator = TraceContextTextMapPropagator()
        resource = Resource.create({"service.name": "hetal-server", "service.version": __version__})
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("hetal", __version__)
        self._jobs: dict[str, _JobSpans] = {}

    @classmethod
    def start(cls) -> Tracing:
        """Send spans to where OTEL_EXPORTER_OTLP_ENDPOINT says, over OTLP and HTTP, from a thread.

        Raises:
            BackendError: the extra is not installed.
        """
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise BackendError(
                "OpenTelemetry is not installed", hint="Install hetal with the extra otel, or leave --traces out."
            ) from error
        return cls(BatchSpanProcessor(OTLPSpanExporter()))

    def close(self) -> None:
        """End every span and send what is left. Blocking, for as long as the collector lets it wait."""
        for job_id in list(self._jobs):
            self._end(job_id)
        self._provider.force_flush(round(limits.TRACES_FLUSH_S * 1000))
        self._provider.shutdown()

    # -- calls --------------------------------------------------------------------------------------------------------

    def call_began(self, method: str, request: str, metadata: Mapping[str, Any]) -> Span:
        """A span of a call; ``metadata`` may hold the trace context of the caller."""
        parent = metadata.get("traceparent")
        context = self._propagator.extract({"traceparent": parent}) if isinstance(parent, str) else None
        attributes = {"rpc.system": "grpc", "rpc.method": method, "hetal.request": request}
        return self._tracer.start_span(method, context, kind=self._api.SpanKind.SERVER, attributes=attributes)

    def call_ended(self, span: Span, code: str, failed: bool) -> None:
        span.set_attribute("hetal.code", code)
        if failed:
            span.set_status(self._api.StatusCode.ERROR, code)
        span.end()

    # -- jobs ---------------------------------------------------------------------------------------------------------

    def job_in(self, job_id: str, phase: str, *, ended: bool, failure: str) -> None:
        """A job is in this phase now."""
        spans = self._jobs.get(job_id)
        if spans is None:
            if ended:
                return
            job = self._tracer.start_span("job", self._root(), attributes={"hetal.job": job_id})
            self._jobs[job_id] = _JobSpans(job, phase, self._child(job, phase, job_id))
        elif ended:
            spans.job.set_attribute("hetal.outcome", phase)
            if failure:
                spans.job.set_status(self._api.StatusCode.ERROR, failure)
            self._end(job_id)
        elif spans.phase_name != phase:
            spans.phase.end()
            spans.phase_name, spans.phase = phase, self._child(spans.job, phase, job_id)

    def iteration_done(self, job_id: str, iteration: int, seconds: float) -> None:
        """An iteration of so many seconds has just ended."""
        spans = self._jobs.get(job_id)
        if spans is None:
            return
        now = time.time_ns()
        span = self._child(spans.phase, "iteration", job_id, now - round(seconds * 1e9))
        span.set_attribute("hetal.iteration", iteration)
        span.end(now)

    def job_deleted(self, job_id: str) -> None:
        self._end(job_id)

    def _end(self, job_id: str) -> None:
        spans = self._jobs.pop(job_id, None)
        if spans is not None:
            spans.phase.end()
            spans.job.end()

    def _root(self) -> Any:
        return self._api.set_span_in_context(self._api.INVALID_SPAN)

    def _child(self, parent: Span, name: str, job_id: str, start_ns: int | None = None) -> Span:
        context = self._api.set_span_in_context(parent)
        return self._tracer.start_span(name, context, attributes={"hetal.job": job_id}, start_time=start_ns)
