"""The trace that a calling program is in, for the server's spans to join it."""

from __future__ import annotations

import sys


def metadata() -> tuple[tuple[str, str], ...]:
    """The W3C trace parent where the program uses OpenTelemetry and a span is open; loads nothing by itself.

    Neither trace state nor baggage: programs put names of their users into them, and the server is not to know these.
    """
    if "opentelemetry.trace" not in sys.modules:
        return ()
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    parent = carrier.get("traceparent")
    return (("traceparent", parent),) if parent else ()
