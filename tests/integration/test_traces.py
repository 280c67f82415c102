"""Traces as a collector receives them, and a server that does without OpenTelemetry."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import baggage, context
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider

from hetal.ckks.presets import TEST_PRESET
from hetal.cli.demo import dataset
from hetal.client import Client, SoftmaxSpec
from hetal.client.trace_context import metadata
from hetal.errors import JobNotFoundError
from hetal.server.app import Server
from hetal.server.config import ServerConfig

DATA = dataset("wine")


class Collector(ThreadingHTTPServer):
    """Takes OTLP over HTTP, as any collector does."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[Any] = []
        self.services: set[str] = set()

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
        for resource in request.resource_spans:
            self.server.services.add(attributes(resource.resource)["service.name"])
            for scope in resource.scope_spans:
                self.server.spans.extend(scope.spans)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def attributes(holder: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in holder.attributes}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.serve_forever)
    thread.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
    yield collector
    collector.shutdown()
    thread.join()
    collector.server_close()


async def test_spans_of_calls_phases_and_iterations(collector: Collector, tmp_path: Path) -> None:
    server = await Server.start(ServerConfig(data_dir=tmp_path, allow_insecure=True, threads=1, traces=True))
    async with Client(f"127.0.0.1:{server.port}") as client:
        job = await client.train(
            *(DATA.x_train[::3], DATA.y_train[::3], DATA.x_val, DATA.y_val),
            preset_name=TEST_PRESET,
            epochs=2,
            weight_bound=4.0,
            softmax=SoftmaxSpec(extensions=2),
        )
        tracer = TracerProvider().get_tracer("a user's program")
        with tracer.start_as_current_span("mine") as mine, pytest.raises(JobNotFoundError) as caught:
            await client.get("nothing")
    await server.stop()
    assert collector.services == {"hetal-server"}

    (whole,) = collector.named("job")
    assert attributes(whole) == {"hetal.job": job.id, "hetal.outcome": "finished"} and not whole.parent_span_id
    phases = [span for span in collector.spans if span.parent_span_id == whole.span_id]
    names = [span.name for span in sorted(phases, key=lambda span: span.start_time_unix_nano)]
    assert names[:4] == ["uploading", "queued", "starting", "loading keys"]
    assert {"training", "awaiting client"} <= set(names[4:])
    assert all(span.trace_id == whole.trace_id for span in phases)
    by_id = {span.span_id: span for span in phases}
    iterations = collector.named("iteration")
    assert len(iterations) == job.spec.batches * job.history.epochs
    for span in iterations:
        # The last of an epoch is told when its validation has begun.
        assert by_id[span.parent_span_id].name in ("training", "validating")
        assert span.end_time_unix_nano > span.start_time_unix_nano >= whole.start_time_unix_nano

    (missed,) = collector.named("GetJob")
    told = attributes(missed)
    assert (told["hetal.code"], told["hetal.request"]) == ("JOB_NOT_FOUND", caught.value.request_id)
    assert missed.status.code == 2
    assert missed.trace_id == mine.get_span_context().trace_id.to_bytes(16, "big")
    assert missed.parent_span_id == mine.get_span_context().span_id.to_bytes(8, "big")
    uploads = collector.named("UploadBlob")
    assert uploads and all(attributes(span)["hetal.code"] == "OK" and not span.parent_span_id for span in uploads)


async def test_a_dead_collector_stops_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    monkeypatch.setattr("hetal.limits.TRACES_FLUSH_S", 0)
    server = await Server.start(ServerConfig(data_dir=tmp_path, traces=True))
    async with Client(f"127.0.0.1:{server.port}") as client:
        assert (await client.info()).version
    await server.stop()


def test_the_client_tells_its_trace_and_nothing_else_of_the_program() -> None:
    assert metadata() == ()
    token = context.attach(baggage.set_baggage("patient", "Jane Doe"))
    try:
        with TracerProvider().get_tracer("mine").start_as_current_span("mine"):
            ((key, value),) = metadata()
    finally:
        context.detach(token)
    assert key == "traceparent" and len(value) == 55


WITHOUT = """
import asyncio, sys, tempfile
from pathlib import Path

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(name)

if "missing" in sys.argv:
    sys.meta_path.insert(0, Missing())
from hetal.client import Client
from hetal.errors import BackendError
from hetal.server.app import Server
from hetal.server.config import ServerConfig

async def main(folder):
    server = await Server.start(ServerConfig(data_dir=Path(folder)))
    async with Client(f"127.0.0.1:{server.port}") as client:
        assert (await client.info()).version
    await server.stop()
    assert not [name for name in sys.modules if name.startswith("opentelemetry")]
    if "missing" in sys.argv:
        try:
            await Server.start(ServerConfig(data_dir=Path(folder), traces=True))
        except BackendError as error:
            assert "extra otel" in error.hint
        else:
            raise SystemExit("traces without the extra")

with tempfile.TemporaryDirectory() as folder:
    asyncio.run(main(folder))
"""


@pytest.mark.parametrize("extra", ["missing", "installed"])
def test_nothing_of_opentelemetry_is_loaded_unasked(extra: str) -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT, extra], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
