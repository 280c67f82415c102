"""HETAL's softmax of encrypted logits in [-R, R] (ICML 2023, section 3.3 and algorithm 1; papers.md 1.5).

Approximate row maximum, normalisation, domain extension, exponential, Goldschmidt inverse. Logits arrive times 1/(2R)
in tiled columns; all constants fold into coefficients and masks. Every slot stays inside the bound of the checkpoint it
passes, the unused ones too, because one slot that is too large for a bootstrap spoils all of them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hetal.errors import InputError
from hetal.kernels.evaluator import Ciphertext, Evaluator
from hetal.kernels.layout import BlockLayout
from hetal.kernels.matmul import replicate_columns
from hetal.kernels.polynomial import evaluate
from hetal.protocol.job import INVERSE_RANGE_MAX, SoftmaxSpec

# Composite sign polynomials (Cheon et al., ASIACRYPT 2020).
SIGN_F: Final = tuple(c / 16 for c in (0, 35, 0, -35, 0, 21, 0, -5))
SIGN_G: Final = tuple(c / 1024 for c in (0, 4589, 0, -16577, 0, 25614, 0, -12860))
# Goldschmidt converges on sums below twice its range; the margin is for noise.
INVERSE_RANGE_MARGIN: Final = 0.55
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
# Relative error of that polynomial after the squarings, and to spare.
EXPONENTIAL_MARGIN: Final = 1.0001
# Beyond it a bound is as good as infinite.
EXPONENT_MAX: Final = 700.0


def softmax(
    ev: Evaluator, x: Ciphertext, layout: BlockLayout, classes: int, spec: SoftmaxSpec, *, correct: bool = False
) -> Ciphertext:
    """Row-wise softmax.

    Args:
        x: logits / (2R), R = ``spec.logit_range``, in tiled columns with period c' = ``classes`` padded to a power of
            two; the slots of padded classes are zero.
        classes: true class count.
        correct: invert the compression of the domain extension by a polynomial ("precise", papers.md 1.5); 3 levels.

    Returns:
        Probabilities in tiled columns. Padded classes have probability zero.

    Levels: log2(c') (3 (g + f) + 1) for the maximum, 2 n for the extension, 4 + k for the exponential, 1 for the mask
    of the sum, ``inverse_iterations`` + 1 for the inverse and 1 for the product: 76 for 9..16 classes by default.

    Raises:
        InputError: the exponential or the inverse would be used outside its range.
    """
    padded = padded_classes(classes)
    layout.require_period(padded)
    _require_ranges(padded, spec, correct)
    if padded > classes:
        x = ev.add_plain(x, _padding(layout, classes, padded))
    x = ev.sub(x, row_maximum(ev, x, layout, padded, spec))
    x = ev.checkpoint(x, "softmax/extend", 1.0)
    for i in range(spec.extensions):
        x = ev.checkpoint(extend(ev, x, spec.extension_factor), f"softmax/extend/{i}", 1.0)
    if correct:
        x = ev.checkpoint(evaluate(ev, x, correction(spec)), "softmax/correct", 1.0)
    numerator = exponential(ev, x, layout, classes, spec, numerator_bound(padded, spec, correct))
    inverse = inverse_of_sum(ev, numerator, layout, padded, spec, sum_bound(padded, spec, correct))
    return ev.mul(numerator, inverse)


def padded_classes(classes: int) -> int:
    """c': the class count padded to a power of two, at least 2."""
    return 1 << max(1, (classes - 1).bit_length())


def row_maximum(ev: Evaluator, x: Ciphertext, layout: BlockLayout, padded: int, spec: SoftmaxSpec) -> Ciphertext:
    """An approximation of each row's largest entry, slightly below it, in all columns of the row.

    A tournament over the period: m <- rot(m) + (m - rot(m)) t, t close to 1 where m > rot(m) and to 0 where it is less;
    t stays in [0, 1], so that every slot is a mean of logits. Rotations carry entries of the next row into the last
    columns of a row, so column 0 alone is kept and replicated. In the last round the mask multiplies both operands
    while t is computed, which takes longer: it costs no level.

    Levels: log2(c') (max(3 (g + f), 1) + 1).
    """
    polynomials = [SIGN_G] * spec.comparison_g + [SIGN_F] * spec.comparison_f or [(0.0, 1.0)]
    stages = [f"g{i}" for i in range(spec.comparison_g)] + [f"f{i}" for i in range(spec.comparison_f)]
    value = x
    step = 1
    while step < padded:
        name = f"softmax/max/{step}"
        value = ev.checkpoint(value, f"{name}/value", 1.0)
        other = ev.rotate(value, step)
        difference = ev.sub(value, other)
        sign = difference
        for stage, polynomial in zip(stages, polynomials[:-1], strict=False):
            sign = ev.checkpoint(evaluate(ev, sign, polynomial), f"{name}/{stage}", 1.0)
        # (sign + 1) / 2 with the half in the coefficients of the last polynomial.
        chosen = ev.add_scalar(evaluate(ev, sign, [c / 2 for c in polynomials[-1]]), 0.5)
        chosen = ev.checkpoint(chosen, f"{name}/select", 1.0)
        step *= 2
        if step == padded:
            mask = _first_column(layout, 1.0)
            other, difference = ev.mul_plain(other, mask), ev.mul_plain(difference, mask)
        value = ev.add(other, ev.mul(difference, chosen))
    return replicate_columns(ev, value, layout)


def extend(ev: Evaluator, x: Ciphertext, factor: float) -> Ciphertext:
    """One step of domain extension (Cheon et al., TIFS 2022), in units in which its domain is [-1, 1]. Two levels.

    x <- x - (4/27) x^3 / (r L^i)^2 maps [-r L^(i+1), r L^(i+1)] into [-r L^i, r L^i] and hardly moves what is small.
    With v = x / (r L^(i+1)) before and x / (r L^i) after it reads v <- L v - (4/27) L^3 v^3.
    """
    return evaluate(ev, x, [0.0, factor, 0.0, -4.0 / 27.0 * factor**3])


def correction(spec: SoftmaxSpec) -> tuple[float, ...]:
    """v + a v^3 - a v^5, v = x / r: undoes the cubic terms that the extension steps have added up to."""
    square = spec.extension_factor**2
    a = 4.0 / 27.0 * sum(square**-i for i in range(spec.extensions))
    return (0.0, 1.0, 0.0, a, 0.0, -a)


def exponential(
    ev: Evaluator, x: Ciphertext, layout: BlockLayout, classes: int, spec: SoftmaxSpec, bound: float = 1.0
) -> Ciphertext:
    """exp(r x) for x in [-1, 1]: a polynomial of degree 8 for exp(r x / 2^k), then k squarings. 4 + k levels.

    Padded classes become zero: the coefficients carry the mask. Their exponentials are no smaller than e^-r, which is
    as far as the domain extension compresses, and would add up in the sum. ``bound`` is the largest result's.
    """
    ratio = spec.base_range / 2**spec.squarings
    padded = padded_classes(classes)
    mask = _class_mask(layout, classes, padded) if padded > classes else None
    value = evaluate(ev, x, [c * ratio**i for i, c in enumerate(EXPONENTIAL)], mask)
    for i in range(spec.squarings + 1):
        largest = bound ** (0.5 ** (spec.squarings - i))
        value = ev.checkpoint(value, f"softmax/exp/{i}", _tolerated(largest))
        if i < spec.squarings:
            value = ev.square(value)
    return value


def inverse_of_sum(
    ev: Evaluator, numerator: Ciphertext, layout: BlockLayout, padded: int, spec: SoftmaxSpec, bound: float = 1.0
) -> Ciphertext:
    """1 / (sum of a row's exponentials) in all columns of the row.

    Goldschmidt's iteration on z' = z / r0, z in (0, 2 r0): t = 1 - z', y = 2 - z', then t <- t^2, y <- y (1 + t). y is
    kept times 1 / r0, so that it ends at 1/z and stays below 1 on the way: z is at least about 1. The mask that keeps
    column 0 of the sum carries 1 / r0. ``bound`` is that of the sum.

    Levels: 1 for the mask, 1 + ``inverse_iterations``.
    """
    total = numerator
    step = 1
    while step < padded:
        total = ev.add(total, ev.rotate(total, step))
        step *= 2
    total = replicate_columns(ev, ev.mul_plain(total, _first_column(layout, 1.0 / spec.inverse_range)), layout)
    total = ev.checkpoint(total, "softmax/sum", _tolerated(bound / spec.inverse_range))
    t = ev.add_scalar(ev.negate(total), 1.0)
    y = ev.add_scalar(ev.mul_scalar(total, -1.0 / spec.inverse_range), 2.0 / spec.inverse_range)
    for i in range(spec.inverse_iterations):
        t = ev.checkpoint(ev.square(t), f"softmax/inverse/{i}/t", 1.0)
        y = ev.checkpoint(ev.add(y, ev.mul(y, t)), f"softmax/inverse/{i}/y", 1.0)
    return y


@lru_cache(maxsize=64)
def numerator_bound(padded: int, spec: SoftmaxSpec, correct: bool = False) -> float:
    """What an exponential can reach: the approximate maximum lies below the true one by each round's loss, added up."""
    _, loss = _round_loss(spec)
    x: NDArray[np.float64] = np.linspace(0.0, float(loss.max()) * math.log2(padded), 2_001, dtype=np.float64)
    return EXPONENTIAL_MARGIN * _exp(float(_normalised(x, spec, correct).max()))


@lru_cache(maxsize=64)
def sum_bound(padded: int, spec: SoftmaxSpec, correct: bool = False) -> float:
    """What a row's sum of exponentials can reach, the maximum m being approximate.

    With F(k) = max of log sum exp(x - m) over 2^k entries, joining two groups whose m differ by d gives
    F(k + 1) <= F(k) + max over d of loss(d) + log(1 + e^-d). To each entry comes what the domain extension adds to its
    exponential.
    """
    gap, loss = _round_loss(spec)
    rounds = math.log2(padded)
    exact = _exp(rounds * float((loss + np.log1p(np.exp(-gap))).max()))
    x: NDArray[np.float64] = np.linspace(-2.0 * spec.logit_range, rounds * float(loss.max()), 20_001, dtype=np.float64)
    added = np.exp(np.minimum(_normalised(x, spec, correct), EXPONENT_MAX)) - np.exp(np.minimum(x, EXPONENT_MAX))
    return EXPONENTIAL_MARGIN * (exact + padded * max(0.0, float(added.max())))


def _exp(exponent: float) -> float:
    return math.exp(min(exponent, EXPONENT_MAX))


def _normalised(x: NDArray[np.float64], spec: SoftmaxSpec, correct: bool) -> NDArray[np.float64]:
    """What the domain extension makes of x, both in logits."""
    for i in reversed(range(spec.extensions)):
        x = x - 4.0 / 27.0 * x**3 / (spec.base_range * spec.extension_factor**i) ** 2
    if correct:
        polynomial = np.asarray(correction(spec))
        x = spec.base_range * np.polynomial.polynomial.polyval(x / spec.base_range, polynomial)
    return np.asarray(x)


@lru_cache(maxsize=64)
def _round_loss(spec: SoftmaxSpec) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gaps between two logits, and how far below the larger one a comparison's mean of them lies, in logits."""
    unit = np.concatenate([np.linspace(0.0, 1.0, 20_001), np.geomspace(1e-9, 1.0, 20_001)])
    sign: NDArray[np.float64] = unit
    for coefficients in (SIGN_G,) * spec.comparison_g + (SIGN_F,) * spec.comparison_f:
        sign = np.asarray(np.polynomial.polynomial.polyval(sign, np.asarray(coefficients)))
    gap = 2.0 * spec.logit_range * unit
    return gap, np.asarray(gap * (1.0 - sign) / 2.0)


def _tolerated(bound: float) -> float:
    """Up to 1.25 a bootstrap takes slots as they are: its error grows with the cube, to twice."""
    return bound if bound > 1.25 else 1.0


def fitted(spec: SoftmaxSpec, classes: int) -> SoftmaxSpec:
    """``spec`` with an inverse that holds for this many classes: a wider range, and a sharper maximum beyond 1e4."""
    padded = padded_classes(classes)
    while (bound := sum_bound(padded, spec)) >= 2.0 * spec.inverse_range:
        wider = float(math.ceil(INVERSE_RANGE_MARGIN * bound))
        if wider <= INVERSE_RANGE_MAX:
            return replace(spec, inverse_range=wider)
        spec = replace(spec, comparison_f=spec.comparison_f + 1)
    return spec


def _require_ranges(padded: int, spec: SoftmaxSpec, correct: bool) -> None:
    if spec.base_range > 2.0**spec.squarings:
        raise InputError(
            f"the exponential is approximated up to 2^{spec.squarings}, short of the base range {spec.base_range:g}",
            hint="Raise the squarings of the softmax to log2 of its base range.",
        )
    bound = sum_bound(padded, spec, correct)
    if bound >= 2.0 * spec.inverse_range:
        wider = math.ceil(INVERSE_RANGE_MARGIN * bound)
        raise InputError(
            f"sums over {padded} classes can reach {bound:.3g}, and the inverse converges below"
            f" {2.0 * spec.inverse_range:g}",
            hint=f"Set the inverse range of the softmax to {wider} or raise its comparison_f.",
        )


@lru_cache(maxsize=64)
def _class_mask(layout: BlockLayout, classes: int, padded: int) -> NDArray[np.float64]:
    """1 in the columns of true classes, 0 in those of padded ones."""
    return np.tile(np.where(np.arange(layout.cols) % padded < classes, 1.0, 0.0), layout.rows)


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
