"""The chain of moduli that OpenFHE makes of a parameter set, computed without OpenFHE.

Orders, sizes and searches are OpenFHE 1.6's for FLEXIBLEAUTO and hybrid key switching, so that both sides of a job hold
the same primes, roots and scaling factors, bit for bit (tests/unit/test_chain.py compares them).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from hetal.ckks.parameters import SPECIAL_MARGIN_BITS, SPECIAL_PRIME_BITS, Parameters, special_primes
from hetal.ckks.primes import least_root, prime_above, prime_below
from hetal.errors import ParameterError

# The key that switches to the sparse ephemeral secret lives over the first modulus and two auxiliary primes. OpenFHE
# takes the largest two of this size whatever the job's chain is, and indexes the key's limbs without a look at them.
AUXILIARY_PRIME_BITS: Final = 33
AUXILIARY_PRIMES: Final = 2
# OpenFHE refuses a chain with a level whose canonical scale is not within this factor of the top level's.
SCALE_DRIFT_MAX: Final = 2.0
# P must exceed the largest digit by this many bits: the rounding noise of a key switch is then below the key's own.
ENGINE_PRIME_BITS: Final = 49
ENGINE_MARGIN_BITS: Final = 12

Prime = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Chain:
    """Moduli of one parameter set, each with its least primitive 2N-th root of unity.

    Attributes:
        q: the primes of Q in OpenFHE's order: the first modulus, then those that rescaling drops, last first.
        special: the primes of P under which keys travel.
        encapsulation: of the key to the sparse ephemeral secret: q[0] and the auxiliary primes; empty without one.
        scales: canonical scaling factor of a ciphertext of noise scale degree 1, by the number of limbs dropped.
        digits: of hybrid key switching.
        digit_limbs: primes of Q in one digit (the last has fewer where they do not divide).
    """

    ring_dimension: int
    q: tuple[Prime, ...]
    special: tuple[Prime, ...]
    encapsulation: tuple[Prime, ...]
    scales: tuple[float, ...]
    digits: int
    digit_limbs: int

    @property
    def moduli(self) -> tuple[int, ...]:
        return tuple(modulus for modulus, _ in self.q)

    @property
    def special_moduli(self) -> tuple[int, ...]:
        return tuple(modulus for modulus, _ in self.special)

    def largest_digit(self, q_limbs: int | None = None) -> int:
        """Product of the primes in the largest digit of a polynomial of ``q_limbs`` limbs (all by default)."""
        kept = self.moduli[:q_limbs]
        size = self.digit_limbs
        return max(math.prod(kept[at : at + size]) for at in range(0, len(kept), size))


@lru_cache(maxsize=16)
def chain_of(params: Parameters) -> Chain:
    """The chain that OpenFHE makes of these parameters.

    Raises:
        ParameterError: OpenFHE makes none, or one with more bits than the security of ``params`` was assessed for.
    """
    spec = params.spec
    order = 2 * params.ring_dimension
    count = spec.levels + 1
    moduli = _ciphertext_moduli(params)
    digit_limbs = math.ceil(count / spec.digits)
    if count <= digit_limbs * (spec.digits - 1):
        raise ParameterError(f"{count} limbs of parameter set {params.name!r} do not fill {spec.digits} digits")
    largest = max(math.prod(moduli[at : at + digit_limbs]) for at in range(0, count, digit_limbs))
    wanted = math.ceil((largest.bit_length() + SPECIAL_MARGIN_BITS) / SPECIAL_PRIME_BITS)
    # The search starts below the first prime above 2^60, which has that many bits plus one.
    start = prime_above((1 << SPECIAL_PRIME_BITS) + 1 - order, order)
    special = _descending(start, order, wanted, set(moduli))
    _check(params, moduli, special)
    auxiliary = _descending((1 << AUXILIARY_PRIME_BITS) + 1, order, AUXILIARY_PRIMES, set())
    sparse = spec.secret == "sparse_encapsulated"
    return Chain(
        ring_dimension=params.ring_dimension,
        q=_with_roots(moduli, order),
        special=_with_roots(special, order),
        encapsulation=_with_roots((moduli[0], *auxiliary), order) if sparse else (),
        scales=_canonical_scales(params, moduli),
        digits=spec.digits,
        digit_limbs=digit_limbs,
    )


@lru_cache(maxsize=16)
def engine_primes(params: Parameters, below_bits: int = ENGINE_PRIME_BITS) -> tuple[Prime, ...]:
    """Special primes of the native engine: the largest below 2^``below_bits`` in neither Q nor the wire's P.

    There are as few as make P at least 2^12 times the largest digit.
    """
    chain = chain_of(params)
    taken = {modulus for modulus, _ in (*chain.q, *chain.special)}
    order = 2 * params.ring_dimension
    most = chain.largest_digit().bit_length() // (below_bits - 1) + 2
    candidates = _descending((1 << below_bits) + 1, order, most, taken)
    return _with_roots(candidates[: _fewest(candidates, chain.largest_digit())], order)


def engine_prime_count(params: Parameters, q_limbs: int, below_bits: int = ENGINE_PRIME_BITS) -> int:
    """How many of the first :func:`engine_primes` a key needs that only serves polynomials of ``q_limbs`` limbs."""
    moduli = tuple(modulus for modulus, _ in engine_primes(params, below_bits))
    return _fewest(moduli, chain_of(params).largest_digit(q_limbs))


def _fewest(primes: tuple[int, ...], digit: int) -> int:
    """The least k with primes[0] * ... * primes[k-1] >= 2^12 * digit."""
    product, count = 1, 0
    while product < digit << ENGINE_MARGIN_BITS:
        product *= primes[count]
        count += 1
    return count


def _ciphertext_moduli(params: Parameters) -> tuple[int, ...]:
    """Q: from the last prime down, each next to the scale that its level has, alternately below and above it."""
    spec = params.spec
    order = 2 * params.ring_dimension
    size = 1 << spec.scale_bits
    # Found from last to second.
    found = [prime_above(size + 1 - order, order)]
    scale = float(found[0])
    for position in range(spec.levels - 1):
        scale = scale * scale / float(found[-1])
        nearest = _rounded(scale)
        candidate = nearest - nearest % order + 1
        search, step = (prime_below, -order) if position % 2 == 0 else (prime_above, order)
        candidate = search(candidate + step, order)
        while candidate in found:
            candidate = search(candidate, order)
        if candidate == 0:
            raise ParameterError(f"there are too few primes of {spec.scale_bits} bits for {params.name!r}")
        found.append(candidate)
    first = prime_below((1 << spec.first_modulus_bits) + 1, order)
    if first.bit_length() != spec.first_modulus_bits:
        raise ParameterError(f"no prime of {spec.first_modulus_bits} bits is 1 modulo {order}")
    if first in found:
        first = prime_above(max(found), order)
    return (first, *reversed(found))


def _canonical_scales(params: Parameters, moduli: tuple[int, ...]) -> tuple[float, ...]:
    scales = [float(moduli[-1])]
    for modulus in reversed(moduli[1:]):
        scale = scales[-1] * scales[-1] / float(modulus)
        scales.append(scale)
        if not 1 / SCALE_DRIFT_MAX < scale / scales[0] < SCALE_DRIFT_MAX:
            raise ParameterError(f"the scales of parameter set {params.name!r} diverge at level {len(scales) - 1}")
    return tuple(scales)


def _check(params: Parameters, moduli: tuple[int, ...], special: tuple[int, ...]) -> None:
    """Security was assessed by the spec's sizes; the real chain must have them."""
    spec = params.spec
    sizes = [round(math.log2(modulus)) for modulus in moduli]
    if sizes != [spec.first_modulus_bits] + [spec.scale_bits] * spec.levels:
        raise ParameterError(f"the chain of parameter set {params.name!r} has primes of {sizes} bits")
    if len(special) > special_primes(spec):
        raise ParameterError(
            f"parameter set {params.name!r} needs {len(special)} special primes; {special_primes(spec)} were assessed"
        )
    bits = round(sum(math.log2(modulus) for modulus in (*moduli, *special)))
    if bits > params.log_qp_bits:
        raise ParameterError(f"the chain of {params.name!r} has {bits} bits where {params.log_qp_bits} were assessed")


def _descending(start: int, order: int, count: int, taken: set[int]) -> tuple[int, ...]:
    """The next ``count`` primes below ``start`` that are not taken."""
    found: list[int] = []
    candidate = start
    while len(found) < count:
        candidate = prime_below(candidate, order)
        if candidate == 0:
            raise ParameterError(f"there are too few primes below {start} that are 1 modulo {order}")
        if candidate not in taken:
            found.append(candidate)
    return tuple(found)


def _with_roots(moduli: tuple[int, ...], order: int) -> tuple[Prime, ...]:
    return tuple((modulus, least_root(modulus, order)) for modulus in moduli)


def _rounded(x: float) -> int:
    """To the nearest integer, halves up."""
    whole = math.floor(x)
    return whole + (x - whole >= 0.5)
