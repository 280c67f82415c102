"""Our own security check: both bounds, from their sources, and how a chain's bits are counted."""

from __future__ import annotations

import dataclasses

import pytest

from hetal.ckks.parameters import check, log_qp_bits, special_primes
from hetal.ckks.presets import DEFAULT_PRESET, PRESETS, preset
from hetal.ckks.security import assess


@pytest.mark.parametrize(
    ("log_n", "bits", "sparse", "secure"),
    [
        (16, 1555, True, True),
        (16, 1556, True, False),
        (16, 1747, False, True),
        (16, 1748, False, False),
        (15, 868, False, True),
        (15, 869, False, False),
        (15, 100, True, False),
        (17, 100, True, False),
        (12, 10, False, False),
    ],
)
def test_bounds(log_n: int, bits: int, sparse: bool, secure: bool) -> None:
    report = assess(log2_ring_dimension=log_n, log_qp_bits=bits, sparse_secret=sparse)
    assert (report.bits == 128) is secure


def test_margin_is_to_the_tightest_bound() -> None:
    assert assess(log2_ring_dimension=16, log_qp_bits=1500, sparse_secret=True).margin_bits == 55
    assert assess(log2_ring_dimension=16, log_qp_bits=1500, sparse_secret=False).margin_bits == 247
    assert assess(log2_ring_dimension=16, log_qp_bits=1600, sparse_secret=True).margin_bits == -45
    assert assess(log2_ring_dimension=11, log_qp_bits=10, sparse_secret=False).margin_bits is None


def test_a_ring_without_a_sparse_bound_borrows_none() -> None:
    """The ternary bound alone does not cover a secret of weight 192."""
    report = assess(log2_ring_dimension=15, log_qp_bits=868, sparse_secret=True)
    assert (report.ternary_bound_bits, report.sparse_bound_bits, report.bits) == (868, None, 0)


@pytest.mark.parametrize("name", PRESETS)
def test_special_primes_count_towards_the_modulus(name: str) -> None:
    """Keys live under Q P, which is what an attacker sees."""
    spec = PRESETS[name]
    chain = spec.first_modulus_bits + spec.levels * spec.scale_bits
    assert log_qp_bits(spec) == chain + 60 * special_primes(spec)
    digit = -(-(spec.levels + 1) // spec.digits)
    assert 60 * special_primes(spec) >= spec.first_modulus_bits + (digit - 1) * spec.scale_bits


def test_one_level_more_than_the_bound_allows_is_insecure() -> None:
    assert preset(DEFAULT_PRESET).secure
    assert not check(dataclasses.replace(PRESETS[DEFAULT_PRESET], levels=27)).secure
    # The same chain under a uniform ternary secret stays below that secret's own bound.
    assert check(dataclasses.replace(PRESETS[DEFAULT_PRESET], levels=27, secret="uniform_ternary")).secure
