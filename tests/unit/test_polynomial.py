"""Polynomials of ciphertexts: values, depth and key switches."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from hetal.errors import InputError, LevelError
from hetal.kernels.backends.plain import PlainEvaluator
from hetal.kernels.evaluator import LevelModel
from hetal.kernels.polynomial import depth, evaluate, evaluate_chebyshev

SLOTS = 64
POINTS: NDArray[np.float64] = np.linspace(-1.0, 1.0, SLOTS, dtype=np.float64)


def evaluator(top_level: int) -> PlainEvaluator:
    return PlainEvaluator(LevelModel(SLOTS, top_level, 1, top_level, top_level))


@pytest.mark.parametrize("degree", range(1, 20))
def test_value_and_depth(degree: int) -> None:
    coefficients = np.random.default_rng(degree).normal(size=degree + 1)
    ev = evaluator(depth(degree))
    out = evaluate(ev, ev.encrypt(POINTS), coefficients.tolist())
    np.testing.assert_allclose(ev.decrypt(out), np.polynomial.polynomial.polyval(POINTS, coefficients), atol=1e-12)
    assert (out.level, out.parts) == (0, 2)


@pytest.mark.parametrize("degree", [1, 2, 7, 8])
def test_one_level_less_is_too_few(degree: int) -> None:
    ev = evaluator(depth(degree) - 1)
    with pytest.raises(LevelError):
        evaluate(ev, ev.encrypt(POINTS), [1.0] * (degree + 1))


@pytest.mark.parametrize(
    "coefficients",
    [[0, 1, 0, 0, 5, 0, 0, 0], [3, 0, 0, 0, 2], [0, 0, 0, 1, 0, 0], [0.5, 2], [1, 0, 0, 0, 0, 0, 0, 0, -2], [0, 0, 1]],
)
def test_sparse_polynomials(coefficients: list[float]) -> None:
    degree = max(i for i, c in enumerate(coefficients) if c)
    ev = evaluator(depth(degree))
    out = evaluate(ev, ev.encrypt(POINTS), coefficients)
    np.testing.assert_allclose(ev.decrypt(out), np.polynomial.polynomial.polyval(POINTS, coefficients), atol=1e-12)
    assert out.level == 0


@pytest.mark.parametrize(
    ("coefficients", "products", "relinearisations"),
    [([0.0, 4.5, 0.0, -16.0, 0.0, 25.0, 0.0, -12.5], 5, 4), ([1.0] * 9, 5, 4), ([0.0, 2.0, 0.0, -1.2], 2, 2)],
)
def test_key_switches(coefficients: list[float], products: int, relinearisations: int) -> None:
    ev = evaluator(4)
    evaluate(ev, ev.encrypt(POINTS), coefficients)
    # 1.0 x^4 in the full polynomial of degree 8 rides on the product that x^8 would take.
    assert (ev.total("mul"), ev.total("relin")) == (products + (coefficients[0] == 1.0), relinearisations)


def test_mask_costs_no_level() -> None:
    coefficients = [0.7, -1.0, 0.0, 2.0, 0.3, 0.0, 0.0, 0.0, 1.5]
    mask = (np.arange(SLOTS) % 3 == 0).astype(np.float64)
    ev = evaluator(depth(8))
    out = evaluate(ev, ev.encrypt(POINTS), coefficients, mask)
    expected = mask * np.polynomial.polynomial.polyval(POINTS, coefficients)
    np.testing.assert_allclose(ev.decrypt(out), expected, atol=1e-12)
    assert out.level == 0
    assert not np.any(ev.decrypt(out)[mask == 0.0])


@pytest.mark.parametrize("coefficients", [[], [2.0], [2.0, 0.0, 0.0]])
def test_constants_are_refused(coefficients: list[float]) -> None:
    ev = evaluator(4)
    with pytest.raises(InputError):
        evaluate(ev, ev.encrypt(POINTS), coefficients)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("degree", [*range(1, 20), 31, 63])
def test_chebyshev_polynomials(degree: int, masked: bool) -> None:
    coefficients = np.random.default_rng(degree).normal(size=degree + 1)
    x = np.linspace(-1, 1, SLOTS)
    mask = np.where(np.arange(SLOTS) % 3, 1.0, 0.0) if masked else None
    ev = PlainEvaluator(LevelModel(SLOTS, 10, 1, 10, 10))
    out = evaluate_chebyshev(ev, ev.encrypt(x), list(coefficients), mask)
    wanted = np.polynomial.chebyshev.chebval(x, coefficients) * (1.0 if mask is None else mask)
    assert np.abs(ev.decrypt(out) - wanted).max() < 1e-12 * degree * np.abs(coefficients).sum()
    assert 10 - out.level == depth(degree)


def test_sparse_chebyshev_polynomials() -> None:
    x = np.linspace(-1, 1, SLOTS)
    for index in range(1, 17):
        coefficients = [0.0] * index + [2.0]
        ev = PlainEvaluator(LevelModel(SLOTS, 10, 1, 10, 10))
        out = evaluate_chebyshev(ev, ev.encrypt(x), coefficients)
        assert np.allclose(ev.decrypt(out), np.polynomial.chebyshev.chebval(x, coefficients))
        assert 10 - out.level == depth(index)
