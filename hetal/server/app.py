"""A server from its start to its end."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from dataclasses import replace

import grpc
from grpc_health.v1 import health_pb2_grpc

from hetal import limits
from hetal._pb import hetal_pb2_grpc
from hetal.errors import InputError
from hetal.protocol.channel_options import server_options
from hetal.protocol.transport_security import is_loopback
from hetal.server.authorization import AuthorizationInterceptor
from hetal.server.config import ServerConfig, parse_http_address
from hetal.server.health import Health
from hetal.server.http import HttpServer
from hetal.server.interceptors import ErrorInterceptor
from hetal.server.jobs import Jobs
from hetal.server.log import event
from hetal.server.lookout import Lookout
from hetal.server.metrics import Metrics
from hetal.server.outside import routes
from hetal.server.placement import Placement
from hetal.server.prediction import Predictor
from hetal.server.quota import Quotas
from hetal.server.retention import Remover
from hetal.server.service import HetalService
from hetal.server.store.store import Store
from hetal.server.telemetry import Telemetry
from hetal.server.threads import in_thread
from hetal.server.tls import server_credentials
from hetal.server.tracing import Tracing
from hetal.server.uploads import Uploads


class Server:
    """A running server. Make one with :meth:`start`, in the event loop that will run it."""

    def __init__(
        self,
        port: int,
        store: Store,
        jobs: Jobs,
        uploads: Uploads,
        predictor: Predictor,
        retention: asyncio.Task[None] | None,
        rpc: grpc.aio.Server,
        health: Health,
        http: HttpServer | None,
        tracing: Tracing | None,
    ) -> None:
        self.port = port
        self.http_port = http.port if http is not None else None
        self._store = store
        self._jobs = jobs
        self._uploads = uploads
        self._predictor = predictor
        self._retention = retention
        self._rpc = rpc
        self._health = health
        self._http = http
        self._tracing = tracing
        self._watch = asyncio.ensure_future(health.watch())

    @classmethod
    async def start(cls, config: ServerConfig) -> Server:
        """Open the data directory, take up its jobs, and listen.

        Raises:
            InputError: an option is wrong, or the address cannot be listened on.
            PlaintextRefusedError: others than this machine could connect, and there are no certificates.
            CertificateError: a certificate or key is unusable.
            BackendError: another server uses the data directory.
        """
        config.check()
        metrics = Metrics()
        credentials = server_credentials(config, lambda found: metrics.certificate_end.set(found.end.timestamp()))
        if credentials is None and not is_loopback(config.host):
            event("plaintext: everybody on the network is the one owner", level=logging.WARNING, host=config.host)
        backend = config.chosen_backend()
        if config.backend is None and backend == "openfhe":
            event("the native engine is not built; OpenFHE computes, many times slower")
        config = replace(config, backend=backend)
        tracing = Tracing.start() if config.traces else None
        store = await in_thread(Store, config.data_dir)
        telemetry = Telemetry(metrics, tracing)
        quotas = Quotas(store, config)
        placement = Placement(config.chosen_devices())
        jobs = Jobs(store, config, telemetry, quotas, placement)
        uploads = Uploads(store, jobs, quotas)
        predictor = Predictor(store, config, quotas, placement)
        remover = Remover(jobs, uploads, predictor)
        rpc = grpc.aio.server(
            interceptors=[ErrorInterceptor(telemetry), AuthorizationInterceptor(config.operators, config.blocked)],
            options=server_options(),
        )
        hetal_pb2_grpc.add_HetalServicer_to_server(
            HetalService(config, store, jobs, uploads, predictor, remover, quotas), rpc
        )
        health = Health(store)
        health_pb2_grpc.add_HealthServicer_to_server(health.servicer, rpc)
        http = None
        try:
            address = f"{config.host}:{config.port}"
            port = rpc.add_secure_port(address, credentials) if credentials else rpc.add_insecure_port(address)
        except RuntimeError as error:
            store.close()
            raise InputError(
                f"cannot listen on {config.host}:{config.port}", hint="Choose a free port, or 0 for any."
            ) from error
        if config.http_address is not None:
            shown = routes(Lookout(jobs, config, health), telemetry.metrics)
            try:
                http = await HttpServer.start(*parse_http_address(config.http_address), shown)
            except InputError:
                store.close()
                raise
            level = logging.INFO if http.loopback else logging.WARNING
            event("http started", level=level, port=http.port, loopback=http.loopback)
        await jobs.load()
        await rpc.start()
        await health.serving()
        retention = None
        if config.retention_s is not None:
            retention = asyncio.ensure_future(remover.retain(config.retention_s))
        event(
            "server started",
            host=config.host,
            port=port,
            tls=credentials is not None,
            backend=backend,
            insecure=config.allow_insecure,
        )
        return cls(port, store, jobs, uploads, predictor, retention, rpc, health, http, tracing)

    async def stop(self, grace_s: float = limits.SHUTDOWN_GRACE_S) -> None:
        """Take no more calls; end streams with a code to retry on, workers with a checkpoint; close the store.

        Running calls get ``grace_s`` to end, workers the part ``DRAIN_S`` of ``SHUTDOWN_GRACE_S`` of it.
        """
        self._watch.cancel()
        await asyncio.wait({self._watch})
        if self._retention is not None:
            self._retention.cancel()
            await asyncio.wait({self._retention})
        await self._health.drain()
        closing = asyncio.ensure_future(self._rpc.stop(grace_s))
        drain_s = grace_s * limits.DRAIN_S / limits.SHUTDOWN_GRACE_S
        await asyncio.gather(self._uploads.close(), self._jobs.close(drain_s), self._predictor.close())
        await closing
        if self._http is not None:
            await self._http.stop()
        if self._tracing is not None:
            await in_thread(self._tracing.close)
        await in_thread(self._store.close)
        event("server stopped", port=self.port)


async def serve(config: ServerConfig, on_listening: Callable[[int], None] | None = None) -> None:
    """Run a server until SIGTERM or SIGINT."""
    server = await Server.start(config)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    try:
        if on_listening is not None:
            on_listening(server.port)
        await ended.wait()
    finally:
        await server.stop()
