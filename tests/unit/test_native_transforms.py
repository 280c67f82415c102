"""Stages of the transforms: their product is the decoding matrix, their rotations are those that clients make."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from native_client import Client, small_parameters
from numpy.typing import NDArray

from hetal.ckks.openfhe import bootstrap_indices
from hetal.ckks.parameters import Parameters
from hetal.ckks.presets import PRESETS, preset
from hetal.errors import LevelError, MissingKeyError
from hetal.native import reference
from hetal.native.linear_transform import LinearTransform
from hetal.native.transforms import (
    Stage,
    bootstrap_automorphisms,
    bootstrap_steps,
    coeffs_to_slots,
    slots_to_coeffs,
)

SHAPES: dict[str, dict[str, Any]] = {
    "(2,2)": {},
    "(2,2) of even layers": {"log2_ring_dimension": 11},
    "(3,3)": {"level_budget": (3, 3)},
    "(4,4), odd stage of three layers": {"level_budget": (4, 4), "giant_steps": (0, 0)},
    "(4,2), OpenFHE's giant steps": {"log2_ring_dimension": 11, "level_budget": (4, 2), "giant_steps": (0, 0)},
    "(6,5), giant steps too large": {"level_budget": (6, 5), "giant_steps": (4, 2), "levels": 30},
    "(3,2), giant steps of one stage": {"level_budget": (3, 2), "giant_steps": (16, 64)},
    "(2,2), giant steps of no power of two": {"giant_steps": (5, 6)},
    "(1,2)": {"level_budget": (1, 2), "giant_steps": (0, 0)},
    "(1,1)": {"level_budget": (1, 1), "giant_steps": (0, 0)},
    "(1,1), few giant steps": {"level_budget": (1, 1)},
}


def shape(name: str) -> Parameters:
    return preset(name) if name in PRESETS else small_parameters(**SHAPES[name])


def decoding_matrix(slots: int) -> NDArray[np.complex128]:
    """U[j, k] = zeta^(k 5^j), zeta = exp(i pi / N), by its definition."""
    powers = np.array([pow(5, j, 4 * slots) for j in range(slots)])
    return np.exp(2j * np.pi * (np.outer(powers, np.arange(slots)) % (4 * slots)) / (4 * slots))


def bit_reversal(slots: int) -> list[int]:
    bits = slots.bit_length() - 1
    return [int(f"{k:0{bits}b}"[::-1], 2) for k in range(slots)]


def applied(stages: tuple[Stage, ...], x: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """What a server computes: rotations by the stages' steps only."""
    for stage in stages:
        total = np.zeros_like(x)
        for row in reversed(stage.rows()):
            total = np.roll(total, -stage.steps[-1])
            for baby, diagonal in row.items():
                moved = np.roll(x, -stage.steps[baby - 1]) if baby else x
                total = total + np.tile(diagonal, len(x) // len(diagonal)) * moved
        x = total
    return x


def random_slots(count: int, seed: int = 0) -> NDArray[np.complex128]:
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, count) + 1j * rng.uniform(-1, 1, count)


@pytest.mark.parametrize("name", SHAPES)
def test_slots_to_coeffs_is_the_decoding_matrix_of_bit_reversed_vectors(name: str) -> None:
    params = shape(name)
    x = random_slots(params.slots)
    expected = decoding_matrix(params.slots) @ x[bit_reversal(params.slots)]
    result = applied(slots_to_coeffs(params), x)
    assert np.abs(result - expected).max() < 1e-11


@pytest.mark.parametrize("name", SHAPES)
def test_coeffs_to_slots_is_its_inverse_times_the_number_of_slots(name: str) -> None:
    params = shape(name)
    x = random_slots(params.slots, 1)
    there = decoding_matrix(params.slots) @ x[bit_reversal(params.slots)]
    assert np.abs(applied(coeffs_to_slots(params), there) / params.slots - x).max() < 1e-11


@pytest.mark.parametrize("name", [*PRESETS, *SHAPES])
def test_clients_of_openfhe_make_all_keys_that_a_bootstrap_needs(name: str) -> None:
    params = shape(name)
    assert set(bootstrap_automorphisms(params)) <= set(bootstrap_indices(params, params.spec.giant_steps))


def test_the_default_preset_needs_24_rotations() -> None:
    params = preset("default")
    expected = [j << low for low in (0, 5, 10) for j in range(1, 9)]
    assert bootstrap_steps(params) == expected
    order = 2 * params.ring_dimension
    assert {order - 4, order - 2, order - 1} < set(bootstrap_automorphisms(params))
    assert len(bootstrap_automorphisms(params)) == 27


def test_a_dense_secret_needs_no_encapsulation() -> None:
    params = small_parameters(secret="uniform_ternary")
    order = 2 * params.ring_dimension
    assert not {order - 4, order - 2} & set(bootstrap_automorphisms(params))


@pytest.mark.parametrize("name", SHAPES)
def test_a_stage_costs_one_level_of_the_budget(name: str) -> None:
    params = shape(name)
    up, down = params.spec.level_budget
    assert (len(coeffs_to_slots(params)), len(slots_to_coeffs(params))) == (up, down)


@pytest.fixture(scope="module")
def client() -> Client:
    client = Client(reference, small_parameters())
    client.make_keys(bootstrap_automorphisms(client.params))
    return client


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("inverse", [False, True])
def test_a_stage_on_a_ciphertext_equals_its_matrix(client: Client, inverse: bool, index: int) -> None:
    params, scheme, limbs = client.params, client.scheme, 4
    stage = (coeffs_to_slots if inverse else slots_to_coeffs)(params)[index]
    x = random_slots(params.slots)
    a = client.encrypt(x, limbs - 1)
    # Of a scale like the modulus that is dropped, so that the result has the scale of the input.
    transform = LinearTransform(client.ring, stage, limbs, len(client.p), float(scheme.moduli[limbs - 1]))
    c0, c1 = transform.apply((a.parts[0], a.parts[1]), scheme.automorphisms)
    assert (c0.q_limbs, c0.p_limbs) == (limbs - 1, 0)
    expected = applied((stage,), x)
    error = np.abs(client.decrypt(type(a)((c0, c1), a.scale)) - expected)
    # Encryption, the diagonals' rounding and the last rescaling; of 63 terms, each of magnitude 1.
    assert error.max() < 64 * 8 * params.ring_dimension / a.scale
    assert transform.automorphisms <= set(bootstrap_automorphisms(params))


def test_diagonals_that_repeat_are_held_once(client: Client) -> None:
    limbs, p_limbs = 3, len(client.p)
    sizes = []
    for stage in slots_to_coeffs(client.params):
        transform = LinearTransform(client.ring, stage, limbs, p_limbs, 2.0**40)
        words = max(2 << stage.high, 64)
        sizes.append(sum(len(row) for row in stage.rows()) * words * 8 * (limbs + p_limbs))
        assert transform.nbytes == sizes[-1]
    # 63 diagonals of 32 slots, and 16 of all slots where OpenFHE has 31.
    assert sizes == [63 * 64 * 8 * (limbs + p_limbs), 16 * 1024 * 8 * (limbs + p_limbs)]


def test_a_stage_refuses_other_limbs_and_missing_keys(client: Client) -> None:
    stage = slots_to_coeffs(client.params)[0]
    transform = LinearTransform(client.ring, stage, 3, len(client.p), 2.0**40)
    a = client.encrypt(random_slots(client.params.slots), 3)
    with pytest.raises(LevelError, match="3 limbs, a ciphertext of 4"):
        transform.apply((a.parts[0], a.parts[1]), client.scheme.automorphisms)
    a = client.encrypt(random_slots(client.params.slots), 2)
    keys = dict(client.scheme.automorphisms)
    del keys[5]
    with pytest.raises(MissingKeyError, match="automorphism 5 "):
        transform.apply((a.parts[0], a.parts[1]), keys)
