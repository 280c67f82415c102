"""What one owner may take of a server: jobs, bytes on its disk, and minutes of its workers."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from hetal import limits
from hetal._pb import hetal_pb2 as pb
from hetal.errors import ComputeQuotaError, OwnerQuotaError
from hetal.protocol.messages import State
from hetal.protocol.server_machine import TERMINAL
from hetal.server.config import ServerConfig
from hetal.server.log import event
from hetal.server.store.store import Store
from hetal.server.threads import in_thread

DAY_S = 24 * 3600


class Quotas:
    """The shares of all owners. Every owner has the same."""

    def __init__(self, store: Store, config: ServerConfig) -> None:
        self._store = store
        self._config = config
        self._lock = asyncio.Lock()
        self._coming: dict[Path, tuple[str, int]] = {}

    async def check_new_job(self, owner: str, states: Sequence[State]) -> None:
        """Whether an owner whose jobs are in these states may make another.

        Raises:
            OwnerQuotaError: it has as many as it may, or no room left for data.
            ComputeQuotaError: it has no minutes left to train.
        """
        unfinished = _unfinished(states)
        for what, count, most in (
            ("unfinished jobs", unfinished, self._config.owner_jobs_max),
            ("jobs", len(states), self._config.owner_jobs_stored_max),
        ):
            if count >= most:
                raise OwnerQuotaError(f"{owner} has {count} {what} of at most {most}")
        await self._check_room(owner, 1)
        await self.check_compute(owner)

    @asynccontextmanager
    async def room(self, owner: str, path: Path, size_bytes: int) -> AsyncIterator[None]:
        """Hold room for a file while it comes; ``path`` is where, and counts with its full size meanwhile.

        Raises:
            OwnerQuotaError: the owner's files and those that come would exceed its share.
        """
        # One after the other: two that see the same room left must not both take it.
        async with self._lock:
            await self._check_room(owner, size_bytes, path)
            self._coming[path] = (owner, size_bytes)
        try:
            yield
        finally:
            del self._coming[path]

    async def shares(self, owner: str, states: Sequence[State]) -> pb.Shares:
        """What an owner whose jobs are in these states has, and may have."""
        config = self._config
        return pb.Shares(
            owner=owner,
            unfinished_jobs=_unfinished(states),
            unfinished_jobs_max=config.owner_jobs_max,
            jobs=len(states),
            jobs_max=config.owner_jobs_stored_max,
            bytes=await self._stored(owner),
            bytes_max=config.owner_bytes_max,
            compute_minutes=await self._compute_s(owner) / 60,
            compute_minutes_max=config.owner_compute_minutes_max,
            compute_days=limits.COMPUTE_WINDOW_DAYS,
        )

    async def _stored(self, owner: str, but_for: Path | None = None) -> int:
        """Bytes of an owner's files, those that come counted in full."""
        coming = sum(size for whose, size in self._coming.values() if whose == owner)
        elsewhere = frozenset(self._coming) | ({but_for} if but_for is not None else set())
        return coming + await in_thread(self._store.owner_bytes, owner, elsewhere)

    async def _check_room(self, owner: str, size_bytes: int, path: Path | None = None) -> None:
        stored = await self._stored(owner, path)
        most = self._config.owner_bytes_max
        if stored + size_bytes > most:
            raise OwnerQuotaError(f"{owner} stores {stored} bytes; {size_bytes} more would exceed its {most}")

    async def check_compute(self, owner: str) -> None:
        """Raises a :class:`ComputeQuotaError` where the owner's workers ran for as long as they may."""
        used_s = await self._compute_s(owner)
        most = self._config.owner_compute_minutes_max
        if used_s >= 60 * most:
            raise ComputeQuotaError(
                f"{owner} used {used_s / 60:.1f} compute minutes of {most:g} in {limits.COMPUTE_WINDOW_DAYS} days"
            )

    async def _compute_s(self, owner: str) -> float:
        return await in_thread(self._store.metadata.compute_seconds, owner, _today() - limits.COMPUTE_WINDOW_DAYS)

    @asynccontextmanager
    async def working(
        self, owner: str, used_up: Callable[[ComputeQuotaError], Awaitable[None]] | None = None
    ) -> AsyncIterator[None]:
        """Count the time inside as the owner's; ``used_up`` is called when that exceeds its share.

        Raises:
            ComputeQuotaError: before anything is computed, where nothing is left.
        """
        await self.check_compute(owner)
        meter = _Meter(self._store, owner)
        ticking = asyncio.ensure_future(self._tick(meter, used_up))
        try:
            yield
        finally:
            ticking.cancel()
            await asyncio.wait({ticking})
            await meter.save()

    async def _tick(self, meter: _Meter, used_up: Callable[[ComputeQuotaError], Awaitable[None]] | None) -> None:
        """Save often: a killed server forgets one interval at most."""
        while True:
            await asyncio.sleep(limits.COMPUTE_TICK_S)
            await meter.save()
            try:
                await self.check_compute(meter.owner)
            except ComputeQuotaError as error:
                if used_up is not None:
                    await used_up(error)


class _Meter:
    """Seconds since the last save, of one worker."""

    def __init__(self, store: Store, owner: str) -> None:
        self.owner = owner
        self._store = store
        self._saved_s = time.monotonic()

    async def save(self) -> None:
        now = time.monotonic()
        seconds, self._saved_s = now - self._saved_s, now
        oldest = _today() - limits.COMPUTE_WINDOW_DAYS
        try:
            await in_thread(self._store.metadata.add_compute, self.owner, _today(), seconds, oldest)
        except sqlite3.OperationalError as error:
            # A full disk must not end what is computed; the next save counts this time too.
            self._saved_s -= seconds
            event("compute time not saved", level=logging.WARNING, owner=self.owner, reason=str(error))


def _unfinished(states: Sequence[State]) -> int:
    return sum(state not in TERMINAL for state in states)


def _today() -> int:
    return int(time.time() // DAY_S)
