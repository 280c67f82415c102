"""HETAL's softmax of encrypted logits in [-R, R] (ICML 2023, section 3.3 and algorithm 1; papers.md 1.5).

Approximate row maximum, normalisation, domain extension, exponential, Goldschmidt inverse. Logits arrive times 1/(2R)
in tiled columns; all constants fold into coefficients and masks. Every slot stays inside the bound of the checkpoint it
passes, the unused ones too, because one slot that is too large for a bootstrap spoils all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hetal.kernels.evaluator import Ciphertext, Evaluator
from hetal.kernels.layout import BlockLayout
from hetal.kernels.matmul import replicate_columns
from hetal.kernels.polynomial import evaluate
from hetal.protocol.job import SoftmaxSpec

# Composite sign polynomials (Cheon et al., ASIACRYPT 2020).
SIGN_F: Final = tuple(c / 16 for c in (0, 35, 0, -35, 0, 21, 0, -5))
SIGN_G: Final = tuple(c / 1024 for c in (0, 4589, 0, -16577, 0, 25614, 0, -12860))
# exp on [-1, 1], minimax of degree 8.
EXPONENTIAL: Final = (
    1.000000001945585,
    0.9999999388932228,
    0.499999859398392,
    0.16666798775227673,
    0.04166711228500117,
    0.008328336039797088,
    0.0013881473292497602,
    0.00020492629147503022,
    2.551385701569812e-05,
)


def softmax(ev: Evaluator, x: Ciphertext, layout: BlockLayout, classes: int, spec: SoftmaxSpec) -> Ciphertext:
    """Row-wise softmax.

    Args:
        x: logits / (2R), R = ``spec.logit_range``, in tiled columns with period c' = ``classes`` padded to a power of
        two; the
            slots of padded classes are zero.
        classes: true class count.

    Returns:
        Probabilities in tiled columns. Padded classes get about exp(-2R) and are not exactly zero.

    Levels: log2(c') (3 (g + f) + 1) + 1 for the maximum, 2 n for the extension, 4 + k for the exponential, 1 for the
    mask of the sum, ``inverse_iterations`` + 1 for the inverse and 1 for the product.
    """
    padded = 1 << max(1, (classes - 1).bit_length())
    if padded > classes:
        x = ev.add_plain(x, _padding(layout, classes, padded))
    x = ev.sub(x, row_maximum(ev, x, layout, padded, spec))
    x = ev.checkpoint(x, "softmax/extend", 1.0)
    for i in range(spec.extensions):
        x = ev.checkpoint(extend(ev, x, spec.extension_factor), f"softmax/extend/{i}", 1.0)
    numerator = exponential(ev, x, padded, spec)
    inverse = inverse_of_sum(ev, numerator, layout, padded, spec)
    return ev.mul(numerator, inverse)


def row_maximum(ev: Evaluator, x: Ciphertext, layout: BlockLayout, padded: int, spec: SoftmaxSpec) -> Ciphertext:
    """An approximation of each row's largest entry, slightly below it, in all columns of the row.

    A tournament over the period: m <- rot(m) + (m - rot(m)) t, t close to 1 where m > rot(m) and to 0 where it is less.
    Rotations carry entries of the next row into the last columns of a row, so column 0 alone is kept and replicated.
    """
    value = x
    step = 1
    while step < padded:
        name = f"softmax/max/{step}"
        value = ev.checkpoint(value, f"{name}/value", 1.0)
        other = ev.rotate(value, step)
        difference = ev.sub(value, other)
        sign = difference
        for i in range(spec.comparison_g):
            sign = ev.checkpoint(evaluate(ev, sign, SIGN_G), f"{name}/g{i}", 1.0)
        for i in range(spec.comparison_f - 1):
            sign = ev.checkpoint(evaluate(ev, sign, SIGN_F), f"{name}/f{i}", 1.0)
        # (sign + 1) / 2 with the half in the coefficients of the last polynomial.
        last = SIGN_F if spec.comparison_f else (0.0, 1.0)
        chosen = ev.add_scalar(evaluate(ev, sign, [c / 2 for c in last]), 0.5)
        chosen = ev.checkpoint(chosen, f"{name}/select", 1.0)
        value = ev.add(other, ev.mul(difference, chosen))
        step *= 2
    value = ev.checkpoint(value, "softmax/max/mask", 1.0)
    return replicate_columns(ev, ev.mul_plain(value, _first_column(layout, 1.0)), layout)


def extend(ev: Evaluator, x: Ciphertext, factor: float) -> Ciphertext:
    """One step of domain extension (Cheon et al., TIFS 2022), in units in which its domain is [-1, 1]. Two levels.

    x <- x - (4/27) x^3 / (r L^i)^2 maps [-r L^(i+1), r L^(i+1)] into [-r L^i, r L^i] and hardly moves what is small.
    With v = x / (r L^(i+1)) before and x / (r L^i) after it reads v <- L v - (4/27) L^3 v^3.
    """
    return evaluate(ev, x, [0.0, factor, 0.0, -4.0 / 27.0 * factor**3])


def exponential(ev: Evaluator, x: Ciphertext, padded: int, spec: SoftmaxSpec) -> Ciphertext:
    """exp(r x) for x in [-1, 1]: a polynomial of degree 8 for exp(r x / 2^k), then k squarings."""
    ratio = spec.base_range / 2**spec.squarings
    value = evaluate(ev, x, [c * ratio**i for i, c in enumerate(EXPONENTIAL)])
    overshoot = maximum_shortfall(padded, spec)
    for i in range(spec.squarings + 1):
        bound = math.exp(overshoot / 2 ** (spec.squarings - i))
        # Up to 1.25 the bootstrap takes as it is: its error grows with the cube, to twice.
        value = ev.checkpoint(value, f"softmax/exp/{i}", bound if bound > 1.25 else 1.0)
        if i < spec.squarings:
            value = ev.square(value)
    return value


def inverse_of_sum(
    ev: Evaluator, numerator: Ciphertext, layout: BlockLayout, padded: int, spec: SoftmaxSpec
) -> Ciphertext:
    """1 / (sum of a row's exponentials) in all columns of the row.

    Goldschmidt's iteration on z' = z / r0, z in (0, r0): t = 1 - z', y = 2 - z', then t <- t^2, y <- y (1 + t). y is
    kept times 1 / r0, so that it ends at 1/z and stays below 1 on the way.
    """
    total = numerator
    step = 1
    while step < padded:
        total = ev.add(total, ev.rotate(total, step))
        step *= 2
    total = replicate_columns(ev, ev.mul_plain(total, _first_column(layout, 1.0 / spec.inverse_range)), layout)
    total = ev.checkpoint(total, "softmax/sum", 1.0)
    t = ev.add_scalar(ev.negate(total), 1.0)
    y = ev.add_scalar(ev.mul_scalar(total, -1.0 / spec.inverse_range), 2.0 / spec.inverse_range)
    for i in range(spec.inverse_iterations):
        t = ev.checkpoint(ev.square(t), f"softmax/inverse/{i}/t", 1.0)
        y = ev.checkpoint(ev.add(y, ev.mul(y, t)), f"softmax/inverse/{i}/y", 1.0)
    return y


@lru_cache(maxsize=64)
def maximum_shortfall(padded: int, spec: SoftmaxSpec) -> float:
    """How far, in logits, the approximate maximum can lie below the true one."""
    gap = np.arange(20_001, dtype=np.float64) / 20_000
    sign: NDArray[np.float64] = gap
    for coefficients in (SIGN_G,) * spec.comparison_g + (SIGN_F,) * spec.comparison_f:
        sign = _clear(coefficients, sign)
    loss = float(np.max(gap * (1.0 - sign) / 2.0))
    return 2.0 * spec.logit_range * loss * math.log2(padded)


def _clear(coefficients: Sequence[float], x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.polynomial.polynomial.polyval(x, np.asarray(coefficients)))


@lru_cache(maxsize=64)
def _first_column(layout: BlockLayout, value: float) -> NDArray[np.float64]:
    mask = np.zeros((layout.rows, layout.cols))
    mask[:, 0] = value
    return mask.reshape(layout.slots)


@lru_cache(maxsize=64)
def _padding(layout: BlockLayout, classes: int, padded: int) -> NDArray[np.float64]:
    """-1/2, the least scaled logit, in the columns of padded classes."""
    columns = np.where(np.arange(layout.cols) % padded >= classes, -0.5, 0.0)
    return np.tile(columns, layout.rows)
