"""The NumPy oracle, and the level and count arithmetic that all backends inherit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hetal.ckks.presets import PRESETS, preset
from hetal.errors import LevelError, ShapeError
from hetal.kernels.backends.plain import Noise, PlainEvaluator, galois_powers
from hetal.kernels.evaluator import Ciphertext, Evaluator, LevelModel, Refresh, level_model

MODEL = LevelModel(8, 9, 2, 5, 5)
Z = np.arange(1, 9) / 8 + 0.25j


@pytest.fixture
def ev() -> PlainEvaluator:
    return PlainEvaluator(MODEL)


def test_the_level_model_of_every_preset_leaves_levels_to_use() -> None:
    for name in PRESETS:
        params = preset(name)
        model = level_model(params)
        assert model.slots * 2 == params.ring_dimension
        assert 0 < model.bootstrap_input_level < model.bootstrap_output_level < model.top_level == params.top_level


def test_short_vectors_are_padded_and_enter_at_the_top(ev: PlainEvaluator) -> None:
    ct = ev.encrypt(np.ones(3))
    assert ct == Ciphertext(ct.payload, 9, 2)
    assert ev.decrypt(ct).tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    assert ev.encrypt(np.ones(3), level=0).level == 0


def test_galois_powers_are_the_orbit_of_five() -> None:
    powers = galois_powers(8)
    assert powers[:4].tolist() == [1, 5, 25, 125 % 32]
    assert len(set(powers.tolist())) == 8
    assert all(power % 4 == 1 for power in powers)


def test_monomials_form_a_cyclic_group(ev: PlainEvaluator) -> None:
    ct = ev.encrypt(Z)
    assert np.allclose(ev.decrypt(ev.mul_monomial(ct, 16)), -Z)
    assert np.allclose(ev.decrypt(ev.mul_monomial(ct, 32)), Z)
    assert np.allclose(ev.decrypt(ev.mul_monomial(ev.mul_monomial(ct, 5), -5)), Z)
    assert np.allclose(ev.decrypt(ev.mul_i(ct)), 1j * Z)


def test_a_monomial_product_is_the_product_of_polynomials(ev: PlainEvaluator) -> None:
    """Slot j is the polynomial's value at zeta^(5^j): multiplying by X shifts the coefficients, X^N = -1."""
    degree = 16
    coefficients = np.random.default_rng(0).normal(size=degree)
    points = np.exp(1j * np.pi * galois_powers(8) / degree)
    shifted = np.concatenate(([-coefficients[-1]], coefficients[:-1]))
    ct = ev.encrypt(np.polyval(coefficients[::-1], points))
    assert np.allclose(ev.decrypt(ev.mul_monomial(ct, 1)), np.polyval(shifted[::-1], points))


def test_a_rotation_moves_slots_down(ev: PlainEvaluator) -> None:
    ct = ev.encrypt(np.arange(8))
    assert ev.decrypt(ev.rotate(ct, 3)).real.tolist() == [3, 4, 5, 6, 7, 0, 1, 2]
    assert ev.decrypt(ev.rotate(ct, -1)).real.tolist() == [7, 0, 1, 2, 3, 4, 5, 6]


def test_a_bootstrap_keeps_real_parts_only(ev: PlainEvaluator) -> None:
    refreshed = ev.bootstrap(ev.encrypt(Z, level=2))
    assert refreshed.level == 5
    assert np.array_equal(ev.decrypt(refreshed), Z.real)


def test_counts_are_kept_by_the_level_of_the_result(ev: PlainEvaluator) -> None:
    a = ev.encrypt(Z)
    product = ev.mul(a, a)
    ev.add(ev.mul_scalar(product, 2.0), a)
    ev.rotate_many(product, [0, 1, 2, 8])
    ev.rotate(product, 8)
    assert dict(ev.counts) == {
        ("mul", 8): 1,
        ("relin", 8): 1,
        ("mul_scalar", 7): 1,
        ("add", 7): 1,
        ("rotate_hoisted", 8): 2,
    }
    assert ev.total("rotate_hoisted") == 2


REFUSED: dict[str, Callable[[Evaluator, Ciphertext, Ciphertext], object]] = {
    "product": lambda ev, spent, three: ev.mul(spent, spent),
    "plain product": lambda ev, spent, three: ev.mul_plain(spent, Z),
    "scalar product": lambda ev, spent, three: ev.mul_scalar(spent, 2.0),
    "bootstrap": lambda ev, spent, three: ev.bootstrap(spent),
    "raise": lambda ev, spent, three: ev.drop(spent, 1),
    "product of three parts": lambda ev, spent, three: ev.mul(three, three),
    "rotation of three parts": lambda ev, spent, three: ev.rotate(three, 1),
    "hoisted rotations of three parts": lambda ev, spent, three: ev.rotate_many(three, [1]),
    "conjugate of three parts": lambda ev, spent, three: ev.conjugate(three),
    "bootstrap of three parts": lambda ev, spent, three: ev.bootstrap(three),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_levels_or_parts_forbid_is_refused_and_not_counted(ev: PlainEvaluator, name: str) -> None:
    spent, a = ev.encrypt(Z, level=0), ev.encrypt(Z)
    three = ev.mul_no_relin(a, a)
    before = dict(ev.counts)
    with pytest.raises(LevelError):
        REFUSED[name](ev, spent, three)
    assert dict(ev.counts) == before


@pytest.mark.parametrize("shape", [(7,), (9,), (2, 4), ()])
def test_plain_operands_have_one_number_per_slot(ev: PlainEvaluator, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError):
        ev.mul_plain(ev.encrypt(Z), np.ones(shape))


@pytest.mark.parametrize(
    "bound, factor_levels, exponent", [(0.5, 0, 0), (1.0, 0, 0), (1.5, 1, 1), (4.0, 1, 2), (4.1, 1, 3)]
)
def test_checkpoints_scale_by_the_next_power_of_two(bound: float, factor_levels: int, exponent: int) -> None:
    seen: list[tuple[int, float]] = []

    class Spy(PlainEvaluator):
        def _bootstrap(self, a: Ciphertext, level: int) -> np.ndarray:
            seen.append((a.level, float(np.abs(self.decrypt(a)).max())))
            return super()._bootstrap(a, level)

    ev = Spy(MODEL)
    ev.schedule = {"place": Refresh(bootstrap=True, level=4)}
    slots = bound * np.linspace(-1, 1, 8)
    refreshed = ev.checkpoint(ev.encrypt(slots, level=6), "place", bound)
    assert seen == [(6 - factor_levels, bound / 2**exponent)]
    assert seen[0][1] <= 1
    assert refreshed.level == 4
    assert np.allclose(ev.decrypt(refreshed), slots)


def test_noise_has_the_size_that_was_asked_for_and_repeats_by_seed() -> None:
    model = LevelModel(4096, 9, 2, 5, 5)
    zeros = np.zeros(4096)

    def errors(seed: int) -> tuple[np.ndarray, np.ndarray]:
        ev = PlainEvaluator(model, Noise(per_operation=1e-3, per_bootstrap=1e-1, seed=seed))
        ct = ev.encrypt(zeros)
        return ev.decrypt(ev.mul_scalar(ct, 1.0)), ev.decrypt(ev.bootstrap(ct))

    operation, bootstrap = errors(0)
    for part in (operation.real, operation.imag):
        assert part.std() == pytest.approx(1e-3, rel=0.1)
    assert bootstrap.real.std() == pytest.approx(1e-1, rel=0.1)
    assert np.array_equal(errors(0)[0], operation)
    assert not np.array_equal(errors(1)[0], operation)


def test_additions_are_exact_under_noise() -> None:
    ev = PlainEvaluator(MODEL, Noise(per_operation=1.0))
    ct = ev.encrypt(Z)
    assert np.array_equal(ev.decrypt(ev.add(ct, ct)), 2 * Z)
