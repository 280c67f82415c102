"""What Prometheus reads: counters that calls and jobs drive, and gauges taken from an overview at every scrape."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator
from typing import Final, cast

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from hetal.errors import CATALOGUE
from hetal.protocol.messages import State
from hetal.server.overview import PHASES, Overview

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
OTHER_CODE: Final = "OTHER"
# A second series for each counter, with the time of its making, which no board shows.
disable_created_metrics()  # type: ignore[no-untyped-call]
RPC_BUCKETS_S: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60, 600, 3600)
ITERATION_BUCKETS_S: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 45, 60, 90, 120, 180, 300, 600)


class Metrics:
    """One server's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = own = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=own)
        self.calls = Counter("hetal_rpcs", "Calls that ended, by error code", ("method", "code"), registry=own)
        self.calls_running = Gauge("hetal_rpcs_running", "Calls in progress", ("method",), registry=own)
        self.call_seconds = Histogram(
            "hetal_rpc_seconds", "Duration of calls", ("method",), buckets=RPC_BUCKETS_S, registry=own
        )
        self.received = Counter("hetal_received_bytes", "Bytes of messages received", ("method",), registry=own)
        self.sent = Counter("hetal_sent_bytes", "Bytes of messages sent", ("method",), registry=own)
        self.rejects = Counter("hetal_rejects", "Calls refused, by error code", ("code",), registry=own)
        self.iteration_seconds = Histogram(
            "hetal_iteration_seconds", "Duration of a training iteration", buckets=ITERATION_BUCKETS_S, registry=own
        )
        self.epochs = Counter("hetal_epochs", "Epochs trained", registry=own)
        self.jobs_ended = Counter("hetal_jobs_ended", "Jobs that ended", ("state", "code"), registry=own)
        self.certificate_end = Gauge(
            "hetal_certificate_end_timestamp_seconds", "When the server's certificate ends; 0 without TLS", registry=own
        )
        self.worker_deaths = Counter("hetal_worker_deaths", "Workers that ended without a word", registry=own)

    def job_ended(self, state: State, code: str) -> None:
        self.jobs_ended.labels(state.value.lower(), known_code(code) if code else "").inc()

    def text(self, overview: Overview) -> bytes:
        """The exposition format. Blocking."""
        return generate_latest(cast(CollectorRegistry, _Scrape(self._registry, overview)))


class _Scrape:
    """The registry's metrics and those of one overview."""

    def __init__(self, registry: CollectorRegistry, overview: Overview) -> None:
        self._registry = registry
        self._overview = overview

    def collect(self) -> Iterator[Metric]:
        yield from self._registry.collect()
        yield from _gauges(self._overview)


def _gauges(now: Overview) -> Iterator[Metric]:
    info = GaugeMetricFamily("hetal_info", "Always 1", labels=("version", "backend"))
    info.add_metric((now.version, now.backend), 1)
    yield info

    phases = Tally(job.phase for job in now.jobs)
    jobs = GaugeMetricFamily("hetal_jobs", "Jobs by phase", labels=("phase",))
    for phase in PHASES:
        jobs.add_metric((phase,), phases[phase])
    yield jobs
    waiting = sum(job.queue_position > 0 for job in now.jobs)
    yield GaugeMetricFamily("hetal_queue_length", "Jobs that wait for a worker", waiting)
    yield GaugeMetricFamily("hetal_workers_max", "Workers that may run at a time", now.workers_max)
    yield GaugeMetricFamily("hetal_workers_running", "Workers that run", len(now.workers))

    resident = GaugeMetricFamily("hetal_worker_resident_bytes", "Memory of a job's worker", labels=("job_id",))
    processor = CounterMetricFamily("hetal_worker_cpu_seconds", "Processor time of a job's worker", labels=("job_id",))
    for worker in now.workers:
        resident.add_metric((worker.job_id,), worker.resident_bytes)
        processor.add_metric((worker.job_id,), worker.cpu_seconds)
    yield resident
    yield processor

    used = GaugeMetricFamily("hetal_device_memory_used_bytes", "Memory in use", labels=("device",))
    total = GaugeMetricFamily("hetal_device_memory_bytes", "Memory", labels=("device",))
    busy = GaugeMetricFamily("hetal_device_utilisation_ratio", "Share of time at work", labels=("device",))
    for device in now.devices:
        used.add_metric((device.name,), device.memory_used_bytes)
        total.add_metric((device.name,), device.memory_total_bytes)
        if device.utilisation is not None:
            busy.add_metric((device.name,), device.utilisation)
    yield used
    yield total
    yield busy

    yield GaugeMetricFamily("hetal_disk_free_bytes", "Free bytes where the data directory is", now.disk_free_bytes)
    yield GaugeMetricFamily("hetal_disk_bytes", "Size of the file system of the data directory", now.disk_total_bytes)
    ready = GaugeMetricFamily("hetal_ready", "Whether a condition of readiness holds", labels=("check",))
    for check in now.checks:
        ready.add_metric((check.name,), check.ok)
    yield ready


def known_code(code: str) -> str:
    """Codes outside the catalogue share a label: nobody outside may make new ones."""
    return code if code in CATALOGUE else OTHER_CODE
