"""Nesterov's accelerated gradient on encrypted weights (papers.md 1.3; HELR, AAAI 2019)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hetal.kernels.evaluator import Ciphertext, Evaluator


@dataclass(frozen=True, slots=True)
class State:
    """What lives from one iteration to the next: one ciphertext per column block, in tiled rows.

    Attributes:
        weights: W, the classifier.
        lookahead: V, the point at which the next gradient is taken; the same objects as ``weights`` without momentum.
    """

    weights: list[Ciphertext]
    lookahead: list[Ciphertext]


def momentum(step: int, *, nesterov: bool) -> float:
    """beta of iteration ``step`` (from 0): (l_t - 1) / l_(t+1), l_0 = 1, l_(t+1) = (1 + sqrt(1 + 4 l_t^2)) / 2."""
    if not nesterov:
        return 0.0
    current = 1.0
    for _ in range(step):
        current = _next(current)
    return (current - 1.0) / _next(current)


def _next(value: float) -> float:
    return (1.0 + math.sqrt(1.0 + 4.0 * value * value)) / 2.0


def update(ev: Evaluator, state: State, gradient: list[Ciphertext], beta: float, weight_bound: float) -> State:
    """W' = V - G and V' = W' + beta (W' - W), where G carries the learning rate already.

    Consumes one level of W for the momentum term; none when ``beta`` is 0. Checkpoints: ``weights``, ``lookahead``.
    """

    def step(column: tuple[Ciphertext, Ciphertext, Ciphertext]) -> tuple[Ciphertext, Ciphertext]:
        old, ahead, change = column
        new = ev.checkpoint(ev.sub(ahead, change), "weights", weight_bound)
        moved = ev.add(new, ev.mul_scalar(ev.sub(new, old), beta)) if beta else new
        return new, ev.checkpoint(moved, "lookahead", weight_bound)

    columns = ev.map(step, list(zip(state.weights, state.lookahead, gradient, strict=True)))
    return State([new for new, _ in columns], [ahead for _, ahead in columns])
