"""HETAL's own training (ICML 2023), the yardstick of ours: its two matrix products, its softmax, weights in blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hetal.kernels import pruning
from hetal.kernels.circuit import Array, Circuit, InputLevels
from hetal.kernels.clear import Labels
from hetal.kernels.evaluator import Ciphertext, Evaluator, Refresh, Vector
from hetal.kernels.layout import BlockLayout
from hetal.kernels.matmul import diag_abt, diag_atb
from hetal.kernels.optimizer import hetal_momentum
from hetal.kernels.softmax import softmax
from hetal.protocol.job import JobSpec

NO_LEVELS = InputLevels(0, 0, 0, 0)


class HetalCircuit(Circuit):
    """Matrices in row-major blocks; bootstraps at checkpoints, where the plan wants them.

    Args:
        schedule: the plan's decision per checkpoint.
        lookahead_level: of the lookahead weights between iterations.
    """

    def __init__(
        self,
        job: JobSpec,
        layout: BlockLayout,
        levels: InputLevels = NO_LEVELS,
        schedule: Mapping[str, Refresh] | None = None,
    ) -> None:
        self.job = job
        self.layout = layout
        self.levels = levels
        self.schedule = schedule or {}
        # Every logit in [-R, R] lies in [-1/2, 1/2].
        self.logit_scale = 1.0 / (2.0 * job.softmax.logit_range)

    # -- the client's side --------------------------------------------------------------------------------------------

    def pack_features(self, x: Array) -> list[Vector]:
        return [block for row in self.layout.pack(x) for block in row]

    def pack_labels(self, labels: Labels) -> list[Vector]:
        return list(self.layout.pack_tiled_columns(np.eye(self.job.padded_classes)[labels]))

    def pack_weights(self, weights: Array) -> list[Vector]:
        padded = np.zeros((self.job.padded_classes, self.job.columns))
        padded[: self.job.classes] = weights
        return list(self.layout.pack_tiled_rows(padded))

    def pack_validation(self, x: Array) -> list[Vector]:
        return self.pack_features(x)

    def unpack_logits(self, vectors: Sequence[Array], samples: int) -> Array:
        scaled = self.layout.unpack_tiled_columns(vectors, (samples, self.job.padded_classes))
        return np.asarray(scaled[:, : self.job.classes] / self.logit_scale)

    def unpack_classifier(self, vectors: Sequence[Array]) -> Array:
        job = self.job
        return self.layout.unpack_tiled_rows(vectors, (job.padded_classes, job.columns))[: job.classes]

    # -- numbers of ciphertexts ---------------------------------------------------------------------------------------

    @property
    def _columns(self) -> int:
        return self.layout.column_blocks(self.job.columns)

    def features_count(self, rows: int) -> int:
        return self.layout.row_blocks(rows) * self._columns

    def labels_count(self, rows: int) -> int:
        return self.layout.row_blocks(rows)

    def validation_count(self, samples: int) -> int:
        return self.features_count(samples)

    def logits_count(self, samples: int) -> int:
        return self.layout.row_blocks(samples)

    @property
    def weights_count(self) -> int:
        return self._columns

    @property
    def state_count(self) -> int:
        """W, and V where there is momentum: one ciphertext per column block each, in tiled rows."""
        return (2 if self.job.nesterov else 1) * self._columns

    @property
    def classifier_count(self) -> int:
        return self._columns

    # -- the server's side --------------------------------------------------------------------------------------------

    def begin(self, ev: Evaluator, weights: Sequence[Ciphertext]) -> list[Ciphertext]:
        return [*weights, *weights] if self.job.nesterov else list(weights)

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
        """Checkpoints: ``logits``, those of the softmax, ``residual``, ``weights``, ``lookahead``."""
        job, layout = self.job, self.layout
        ev.schedule = self.schedule
        weights, lookahead = state[: self._columns], state[-self._columns :]
        blocks = self._grid(x)

        def residual(block: tuple[Ciphertext, Ciphertext]) -> Ciphertext:
            logits, labels = block
            probabilities = softmax(ev, ev.checkpoint(logits, "logits", 1.0), layout, job.classes, job.softmax)
            return ev.checkpoint(ev.sub(probabilities, labels), "residual", 1.0)

        with ev.stage("forward"):
            logits = self.evaluate(ev, lookahead, x, rows)
        with ev.stage("softmax"):
            residuals = ev.map(residual, list(zip(logits, y, strict=True)))
        scores: list[Ciphertext] = []
        if scored:
            with ev.stage("scores"):
                scores = ev.map(lambda residual: self._scores(ev, residual), residuals)
        rate, padded = job.learning_rate / rows, job.padded_classes
        with ev.stage("backward"):
            gradient = diag_atb(ev, residuals, blocks, layout, padded, scale=rate, valid_classes=job.classes)
        beta = hetal_momentum(step) if job.nesterov else 0.0

        def update(column: tuple[Ciphertext, Ciphertext, Ciphertext]) -> tuple[Ciphertext, Ciphertext]:
            """W' = V - G and V' = W' + beta (W' - W); G carries the learning rate already."""
            old, ahead, change = column
            new = ev.checkpoint(ev.sub(ahead, change), "weights", job.weight_bound)
            moved = ev.add(new, ev.mul_scalar(ev.sub(new, old), beta)) if beta else new
            return new, ev.checkpoint(moved, "lookahead", job.weight_bound)

        with ev.stage("update"):
            columns = ev.map(update, list(zip(weights, lookahead, gradient, strict=True)))
        moved = [ahead for _, ahead in columns]
        return ([*(new for new, _ in columns), *moved] if job.nesterov else moved), scores

    def _scores(self, ev: Evaluator, residual: Ciphertext) -> Ciphertext:
        present = np.arange(self.job.padded_classes) < self.job.classes
        (mask,) = self.layout.pack_tiled_columns(np.tile(present.astype(float), (self.layout.rows, 1)))
        return pruning.scores(ev, residual, mask, self.job.classes, 1.0)

    def unpack_scores(self, vectors: Sequence[Array], rows: int) -> Array:
        return self.layout.unpack_tiled_columns(vectors, (rows, self.job.padded_classes))[:, 0] / pruning.SCORE_SHARE

    def classifier(self, ev: Evaluator, state: Sequence[Ciphertext], steps: int) -> list[Ciphertext]:
        return [ev.drop(ct, self.levels.validation) for ct in state[: self._columns]]

    def evaluate(
        self, ev: Evaluator, classifier: Sequence[Ciphertext], x: Sequence[Ciphertext], samples: int
    ) -> list[Ciphertext]:
        """One ciphertext per row block, in tiled columns. Three levels."""
        return diag_abt(
            ev, self._grid(x), list(classifier), self.layout, self.job.padded_classes, scale=self.logit_scale
        )

    def _grid(self, x: Sequence[Ciphertext]) -> list[list[Ciphertext]]:
        return [list(x[i : i + self._columns]) for i in range(0, len(x), self._columns)]
