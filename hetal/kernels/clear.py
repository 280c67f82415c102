"""The same training in the clear: same batches, same steps, exact softmax. The yardstick of every encrypted run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hetal.kernels.optimizer import hetal_momentum, momentum
from hetal.protocol.early_stopping import EarlyStopping
from hetal.protocol.job import JobSpec

Array = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(slots=True)
class ClearResult:
    """What a training ends with.

    Attributes:
        weights: (classes, features + 1), bias last, of the best epoch.
        losses, accuracies: on the validation set, one per epoch.
        largest_logit: magnitude, over all batches and validations.
        kept: mini-batches that were gone on with; empty where none was pruned.
        steps: iterations run.
    """

    weights: Array
    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    epochs: int = 0
    best_epoch: int = 0
    largest_logit: float = 0.0
    kept: tuple[int, ...] = ()
    steps: int = 0


def exact_softmax(logits: Array) -> Array:
    """Softmax over the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def cross_entropy(logits: Array, labels: Labels) -> float:
    """Mean negative log-likelihood of the labels."""
    highest = logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(logits - highest).sum(axis=1)) + highest[:, 0]
    return float(np.mean(log_sum - logits[np.arange(len(labels)), labels]))


def half_spread(logits: Array) -> float:
    """Half the largest difference of two logits of a sample: what they have in common does not count."""
    return float((logits.max(axis=1) - logits.min(axis=1)).max()) / 2.0


def hardest(means: Sequence[float], count: int) -> tuple[int, ...]:
    """The ``count`` mini-batches of the largest mean scores, in ascending order."""
    return tuple(sorted(np.argsort(-np.asarray(means), kind="stable")[:count].tolist()))


def with_bias(x: Array) -> Array:
    """Features with the bias column, constant 1, appended."""
    return np.hstack([x, np.ones((len(x), 1))])


def train_clear(job: JobSpec, x: Array, y: Labels, x_val: Array, y_val: Labels) -> ClearResult:
    """Train on preprocessed features (samples, features) and labels in 0..classes-1, in the given row order.

    Where the job prunes, exact scores choose the mini-batches to keep.
    """
    xb, vb = with_bias(x), with_bias(x_val)
    onehot = np.eye(job.classes)[y]
    weights: Array = np.zeros((job.classes, job.columns))
    lookahead: Array = weights
    result = ClearResult(weights)
    stopping = EarlyStopping(job.patience, job.epochs_max)
    beta = hetal_momentum if job.method == "hetal" else momentum
    step = 0
    while True:
        means: list[float] = []
        for batch in result.kept or range(job.batches):
            rows = slice(batch * job.batch_size, batch * job.batch_size + job.batch_rows(batch))
            logits = xb[rows] @ lookahead.T
            result.largest_logit = max(result.largest_logit, float(np.abs(logits).max()))
            residual = exact_softmax(logits) - onehot[rows]
            means.append(float((residual**2).sum(axis=1).mean()))
            gradient = residual.T @ xb[rows] / job.batch_rows(batch)
            new: Array = lookahead - job.learning_rate * gradient
            lookahead = new + (beta(step) if job.nesterov else 0.0) * (new - weights)
            weights = new
            step += 1
        logits = vb @ weights.T
        result.largest_logit = max(result.largest_logit, float(np.abs(logits).max()))
        result.losses.append(cross_entropy(logits, y_val))
        result.accuracies.append(float((logits.argmax(axis=1) == y_val).mean()))
        result.epochs, result.steps = result.epochs + 1, step
        decision = stopping.update(result.losses[-1])
        if decision.best:
            result.weights, result.best_epoch = weights, result.epochs
        if decision.stop:
            return result
        if job.prunes and result.epochs == job.prune_after:
            result.kept = hardest(means, job.batches_kept)
