"""Softmax by squaring and normalising (Cho et al., CCS 2024), for any number of classes and on every backend.

y = exp(x / 2^k), then k times y <- y^2 / sum y^2, with a polynomial for the inverse. An error of an inverse multiplies
a whole sample and only has to keep the next sum in range; the last one alone is accurate. Logits have mean 0 over the
classes of a sample, as those of centred weights have: then sums are known within a factor cosh(2 R / 2^k).

Sums run over the slots of a sample: a window of as many slots as there are classes, in log2 rotations, right in the
sample's first slot; the mask that keeps it is part of the inverse's coefficients, and so is that of the exponential,
which makes all other slots 0. Both cost no level.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hetal.errors import InputError, LevelError
from hetal.kernels.evaluator import Ciphertext, Evaluator, LevelModel, Refresh
from hetal.kernels.polynomial import evaluate_chebyshev
from hetal.kernels.sections import Sections
from hetal.kernels.tables import NormaliseSpec

Array = NDArray[np.float64]

# By what factors the first sum may fall short and exceed, for logits whose mean strays from 0 or which leave their
# range: a quarter of it at most. A sum in excess is what makes values grow; later sums cannot be.
SHORTFALL: Final = 1.2
EXCESS: Final = math.e
NARROW_DEGREE_MAX: Final = 7
ERROR_MIN: Final = 1e-5
# The checkpoint of the probabilities themselves, which only :func:`schedule` uses.
RESULT: Final = "softmax/result"


def normalise(
    ev: Evaluator,
    logits: Ciphertext,
    sections: Sections,
    spec: NormaliseSpec,
    *,
    gain: float,
    output_gain: float = 1.0,
) -> Ciphertext:
    """``output_gain`` times the softmax of every sample, and 0 in all slots outside of the sections.

    Args:
        logits: real slots ``gain`` * x in ``sections``, x in the spec's range and of mean 0 over a sample's classes.
            Slots outside of the sections hold no more than those within.

    Bootstraps are allowed at :func:`checkpoints`, where slots are no larger than 1. Levels from one to the next:
    ``spec.levels``; before the first: 1; and 1 for the gain behind the last, where that is bootstrapped. Key switches
    of a step: 4 log2(classes) rotations at most, and the relinearisations of a square, a product and an inverse (4 for
    degree 7, 7 for degree 15).

    Raises:
        InputError: the spec does not serve this many classes.
    """
    if not 2 <= sections.classes <= spec.classes:
        raise InputError(f"a spec for up to {spec.classes} classes cannot serve {sections.classes}")
    # A power of two is exact however small; what is left of the scale is part of the exponential's coefficients.
    exponent = math.ceil(math.log2(gain * spec.logit_range))
    names = iter(checkpoints(spec))
    x = ev.checkpoint(ev.mul_scalar(logits, 2.0**-exponent), next(names))
    coefficients = exponential(spec, sections.classes, 2.0**exponent / gain)
    y = evaluate_chebyshev(ev, x, coefficients, sections.mask(np.ones(sections.classes)))
    first = sections.mask([1.0] + [0.0] * (sections.classes - 1))
    refreshed = RESULT in ev.schedule and ev.schedule[RESULT].bootstrap
    inverses = inverse_polynomials(spec, sections.classes)
    for inverse in inverses:
        folded = output_gain if inverse is inverses[-1] and not refreshed else 1.0
        y = ev.checkpoint(y, next(names))
        square = ev.square(y)
        total = window(ev, square, sections.classes, 1)
        argument = ev.add_scalar(ev.mul_integer(total, inverse.stretch), -inverse.shift)
        factor = evaluate_chebyshev(ev, argument, [folded * c for c in inverse.series], first)
        y = ev.mul(square, window(ev, factor, sections.classes, -1))
    return ev.mul_scalar(ev.checkpoint(y, RESULT), output_gain) if refreshed else y


def checkpoints(spec: NormaliseSpec) -> tuple[str, ...]:
    """Names of the places before the exponential and before each step, where slots are no larger than 1."""
    return ("softmax/logits", *(f"softmax/step/{i}" for i in range(len(spec.degrees))))


def schedule(spec: NormaliseSpec, model: LevelModel, level: int) -> dict[str, Refresh]:
    """The fewest bootstraps that leave the result at ``level``, the logits' own included, each at the lowest levels.

    Raises:
        LevelError: the bootstraps leave too few levels for a step.
    """
    decisions: dict[str, Refresh] = {}
    entry, output = model.bootstrap_input_level, model.bootstrap_output_level
    need = level
    after = RESULT
    for name, levels in zip(reversed(checkpoints(spec)), reversed(spec.levels), strict=True):
        if need + levels > output:
            # What follows was counted from its own bootstrap; the gain behind the last costs a level.
            decisions[after] = Refresh(True, need + 1 if after == RESULT else need)
            need = entry
        elif after != RESULT:
            decisions[after] = Refresh(False, need)
        need += levels
        after = name
        if need > output or any(refresh.level > output for refresh in decisions.values()):
            raise LevelError(f"a step of the softmax needs {levels} levels, and a bootstrap leaves {output - entry}")
    decisions[after] = Refresh(True, need)
    return decisions


def window(ev: Evaluator, a: Ciphertext, count: int, step: int) -> Ciphertext:
    """The sum of ``count`` rotations of a, by 0, step, 2 step, ...; floor(log2 count) + the ones in it - 1 of them."""
    total: Ciphertext | None = None
    done, size, run = 0, 1, a
    while True:
        if count & size:
            part = ev.rotate(run, done * step)
            total = part if total is None else ev.add(total, part)
            done += size
        if 2 * size > count:
            break
        run = ev.add(run, ev.rotate(run, size * step))
        size *= 2
    if total is None:
        raise InputError("a sum needs terms")
    return total


class Inverse:
    """The polynomial q of a degree for which S q(S) is closest to 1 on [low, low + 2 / stretch].

    q(S) = (1 - T(t) / T(t0)) / S, T the Chebyshev polynomial of a degree more, t = ``stretch`` * S - ``shift``, t = t0
    at S = 0: S q(S) lies within ``error`` = 1 / |T(t0)| of 1.

    Sums are 1 at most, but windows from other slots than the first meet two samples, and sums of 2. The mask makes q 0
    there; the noise of what it multiplied is multiplied by Chebyshev polynomials of half the degree at t. So only small
    degrees are spent on [low, low + 1] alone, and where sums are 0 the same noise bounds 1 / ``error``: a lower ``low``
    takes the degrees that a smaller error would.

    Attributes:
        series: Chebyshev coefficients of q in t.
    """

    def __init__(self, degree: int, low: float, scale: float | None) -> None:
        """``scale`` times q; by default so that S q(S) is 1 at most."""
        self.stretch = 2 if degree <= NARROW_DEGREE_MAX else 1
        self.shift = min(self.stretch * low + 1.0, math.cosh(math.acosh(1.0 / ERROR_MIN) / (degree + 1)))
        chebyshev = np.polynomial.chebyshev.Chebyshev.basis(degree + 1)
        at_zero = float(chebyshev(-self.shift))
        self.error = 1.0 / abs(at_zero)
        factor = 1.0 / (1.0 + self.error) if scale is None else scale

        def q(t: Array) -> Array:
            return np.asarray(factor * (1.0 - chebyshev(t) / at_zero) * self.stretch / (t + self.shift))

        self.series = _interpolated(q, degree)


@lru_cache(maxsize=64)
def inverse_polynomials(spec: NormaliseSpec, classes: int) -> tuple[Inverse, ...]:
    """One per step. All but the last leave sums of a sample at 1 or a little below."""
    spread = math.cosh(2.0 * spec.logit_range / 2.0 ** len(spec.degrees)) * SHORTFALL * EXCESS
    low = 1.0 / spread
    found: list[Inverse] = []
    for i, degree in enumerate(spec.degrees):
        inverse = Inverse(degree, low, 1.0 if i + 1 == len(spec.degrees) else None)
        found.append(inverse)
        # Of numbers whose sum is s, the squares sum to s^2 / c at least.
        low = ((1.0 - inverse.error) / (1.0 + inverse.error)) ** 2 / classes
    return tuple(found)


@lru_cache(maxsize=256)
def exponential(spec: NormaliseSpec, classes: int, unit: float) -> tuple[float, ...]:
    """Chebyshev coefficients of exp(unit t / 2^k) on [-1, 1], times what makes the largest sum of squares 1."""
    reach = 1.0 / 2.0 ** len(spec.degrees)
    largest = classes * math.cosh(2.0 * spec.logit_range * reach) * EXCESS

    def scaled(t: Array) -> Array:
        return np.asarray(np.exp(unit * reach * t) / math.sqrt(largest))

    return _interpolated(scaled, spec.exponential_degree)


def _interpolated(function: Callable[[Array], Array], degree: int) -> tuple[float, ...]:
    """Chebyshev coefficients of the polynomial that meets a function in the zeros of the next Chebyshev polynomial."""
    points = np.polynomial.chebyshev.chebpts1(degree + 1)
    sums = np.polynomial.chebyshev.chebvander(points, degree).T @ function(points)
    return (float(sums[0]) / (degree + 1), *(2.0 * float(s) / (degree + 1) for s in sums[1:]))
