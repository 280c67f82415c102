"""Our training: matrix products in the replica-packed layout, weights that are never bootstrapped, and a softmax from
phases in one or two bootstraps an iteration (or one from real bootstraps, where a backend has no phases).

Between iterations live z and S of :mod:`hetal.kernels.optimizer` in compact form. Public factors, those of layouts and
of the schedule, are carried along and leave where a constant is multiplied anyway: in the period of a phase and in the
coefficients of the polynomial that ends the softmax.

Only weights less their mean over the classes matter, and the client encrypts those.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from hetal.kernels import products, pruning
from hetal.kernels.circuit import Array, Circuit, InputLevels
from hetal.kernels.clear import Labels
from hetal.kernels.evaluator import Ciphertext, Evaluator, Refresh, Vector
from hetal.kernels.normalise import normalise
from hetal.kernels.optimizer import total, weight
from hetal.kernels.pairwise import pairwise
from hetal.kernels.placement import place
from hetal.kernels.products_work import feature_ciphertexts, ranked
from hetal.kernels.replica import ReplicaLayout, layouts
from hetal.kernels.sigmoid import sigmoid
from hetal.kernels.tables import PairwiseTable, SigmoidTable, normalise_spec, pairwise_table, sigmoid_table
from hetal.protocol.job import JobSpec

NO_LEVELS: Final = InputLevels(0, 0, 0, 0)


class ReplicaCircuit(Circuit):
    """The circuit of one layout; what makes residuals of logits is left to the method.

    Args:
        layout: of the training's chunks; a mini-batch has as many as its logits need ciphertexts.
        outputs: columns of logits: the classes, or 1 for the difference of two.
    """

    def __init__(self, job: JobSpec, layout: ReplicaLayout, outputs: int, levels: InputLevels) -> None:
        self.job = job
        self.layout = layout
        self.levels = levels
        self.validation = layout.with_samples(layout.samples_max)
        self._difference = outputs < job.classes
        # Logits come out of an evaluation as x / (2R).
        self._classifier_gain = 1.0 / (2.0 * job.logit_range * self.validation.forward_gain)

    @abstractmethod
    def residual(
        self,
        ev: Evaluator,
        logits: Ciphertext,
        labels: Ciphertext,
        *,
        gain: float,
        output_gain: float,
        logits_max: float | None,
    ) -> Ciphertext:
        """``output_gain`` times probabilities less labels, in the layout's sections.

        Args:
            logits: times ``gain``.
        """

    # -- the client's side --------------------------------------------------------------------------------------------

    def pack_features(self, x: Array) -> list[Vector]:
        return self._packed(self.layout, x)

    def pack_labels(self, labels: Labels) -> list[Vector]:
        onehot = np.eye(self.job.classes)[labels]
        outputs = onehot[:, 1:] if self._difference else onehot
        size = self.layout.samples
        return [self.layout.sections.pack(outputs[at : at + size]) for at in range(0, len(outputs), size)]

    def pack_weights(self, weights: Array) -> list[Vector]:
        centred = weights - weights.mean(axis=0)
        outputs = centred[1:] - centred[:1] if self._difference else centred
        return list(self.layout.pack_weights(outputs))

    def pack_validation(self, x: Array) -> list[Vector]:
        return self._packed(self.validation, x)

    def unpack_logits(self, vectors: Sequence[Array], samples: int) -> Array:
        return self._of_classes(2.0 * self.job.logit_range * _unpacked(self.validation, vectors, samples))

    def unpack_scores(self, vectors: Sequence[Array], rows: int) -> Array:
        return np.asarray(_unpacked(self.layout, vectors, rows)[:, 0] / pruning.SCORE_SHARE)

    def unpack_classifier(self, vectors: Sequence[Array]) -> Array:
        half = len(vectors) // 2
        compacts = [real + 1j * imaginary for real, imaginary in zip(vectors[:half], vectors[half:], strict=True)]
        return self._of_classes((self.layout.unpack_weights(compacts) / self._classifier_gain).T).T

    def _packed(self, layout: ReplicaLayout, x: Array) -> list[Vector]:
        chunks = (x[at : at + layout.samples] for at in range(0, len(x), layout.samples))
        return [vector for chunk in chunks for group in layout.pack_features(chunk) for vector in group]

    def _of_classes(self, outputs: Array) -> Array:
        """(n, classes) from (n, outputs)."""
        return np.hstack([-outputs / 2.0, outputs / 2.0]) if self._difference else outputs

    # -- numbers of ciphertexts ---------------------------------------------------------------------------------------

    def features_count(self, rows: int) -> int:
        return feature_ciphertexts(self.layout, rows)

    def labels_count(self, rows: int) -> int:
        return -(-rows // self.layout.samples)

    def validation_count(self, samples: int) -> int:
        return feature_ciphertexts(self.validation, samples)

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

    def advance(
        self,
        ev: Evaluator,
        state: Sequence[Ciphertext],
        x: Sequence[Ciphertext],
        y: Sequence[Ciphertext],
        *,
        step: int,
        rows: int,
        logits_max: float | None = None,
        scored: bool,
    ) -> tuple[list[Ciphertext], list[Ciphertext]]:
        job, layout = self.job, self.layout
        z, s = state[: layout.compacts], state[layout.compacts :]
        factor, after = (weight(step), total(step + 1)) if s else (1, 1)
        lookahead = [ev.add(b, ev.mul_integer(a, factor)) for a, b in zip(z, s, strict=True)] if s else list(z)
        with ev.stage("expand"):
            pieces = products.expand(ev, lookahead, layout)
        # The difference of two weights moves twice as fast as each.
        rate = job.learning_rate * after / factor * (2.0 if self._difference else 1.0)
        residual_gain = rate / (rows * layout.backward_gain)
        chunks = list(_chunks(layout, x, rows))

        scores: list[Ciphertext] = []

        def spread(item: tuple[list[list[Ciphertext]], Ciphertext]) -> list[list[Ciphertext]]:
            features, labels = item
            with ev.stage("forward"):
                level = min(features[0][0].level, pieces[0].level)
                lowered = [ev.map(lambda ct: ev.drop(ct, level), row) for row in features]
                logits = products.forward(ev, lowered, pieces, layout)
            with ev.stage("softmax"):
                residual = self.residual(
                    ev,
                    logits,
                    labels,
                    gain=after * layout.forward_gain,
                    output_gain=residual_gain,
                    logits_max=logits_max,
                )
            if scored:
                with ev.stage("scores"):
                    scores.append(self._scores(ev, residual, residual_gain))
            with ev.stage("spread"):
                return products.spread(ev, residual, layout, len(features))

        spreads = [spread(item) for item in zip(chunks, y, strict=True)]
        with ev.stage("backward"):
            gradient = products.backward(ev, spreads, chunks, layout)
        z = [ev.sub(ct, change) for ct, change in zip(z, gradient, strict=True)]
        sums = [ev.add(b, ev.mul_integer(a, factor)) for a, b in zip(z, s, strict=True)] if s else []
        return [*z, *sums], scores

    def _scores(self, ev: Evaluator, residual: Ciphertext, gain: float) -> Ciphertext:
        sections = self.layout.sections
        # The residuals of two classes are each other's negative, and one of them is there.
        weight = 2.0**0.5 if self._difference else 1.0
        mask = sections.mask(np.full(sections.classes, weight))
        return pruning.scores(ev, residual, mask, sections.classes, gain)

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


class PhaseCircuit(ReplicaCircuit):
    """Softmax from phases: two bootstraps a chunk, one for two classes, whose difference is trained."""

    def __init__(self, job: JobSpec, layout: ReplicaLayout) -> None:
        self.table = _table(job.classes, job.logit_range)
        state = job.parameters.bootstrap_input_level + _forward_levels(layout)
        self.residual_level = state + 2
        validation = _forward_levels(layout.with_samples(layout.samples_max))
        levels = InputLevels(features=state + 1, labels=state + 3, weights=state, validation=validation)
        super().__init__(job, layout, _phase_outputs(job), levels)

    @classmethod
    def candidates(cls, job: JobSpec) -> Iterator[PhaseCircuit]:
        """Circuits of the layouts whose products cost least, for several sizes of the encrypted features."""
        return (cls(job, layout) for layout in _shortlist(job, _phase_outputs(job)))

    def residual(
        self,
        ev: Evaluator,
        logits: Ciphertext,
        labels: Ciphertext,
        *,
        gain: float,
        output_gain: float,
        logits_max: float | None,
    ) -> Ciphertext:
        job, sections, level = self.job, self.layout.sections, self.residual_level
        table = self.table if logits_max is None else _table(job.classes, min(logits_max, job.logit_range))
        if isinstance(table, SigmoidTable):
            chances = sigmoid(ev, logits, sections, table, gain=gain, level=level, output_gain=output_gain)
        else:
            chances = pairwise(ev, logits, sections, table, gain=gain, level=level, output_gain=output_gain)
        return ev.sub(chances, ev.mul_scalar(labels, output_gain))


class NormaliseCircuit(ReplicaCircuit):
    """Softmax by squaring and normalising: more bootstraps, smaller errors, and no phases.

    Args:
        schedule: the plan's decision per checkpoint: those of the softmax, and ``residual``.
    """

    def __init__(
        self,
        job: JobSpec,
        layout: ReplicaLayout,
        levels: InputLevels = NO_LEVELS,
        schedule: Mapping[str, Refresh] | None = None,
    ) -> None:
        super().__init__(job, layout, job.classes, levels)
        self.spec = normalise_spec(job.classes, job.logit_range)
        self.schedule = schedule or {}

    @classmethod
    def candidates(cls, job: JobSpec) -> Iterator[NormaliseCircuit]:
        """As those of :class:`PhaseCircuit`, with the cheapest bootstraps for each."""
        rows = job.batch_rows(0)
        for layout in _shortlist(job, job.classes):
            chunks = -(-rows // layout.samples)
            placed = place(cls(job, layout), layout.slots, min(layout.samples, rows), {}, default=chunks)
            yield cls(job, layout, placed.levels, placed.schedule)

    def residual(
        self,
        ev: Evaluator,
        logits: Ciphertext,
        labels: Ciphertext,
        *,
        gain: float,
        output_gain: float,
        logits_max: float | None,
    ) -> Ciphertext:
        ev.schedule = self.schedule
        chances = normalise(ev, logits, self.layout.sections, self.spec, gain=gain)
        return ev.mul_scalar(ev.checkpoint(ev.sub(chances, labels), "residual"), output_gain)


def _forward_levels(layout: ReplicaLayout) -> int:
    return 1 if layout.unmasked else 2


def _shortlist(job: JobSpec, outputs: int) -> Iterator[ReplicaLayout]:
    """The layouts whose products cost least, for several sizes of the encrypted features."""
    rows = job.batch_rows(0)
    offered = list(layouts(job.parameters.slots, rows, job.columns, outputs))
    sizes = [feature_ciphertexts(layout, rows) for layout in offered]
    chosen: list[ReplicaLayout] = []
    size = min(sizes)
    while size <= 2 * max(sizes):
        best = ranked(offered, rows, features_max=size)[0]
        if best not in chosen:
            chosen.append(best)
        size *= 2
    return iter(chosen)


def _table(classes: int, logits_max: float) -> PairwiseTable | SigmoidTable:
    return sigmoid_table(2.0 * logits_max) if classes == 2 else pairwise_table(classes, logits_max)


def _phase_outputs(job: JobSpec) -> int:
    return 1 if job.classes == 2 else job.classes


def _unpacked(layout: ReplicaLayout, vectors: Sequence[Array], samples: int) -> Array:
    """(samples, outputs) from one vector of sections per chunk."""
    size = layout.samples
    chunks = (layout.sections.unpack(vector, min(size, samples - index * size)) for index, vector in enumerate(vectors))
    return np.concatenate(list(chunks))


def _chunks(layout: ReplicaLayout, x: Sequence[Ciphertext], rows: int) -> Iterator[list[list[Ciphertext]]]:
    """[group][feature block] of each chunk."""
    at = 0
    for start in range(0, rows, layout.samples):
        groups = -(-min(layout.samples, rows - start) // layout.replicas)
        yield [list(x[at + g * layout.blocks : at + (g + 1) * layout.blocks]) for g in range(groups)]
        at += groups * layout.blocks
