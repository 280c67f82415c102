"""Our training: matrix products in the replica-packed layout, weights that are never bootstrapped, and a softmax from
phases in one or two bootstraps an iteration (or one from real bootstraps, where a backend has no phases).

Between iterations live z and S of :mod:`hetal.kernels.optimizer` in compact form. Public factors, those of layouts and
of the schedule, are carried along and leave where a constant is multiplied anyway: in the period of a phase and in the
coefficients of the polynomial that ends the softmax.

Two classes train the difference of their weights. Of more, only weights less their mean over the classes matter, and
the client encrypts those.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hetal.kernels import products
from hetal.kernels.circuit import Array, Circuit, InputLevels
from hetal.kernels.clear import Labels
from hetal.kernels.evaluator import Ciphertext, Evaluator, Vector
from hetal.kernels.optimizer import total, weight
from hetal.kernels.pairwise import pairwise
from hetal.kernels.products_work import feature_ciphertexts, ranked
from hetal.kernels.replica import ReplicaLayout, layouts
from hetal.kernels.sigmoid import sigmoid
from hetal.kernels.tables import PairwiseTable, SigmoidTable, pairwise_table, sigmoid_table
from hetal.protocol.job import JobSpec


@dataclass(frozen=True, slots=True)
class CircuitLevels:
    """Levels inside an iteration. A product of the state leads to logits, and one with the residual to the gradient."""

    logits: int
    state: int
    residual: int


class ReplicaCircuit(Circuit):
    """The circuit of one layout.

    Args:
        layout: of the training's chunks; a mini-batch has as many as its logits need ciphertexts.
    """

    def __init__(self, job: JobSpec, layout: ReplicaLayout) -> None:
        self.job = job
        self.layout = layout
        self.validation = layout.with_samples(layout.samples_max)
        self.table = _table(job.classes, job.logit_range)
        merging = 0 if layout.unmasked else 1
        entry = job.parameters.bootstrap_input_level
        state = entry + 1 + merging
        self.inner = CircuitLevels(entry, state, state + 2)
        checked = 1 if self.validation.unmasked else 2
        self.levels = InputLevels(features=state + 1, labels=state + 3, weights=state, validation=checked)
        # Logits come out of an evaluation as x / (2R).
        self._classifier_gain = 1.0 / (2.0 * job.logit_range * self.validation.forward_gain)

    @classmethod
    def candidates(cls, job: JobSpec) -> Iterator[ReplicaCircuit]:
        """Circuits of the layouts whose products cost least, for several sizes of the encrypted features."""
        rows = job.batch_rows(0)
        offered = list(layouts(job.parameters.slots, rows, job.columns, _outputs(job)))
        sizes = sorted(feature_ciphertexts(layout, rows) for layout in offered)
        chosen: list[ReplicaLayout] = []
        size = sizes[0]
        while size <= 2 * sizes[-1]:
            best = ranked(offered, rows, features_max=size)[0]
            if best not in chosen:
                chosen.append(best)
            size *= 2
        yield from (cls(job, layout) for layout in chosen)

    # -- the client's side --------------------------------------------------------------------------------------------

    def pack_features(self, x: Array) -> list[Vector]:
        return self._packed(self.layout, x)

    def pack_labels(self, labels: Labels) -> list[Vector]:
        onehot = np.eye(self.job.classes)[labels]
        outputs = onehot[:, 1:] if self._binary else onehot
        size = self.layout.samples
        return [self.layout.sections.pack(outputs[at : at + size]) for at in range(0, len(outputs), size)]

    def pack_weights(self, weights: Array) -> list[Vector]:
        centred = weights - weights.mean(axis=0)
        outputs = centred[1:] - centred[:1] if self._binary else centred
        return list(self.layout.pack_weights(outputs))

    def pack_validation(self, x: Array) -> list[Vector]:
        return self._packed(self.validation, x)

    def unpack_logits(self, vectors: Sequence[Array], samples: int) -> Array:
        size = self.validation.samples
        chunks = [
            self.validation.sections.unpack(vector, min(size, samples - index * size))
            for index, vector in enumerate(vectors)
        ]
        return self._of_classes(2.0 * self.job.logit_range * np.concatenate(chunks))

    def unpack_classifier(self, vectors: Sequence[Array]) -> Array:
        half = len(vectors) // 2
        compacts = [real + 1j * imaginary for real, imaginary in zip(vectors[:half], vectors[half:], strict=True)]
        return self._of_classes((self.layout.unpack_weights(compacts) / self._classifier_gain).T).T

    def _packed(self, layout: ReplicaLayout, x: Array) -> list[Vector]:
        chunks = (x[at : at + layout.samples] for at in range(0, len(x), layout.samples))
        return [vector for chunk in chunks for group in layout.pack_features(chunk) for vector in group]

    def _of_classes(self, outputs: Array) -> Array:
        """(n, classes) from (n, outputs)."""
        return np.hstack([-outputs / 2.0, outputs / 2.0]) if self._binary else outputs

    # -- numbers of ciphertexts ---------------------------------------------------------------------------------------

    @property
    def _binary(self) -> bool:
        return self.job.classes == 2

    def features_count(self, rows: int) -> int:
        return _count(self.layout, rows)

    def labels_count(self, rows: int) -> int:
        return -(-rows // self.layout.samples)

    def validation_count(self, samples: int) -> int:
        return _count(self.validation, samples)

    def logits_count(self, samples: int) -> int:
        return -(-samples // self.validation.samples)

    @property
    def weights_count(self) -> int:
        return self.layout.compacts

    @property
    def state_count(self) -> int:
        """z, and S where there is momentum."""
        return (2 if self.job.nesterov else 1) * self.layout.compacts

    @property
    def classifier_count(self) -> int:
        """Real and imaginary parts."""
        return 2 * self.layout.compacts

    # -- the server's side --------------------------------------------------------------------------------------------

    def begin(self, ev: Evaluator, weights: Sequence[Ciphertext]) -> list[Ciphertext]:
        # S_0 is 0, and public.
        return [*weights, *(ev.sub(ct, ct) for ct in weights)] if self.job.nesterov else list(weights)

    def iterate(
        self,
        ev: Evaluator,
        state: Sequence[Ciphertext],
        x: Sequence[Ciphertext],
        y: Sequence[Ciphertext],
        *,
        step: int,
        rows: int,
        logits_max: float | None = None,
    ) -> list[Ciphertext]:
        job, layout, inner = self.job, self.layout, self.inner
        z, s = state[: layout.compacts], state[layout.compacts :]
        factor, after = (weight(step), total(step + 1)) if s else (1, 1)
        lookahead = [ev.add(b, ev.mul_integer(a, factor)) for a, b in zip(z, s, strict=True)] if s else list(z)
        with ev.stage("expand"):
            pieces = products.expand(ev, lookahead, layout)
        # The difference of two weights moves twice as fast as each.
        rate = job.learning_rate * after / factor * (2.0 if self._binary else 1.0)
        residual_gain = rate / (rows * layout.backward_gain)
        chunks = list(_chunks(layout, x, rows))
        table = self.table if logits_max is None else _table(job.classes, min(logits_max, job.logit_range))

        def residual(item: tuple[list[list[Ciphertext]], Ciphertext]) -> list[list[Ciphertext]]:
            features, labels = item
            with ev.stage("forward"):
                lowered = [ev.map(lambda ct: ev.drop(ct, inner.state), row) for row in features]
                logits = products.forward(ev, lowered, pieces, layout)
            with ev.stage("softmax"):
                chances = self._softmax(ev, logits, table, after * layout.forward_gain, residual_gain)
            with ev.stage("spread"):
                difference = ev.sub(chances, ev.mul_scalar(labels, residual_gain))
                return products.spread(ev, difference, layout, len(features))

        spreads = [residual(item) for item in zip(chunks, y, strict=True)]
        with ev.stage("backward"):
            gradient = products.backward(ev, spreads, chunks, layout)
        z = [ev.sub(ct, change) for ct, change in zip(z, gradient, strict=True)]
        return [*z, *(ev.add(b, ev.mul_integer(a, factor)) for a, b in zip(z, s, strict=True))] if s else z

    def classifier(self, ev: Evaluator, state: Sequence[Ciphertext], steps: int) -> list[Ciphertext]:
        """Real parts, then imaginary ones: the client's decryption takes real slots alone."""
        compacts = self.layout.compacts
        share = self._classifier_gain / 2.0
        if self.job.nesterov and steps:
            halves = [ev.mul_scalar(ct, share / total(steps)) for ct in state[compacts:]]
        else:
            halves = [ev.mul_scalar(ct, share) for ct in state[:compacts]]
        halves = [ev.drop(ct, self.levels.validation) for ct in halves]
        conjugates = [ev.conjugate(ct) for ct in halves]
        pairs = list(zip(halves, conjugates, strict=True))
        return [*(ev.add(a, b) for a, b in pairs), *(ev.mul_i(ev.sub(b, a)) for a, b in pairs)]

    def evaluate(
        self, ev: Evaluator, classifier: Sequence[Ciphertext], x: Sequence[Ciphertext], samples: int
    ) -> list[Ciphertext]:
        half = len(classifier) // 2
        compacts = [ev.add(a, ev.mul_i(b)) for a, b in zip(classifier[:half], classifier[half:], strict=True)]
        pieces = products.expand(ev, compacts, self.layout)
        return [products.forward(ev, chunk, pieces, self.validation) for chunk in _chunks(self.validation, x, samples)]

    def _softmax(
        self,
        ev: Evaluator,
        logits: Ciphertext,
        table: PairwiseTable | SigmoidTable,
        gain: float,
        output_gain: float,
    ) -> Ciphertext:
        sections, level = self.layout.sections, self.inner.residual
        if isinstance(table, SigmoidTable):
            return sigmoid(ev, logits, sections, table, gain=gain, level=level, output_gain=output_gain)
        return pairwise(ev, logits, sections, table, gain=gain, level=level, output_gain=output_gain)


def _table(classes: int, logits_max: float) -> PairwiseTable | SigmoidTable:
    return sigmoid_table(2.0 * logits_max) if classes == 2 else pairwise_table(classes, logits_max)


def _outputs(job: JobSpec) -> int:
    return 1 if job.classes == 2 else job.classes


def _count(layout: ReplicaLayout, rows: int) -> int:
    full, rest = divmod(rows, layout.samples)
    groups = full * -(-layout.samples // layout.replicas) + -(-rest // layout.replicas)
    return groups * layout.blocks


def _chunks(layout: ReplicaLayout, x: Sequence[Ciphertext], rows: int) -> Iterator[list[list[Ciphertext]]]:
    """[group][feature block] of each chunk."""
    at = 0
    for start in range(0, rows, layout.samples):
        groups = -(-min(layout.samples, rows - start) // layout.replicas)
        yield [list(x[at + g * layout.blocks : at + (g + 1) * layout.blocks]) for g in range(groups)]
        at += groups * layout.blocks
