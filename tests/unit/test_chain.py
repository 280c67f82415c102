"""Chains computed from parameters are the ones that OpenFHE makes: primes, roots, scales, special primes."""

from __future__ import annotations

import math
import re
import struct
from typing import Any

import openfhe
import pytest

from hetal.ckks.chain import ENGINE_MARGIN_BITS, Prime, chain_of, engine_prime_count, engine_primes
from hetal.ckks.openfhe import build_context, set_up_bootstrap
from hetal.ckks.parameters import Parameters, ParameterSpec, check, special_primes
from hetal.ckks.presets import PRESETS, preset
from hetal.ckks.primes import is_prime, least_root, prime_above, prime_below
from hetal.errors import ParameterError


def odd(**change: Any) -> Parameters:
    base: dict[str, Any] = {
        "name": "odd",
        "log2_ring_dimension": 10,
        "scale_bits": 50,
        "first_modulus_bits": 55,
        "levels": 16,
        "digits": 3,
        "level_budget": (1, 1),
        "giant_steps": (0, 0),
        "correction_factor": 9,
    }
    return check(ParameterSpec(**(base | change)))


ODD_SETS = {
    "scale next to first modulus": odd(scale_bits=54),
    "widest": odd(scale_bits=58, first_modulus_bits=60, levels=19, digits=4),
    "narrow": odd(scale_bits=35, first_modulus_bits=45, levels=40, digits=7),
    "all digits": odd(levels=14, digits=15),
    "uniform secret": odd(secret="uniform_ternary", digits=2),
    "large ring": odd(log2_ring_dimension=14, scale_bits=41, first_modulus_bits=60, levels=15, digits=1),
    "largest ring": odd(log2_ring_dimension=17, scale_bits=46, first_modulus_bits=49, levels=14, digits=5),
    "many levels": odd(levels=60, digits=9, scale_bits=44, first_modulus_bits=60),
}


@pytest.mark.parametrize("params", [*map(preset, PRESETS), *ODD_SETS.values()], ids=[*PRESETS, *ODD_SETS])
def test_ciphertext_moduli_roots_and_scales(params: Parameters) -> None:
    context = build_context(params)
    made = openfhe.Serialize(context, openfhe.BINARY)
    assert chain_of(params).q == tuple(limbs_defined_in(made, params.ring_dimension))
    scales = tuple(context.GetScalingFactorReal(level) for level in range(params.top_level + 1))
    assert chain_of(params).scales == scales


@pytest.mark.parametrize(
    "params",
    [preset("insecure-test"), *(p for p in ODD_SETS.values() if p.ring_dimension == 1024)],
    ids=lambda p: f"{p.name}-{p.spec.levels}-{p.spec.scale_bits}",
)
def test_key_moduli_and_roots(params: Parameters) -> None:
    """Digits and the order of limbs are what the readers of keys check: tests/interop/test_objects_writer.py."""
    chain = chain_of(params)
    context = build_context(params)
    keys = context.KeyGen()
    tag = keys.secretKey.GetKeyTag()
    context.EvalMultKeyGen(keys.secretKey)
    context.EvalBootstrapSetup([1, 1], [0, 0], 2, 0, False, True)
    context.EvalBootstrapKeyGen(keys.secretKey, 2)
    set_up_bootstrap(context, params)
    relinearisation = openfhe.SerializeEvalMultKeyString(openfhe.BINARY, tag)
    automorphisms = openfhe.SerializeEvalAutomorphismKeyString(openfhe.BINARY, tag)
    openfhe.ClearEvalMultKeys()
    openfhe.CryptoContext.ClearEvalAutomorphismKeys()
    full = chain.q + chain.special
    assert tuple(limbs_defined_in(relinearisation, params.ring_dimension)) == full
    assert set(limbs_defined_in(automorphisms, params.ring_dimension)) == {*full, *chain.encapsulation}


def test_no_prime_is_used_twice() -> None:
    for params in (*map(preset, PRESETS), *ODD_SETS.values()):
        chain = chain_of(params)
        moduli = [modulus for modulus, _ in (*chain.q, *chain.special, *engine_primes(params))]
        assert len(set(moduli)) == len(moduli)
        for modulus, root in (*chain.q, *chain.special, *chain.encapsulation, *engine_primes(params)):
            assert is_prime(modulus)
            assert pow(root, params.ring_dimension, modulus) == modulus - 1


@pytest.mark.parametrize("below_bits", [49, 60])
def test_engine_primes_are_the_fewest_that_exceed_every_digit(below_bits: int) -> None:
    for params in map(preset, PRESETS):
        chain = chain_of(params)
        primes = [modulus for modulus, _ in engine_primes(params, below_bits)]
        assert all(modulus < 1 << below_bits for modulus in primes)
        # None was skipped but those in use.
        order = 2 * params.ring_dimension
        between = range(primes[-1], 1 << below_bits, order)
        assert {q for q in between if is_prime(q)} - set(primes) <= {*chain.moduli, *chain.special_moduli}
        for limbs in range(1, len(chain.q) + 1):
            digit = chain.largest_digit(limbs)
            count = engine_prime_count(params, limbs, below_bits)
            assert math.prod(primes[: count - 1]) < digit << ENGINE_MARGIN_BITS <= math.prod(primes[:count])
        assert count == len(primes)


def test_largest_digit_of_fewer_limbs() -> None:
    chain = chain_of(preset("default"))
    assert chain.digit_limbs == 7
    assert chain.largest_digit(1) == chain.moduli[0]
    assert chain.largest_digit(9) == math.prod(chain.moduli[:7])
    assert chain.largest_digit() == max(math.prod(chain.moduli[at : at + 7]) for at in (0, 7, 14, 21))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"levels": 15, "digits": 12}, "do not fill 12 digits"),
        # Primes of 30 bits are sparse in the largest rings, so the chain drifts away from 2^30.
        ({"levels": 40, "scale_bits": 30, "first_modulus_bits": 31, "log2_ring_dimension": 17}, "1711 were assessed"),
    ],
)
def test_refuses_sets_without_a_chain(change: dict[str, int], message: str) -> None:
    params = odd(**change)
    with pytest.raises(ParameterError, match=message):
        chain_of(params)


def test_primality_by_trial_division() -> None:
    def trial(n: int) -> bool:
        return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))

    assert [n for n in range(5_000) if is_prime(n)] == [n for n in range(5_000) if trial(n)]
    # Strong pseudoprimes to the first bases, and squares of primes.
    for composite in (3_215_031_751, 3_825_123_056_546_413_051, 318_665_857_834_031_151_167_461, ((1 << 31) - 1) ** 2):
        assert not is_prime(composite)
    assert not is_prime(65_537**2)
    assert is_prime((1 << 61) - 1)


def test_prime_search() -> None:
    assert prime_above(1, 8) == 17
    assert prime_below(97, 8) == 89
    assert prime_below(17, 8) == 0


def test_least_root_by_exhaustion() -> None:
    for prime in (97, 193, 257):
        assert least_root(prime, 32) == min(x for x in range(prime) if pow(x, 16, prime) == prime - 1)


def limbs_defined_in(data: bytes, ring_dimension: int) -> list[Prime]:
    """(modulus, root) of each set of limb parameters that OpenFHE wrote, in order, without repetition.

    They are the cyclotomic order, the ring dimension, the modulus, its root and two zeros; before the first modulus of
    all stands a class version.
    """
    mark = re.escape(struct.pack("<II", 2 * ring_dimension, ring_dimension))
    found = re.findall(mark + b"(?:\0{4})?(.{8})(.{8})" + bytes(16), data, re.DOTALL)
    return list(dict.fromkeys((int.from_bytes(q, "little"), int.from_bytes(root, "little")) for q, root in found))


@pytest.mark.parametrize("first, special", [(55, 13), (56, 14)])
def test_special_primes_exceed_a_digit_by_some_bits(first: int, special: int) -> None:
    """Counted in OpenFHE's keys: 13 primes of 60 bits are too few for a digit of 776."""
    params = odd(levels=16, scale_bits=45, first_modulus_bits=first, digits=1)
    assert len(chain_of(params).special) == special
    assert special <= special_primes(params.spec)
