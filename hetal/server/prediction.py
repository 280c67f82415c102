"""Encrypted predictions: a worker that holds one finished job's keys and classifier, kept warm between calls."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from hetal._pb import hetal_pb2 as pb
from hetal.errors import WorkerDiedError, from_code
from hetal.protocol.wire import manifest_from_proto
from hetal.server.admission import memory_bytes
from hetal.server.config import ServerConfig
from hetal.server.placement import Place, Placement
from hetal.server.quota import Quotas
from hetal.server.store.store import Store
from hetal.server.threads import in_thread
from hetal.server.training import failure, worker_inputs
from hetal.server.worker_process import Record, WorkerProcess


@dataclass(frozen=True, slots=True)
class _Warm:
    job_id: str
    process: WorkerProcess
    place: Place


class Predictor:
    """Runs one prediction at a time. The last job's worker stays until another job, a deletion or the end."""

    def __init__(self, store: Store, config: ServerConfig, quotas: Quotas, placement: Placement) -> None:
        self._store = store
        self._config = config
        self._quotas = quotas
        self._placement = placement
        self._lock = asyncio.Lock()
        self._warm: _Warm | None = None

    async def predict(
        self, owner: str, job_id: str, manifest: pb.Manifest, model: Path, features: Path, samples: int, out: Path
    ) -> None:
        """Write the framed logits of ``samples`` encrypted rows to ``out``, on the owner's time.

        Raises:
            ComputeQuotaError: the owner has no minutes left.
        """
        async with self._lock, self._quotas.working(owner):
            try:
                process = await self._loaded(job_id, manifest, model)
                await process.send({"features": str(features), "samples": samples, "out": str(out)})
                await self._until(process, "predicted")
            except WorkerDiedError:
                await self._drop()
                raise
            except asyncio.CancelledError:
                # The worker computes on; its answer would be taken for that of the next call.
                await self._drop()
                raise

    async def forget(self, job_id: str) -> None:
        """End the worker that holds this job's keys."""
        if self._warm is not None and self._warm.job_id == job_id:
            await self._drop()

    async def close(self) -> None:
        await self._drop()

    async def _loaded(self, job_id: str, manifest: pb.Manifest, model: Path) -> WorkerProcess:
        if self._warm is not None and self._warm.job_id == job_id:
            return self._warm.process
        await self._drop()
        inputs = await in_thread(worker_inputs, self._store, job_id, manifest)
        need_bytes = memory_bytes(manifest_from_proto(manifest, allow_insecure=True))
        place = await in_thread(self._placement.take, need_bytes)
        try:
            process = await WorkerProcess.start(self._config, job_id, place.device)
        except BaseException:
            self._placement.give(place)
            raise
        self._warm = _Warm(job_id, process, place)
        await process.send({"command": "load", "model": str(model), **inputs})
        await self._until(process, "ready")
        return process

    async def _until(self, process: WorkerProcess, wanted: str) -> Record:
        async for record in process.events():
            name = record.get("event")
            if name == wanted:
                return record
            if name == "failed":
                info = failure(record)
                raise from_code(info.code, info.message, info.hint)
        raise WorkerDiedError("the compute process ended during a prediction")

    async def _drop(self) -> None:
        warm, self._warm = self._warm, None
        if warm is not None:
            await warm.process.stop()
            self._placement.give(warm.place)
