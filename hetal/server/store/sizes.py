"""How many bytes each job stores, told without waiting for a disk that is busy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hetal import limits
from hetal.server.threads import read_in_thread


class Sizes:
    """Sizes by job. ``measure`` blocks; where it takes long, the size it found before is told."""

    def __init__(self, measure: Callable[[str], int]) -> None:
        self._measure = measure
        self._known: dict[str, int] = {}
        self._running: dict[str, asyncio.Task[int]] = {}

    async def of(self, job_id: str) -> int:
        """The size now; where that takes longer than ``limits.SIZE_WAIT_S``, the last one known."""
        running = self._running.get(job_id)
        if running is None:
            running = asyncio.create_task(read_in_thread(self._measure, job_id))
            self._running[job_id] = running
            running.add_done_callback(lambda done: self._measured(job_id, done))
        known = self._known.get(job_id)
        if known is not None:
            await asyncio.wait({running}, timeout=limits.SIZE_WAIT_S)
            if not running.done():
                return known
        return await asyncio.shield(running)

    def forget(self, job_id: str) -> None:
        """The job was deleted."""
        self._known.pop(job_id, None)
        self._running.pop(job_id, None)

    def _measured(self, job_id: str, done: asyncio.Task[int]) -> None:
        # Unless the job was deleted meanwhile.
        if self._running.get(job_id) is done:
            del self._running[job_id]
            if not done.cancelled() and done.exception() is None:
                self._known[job_id] = done.result()
