"""One training iteration and one evaluation of the classifier, in terms of the kernels."""

from __future__ import annotations

from hetal.kernels.evaluator import Ciphertext, Evaluator
from hetal.kernels.layout import BlockLayout
from hetal.kernels.matmul import diag_abt, diag_atb
from hetal.kernels.optimizer import State, momentum, update
from hetal.kernels.softmax import softmax
from hetal.protocol.job import JobSpec

Blocks = list[list[Ciphertext]]


def logit_scale(job: JobSpec) -> float:
    """Logits are computed times 1/(2R), so that every logit in [-R, R] lies in [-1/2, 1/2]."""
    return 1.0 / (2.0 * job.softmax.logit_range)


def evaluate(
    ev: Evaluator, job: JobSpec, layout: BlockLayout, x: Blocks, weights: list[Ciphertext]
) -> list[Ciphertext]:
    """Scaled logits X W^T / (2R), one ciphertext per row block, in tiled columns. Three levels."""
    return diag_abt(ev, x, weights, layout, job.padded_classes, scale=logit_scale(job))


def iterate(
    ev: Evaluator,
    job: JobSpec,
    layout: BlockLayout,
    state: State,
    x: Blocks,
    y: list[Ciphertext],
    *,
    step: int,
    rows: int,
) -> State:
    """One Nesterov step on one mini-batch.

    Args:
        x: blocks of the batch's features, bias column included.
        y: one-hot labels in tiled columns, one ciphertext per row block.
        step: iterations done before this one, over the whole training.
        rows: samples in the batch.
    """

    def residual(block: tuple[Ciphertext, Ciphertext]) -> Ciphertext:
        logits, labels = block
        probabilities = softmax(ev, ev.checkpoint(logits, "logits", 1.0), layout, job.classes, job.softmax)
        return ev.checkpoint(ev.sub(probabilities, labels), "residual", 1.0)

    logits = evaluate(ev, job, layout, x, state.lookahead)
    residuals = ev.map(residual, list(zip(logits, y, strict=True)))
    gradient = diag_atb(
        ev, residuals, x, layout, job.padded_classes, scale=job.learning_rate / rows, valid_classes=job.classes
    )
    return update(ev, state, gradient, momentum(step, nesterov=job.nesterov), job.weight_bound)
