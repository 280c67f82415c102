"""The worker process: owns the evaluator and the keys of one job, and dies with the front.

Commands come as JSON lines on standard input, events go as JSON lines to standard output, ciphertexts go through files.
Run as ``python -m hetal.server.worker``.
"""

from __future__ import annotations

import argparse
import base64
import ctypes
import gc
import hashlib
import json
import logging
import mmap
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from hetal import limits
from hetal._pb import hetal_pb2 as pb
from hetal.ckks.parameters import PARALLEL_RING_DIMENSION_MAX
from hetal.errors import HetalError, IntegrityError, MissingBlobError
from hetal.protocol.job import KEYS_MULT
from hetal.protocol.wire import CheckedManifest, manifest_from_proto
from hetal.server.checkpoint import Checkpoints
from hetal.server.config import BACKENDS
from hetal.server.failpoints import failpoint
from hetal.server.log import LOG, configure, event
from hetal.server.resources import shortage
from hetal.server.store.files import result_file, write_atomically

if TYPE_CHECKING:
    from hetal.server.trainer import Trainer

PR_SET_PDEATHSIG: Final = 1
OOM_SCORE_ADJUSTMENT: Final = "500"
ROTATION_PREFIX: Final = "keys/rotation/"
CRASH_TEXT: Final = "the computation failed; the server's log has the details"

Record = dict[str, Any]
ReadBlob = Callable[[str], memoryview]


class Worker:
    """Serves the commands of one front."""

    def __init__(self, commands: Iterator[Record], out: TextIO, threads: int, backend: str, device: str) -> None:
        self._commands = commands
        self._out = out
        self._threads = threads
        self._backend = backend
        self._device = device
        self._busy = False
        self._draining = False

    def drain(self) -> None:
        """End soon: at once where nothing would be lost, else with a checkpoint after the present iteration."""
        if not self._busy:
            raise SystemExit(0)
        self._draining = True

    def serve(self) -> None:
        """Work until the front closes the pipe. The first error ends the worker."""
        try:
            for command in self._commands:
                match command["command"]:
                    case "train":
                        self._train(command)
                    case "load":
                        self._predict(command)
        except HetalError as error:
            self._emit("failed", code=error.code, message=error.message, hint=error.hint)
        except Exception as error:
            known = shortage(error)
            if known is None:
                event("worker crashed", level=logging.ERROR, error=error)
                known = HetalError(CRASH_TEXT)
            self._emit("failed", code=known.code, message=known.message, hint=known.hint)

    # -- training -----------------------------------------------------------------------------------------------------

    def _train(self, command: Record) -> None:
        failpoint("train.begin")
        trainer, checked = self._trainer(command)
        failpoint("train.loaded")
        job = checked.job
        results = Path(command["results"])
        answered = int(command["answered_epoch"])
        ranges = {int(epoch): float(value) for epoch, value in command["ranges"].items()}
        trainer.kept = tuple(map(int, command["kept"]))
        checkpoints = Checkpoints(results)
        if not checkpoints.restore(trainer.restore):
            trainer.initialise()
        # It may lie behind the answers: a damaged checkpoint gave way to an older one, and epochs are computed again.
        if trainer.epoch > answered + 1:
            raise IntegrityError(f"the checkpoint is of epoch {trainer.epoch}, and epoch {answered} is answered")
        failpoint("train.restored")

        seconds, saved_s = 0.0, time.monotonic()
        while True:
            if trainer.epoch > answered:
                self._report_epoch(results, trainer.epoch)
                answered = self._answer(trainer, ranges)
                continue
            named = [epoch for epoch in ranges if epoch <= trainer.epoch]
            trainer.logits_max = ranges[max(named)] if named else job.logits_max
            self._progress("training", trainer, seconds)
            began = time.monotonic()
            self._busy = True
            failpoint("iteration.before")
            trainer.run_iteration()
            failpoint("iteration.after")
            gc.collect()
            seconds = time.monotonic() - began
            if trainer.epoch > answered:
                self._progress("validating", trainer, seconds)
                write_atomically(results / result_file(f"logits/{trainer.epoch:05d}"), trainer.validation_logits())
                write_atomically(results / result_file(f"model/{trainer.epoch:05d}"), trainer.model())
                failpoint("results.written")
            # The results of an epoch are on disk before the checkpoint that says it is over.
            due = trainer.epoch > answered or time.monotonic() - saved_s > limits.CHECKPOINT_INTERVAL_S
            if due or self._draining:
                checkpoints.save(trainer.checkpoint())
                saved_s = time.monotonic()
            self._busy = False
            if self._draining:
                raise SystemExit(0)

    def _report_epoch(self, results: Path, epoch: int) -> None:
        failpoint("epoch.before")
        self._emit(
            "epoch",
            epoch=epoch,
            logits=_facts(results / result_file(f"logits/{epoch:05d}")),
            model=_facts(results / result_file(f"model/{epoch:05d}")),
        )
        failpoint("epoch.after")

    def _answer(self, trainer: Trainer, ranges: dict[int, float]) -> int:
        epoch = trainer.epoch
        for command in self._commands:
            if command["command"] == "continue" and command["epoch"] == epoch:
                if command["logits_max"]:
                    ranges[epoch] = float(command["logits_max"])
                if command["kept"]:
                    trainer.kept = tuple(map(int, command["kept"]))
                failpoint("answer.passed")
                return epoch
        raise SystemExit(0)

    def _progress(self, phase: str, trainer: Trainer, seconds: float) -> None:
        self._emit(
            "progress",
            phase=phase,
            epoch=trainer.epoch + (phase == "training"),
            iteration=trainer.iterations_done,
            iterations_max=trainer.job.iterations_max,
            seconds_per_iteration=seconds,
        )

    # -- prediction ---------------------------------------------------------------------------------------------------

    def _predict(self, command: Record) -> None:
        trainer, _ = self._trainer(command)
        model = Path(command["model"]).read_bytes()
        self._emit("ready")
        for request in self._commands:
            features, out = Path(request["features"]), Path(request["out"])
            try:
                write_atomically(out, trainer.predict(features.read_bytes(), int(request["samples"]), model))
            except HetalError as error:
                self._emit("failed", code=error.code, message=error.message, hint=error.hint)
                continue
            gc.collect()
            self._emit("predicted", **_facts(out))

    # -- set-up -------------------------------------------------------------------------------------------------------

    def _trainer(self, command: Record) -> tuple[Trainer, CheckedManifest]:
        manifest = pb.Manifest.FromString(base64.b64decode(command["manifest"]))
        checked = manifest_from_proto(manifest, allow_insecure=True)
        from hetal.server.trainer import Trainer

        blobs: dict[str, str] = command["blobs"]

        def read_blob(name: str) -> memoryview:
            if name not in blobs:
                raise MissingBlobError(f"the job has no blob {name}")
            return _mapped(Path(blobs[name]))

        evaluator = self._evaluator(checked)
        trainer = Trainer(evaluator, evaluator, checked.job, read_blob)
        self._load_keys(evaluator, trainer, checked, read_blob, sorted(blobs))
        return trainer, checked

    def _evaluator(self, checked: CheckedManifest) -> Any:
        """Of the chosen backend. Only workers load it, inside their limits; a front does without."""
        params = checked.job.parameters
        if self._backend == "native":
            from hetal.kernels.backends.native import NativeEvaluator

            return NativeEvaluator(params, checked.key_tag, self._threads, device=self._device)
        # OpenMP reads it once, when OpenFHE is imported: at small rings the evaluator shares out ciphertexts instead.
        small = params.ring_dimension <= PARALLEL_RING_DIMENSION_MAX
        os.environ["OMP_NUM_THREADS"] = "1" if small else str(self._threads)
        from hetal.kernels.backends.openfhe import OpenFheEvaluator

        return OpenFheEvaluator(params, checked.key_tag, self._threads)

    def _load_keys(
        self, evaluator: Any, trainer: Trainer, checked: CheckedManifest, read_blob: ReadBlob, names: list[str]
    ) -> None:
        from hetal.ckks.framing import Kind, unframe

        kinds = {KEYS_MULT: Kind.MULT_KEY}
        kinds |= {name: Kind.ROTATION_KEYS for name in names if name.startswith(ROTATION_PREFIX)}

        def payload(name: str) -> memoryview:
            return unframe(read_blob(name), kinds[name], checked.job.parameters.digest)

        # Reading and hashing one blob takes as long as loading the keys of another.
        with ThreadPoolExecutor(1) as reader:
            waiting = list(kinds)
            ahead = reader.submit(payload, waiting[0])
            for done, name in enumerate(waiting):
                self._emit(
                    "progress",
                    phase="loading keys",
                    epoch=0,
                    iteration=done,
                    iterations_max=len(waiting),
                    seconds_per_iteration=0.0,
                )
                data = ahead.result()
                if done + 1 < len(waiting):
                    ahead = reader.submit(payload, waiting[done + 1])
                evaluator.load_key(kinds[name], data, trainer.plan.rotation_levels)
        evaluator.finish_keys(trainer.plan.rotations)
        gc.collect()

    def _emit(self, name: str, **fields: Any) -> None:
        self._out.write(json.dumps({"event": name, **fields}) + "\n")
        self._out.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="hetal.server.worker")
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--backend", choices=BACKENDS, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--memory-bytes", type=int)
    parser.add_argument("--job", required=True)
    parser.add_argument("--log-json", action="store_true")
    arguments = parser.parse_args()
    _die_with(arguments.parent)
    # CUDA reserves addresses without end.
    if arguments.memory_bytes is not None and not arguments.device.startswith("cuda"):
        resource.setrlimit(resource.RLIMIT_AS, (arguments.memory_bytes, arguments.memory_bytes))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The front answers while workers compute on every core.
    os.nice(limits.WORKER_NICENESS)
    configure(as_json=arguments.log_json)
    LOG.common["job"] = arguments.job
    # Libraries that write to standard output must not write into the protocol.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = Worker(map(json.loads, sys.stdin), out, arguments.threads, arguments.backend, arguments.device)
    signal.signal(signal.SIGTERM, lambda *_: worker.drain())
    worker.serve()
    return 0


def _die_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit(0)
    # Where memory runs out, the kernel is to end a worker, which starts again, and not the front.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE_ADJUSTMENT)


def _mapped(path: Path) -> memoryview:
    """The file's bytes, read as they are used: a blob of keys is never in memory as a whole."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _facts(path: Path) -> Record:
    data = path.read_bytes()
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


if __name__ == "__main__":
    sys.exit(main())
