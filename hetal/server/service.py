"""The RPCs. Thin: each turns messages into calls of the job manager, the uploads and the predictor."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from hetal import limits
from hetal._pb import hetal_pb2 as pb
from hetal._pb import hetal_pb2_grpc
from hetal._version import __version__
from hetal.ckks.presets import PRESETS, preset
from hetal.errors import (
    ChunkOrderError,
    HetalError,
    InputError,
    JobNotFoundError,
    OversizedError,
    StateError,
    UnknownBlobError,
)
from hetal.kernels import cost_store
from hetal.processor import core_count
from hetal.protocol.job import MODEL, PROTOCOL_VERSION, logits_blob
from hetal.protocol.messages import (
    Continue,
    Event,
    Failed,
    Finished,
    Queued,
    State,
    Stop,
    Validation,
    WorkerProgress,
)
from hetal.server.config import ServerConfig
from hetal.server.failpoints import failpoint
from hetal.server.identity import caller
from hetal.server.jobs import Events, Job, Jobs
from hetal.server.prediction import Predictor
from hetal.server.quota import Quotas
from hetal.server.retention import Remover
from hetal.server.store.store import Store
from hetal.server.threads import in_thread
from hetal.server.uploads import SHA256_BYTES, Uploads, receive_file


class HetalService(hetal_pb2_grpc.HetalServicer):
    def __init__(
        self,
        config: ServerConfig,
        store: Store,
        jobs: Jobs,
        uploads: Uploads,
        predictor: Predictor,
        remover: Remover,
        quotas: Quotas,
    ) -> None:
        self._config = config
        self._store = store
        self._jobs = jobs
        self._uploads = uploads
        self._quotas = quotas
        self._predictor = predictor
        self._remover = remover

    async def GetServerInfo(self, request: pb.GetServerInfoRequest, context: Any) -> pb.ServerInfo:
        allowed = [name for name in PRESETS if self._config.allow_insecure or preset(name).secure]
        return pb.ServerInfo(
            version=__version__,
            protocol_version=PROTOCOL_VERSION,
            backend=self._config.backend or "",
            presets=allowed,
            insecure_allowed=self._config.allow_insecure,
            chunk_bytes=limits.CHUNK_BYTES,
            blob_bytes_max=limits.BLOB_BYTES_MAX,
            job_bytes_max=limits.JOB_BYTES_MAX,
            costs=await in_thread(self._costs, allowed) if self._measured else [],
        )

    @property
    def _measured(self) -> bool:
        """Whether tables of this machine's processor tell what its workers take."""
        return self._config.backend == "native" and self._config.chosen_devices() == ("cpu",)

    def _costs(self, presets: list[str]) -> list[pb.CostTable]:
        threads = self._config.threads or core_count()
        tables = ((preset(name), cost_store.load(preset(name), threads)) for name in presets)
        return [cost_store.to_proto(params, table) for params, table in tables if table is not None]

    async def GetShares(self, request: pb.GetSharesRequest, context: Any) -> pb.Shares:
        owner = caller().owner
        return await self._quotas.shares(owner, self._jobs.states(owner))

    async def CreateJob(self, request: pb.CreateJobRequest, context: Any) -> pb.Job:
        return await self._jobs.to_proto(await self._jobs.create(request, caller()))

    async def GetJob(self, request: pb.GetJobRequest, context: Any) -> pb.Job:
        return await self._jobs.to_proto(self._jobs.get(request.job_id, caller()))

    async def ListJobs(self, request: pb.ListJobsRequest, context: Any) -> pb.ListJobsResponse:
        return pb.ListJobsResponse(
            jobs=[await self._jobs.to_proto(job, brief=True) for job in self._jobs.seen_by(caller())]
        )

    async def CancelJob(self, request: pb.CancelJobRequest, context: Any) -> pb.Job:
        job = self._jobs.get(request.job_id, caller())
        await self._jobs.cancel(job)
        await self._uploads.revoke_job(job.id)
        return await self._jobs.to_proto(job)

    async def DeleteJob(self, request: pb.DeleteJobRequest, context: Any) -> pb.DeleteJobResponse:
        try:
            freed = await self._remover.remove(self._jobs.get(request.job_id, caller()))
        except JobNotFoundError:
            # The answer to the same call may have been lost.
            freed = await self._jobs.deleted(request.job_id, caller())
        return pb.DeleteJobResponse(bytes_freed=freed)

    async def UploadBlob(self, request_iterator: AsyncIterator[pb.UploadBlobRequest], context: Any) -> pb.BlobStatus:
        return await self._uploads.receive(request_iterator, caller())

    async def StatBlobs(self, request: pb.StatBlobsRequest, context: Any) -> pb.StatBlobsResponse:
        job = self._jobs.get(request.job_id, caller())
        return pb.StatBlobsResponse(blobs=await self._uploads.stat(job, list(request.names)))

    async def Train(
        self, request_iterator: AsyncIterator[pb.TrainRequest], context: Any
    ) -> AsyncIterator[pb.TrainEvent]:
        first = await _first(request_iterator)
        if first is None or first.WhichOneof("message") != "attach":
            raise StateError("the first message of a Train stream is Attach")
        job = self._jobs.get(first.job_id, caller())
        session = first.attach.session
        if len(session) > limits.IDEMPOTENCY_KEY_CHARS_MAX:
            raise InputError(f"a session has at most {limits.IDEMPOTENCY_KEY_CHARS_MAX} characters")
        client, events = await self._jobs.attach(job, session)
        reader = asyncio.ensure_future(self._read_answers(request_iterator, job, client, events))
        try:
            while (item := await events.get()) is not None:
                if isinstance(item, HetalError):
                    raise item
                yield _event(item)
                failpoint("event.after")
        finally:
            reader.cancel()
            await self._jobs.detach(job, client)

    async def DownloadModel(self, request: pb.DownloadRequest, context: Any) -> AsyncIterator[pb.DownloadChunk]:
        job = self._jobs.get(request.job_id, caller())
        async for chunk in _chunks(self._result(job, request.blob), request.offset):
            yield chunk

    async def Predict(
        self, request_iterator: AsyncIterator[pb.PredictRequest], context: Any
    ) -> AsyncIterator[pb.PredictResponse]:
        first = await _first(request_iterator)
        if first is None or first.WhichOneof("part") != "header":
            raise InputError("the first message of a prediction is its header")
        header = first.header
        job = self._jobs.get(header.job_id, caller())
        model = self._result(job, MODEL)
        if not 1 <= header.samples <= limits.SAMPLES_MAX:
            raise InputError(f"samples = {header.samples} is outside 1..{limits.SAMPLES_MAX}")
        if len(header.sha256) != SHA256_BYTES or header.bytes < 1:
            raise InputError("a prediction announces its size and its SHA-256")
        if header.bytes > limits.BLOB_BYTES_MAX:
            raise OversizedError(f"{header.bytes} bytes of features; at most {limits.BLOB_BYTES_MAX} are taken")
        stem = self._store.files.scratch / uuid.uuid4().hex
        features, logits = stem.with_suffix(".features"), stem.with_suffix(".logits")
        try:
            async with self._quotas.room(job.owner, features, header.bytes):
                await receive_file(request_iterator, features, header.bytes, bytes(header.sha256))
                yield pb.PredictResponse(progress=pb.Progress(phase="predicting"))
                await self._predictor.predict(job.owner, job.id, job.manifest, model, features, header.samples, logits)
                async for chunk in _chunks(logits, 0):
                    yield pb.PredictResponse(chunk=chunk)
        finally:
            features.unlink(missing_ok=True)
            logits.unlink(missing_ok=True)

    # -- parts --------------------------------------------------------------------------------------------------------

    async def _read_answers(
        self, requests: AsyncIterator[pb.TrainRequest], job: Job, client: str, events: Events
    ) -> None:
        """Feed the client's answers to the machine; whatever goes wrong ends the stream."""
        try:
            async for request in requests:
                failpoint("answer.heard")
                if request.job_id and request.job_id != job.id:
                    raise InputError("a Train stream serves one job")
                match request.WhichOneof("message"):
                    case "continue":
                        answer = getattr(request, "continue")
                        spec, kept = job.checked.job, tuple(answer.kept)
                        spec.check_range(answer.logits_max)
                        spec.check_kept(answer.epoch, kept)
                        taken = Continue(client, answer.epoch, answer.best, answer.logits_max, kept)
                        await self._jobs.dispatch(job, taken)
                    case "stop":
                        await self._jobs.dispatch(job, Stop(client, request.stop.epoch, request.stop.best))
                    case _:
                        raise StateError("the client is attached already; only Continue and Stop may follow")
        except HetalError as error:
            events.put_nowait(error)
        else:
            events.put_nowait(None)

    def _result(self, job: Job, name: str) -> Path:
        """File of a result blob: logits of a trained epoch, or the classifier of a finished job."""
        snap = job.machine.snapshot
        if name == MODEL:
            if snap.state is not State.FINISHED or snap.best_model is None:
                raise StateError(f"the job is {snap.state.value} and has no classifier yet")
            return self._store.files.result(job.id, snap.best_model.name)
        if name in {logits_blob(epoch) for epoch in range(1, snap.epoch + 1)}:
            return self._store.files.result(job.id, name)
        raise UnknownBlobError(
            f"the job has no result {name[:100]!r}", hint=f"Results are {MODEL!r} and {logits_blob(1)!r} and so on."
        )


def _event(event: Event) -> pb.TrainEvent:
    match event:
        case Queued(ahead):
            return pb.TrainEvent(queued=pb.Queued(jobs_ahead=ahead))
        case WorkerProgress():
            return pb.TrainEvent(
                progress=pb.Progress(
                    phase=event.phase,
                    epoch=event.epoch,
                    iteration=event.iteration,
                    iterations_max=event.iterations_max,
                    seconds_per_iteration=event.seconds_per_iteration,
                )
            )
        case Validation(epoch, blob):
            return pb.TrainEvent(
                validation=pb.ValidationLogits(epoch=epoch, blob=blob.name, bytes=blob.size_bytes, sha256=blob.sha256)
            )
        case Finished(epochs, best, model):
            return pb.TrainEvent(
                finished=pb.Finished(
                    epochs=epochs, best_epoch=best, blob=model.name, bytes=model.size_bytes, sha256=model.sha256
                )
            )
        case Failed(info):
            return pb.TrainEvent(failed=pb.Failure(code=info.code, message=info.message, hint=info.hint))


async def _first(requests: AsyncIterator[Any]) -> Any:
    try:
        return await asyncio.wait_for(requests.__anext__(), limits.UNARY_DEADLINE_S)
    except StopAsyncIteration:
        return None
    except asyncio.TimeoutError:
        raise StateError(f"no message came for {limits.UNARY_DEADLINE_S} s") from None


async def _chunks(path: Path, offset: int) -> AsyncIterator[pb.DownloadChunk]:
    """The file from ``offset``; one empty chunk where nothing is left, so that the size is always told."""
    with await in_thread(open, path, "rb") as file:
        total = path.stat().st_size
        if offset > total:
            raise ChunkOrderError(f"offset {offset} is behind the end of the {total} bytes")
        file.seek(offset)
        while True:
            data = await in_thread(file.read, limits.CHUNK_BYTES)
            failpoint("download.chunk")
            yield pb.DownloadChunk(offset=offset, total_bytes=total, data=data)
            offset += len(data)
            if offset >= total:
                return
