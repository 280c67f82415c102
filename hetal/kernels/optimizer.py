"""Nesterov's accelerated gradient: W_(t+1) = V_t - eta gradient(V_t), V_(t+1) = W_(t+1) + beta_t (W_(t+1) - W_t).

With integers a_t and their sums A_t = a_0 + .. + a_(t-1), the method is

    V_t = (S_t + a_t z_t) / A_(t+1)      z_(t+1) = z_t - eta A_(t+1) / a_t * gradient(V_t)
    S_(t+1) = S_t + a_t z_(t+1)          W_t = S_t / A_t

S and z are only added to: on ciphertexts this takes no level, and the weights need no bootstrap, ever. Then
beta_t = a_(t+1) A_t / (a_t A_(t+2)), and a_t = t + 1 gives the usual t / (t + 3).
"""

from __future__ import annotations

import math


def weight(step: int) -> int:
    """a_t of iteration ``step``, from 0."""
    return step + 1


def total(steps: int) -> int:
    """A_t: the sum of the weights of the first ``steps`` iterations."""
    return steps * (steps + 1) // 2


def momentum(step: int) -> float:
    """beta of iteration ``step``, from 0."""
    return step / (step + 3)


def hetal_momentum(step: int) -> float:
    """The same in HETAL (papers.md 1.3; HELR, AAAI 2019): (l_t - 1) / l_(t+1), l_0 = 1,
    l_(t+1) = (1 + sqrt(1 + 4 l_t^2)) / 2."""
    current = 1.0
    for _ in range(step):
        current = _next(current)
    return (current - 1.0) / _next(current)


def _next(value: float) -> float:
    return (1.0 + math.sqrt(1.0 + 4.0 * value * value)) / 2.0
