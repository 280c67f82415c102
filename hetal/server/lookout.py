"""Takes overviews of a running server."""

from __future__ import annotations

import asyncio
import time

import psutil

from hetal import limits
from hetal._version import __version__
from hetal.protocol.messages import State
from hetal.server.config import ServerConfig
from hetal.server.devices import Devices
from hetal.server.health import Check, Health
from hetal.server.jobs import Job, Jobs
from hetal.server.overview import JobView, Overview, WorkerUse, phase_of
from hetal.server.threads import read_in_thread


class Lookout:
    """At most one overview per ``limits.OVERVIEW_INTERVAL_S`` however many ask."""

    def __init__(self, jobs: Jobs, config: ServerConfig, health: Health) -> None:
        self._jobs = jobs
        self._config = config
        self._health = health
        self._devices = Devices()
        self._lock = asyncio.Lock()
        self._last: Overview | None = None
        self._taken_s = 0.0
        self._cpu: dict[int, tuple[float, float]] = {}

    async def overview(self) -> Overview:
        async with self._lock:
            if self._last is None or time.monotonic() - self._taken_s >= limits.OVERVIEW_INTERVAL_S:
                checks = await self._health.checks()
                # The jobs belong to the loop; what is read of the system belongs into a thread.
                queue = {job_id: place for place, job_id in enumerate(self._jobs.queue(), start=1)}
                views = tuple(view(job, queue.get(job.id, 0)) for job in self._jobs.all())
                self._last = await read_in_thread(self._look, views, checks)
                self._taken_s = time.monotonic()
            return self._last

    def _look(self, views: tuple[JobView, ...], checks: tuple[Check, ...]) -> Overview:
        disk = psutil.disk_usage(str(self._config.data_dir))
        return Overview(
            unix_s=time.time(),
            version=__version__,
            backend=self._config.chosen_backend(),
            workers_max=self._config.jobs_running,
            jobs=views,
            workers=self._workers(views),
            devices=self._devices.look(),
            disk_free_bytes=disk.free,
            disk_total_bytes=disk.total,
            checks=checks,
        )

    def _workers(self, views: tuple[JobView, ...]) -> tuple[WorkerUse, ...]:
        now, before, self._cpu = time.monotonic(), self._cpu, {}
        found = []
        for job in views:
            if job.pid is None:
                continue
            try:
                process = psutil.Process(job.pid)
                resident, times = process.memory_info().rss, process.cpu_times()
            except psutil.Error:
                continue
            cpu_s = times.user + times.system
            at, then_s = before.get(job.pid, (now, cpu_s))
            self._cpu[job.pid] = now, cpu_s
            cores = (cpu_s - then_s) / (now - at) if now > at else 0.0
            found.append(WorkerUse(job.id, resident, cpu_s, max(0.0, cores)))
        return tuple(found)


def view(job: Job, queue_position: int) -> JobView:
    """What others may see of a job."""
    snap, progress, spec = job.machine.snapshot, job.machine.progress, job.checked.job
    shown = progress if snap.state in (State.TRAINING, State.AWAITING_CLIENT) else None
    return JobView(
        id=job.id,
        phase=phase_of(job.machine),
        epoch=max(snap.epoch, shown.epoch if shown is not None else 0),
        epochs_max=spec.epochs_max,
        iteration=shown.iteration if shown is not None else 0,
        iterations_max=shown.iterations_max if shown is not None else 0,
        seconds_per_iteration=progress.seconds_per_iteration if progress is not None else 0.0,
        queue_position=queue_position,
        failure=snap.failure.code if snap.failure is not None else "",
        created_unix_s=job.created_unix_s,
        device=job.training.device if job.training is not None else "",
        pid=job.training.pid if job.training is not None else None,
    )
