"""The training loop of a worker: blobs in, blobs out, state in between. Knows no network and no job database."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Protocol

from hetal._version import __version__
from hetal.ckks.framing import Kind, frame, join, split, unframe
from hetal.errors import CiphertextFormatError, IntegrityError, ShapeError
from hetal.kernels.evaluator import Ciphertext, Evaluator
from hetal.kernels.plan import Plan, plan
from hetal.protocol.job import INITIAL_WEIGHTS, VALIDATION_X, JobSpec, batch_x_blob, batch_y_blob

LOGITS_LEVEL = 0


class Codec(Protocol):
    """What a backend offers to move ciphertexts in and out of bytes."""

    def load(self, data: bytes) -> Ciphertext: ...
    def dump(self, ct: Ciphertext) -> bytes: ...
    def dump_result(self, ct: Ciphertext, level: int) -> bytes: ...


class Trainer:
    """Runs one job on one evaluator.

    Args:
        evaluator: with all keys loaded.
        codec: of the same backend; usually the same object.
        job: checked.
        read_blob: gives the framed blob of that name.

    Attributes:
        logits_max: range of the logits in the next iteration.
        kept: mini-batches of the epochs after ``job.prune_after``; empty for all.
    """

    def __init__(
        self, evaluator: Evaluator, codec: Codec, job: JobSpec, read_blob: Callable[[str], bytes | memoryview]
    ) -> None:
        self.job = job
        self.plan: Plan = plan(job)
        self.epoch = 0
        self.iterations_done = 0
        self._ev = evaluator
        self._codec = codec
        self._read_blob = read_blob
        self._digest = job.parameters.digest
        self.logits_max = job.logits_max
        self.kept: tuple[int, ...] = ()
        self._scores: list[bytes] = []
        self._circuit = self.plan.circuit
        self._state: list[Ciphertext] | None = None
        self._validation: list[Ciphertext] | None = None

    # -- life ---------------------------------------------------------------------------------------------------------

    def initialise(self) -> None:
        """Begin with the client's initial weights."""
        circuit = self._circuit
        weights = self._ciphertexts(INITIAL_WEIGHTS, circuit.weights_count, circuit.levels.weights)
        self._state = circuit.begin(self._ev, weights)
        self.epoch = self.iterations_done = 0
        self._scores = []

    def checkpoint(self) -> bytes:
        """All that a later process needs to go on exactly here, framed."""
        state = self._require_state()
        head = {"version": __version__, "epoch": self.epoch, "iterations": self.iterations_done}
        parts = [*(self._codec.dump(ct) for ct in state), *self._scores]
        return frame(Kind.CHECKPOINT, self._digest, join([json.dumps(head).encode(), *parts]))

    def restore(self, checkpoint: bytes) -> None:
        """Go on from a checkpoint; raises an :class:`IntegrityError` where it is damaged or of another job."""
        head, *parts = split(unframe(checkpoint, Kind.CHECKPOINT, self._digest))
        try:
            values = json.loads(bytes(head))
            epoch, iterations = int(values["epoch"]), int(values["iterations"])
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(f"the checkpoint's head is unreadable: {error}") from error
        states, scores = self._circuit.state_count, self._scores_due(epoch, iterations)
        if len(parts) != states + scores:
            raise IntegrityError(f"the checkpoint holds {len(parts)} ciphertexts, not {states + scores}")
        self._state = [self._codec.load(part) for part in parts[:states]]
        self._scores = [bytes(part) for part in parts[states:]]
        self.epoch, self.iterations_done = epoch, iterations

    # -- work ---------------------------------------------------------------------------------------------------------

    def run_iteration(self) -> None:
        """One mini-batch. After the last one of an epoch, ``epoch`` has grown by one."""
        batches, done = self._batches()
        batch = batches[done]
        rows = self.job.batch_rows(batch)
        circuit = self._circuit
        x = self._ciphertexts(batch_x_blob(batch), circuit.features_count(rows), circuit.levels.features)
        y = self._ciphertexts(batch_y_blob(batch), circuit.labels_count(rows), circuit.levels.labels)
        scored = self.job.prunes and self.epoch + 1 == self.job.prune_after
        self._state, scores = circuit.advance(
            self._ev,
            self._require_state(),
            x,
            y,
            step=self.iterations_done,
            rows=rows,
            logits_max=self.logits_max,
            scored=scored,
        )
        self._scores = [*self._scores, *(self._codec.dump_result(ct, LOGITS_LEVEL) for ct in scores)] if scored else []
        self.iterations_done += 1
        if done + 1 == len(batches):
            self.epoch += 1

    def validation_logits(self) -> bytes:
        """Scaled logits of the validation set under the present weights, one limb each, framed.

        After epoch ``job.prune_after`` of a job that prunes, the scores of all mini-batches follow.
        """
        if self._validation is None:
            self._validation = self._ciphertexts(
                VALIDATION_X,
                self._circuit.validation_count(self.job.validation_samples),
                self._circuit.levels.validation,
            )
        logits = self._logits(self._validation, self._classifier(), self.job.validation_samples)
        return self._framed([*logits, *self._scores])

    def model(self) -> bytes:
        """The present classifier, framed, with just the levels that an encrypted prediction needs."""
        return self._framed([self._codec.dump(ct) for ct in self._classifier()])

    def predict(self, x_blob: bytes, samples: int, model: bytes) -> bytes:
        """Scaled logits of ``samples`` encrypted rows under a model made by :meth:`model`."""
        if samples < 1:
            raise ShapeError(f"{samples} samples to predict")
        level = self._circuit.levels.validation
        x = self._parse(x_blob, "the features to predict", self._circuit.validation_count(samples), level)
        classifier = self._parse(model, "the model", self._circuit.classifier_count, level)
        return self._framed(self._logits(x, classifier, samples))

    # -- bytes --------------------------------------------------------------------------------------------------------

    def _require_state(self) -> list[Ciphertext]:
        if self._state is None:
            raise IntegrityError("the trainer was neither initialised nor restored")
        return self._state

    def _batches(self) -> tuple[Sequence[int], int]:
        """The mini-batches of the present epoch, and how many of them are done."""
        whole, pruned_from = self.job.batches, self.job.batches * self.job.prune_after
        if not self.kept or self.iterations_done < pruned_from:
            return range(whole), self.iterations_done % whole
        return self.kept, (self.iterations_done - pruned_from) % len(self.kept)

    def _scores_due(self, epoch: int, iterations: int) -> int:
        """Ciphertexts of scores that a checkpoint holds: from within or right after the epoch that is scored."""
        job = self.job
        done = iterations - (job.prune_after - 1) * job.batches
        if not job.prunes or epoch > job.prune_after or not 0 < done <= job.batches:
            return 0
        return sum(self._circuit.labels_count(job.batch_rows(batch)) for batch in range(done))

    def _classifier(self) -> list[Ciphertext]:
        return self._circuit.classifier(self._ev, self._require_state(), self.iterations_done)

    def _logits(self, x: Sequence[Ciphertext], classifier: Sequence[Ciphertext], samples: int) -> list[bytes]:
        logits = self._circuit.evaluate(self._ev, classifier, x, samples)
        return [self._codec.dump_result(ct, LOGITS_LEVEL) for ct in logits]

    def _framed(self, parts: Sequence[bytes]) -> bytes:
        return frame(Kind.CIPHERTEXTS, self._digest, join(parts))

    def _ciphertexts(self, name: str, count: int, level: int) -> list[Ciphertext]:
        return self._parse(self._read_blob(name), name, count, level)

    def _parse(self, blob: bytes | memoryview, name: str, count: int, level: int) -> list[Ciphertext]:
        parts = split(unframe(blob, Kind.CIPHERTEXTS, self._digest))
        if len(parts) != count:
            raise CiphertextFormatError(f"{name} holds {len(parts)} ciphertexts, the job's layout needs {count}")
        cts = self._ev.map(self._codec.load, [bytes(part) for part in parts])
        for ct in cts:
            if ct.level < level:
                raise CiphertextFormatError(f"{name} is at level {ct.level}, the job's plan needs {level}")
        return [self._ev.drop(ct, level) for ct in cts]
