"""Whether the server can take work: its disk, its database, and whether it is about to end."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from dataclasses import dataclass
from typing import Any

from grpc_health.v1 import health, health_pb2

from hetal import limits
from hetal._pb import hetal_pb2
from hetal.server.log import event
from hetal.server.store.store import Store
from hetal.server.threads import in_thread

SERVICE = hetal_pb2.DESCRIPTOR.services_by_name["Hetal"].full_name


@dataclass(frozen=True, slots=True)
class Check:
    """One condition, with half a sentence where it does not hold."""

    name: str
    ok: bool
    detail: str = ""


class Health:
    """Answers grpc.health.v1, and keeps its answer true while :meth:`watch` runs."""

    def __init__(self, store: Store) -> None:
        self.servicer: Any = health.aio.HealthServicer()  # type: ignore[attr-defined]
        self._store = store
        self._not_serving = "the server is starting"
        self._failing: frozenset[str] | None = None

    async def checks(self) -> tuple[Check, ...]:
        return (*await in_thread(self._look), Check("serving", not self._not_serving, self._not_serving))

    async def serving(self) -> None:
        """The server listens."""
        self._not_serving = ""
        await self.update()

    async def watch(self) -> None:
        """Look again and again; every change is logged and told to those who watch the health service."""
        while True:
            await asyncio.sleep(limits.HEALTH_INTERVAL_S)
            await self.update()

    async def update(self) -> None:
        failing = frozenset(check.name for check in await self.checks() if not check.ok)
        if failing == self._failing:
            return
        if failing or self._failing:
            level = logging.WARNING if failing else logging.INFO
            event("readiness", level=level, ready=not failing, failing=",".join(sorted(failing)) or None)
        self._failing = failing
        statuses = health_pb2.HealthCheckResponse
        for service in ("", SERVICE):
            await self.servicer.set(service, statuses.NOT_SERVING if failing else statuses.SERVING)

    async def drain(self) -> None:
        """From now on not ready, for good."""
        self._not_serving = "the server is shutting down"
        await self.servicer.enter_graceful_shutdown()

    def _look(self) -> tuple[Check, ...]:
        free, reserve = self._store.files.free_bytes(), limits.DISK_RESERVE_BYTES
        full = f"{free / 1e9:.1f} GB are free, {reserve / 1e9:.1f} GB are kept back" if free < reserve else ""
        disk = Check("disk", not full, full)
        try:
            # Takes the write lock and gives it back: fails where the file system has become read-only.
            with self._store.metadata.transaction():
                database = Check("database", True)
        except sqlite3.Error as error:
            database = Check("database", False, type(error).__name__)
        return disk, database
