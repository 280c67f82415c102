"""Noise growth of each operation within its bound.

A rounding error is uniform: variance 1/12 in each coefficient of both parts; with a uniformly ternary secret of N
coefficients that is (1 + 2N/3) / 12 in the message polynomial, and N times as much, over the scale squared, in a slot.
A key switch adds the rounding of its division by P; the key's own noise is 2^-12 of that. A rescaling adds as much.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from native_client import NOISE_DEVIATION, Client, small_parameters
from numpy.typing import NDArray

from hetal.native import load_engine
from hetal.native.scheme import Ct

LEVEL = 8
# Deviations that the largest of 512 slots may have; by chance alone 6 happens once in a million runs.
LARGEST = 6.0
Slots = NDArray[np.complex128]


@pytest.fixture(scope="module")
def client() -> Client:
    made = Client(load_engine(), small_parameters())
    made.make_keys([5, 25, 2 * made.size - 1])
    return made


def deviation(client: Client, roundings: float, fresh: float = 0.0) -> float:
    """Of a slot's error, as a complex number, at the canonical scale: roundings, and coefficients' noise ``fresh``."""
    size = client.size
    variance = roundings * (1 + 2 * size / 3) / 12 + fresh
    return math.sqrt(size * variance) / client.scheme.canonical_scale(LEVEL + 1)


def slots(client: Client, seed: int) -> Slots:
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, client.size // 2) + 1j * rng.uniform(-1, 1, client.size // 2)


def check(error: Slots, bound: float) -> None:
    """Errors are as large as predicted, and not much smaller: the prediction means something."""
    spread = float(np.sqrt(np.mean(np.abs(error) ** 2)))
    assert spread < 1.3 * bound
    assert spread > bound / 3
    assert np.abs(error).max() < LARGEST * bound


Operation = Callable[[Client, Ct], Ct]
# Each with what it does to exact slots, and the roundings that it adds.
LINEAR: dict[str, tuple[Operation, Callable[[Slots], Slots], float]] = {
    "rotate": (lambda c, a: c.scheme.rotate(a, 1), lambda x: np.roll(x, -1), 1),
    "rotate_hoisted": (lambda c, a: c.scheme.rotate_many(a, [1, 2])[1], lambda x: np.roll(x, -2), 1),
    "conjugate": (lambda c, a: c.scheme.conjugate(a), np.conj, 1),
    "drop": (lambda c, a: c.scheme.settle(c.scheme.drop(a, LEVEL - 1)), lambda x: x, 1),
}


@pytest.mark.parametrize("name", sorted(LINEAR))
def test_linear_operations_add_rounding_noise(client: Client, name: str) -> None:
    operation, exact, roundings = LINEAR[name]
    a = client.encrypt(slots(client, 1), LEVEL)
    before = client.decrypt(a)
    check(client.decrypt(operation(client, a)) - exact(before), deviation(client, roundings))


def test_additions_negations_and_monomials_add_none(client: Client) -> None:
    scheme = client.scheme
    a, b = (client.encrypt(slots(client, seed), LEVEL) for seed in (2, 3))
    x, y = client.decrypt(a), client.decrypt(b)
    # What is left are the rounding errors of doubles in decoding.
    tiny = 2.0**-48
    assert np.abs(client.decrypt(scheme.add(a, b)) - (x + y)).max() < tiny
    assert np.abs(client.decrypt(scheme.subtract(a, b)) - (x - y)).max() < tiny
    assert np.abs(client.decrypt(scheme.negate(a)) + x).max() < tiny
    assert np.abs(client.decrypt(scheme.multiply_integer(a, 7)) - 7 * x).max() < 8 * tiny
    assert np.abs(client.decrypt(scheme.multiply_monomial(a, client.size // 2)) - 1j * x).max() < tiny


def test_a_fresh_ciphertext_has_the_key_owners_noise(client: Client) -> None:
    x = slots(client, 4)
    # Encoding rounds the message, too.
    check(
        client.decrypt(client.encrypt(x, LEVEL)) - x,
        deviation(client, 0, NOISE_DEVIATION**2 + 1 / 12),
    )


def test_a_product_relinearised_and_rescaled_adds_one_rounding(client: Client) -> None:
    scheme = client.scheme
    a, b = (client.encrypt(slots(client, seed), LEVEL) for seed in (5, 6))
    product = scheme.relinearize(scheme.tensor(a, b))
    assert product.degree == 1
    # The division by P and the rescaling are one. The product of exact decryptions carries the operands' own noise.
    check(client.decrypt(product) - client.decrypt(a) * client.decrypt(b), deviation(client, 1))


def test_a_plain_product_adds_the_encodings_rounding(client: Client) -> None:
    scheme = client.scheme
    x, v = slots(client, 7), slots(client, 8).real
    a = client.encrypt(x, LEVEL)
    product = scheme.settle(scheme.multiply_plain(a, v))
    size = client.size
    scale = scheme.canonical_scale(LEVEL + 1)
    encoding = math.sqrt(size / 12) / scale * float(np.sqrt(np.mean(np.abs(x) ** 2)))
    check(client.decrypt(product) - client.decrypt(a) * v, math.hypot(deviation(client, 1), encoding))


def test_sums_of_products_are_relinearised_once_for_one_rounding(client: Client) -> None:
    scheme = client.scheme
    cts = [client.encrypt(slots(client, seed), LEVEL) for seed in range(10, 18)]
    exact: Any = sum(client.decrypt(a) * client.decrypt(b) for a, b in zip(cts[::2], cts[1::2], strict=True))
    total = scheme.tensor(cts[0], cts[1])
    for a, b in zip(cts[2::2], cts[3::2], strict=True):
        total = scheme.add(total, scheme.tensor(a, b))
    check(client.decrypt(scheme.relinearize(total)) - exact, deviation(client, 1))
