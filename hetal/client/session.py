"""The asynchronous client: train on encrypted data, predict, look after jobs."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from hetal import limits
from hetal._pb import hetal_pb2 as pb
from hetal.ckks.presets import DEFAULT_PRESET, preset
from hetal.client.dataset import Array, Labels, Prepared, prepare
from hetal.client.encrypt import Encryptor, blob_sizes
from hetal.client.journal import Journal, Search
from hetal.client.keys import KeySet
from hetal.client.log import event
from hetal.client.model import Model
from hetal.client.tls import Tls
from hetal.client.transport import Hesitation, Transport, settled
from hetal.client.windows import Windows, add_data
from hetal.errors import (
    AlreadyAttachedError,
    ConnectionFailedError,
    DivergedError,
    HashMismatchError,
    HetalError,
    InputError,
    ShapeError,
    StateError,
    VersionError,
    from_code,
)
from hetal.kernels.clear import cross_entropy, half_spread, hardest
from hetal.kernels.plan import SOFTMAX_ERROR, method_for, plan
from hetal.kernels.softmax import fitted
from hetal.protocol.client_machine import ClientJob
from hetal.protocol.early_stopping import Decision, EarlyStopping, adapted_range
from hetal.protocol.job import KEYS_MULT, LOGITS_MAX, PROTOCOL_VERSION, JobSpec, SoftmaxSpec, logits_blob
from hetal.protocol.messages import (
    BlobRef,
    ClientEffect,
    ClientMessage,
    Complete,
    Connected,
    Decided,
    Disconnected,
    Evaluate,
    Fail,
    Failed,
    FailureInfo,
    Finished,
    Queued,
    SendAttach,
    SendContinue,
    SendStop,
    Validation,
    WorkerProgress,
)
from hetal.protocol.wire import manifest_from_proto, manifest_to_proto


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of a long phase.

    Attributes:
        phase: keys and data | queued | loading keys | training | validating | epoch.
        done, total: in the phase's own unit; total 0 where unknown.
        remaining_s: estimate, 0 where unknown.
        text: what there is to say.
    """

    phase: str
    done: int
    total: int
    remaining_s: float = 0.0
    text: str = ""


ProgressCallback = Callable[[Progress], None]


@dataclass(slots=True)
class History:
    """Validation loss and accuracy after each epoch, from decrypted logits.

    Attributes:
        kept: mini-batches that the training went on with; empty where none was pruned.
        warning: why the training ended early, where that was not for lack of progress.
    """

    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    best_epoch: int = 0
    kept: tuple[int, ...] = ()
    warning: str = ""

    @property
    def epochs(self) -> int:
        return len(self.losses)


@dataclass(frozen=True, slots=True)
class TrainedJob:
    """What a training gives.

    Attributes:
        seconds: wall time by phase.
        bytes_sent, bytes_received: payload of blobs.
        keys: still in memory, for encrypted predictions; never stored unless asked.
    """

    id: str
    spec: JobSpec
    model: Model
    history: History
    keys: KeySet
    bytes_sent: int
    bytes_received: int
    seconds: dict[str, float]


class Client:
    """``async with Client("127.0.0.1:7443") as client: job = await client.train(...)``."""

    def __init__(
        self, address: str, tls: Tls | None = None, *, allow_plaintext: bool = False, journal: Journal | None = None
    ) -> None:
        """``address``: HOST:PORT. ``tls``: needed for a server on another machine, unless ``allow_plaintext``.

        Args:
            journal: of every message that is sent; by default in the user's folder for the state of programs.

        Raises:
            CertificateError: a file of ``tls`` is unusable.
            PlaintextRefusedError: the server is on another machine, and neither option is given.
        """
        self._transport = Transport(address, tls, allow_plaintext=allow_plaintext, journal=journal)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._transport.close()

    # -- jobs ---------------------------------------------------------------------------------------------------------

    async def info(self) -> Any:
        """Versions, presets and limits of the server (``ServerInfo``)."""
        return await self._transport.call("GetServerInfo", pb.GetServerInfoRequest())

    async def jobs(self) -> list[Any]:
        """All jobs that the server knows (``Job``)."""
        return list((await self._transport.call("ListJobs", pb.ListJobsRequest())).jobs)

    async def shares(self) -> Any:
        """Who the server takes this client for, what it has there, and what it may have (``Shares``)."""
        return await self._transport.call("GetShares", pb.GetSharesRequest())

    async def get(self, job_id: str) -> Any:
        return await self._transport.call("GetJob", pb.GetJobRequest(job_id=job_id))

    async def cancel(self, job_id: str) -> Any:
        return await self._transport.call("CancelJob", pb.CancelJobRequest(job_id=job_id))

    async def delete(self, job_id: str) -> int:
        """Remove a job's keys, data and results from the server; returns the bytes freed."""
        return int((await self._transport.call("DeleteJob", pb.DeleteJobRequest(job_id=job_id))).bytes_freed)

    # -- training -----------------------------------------------------------------------------------------------------

    async def train(
        self,
        x: Any,
        y: Any,
        x_val: Any,
        y_val: Any,
        *,
        preset_name: str = DEFAULT_PRESET,
        epochs: int = 10,
        batch_size: int | None = None,
        learning_rate: float = 1.0,
        patience: int = 3,
        nesterov: bool = True,
        method: str | None = None,
        softmax_error: float = SOFTMAX_ERROR,
        logits_max: float = LOGITS_MAX,
        adaptive_range: bool = False,
        weight_bound: float = 16.0,
        softmax: SoftmaxSpec | None = None,
        prune_keep: float = 1.0,
        prune_after: int = 1,
        standardize: bool = True,
        seed: int = 0,
        initial: Model | None = None,
        name: str = "",
        keep_keys: Path | None = None,
        passphrase: str | None = None,
        progress: ProgressCallback | None = None,
    ) -> TrainedJob:
        """Encrypt, upload, train under supervision of the validation loss, fetch and decrypt the classifier.

        Args:
            x, x_val: (samples, features); y, y_val: one label per row, of any comparable type.
            batch_size: None for all rows in one batch.
            method: one of ``METHODS``; by default HETAL's where ``softmax`` is given, else the one of the fewest
                bootstraps that the server's backend has and whose error is allowed.
            softmax_error: largest error of a probability, where the method is chosen.
            logits_max: range of the logits; a training whose logits leave it ends with the best epoch before.
            adaptive_range: tell the server with each answer in which of four ranges the validation logits lie: smaller
                errors of the softmax for two bits an epoch (SECURITY.md).
            weight_bound, softmax: of HETAL's method.
            prune_keep: train on this share of the mini-batches alone after epoch ``prune_after``, on those with the
                largest errors; the server learns which (SECURITY.md).
            initial: start from this model's weights; its standardisation should be that of this data.
            keep_keys: write the key pair there, for later encrypted predictions or to resume; else it dies with the
            process.

        Raises:
            InputError: the data or an option is wrong; nothing was sent.
            DivergedError: logits left the range of the encrypted softmax; the job is cancelled.
            HetalError: what the server or the connection reports.
        """
        data = prepare(x, y, x_val, y_val, standardize=standardize, seed=seed)
        if method is None:
            classes = len(data.labels.values)
            phases = softmax is None and (await self.info()).backend == "native"
            method = "hetal" if softmax is not None else method_for(classes, logits_max, phases, softmax_error)
        spec = job_spec(
            data,
            preset_name=preset_name,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            patience=patience,
            nesterov=nesterov,
            method=method,
            logits_max=logits_max,
            adaptive_range=adaptive_range,
            weight_bound=weight_bound,
            softmax=softmax,
            prune_keep=prune_keep,
            prune_after=prune_after,
        )
        run = _Run(self._transport, spec, data, (x, x_val), progress or (lambda _: None))
        return await run.execute(initial, name, keep_keys, passphrase)

    async def resume(
        self,
        job_id: str,
        keys: KeySet,
        x: Any,
        y: Any,
        x_val: Any,
        y_val: Any,
        *,
        standardize: bool = True,
        seed: int = 0,
        initial: Model | None = None,
        progress: ProgressCallback | None = None,
    ) -> TrainedJob:
        """Take up a job whose client process ended: upload what is missing, judge what waits, fetch the classifier.

        Data, ``standardize``, ``seed`` and ``initial`` must be those of :meth:`train`. The losses of earlier epochs are
        computed again from the logits that the server keeps; of their answers at most the last one is sent again, so
        each call may tell a dishonest server one bit more.

        Raises:
            ShapeError: the data do not have the job's shape.
            InputError: on these data the training would have stopped before it did.
            StateError: the keys are not the job's.
        """
        job = await self.get(job_id)
        spec = _spec_of(job.manifest, keys)
        data = prepare(x, y, x_val, y_val, standardize=standardize, seed=seed)
        _check_shape(spec, data)
        run = _Run(self._transport, spec, data, (x, x_val), progress or (lambda _: None))
        return await run.resume(job, keys, initial)

    # -- prediction ---------------------------------------------------------------------------------------------------

    async def predict_encrypted(self, job_id: str, model: Model, keys: KeySet, x: Any) -> Array:
        """Logits of raw features (samples, features), computed by the server on ciphertexts with the job's classifier.

        ``model`` gives the standardisation alone; its weights are not used.
        """
        manifest = (await self.get(job_id)).manifest
        prepared = model.prepared(x)
        spec = _spec_of(manifest, keys)
        encryptor = Encryptor(spec, plan(spec), keys)
        blob = await asyncio.to_thread(encryptor.features, prepared)
        header = pb.PredictHeader(
            job_id=job_id, samples=len(prepared), bytes=len(blob), sha256=hashlib.sha256(blob).digest()
        )

        hesitation = Hesitation()

        async def parts() -> AsyncIterator[pb.PredictRequest]:
            yield pb.PredictRequest(header=header)
            await hesitation.pause()
            for offset in range(0, len(blob), limits.CHUNK_BYTES):
                if hesitation.refused:
                    return
                chunk = blob[offset : offset + limits.CHUNK_BYTES]
                self._transport.bytes_sent += len(chunk)
                yield pb.PredictRequest(chunk=pb.UploadChunk(offset=offset, data=chunk))

        async def attempt() -> bytes:
            received = bytearray()
            call = self._transport.stub.Predict(parts())

            async def read() -> None:
                async for response in call:
                    if response.WhichOneof("part") == "chunk":
                        if response.chunk.offset != len(received) or len(received) > limits.BLOB_BYTES_MAX:
                            raise HashMismatchError("the server sent its prediction out of order")
                        received.extend(response.chunk.data)

            with hesitation.learn(call):
                await settled(read())
            self._transport.bytes_received += len(received)
            return bytes(received)

        result = await self._transport.retried(attempt)
        return await asyncio.to_thread(encryptor.logits, result, len(prepared))


def job_spec(
    data: Prepared,
    *,
    preset_name: str,
    epochs: int,
    batch_size: int | None,
    learning_rate: float,
    patience: int = 3,
    nesterov: bool = True,
    method: str = "pairwise",
    logits_max: float = LOGITS_MAX,
    adaptive_range: bool = False,
    weight_bound: float = 16.0,
    softmax: SoftmaxSpec | None = None,
    prune_keep: float = 1.0,
    prune_after: int = 1,
) -> JobSpec:
    """The checked public description of a training on prepared data.

    The softmax's inverse is widened where the number of classes needs it.
    """
    rows = len(data.x_train)
    spec = JobSpec(
        parameters=preset(preset_name),
        train_samples=rows,
        validation_samples=len(data.x_val),
        features=data.x_train.shape[1],
        classes=len(data.labels.values),
        batch_size=min(batch_size, rows) if batch_size is not None else rows,
        epochs_max=epochs,
        patience=patience,
        learning_rate=learning_rate,
        nesterov=nesterov,
        method=method,
        logits_max=logits_max,
        adaptive_range=adaptive_range,
        weight_bound=weight_bound,
        softmax=fitted(softmax or SoftmaxSpec(), len(data.labels.values)),
        prune_keep=prune_keep,
        prune_after=prune_after,
    )
    spec.check()
    return spec


class _Run:
    """One training from keys to classifier."""

    def __init__(
        self, transport: Transport, spec: JobSpec, data: Prepared, raw: tuple[Any, Any], report: ProgressCallback
    ) -> None:
        self.transport = transport
        self.spec = spec
        self.data = data
        self.raw = raw
        self.report = report
        self.seconds: dict[str, float] = {}
        self.history = History()
        self.logits: list[Array] = []

    async def execute(
        self, initial: Model | None, name: str, keep_keys: Path | None, passphrase: str | None
    ) -> TrainedJob:
        chosen = plan(self.spec)
        with self._timed("keys"):
            keys = await asyncio.to_thread(KeySet.generate, self.spec.parameters)
            if keep_keys is not None:
                await asyncio.to_thread(keys.save, keep_keys, passphrase)
            names = await asyncio.to_thread(keys.rotation_key_blob_names, chosen.rotations)
        encryptor = Encryptor(self.spec, chosen, keys)
        sizes = blob_sizes(self.spec, chosen)
        key_bytes = self.spec.parameters.key_bytes() + (1 << 20)
        sizes |= {KEYS_MULT: key_bytes} | dict.fromkeys(names, (limits.ROTATION_KEYS_PER_BLOB + 16) * key_bytes)
        job_id = await self._create(keys, sizes, name)
        return await self._complete(job_id, encryptor, set(sizes), initial, epochs_trained=0)

    async def resume(self, job: pb.Job, keys: KeySet, initial: Model | None) -> TrainedJob:
        encryptor = Encryptor(self.spec, plan(self.spec), keys)
        missing: set[str] = set()
        if job.state == pb.JOB_STATE_UPLOADING:
            status = await self.transport.call("StatBlobs", pb.StatBlobsRequest(job_id=job.id))
            missing = {blob.name for blob in status.blobs if not blob.complete}
        return await self._complete(job.id, encryptor, missing, initial, epochs_trained=job.epoch)

    async def _complete(
        self, job_id: str, encryptor: Encryptor, missing: set[str], initial: Model | None, epochs_trained: int
    ) -> TrainedJob:
        """From a registered job to its classifier. ``missing``: blobs to upload."""
        keys = encryptor.keys
        sent, received = self.transport.bytes_sent, self.transport.bytes_received
        if missing:
            with self._timed("upload"):
                await self._upload(job_id, missing, self._objects(encryptor, initial))
        with self._timed("training"):
            finished = await self._drive(job_id, encryptor, epochs_trained)
        with self._timed("download"):
            blob = await self.transport.download(
                job_id, finished.model.name, finished.model.size_bytes, finished.model.sha256
            )
            start = initial.weights if initial is not None else None
            weights = await asyncio.to_thread(encryptor.weights, blob, start)
        self.history.best_epoch = finished.best_epoch
        wire = self.transport.journal.wire_file(job_id)
        if wire is not None:
            with self._timed("audit"):
                search = await asyncio.to_thread(self._search, wire, encryptor, weights)
            self.transport.journal.searched(job_id, search)
        info = {"preset": self.spec.parameters.name, "job": job_id, "history": asdict(self.history)}
        return TrainedJob(
            id=job_id,
            spec=self.spec,
            model=Model(weights, self.data.standardizer, self.data.labels, info),
            history=self.history,
            keys=keys,
            bytes_sent=self.transport.bytes_sent - sent,
            bytes_received=self.transport.bytes_received - received,
            seconds=self.seconds,
        )

    def _search(self, wire: Path, encryptor: Encryptor, weights: Array) -> Search:
        """Look for everything secret of this training in what was sent. The logits are nowhere else but here."""
        windows = Windows()
        encryptor.keys.add_secret_to(windows)
        add_data(windows, self.data, self.raw)
        windows.add_reals("weights", weights)
        for logits in self.logits:
            windows.add_reals("logits", logits)
        hits = windows.search_file(wire)
        if hits:
            event("secrets in the clear were sent", level=logging.ERROR, found=len(hits))
        return Search(time.time(), len(windows), wire.stat().st_size, tuple(map(str, hits)))

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[phase] = time.monotonic() - began

    async def _create(self, keys: KeySet, sizes: dict[str, int], name: str) -> str:
        request = pb.CreateJobRequest(
            idempotency_key=uuid.uuid4().hex,
            manifest=manifest_to_proto(self.spec, key_tag=keys.key_tag, blobs=sizes, name=name),
            protocol_version=PROTOCOL_VERSION,
        )
        job = await self.transport.call("CreateJob", request)
        self.transport.journal.named(request.idempotency_key, job.id)
        return str(job.id)

    # -- upload -------------------------------------------------------------------------------------------------------

    def _objects(self, encryptor: Encryptor, initial: Model | None) -> Iterator[tuple[str, bytes]]:
        """Every blob of the job, made when it is asked for."""
        yield KEYS_MULT, encryptor.keys.mult_key_blob()
        yield from encryptor.keys.rotation_key_blobs(encryptor.plan.rotations)
        yield from encryptor.blobs(self.data, initial.weights if initial is not None else None)

    async def _upload(self, job_id: str, missing: set[str], objects: Iterator[tuple[str, bytes]]) -> None:
        """Upload one blob while the next one is made: two blobs in memory at most."""
        began, total = time.monotonic(), len(missing)
        making = asyncio.create_task(asyncio.to_thread(next, objects, None))
        done = 0
        while (item := await making) is not None:
            making = asyncio.create_task(asyncio.to_thread(next, objects, None))
            blob_name, data = item
            # Encryption is randomised: a blob that the server has cannot be made a second time.
            if blob_name not in missing:
                continue
            await self.transport.upload(job_id, blob_name, data)
            done += 1
            elapsed = time.monotonic() - began
            self.report(Progress("keys and data", done, total, elapsed / done * (total - done), blob_name))

    # -- training -----------------------------------------------------------------------------------------------------

    async def _drive(self, job_id: str, encryptor: Encryptor, epochs_trained: int) -> Finished:
        """Answer validation logits until the job ends, over as many streams as that takes."""
        stopping = EarlyStopping(self.spec.patience, self.spec.epochs_max)
        try:
            decisions = await self._replay(job_id, encryptor, stopping, epochs_trained)
            return await self._answer(job_id, encryptor, stopping, decisions)
        except DivergedError:
            # The advice matters more than a job that ended meanwhile.
            with suppress(HetalError):
                await self.transport.call("CancelJob", pb.CancelJobRequest(job_id=job_id))
            raise

    async def _replay(
        self, job_id: str, encryptor: Encryptor, stopping: EarlyStopping, epochs: int
    ) -> dict[int, Decision]:
        """The answers to epochs that are trained already, judged again from the logits that the server keeps.

        OpenFHE's decryption adds fresh noise (about 1e-11 here), so a loss that ties with the best one to within it may
        be judged otherwise than before. Only the answer to the last epoch can still be sent, and only when the server
        says that it has none: what was answered is never contradicted.
        """
        decisions: dict[int, Decision] = {}
        for epoch in range(1, epochs + 1):
            if stopping.stopped:
                raise InputError(f"on these data the training would have ended with epoch {epoch - 1}")
            data = await self.transport.download(job_id, logits_blob(epoch), limits.BLOB_BYTES_MAX, None)
            decisions[epoch] = await self._judge(encryptor, stopping, epoch, data)
        return decisions

    async def _answer(
        self, job_id: str, encryptor: Encryptor, stopping: EarlyStopping, decisions: dict[int, Decision]
    ) -> Finished:
        machine = ClientJob(decisions)
        session = uuid.uuid4().hex
        heard = 0

        async def attempt() -> Finished:
            nonlocal heard
            outgoing: asyncio.Queue[pb.TrainRequest | None] = asyncio.Queue()

            async def requests() -> AsyncIterator[pb.TrainRequest]:
                while (request := await outgoing.get()) is not None:
                    yield request

            async def perform(effects: list[ClientEffect]) -> Finished | None:
                for effect in effects:
                    match effect:
                        case Evaluate(validation):
                            ref = validation.blob
                            data = await self.transport.download(job_id, ref.name, ref.size_bytes, ref.sha256)
                            decision = await self._judge(encryptor, stopping, validation.epoch, data)
                            await perform(machine.handle(Decided(validation.epoch, decision)))
                        case Complete(finished):
                            return finished
                        case Fail(info):
                            raise _failure(info)
                        case SendAttach() | SendContinue() | SendStop():
                            outgoing.put_nowait(_request(job_id, session, effect))
                        case _:
                            self._report(effect.event)
                return None

            stream = self.transport.stub.Train(requests())
            await perform(machine.handle(Connected()))
            try:
                async for event in stream:
                    heard += 1
                    finished = await perform(machine.handle(_message(event)))
                    if finished is not None:
                        return finished
            finally:
                outgoing.put_nowait(None)
                stream.cancel()
                machine.handle(Disconnected())
            raise StateError("the server ended the training's stream without a result")

        # After a network failure the server holds the dead stream for attached until its keepalive runs out.
        return await self.transport.retried(attempt, lambda: heard, (ConnectionFailedError, AlreadyAttachedError))

    async def _judge(self, encryptor: Encryptor, stopping: EarlyStopping, epoch: int, data: bytes) -> Decision:
        scores: list[Array] = []
        try:
            if self.spec.prunes and epoch == self.spec.prune_after:
                logits, scores = await asyncio.to_thread(encryptor.logits_and_scores, data)
            else:
                logits = await asyncio.to_thread(encryptor.logits, data, len(self.data.x_val))
            self._check_range(logits, epoch)
        except DivergedError as error:
            if not stopping.best_epoch:
                raise
            # The classifier of the best epoch is sound: logits grow little by little.
            self.history.warning = f"stopped after epoch {epoch}: {error.message}. {error.hint}"
            self.report(Progress("epoch", epoch, self.spec.epochs_max, 0.0, self.history.warning))
            return stopping.give_up()
        loss, accuracy = cross_entropy(logits, self.data.y_val), _accuracy(logits, self.data.y_val)
        decision = stopping.update(loss)
        if self.spec.adaptive_range and not decision.stop:
            decision = replace(decision, logits_max=adapted_range(half_spread(logits), self.spec.logits_max))
        if scores and not decision.stop:
            kept = hardest([float(batch.mean()) for batch in scores], self.spec.batches_kept)
            decision, self.history.kept = replace(decision, kept=kept), kept
        self.logits.append(logits)
        self.history.losses.append(loss)
        self.history.accuracies.append(accuracy)
        text = f"loss {loss:.4f}, accuracy {100 * accuracy:.2f} %" + (", best so far" if decision.best else "")
        self.report(Progress("epoch", epoch, self.spec.epochs_max, 0.0, text))
        return decision

    def _check_range(self, logits: Array, epoch: int) -> None:
        """Outside [-R, R] the encrypted softmax is not a softmax any more, and garbage may look like progress."""
        limit = self.spec.logit_range
        largest = float(np.abs(logits).max())
        if not np.isfinite(logits).all() or largest > limit:
            raise DivergedError(
                f"logits of epoch {epoch} reach {largest:.3g}; the encrypted softmax is valid up to {limit:g}"
            )

    def _report(self, event: Queued | WorkerProgress) -> None:
        if isinstance(event, Queued):
            self.report(Progress("queued", 0, 0, 0.0, f"{event.jobs_ahead} jobs ahead"))
            return
        remaining = event.seconds_per_iteration * (event.iterations_max - event.iteration)
        text = f"{event.seconds_per_iteration:.1f} s an iteration" if event.seconds_per_iteration else ""
        self.report(Progress(event.phase, event.iteration, event.iterations_max, remaining, text))


def _accuracy(logits: Array, labels: Labels) -> float:
    return float((logits.argmax(axis=1) == labels).mean())


def _failure(info: FailureInfo) -> HetalError:
    return from_code(info.code, info.message, info.hint)


def _request(job_id: str, session: str, effect: SendAttach | SendContinue | SendStop) -> pb.TrainRequest:
    request = pb.TrainRequest(job_id=job_id)
    if isinstance(effect, SendAttach):
        request.attach.session = session
    else:
        answer = getattr(request, "continue") if isinstance(effect, SendContinue) else request.stop
        answer.epoch, answer.best = effect.epoch, effect.best
        if isinstance(effect, SendContinue):
            getattr(request, "continue").logits_max = effect.logits_max
            getattr(request, "continue").kept.extend(effect.kept)
    return request


def _message(event: pb.TrainEvent) -> ClientMessage:
    match event.WhichOneof("event"):
        case "queued":
            return Queued(event.queued.jobs_ahead)
        case "progress":
            p = event.progress
            return WorkerProgress(p.phase, p.epoch, p.iteration, p.iterations_max, p.seconds_per_iteration)
        case "validation":
            v = event.validation
            return Validation(v.epoch, BlobRef(v.blob, v.bytes, v.sha256))
        case "finished":
            f = event.finished
            return Finished(f.epochs, f.best_epoch, BlobRef(f.blob, f.bytes, f.sha256))
        case "failed":
            return Failed(FailureInfo(event.failed.code, event.failed.message, event.failed.hint))
    raise VersionError("the server sent an event that this release does not know")


def _check_shape(spec: JobSpec, data: Prepared) -> None:
    for what, found, due in (
        ("training rows", len(data.x_train), spec.train_samples),
        ("validation rows", len(data.x_val), spec.validation_samples),
        ("features", data.x_train.shape[1], spec.features),
        ("classes", len(data.labels.values), spec.classes),
    ):
        if found != due:
            raise ShapeError(f"the data have {found} {what}; the job was made with {due}")


def _spec_of(manifest: pb.Manifest, keys: KeySet) -> JobSpec:
    checked = manifest_from_proto(manifest, allow_insecure=True)
    if checked.key_tag != keys.key_tag:
        raise StateError("these keys are not the ones that the job was made with")
    return replace(checked.job, parameters=keys.params)
