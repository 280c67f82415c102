"""Supervises the worker of one job: starts it, turns its events into messages, reports its death."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Awaitable, Callable

from hetal._pb import hetal_pb2 as pb
from hetal.errors import WorkerDiedError
from hetal.protocol.job import logits_blob
from hetal.protocol.messages import (
    BlobRef,
    FailureInfo,
    ServerMessage,
    WorkerDied,
    WorkerEpochDone,
    WorkerFailed,
    WorkerProgress,
)
from hetal.server.config import ServerConfig
from hetal.server.failpoints import failpoint
from hetal.server.log import event
from hetal.server.placement import Place, Placement
from hetal.server.store.store import Store
from hetal.server.threads import in_thread
from hetal.server.worker_process import Record, WorkerProcess


class Training:
    """One worker of one job, from its start to its end.

    Attributes:
        device: that the worker computes on; empty until it has one.
    """

    def __init__(
        self,
        *,
        job_id: str,
        manifest: pb.Manifest,
        answered_epoch: int,
        ranges: dict[int, float],
        kept: tuple[int, ...],
        delay_s: float,
        store: Store,
        config: ServerConfig,
        placement: Placement,
        memory_bytes: int,
    ) -> None:
        self._job_id = job_id
        self._manifest = manifest
        self._answered_epoch = answered_epoch
        self._ranges = ranges
        self._kept = kept
        self._delay_s = delay_s
        self._store = store
        self._config = config
        self._placement = placement
        self._memory_bytes = memory_bytes
        self.device = ""
        self._process: WorkerProcess | None = None
        self._stopped = asyncio.Event()
        self._ended = asyncio.Event()
        self._started = False

    async def run(self, report: Callable[[ServerMessage], Awaitable[None]]) -> None:
        """Work until the process ends; report its death unless :meth:`stop` caused it."""
        self._started = True
        status: int | None = None
        detail = ""
        place: Place | None = None
        try:
            if self._delay_s:
                await self._pause()
            if self._stopped.is_set():
                return
            command = await in_thread(self._command)
            failpoint("worker.start")
            place = await in_thread(self._placement.take, self._memory_bytes)
            self.device = place.device
            self._process = process = await WorkerProcess.start(self._config, self._job_id, place.device)
            failpoint("worker.started")
            event("worker started", job=self._job_id, answered_epoch=self._answered_epoch, device=self.device)
            if not self._stopped.is_set():
                await process.send(command)
                failpoint("worker.commanded")
                try:
                    async for record in process.events():
                        await report(_message(record))
                except WorkerDiedError as error:
                    detail = error.message
            status = await process.stop()
        except OSError as error:
            detail = f"it could not be started: {error.strerror}"
        finally:
            # Also when a report failed: a worker without a supervisor must not live.
            if self._process is not None:
                await self._process.stop()
            if place is not None:
                self._placement.give(place)
            self._ended.set()
        if not self._stopped.is_set():
            detail = detail or _exit_text(status)
            event("worker died", level=logging.WARNING, job=self._job_id, detail=detail)
            await report(WorkerDied(detail))

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    async def go_on(self, epoch: int, logits_max: float, kept: tuple[int, ...]) -> None:
        """Tell the worker that ``epoch`` is answered, with the range of the logits and the mini-batches from there on.

        Args:
            logits_max: 0 for the same.
            kept: empty for the same.
        """
        if self._process is not None:
            command = {"command": "continue", "epoch": epoch, "logits_max": logits_max, "kept": kept}
            await self._process.send(command)

    async def stop(self) -> None:
        """Kill the worker; its memory is free when this returns."""
        self._stopped.set()
        if self._process is not None:
            await self._process.stop()
        elif self._started:
            await self._ended.wait()

    async def drain(self, limit_s: float) -> None:
        """Let the worker end after its iteration, with a checkpoint; kill it where that takes longer than the limit."""
        self._stopped.set()
        if self._process is not None:
            await self._process.drain(limit_s)
        await self.stop()

    async def _pause(self) -> None:
        try:
            await asyncio.wait_for(self._stopped.wait(), self._delay_s)
        except asyncio.TimeoutError:
            return

    def _command(self) -> Record:
        return {
            "command": "train",
            "results": str(self._store.files.results(self._job_id)),
            "answered_epoch": self._answered_epoch,
            "ranges": self._ranges,
            "kept": self._kept,
            **worker_inputs(self._store, self._job_id, self._manifest),
        }


def worker_inputs(store: Store, job_id: str, manifest: pb.Manifest) -> Record:
    """What every command to a worker says of its job: the manifest, and where the blobs are."""
    blobs = {name: str(store.files.object(row.sha256)) for name, row in store.metadata.blobs(job_id).items()}
    return {"manifest": base64.b64encode(manifest.SerializeToString()).decode(), "blobs": blobs}


def _message(record: Record) -> ServerMessage:
    try:
        match record["event"]:
            case "progress":
                return WorkerProgress(
                    phase=str(record["phase"])[:100],
                    epoch=int(record["epoch"]),
                    iteration=int(record["iteration"]),
                    iterations_max=int(record["iterations_max"]),
                    seconds_per_iteration=float(record["seconds_per_iteration"]),
                )
            case "epoch":
                epoch = int(record["epoch"])
                return WorkerEpochDone(
                    epoch, _blob(logits_blob(epoch), record["logits"]), _blob(f"model/{epoch:05d}", record["model"])
                )
            case "failed":
                return WorkerFailed(failure(record))
    except (KeyError, TypeError, ValueError) as error:
        raise WorkerDiedError("the compute process wrote a malformed event") from error
    raise WorkerDiedError("the compute process wrote an unknown event")


def failure(record: Record) -> FailureInfo:
    return FailureInfo(str(record["code"])[:100], str(record["message"])[:2_000], str(record["hint"])[:2_000])


def _blob(name: str, values: Record) -> BlobRef:
    return BlobRef(name, int(values["bytes"]), bytes.fromhex(values["sha256"]))


def _exit_text(status: int | None) -> str:
    if status is None:
        return "it never ran"
    return f"killed by signal {-status}" if status < 0 else f"exit status {status}"
