"""Long series of a ciphertext: values, levels and counts."""

from __future__ import annotations

import numpy as np
import pytest

from hetal.errors import InputError
from hetal.kernels.backends.counting import CountingEvaluator
from hetal.kernels.backends.plain import PlainEvaluator
from hetal.kernels.evaluator import LevelModel
from hetal.kernels.series import Fourier, FourierSum, chebyshev, depth

SLOTS = 64
MODEL = LevelModel(SLOTS, 20, 1, 20, 20)
DEGREES = [1, 2, 3, 7, 8, 9, 15, 16, 31, 39, 47, 55, 63, 64, 95, 127, 200]


def random_series(degree: int) -> Fourier:
    rng = np.random.default_rng(degree)
    cosines, sines = rng.normal(size=(2, degree))
    return Fourier(10.0, 0.7, tuple(cosines), tuple(sines))


@pytest.mark.parametrize("degree", DEGREES)
def test_chebyshev(degree: int) -> None:
    coefficients = np.random.default_rng(degree).normal(size=degree + 1)
    x = np.linspace(-1, 1, SLOTS)
    ev = PlainEvaluator(MODEL)
    out = chebyshev(ev, ev.encrypt(x), list(coefficients))
    wanted = np.polynomial.chebyshev.chebval(x, coefficients)
    assert np.abs(ev.decrypt(out) - wanted).max() < 1e-11 * degree * np.abs(coefficients).sum()
    spent = MODEL.top_level - out.level
    assert spent == depth(degree) if degree < 8 or degree % 8 == 7 else spent <= depth(degree)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("degree", DEGREES)
def test_fourier_on_both_sides(degree: int, masked: bool) -> None:
    series = random_series(degree)
    v = np.linspace(-20, 20, SLOTS)
    mask = np.where(np.arange(SLOTS) % 3, 1.0, 0.0) if masked else None
    ev = PlainEvaluator(MODEL)
    halves = FourierSum(ev, ev.encrypt(np.exp(2j * np.pi * v / series.period)), series)
    for out, argument in ((halves.at(mask), v), (halves.at_negative(mask), -v)):
        wanted = series(argument) if mask is None else series(argument) * mask
        assert np.abs(2 * ev.decrypt(out).real - wanted).max() < 1e-10 * degree
        spent = MODEL.top_level - out.level
        assert (
            spent == depth(degree, masked=masked)
            if degree < 8 or degree % 8 == 7
            else spent <= depth(degree, masked=masked)
        )


def test_fourier_against_its_definition() -> None:
    series = random_series(5)
    v = np.linspace(-3, 30, 50)
    angle = 2 * np.pi * v / series.period
    terms = [
        c * np.cos(k * angle) + s * np.sin(k * angle)
        for k, (c, s) in enumerate(zip(series.cosines, series.sines, strict=True), start=1)
    ]
    assert np.allclose(series(v), series.constant + sum(terms))
    assert np.allclose(series.scaled(-3.0)(v), -3.0 * series(v))


def test_of_nothing_a_fourier_sum_is_its_constant() -> None:
    series = random_series(95)
    ev = PlainEvaluator(MODEL)
    assert np.allclose(ev.decrypt(FourierSum(ev, ev.encrypt(np.zeros(SLOTS)), series).at()), series.constant / 2)


def test_sines_alone() -> None:
    series = Fourier(4.0, 0.5, (0.0,) * 20, tuple(np.linspace(1, 2, 20)))
    v = np.linspace(-2, 2, SLOTS)
    ev = PlainEvaluator(MODEL)
    halves = FourierSum(ev, ev.encrypt(np.exp(2j * np.pi * v / 4.0)), series)
    assert np.allclose(2 * ev.decrypt(halves.at()).real, series(v))
    assert np.allclose(2 * ev.decrypt(halves.at_negative()).real, series(-v))


def test_levels_and_counts_of_the_design() -> None:
    """kernels-full.md 5.3 and 5.4."""
    assert (depth(55), depth(95), depth(95, masked=True), depth(39, masked=True)) == (6, 7, 7, 6)
    ev = CountingEvaluator(MODEL)
    chebyshev(ev, ev.encrypt(), list(np.linspace(1, 2, 56) ** 2))
    assert (ev.total("relin"), ev.total("mul")) == (12, 16)
    ev = CountingEvaluator(MODEL)
    halves = FourierSum(ev, ev.encrypt(), random_series(95))
    halves.at()
    assert (ev.total("relin"), ev.total("mul")) == (16, 25)
    halves.at_negative(np.ones(SLOTS))
    assert (ev.total("relin"), ev.total("mul")) == (18, 36)


def test_constants_are_refused() -> None:
    ev = CountingEvaluator(MODEL)
    with pytest.raises(InputError):
        chebyshev(ev, ev.encrypt(), [1.0])
    with pytest.raises(InputError):
        FourierSum(ev, ev.encrypt(), Fourier(1.0, 1.0, (0.0,), (0.0,))).at()
