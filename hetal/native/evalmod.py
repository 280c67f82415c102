"""The modular reduction of bootstrapping, of slots t = I + y with I an integer and y small.

w = exp(2 pi i t) is a Chebyshev series of exp(2 pi i t / 2^R) squared R times: squaring a number on the unit circle
doubles its error, where doubling the angle of a cosine can quadruple it. I has vanished; w is the phase of t. Its
powers give theta = 2 pi y as sum_k b_k sin(k theta), k <= m, with an error of order theta^(2m+1): a plain sine has
m = 1 and needs tiny y, which makes all noise before it large; each further k costs a level and takes bits off y.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from hetal.ckks.parameters import Parameters
from hetal.errors import LevelError, ParameterError
from hetal.native.chebyshev import depth, evaluate, exponential_series
from hetal.native.scheme import Ct, Scheme

# Degree of the series, and the most that its argument may be: the error is then 2^-33.
DEGREE: Final = 31
FREQUENCY_MAX: Final = 4 * math.pi
# Non-zero coefficients of the ephemeral secret. |t| then exceeds 14 with a probability of 2^-78 (tail of the sum of 33
# uniform numbers), and the series stays accurate a little beyond.
SPARSE_WEIGHT: Final = 32
SPARSE_RANGE: Final = 14
# Standard deviations to which |t| is covered under a dense ternary secret: probability 2^-65.
DENSE_RANGE: Final = 9.2
# Sines that theta may be made of.
SINES_MAX: Final = 3
# The largest of all slots' errors, in standard deviations of the noise of t: the errors of the series' powers nearly
# double that noise, and they are large where |t| is.
LARGEST_ERROR: Final = 12.0
LEAST_SQUARES_ROUNDS: Final = 60


@dataclass(frozen=True, slots=True)
class Reduction:
    """The constants of the modular reduction of one parameter set.

    Attributes:
        bound: K: t is in [-K, K].
        squarings: R.
        sines: m.
        message_bits: messages of magnitude 1 become |y| = 2^-message_bits.
        weights: b_1 .. b_m.
    """

    bound: int
    squarings: int
    sines: int
    message_bits: int
    weights: tuple[float, ...]

    @property
    def phase_levels(self) -> int:
        """Levels from t / K to the phase."""
        return depth(DEGREE) + self.squarings

    @property
    def levels(self) -> int:
        """Levels from t / K to y."""
        return self.phase_levels + self.sines - 1


@lru_cache(maxsize=32)
def reduction_of(params: Parameters, sines: int) -> Reduction:
    """The reduction with ``sines`` sines whose largest error is predicted to be least.

    Raises:
        ParameterError: ``sines`` is not 1 to 3.
    """
    if not 1 <= sines <= SINES_MAX:
        raise ParameterError(f"theta is made of 1 to {SINES_MAX} sines, not {sines}")
    spec = params.spec
    dense = 2.0 * params.ring_dimension / 3.0
    if spec.secret == "sparse_encapsulated":
        bound = SPARSE_RANGE
    else:
        bound = math.ceil(DENSE_RANGE * math.sqrt((dense + 1.0) / 12.0))
    squarings = max(0, math.ceil(math.log2(2.0 * math.pi * bound / FREQUENCY_MAX)))
    # What the rescaling to t / K rounds away, in slots and in units of t: the largest of all noises.
    noise = bound * math.sqrt(params.ring_dimension * (dense + 1.0) / 24.0) / 2.0**spec.scale_bits

    def error(bits: int) -> float:
        return max(LARGEST_ERROR * noise * 2.0**bits, _sines(sines, bits)[1])

    best = min(range(2, spec.scale_bits // 2), key=error)
    return Reduction(bound, squarings, sines, best, _sines(sines, best)[0])


def phase(scheme: Scheme, t: Ct, reduction: Reduction, scale: float) -> Ct:
    """exp(2 pi i t) of real slots t / K, with ``reduction.phase_levels`` levels consumed.

    Args:
        scheme: with its relinearisation key set.
        t: degree 1.
        reduction: of the scheme's parameters.
        scale: that the result shall have.

    Raises:
        LevelError: ``t`` has too few levels.
    """
    squarings = reduction.squarings
    last = _left(t, reduction.phase_levels)
    for limbs in range(last, last + squarings):
        scale = math.sqrt(scale * float(scheme.moduli[limbs]))
    frequency = 2.0 * math.pi * reduction.bound / 2.0**squarings
    w = evaluate(scheme, t, exponential_series(frequency, DEGREE), scale, imaginary_odd=True)
    for _ in range(squarings):
        w = scheme.relinearize(_product(scheme, w, w))
    return w


def sine(scheme: Scheme, t: Ct, reduction: Reduction, scale: float, shrink: int = 0) -> Ct:
    """z with 2 Im z = message / 2^shrink at the given scale, of real slots t / K; ``reduction.levels`` consumed.

    Args:
        scheme: with its relinearisation key set.
        t: degree 1.
        reduction: of the scheme's parameters.
        scale: that the message shall have.
        shrink: bits by which the message is made smaller.

    Raises:
        LevelError: ``t`` has too few levels.
    """
    weights, sines = reduction.weights, reduction.sines
    limbs = _left(t, reduction.levels)
    # theta is 2 pi message / 2^message_bits, and theta / b_m the imaginary part of a polynomial in w with 1 as its
    # leading coefficient, of degree m. The scale of w is such that, after m - 1 rescalings and a product with a power
    # of two, this polynomial has the scale asked for.
    wanted = scale * 2.0 ** (reduction.message_bits - shrink) * abs(weights[-1]) / (4.0 * math.pi)
    factor = 1 << max(0, round(math.log2(wanted / scale)))
    power = wanted / factor * math.prod(float(scheme.moduli[limbs + i]) for i in range(sines - 1))
    w = phase(scheme, t, reduction, power ** (1.0 / sines))
    ratios = [weight / weights[-1] for weight in weights[:-1]]
    z = w
    if sines == 2:
        z = _product(scheme, w, scheme.add_constant(w, ratios[0]))
    elif sines == 3:
        inner = scheme.add_constant(_product(scheme, w, scheme.add_constant(w, ratios[1])), ratios[0])
        inner = scheme.relinearize(inner)
        z = _product(scheme, _cut(scheme, w, inner.limbs), inner)
    if weights[-1] < 0.0:
        factor = -factor
    if factor != 1:
        z = scheme.multiply_integer(z, factor)
    z = scheme.relinearize(z)
    return Ct(z.parts, scale, z.degree)


def _left(t: Ct, levels: int) -> int:
    """Limbs of the result."""
    if t.limbs <= levels:
        raise LevelError(f"the modular reduction needs {levels} levels, and its operand has {t.level}")
    return t.limbs - levels


def _product(scheme: Scheme, a: Ct, b: Ct) -> Ct:
    parts = scheme.ring.tensor((a.parts[0], a.parts[1]), (b.parts[0], b.parts[1]))
    return Ct(tuple(parts), a.scale * b.scale, 2)


def _cut(scheme: Scheme, a: Ct, limbs: int) -> Ct:
    return Ct(tuple(scheme.ring.truncate(part, limbs) for part in a.parts), a.scale, a.degree)


@lru_cache(maxsize=256)
def _sines(count: int, bits: int) -> tuple[tuple[float, ...], float]:
    """(b, error): theta = sum b_k sin(k theta) with the least largest error for |theta| <= 2 pi / 2^bits; the error is
    relative to that bound. (Lawson's iteration of weighted least squares.)"""
    bound = 2.0 * math.pi / 2.0**bits
    points = 200 * count
    theta = bound * np.cos(np.pi * (np.arange(points) + 0.5) / (2 * points))
    sines = np.sin(np.outer(theta, np.arange(1, count + 1)))
    importance = np.full(points, 1.0 / points)
    best: tuple[tuple[float, ...], float] = ((), math.inf)
    for _ in range(LEAST_SQUARES_ROUNDS):
        root = np.sqrt(importance)
        weights = np.linalg.lstsq(sines * root[:, None], theta * root, rcond=None)[0]
        residual = np.abs(sines @ weights - theta)
        error = float(residual.max()) / bound
        if error < best[1]:
            best = (tuple(float(b) for b in weights), error)
        importance = importance * residual
        total = float(importance.sum())
        # What is left is the rounding of doubles.
        if error < 2.0**-45 or total <= 0.0:
            break
        importance /= total
    return best
