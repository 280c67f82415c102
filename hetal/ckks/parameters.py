"""CKKS parameter sets: an unchecked spec, and the frozen checked value that everything else takes."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import Final, Literal

from hetal.ckks.security import SecurityReport, assess
from hetal.errors import ParameterError

Secret = Literal["sparse_encapsulated", "uniform_ternary"]

SPECIAL_PRIME_BITS: Final = 60
# OpenFHE makes the product of the special primes longer than the largest digit by so many bits (measured on 1.6).
SPECIAL_MARGIN_BITS: Final = 4
# Up to this ring dimension one operation is too small to share among threads, so whole ciphertexts are.
PARALLEL_RING_DIMENSION_MAX: Final = 1 << 13
# Levels that a StC-first bootstrap consumes besides its CoeffsToSlots, measured on OpenFHE 1.6 (docs/parameters.md):
# with
# level budget (lb_enc, lb_dec) a ciphertext leaves at L - (10 + lb_enc) and must enter with lb_dec + 1 levels left.
EVALMOD_LEVELS: Final = 10
# Of these the phase, from which the native engine makes the result, needs so many.
PHASE_LEVELS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterSpec:
    """What a user may write down. Nothing is checked; see :func:`check`."""

    name: str
    log2_ring_dimension: int
    scale_bits: int
    first_modulus_bits: int
    levels: int
    digits: int
    level_budget: tuple[int, int]
    giant_steps: tuple[int, int]
    correction_factor: int
    secret: Secret = "sparse_encapsulated"


@dataclass(frozen=True, slots=True)
class Parameters:
    """A checked parameter set. Make one with :func:`check`.

    Levels count the rescalings a ciphertext still has: a fresh ciphertext is at ``top_level``, one with a single limb
    at 0.
    """

    spec: ParameterSpec
    log_qp_bits: int
    security: SecurityReport

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def ring_dimension(self) -> int:
        return 1 << self.spec.log2_ring_dimension

    @property
    def slots(self) -> int:
        return self.ring_dimension // 2

    @property
    def top_level(self) -> int:
        return self.spec.levels

    @property
    def bootstrap_input_level(self) -> int:
        """Least level at which a ciphertext may enter the bootstrap."""
        return self.spec.level_budget[1] + 1

    @property
    def bootstrap_output_level(self) -> int:
        """Level at which it leaves."""
        return self.spec.levels - (EVALMOD_LEVELS + self.spec.level_budget[0])

    @property
    def phase_output_level(self) -> int:
        """Level at which a phase leaves the native engine's bootstrap, for the sparse secret's range."""
        return self.spec.levels - (PHASE_LEVELS + self.spec.level_budget[0])

    @property
    def secure(self) -> bool:
        return self.security.bits >= 128

    @property
    def digest(self) -> bytes:
        """SHA-256 of the canonical spec; every framed object carries it."""
        text = json.dumps(asdict(self.spec), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).digest()

    def limb_bytes(self) -> int:
        return self.ring_dimension * 8

    def ciphertext_bytes(self, level: int) -> int:
        """Approximate serialised size of a two-part ciphertext at ``level``."""
        return 2 * (level + 1) * self.limb_bytes() + 8 * 1024

    def key_bytes(self) -> int:
        """Approximate serialised size of one key-switching key."""
        return self.spec.digits * 2 * (self.spec.levels + 1 + special_primes(self.spec)) * self.limb_bytes()


def special_primes(spec: ParameterSpec) -> int:
    """Most 60-bit special primes that hybrid key switching with ``digits`` digits needs."""
    per_digit = math.ceil((spec.levels + 1) / spec.digits)
    largest = max(spec.first_modulus_bits + (per_digit - 1) * spec.scale_bits, per_digit * spec.scale_bits)
    # The product of a digit's primes may exceed the power of two.
    return math.ceil((largest + 1 + SPECIAL_MARGIN_BITS) / SPECIAL_PRIME_BITS)


def log_qp_bits(spec: ParameterSpec) -> int:
    """log2 of the largest modulus that a key of this set lives under, rounded up."""
    return spec.first_modulus_bits + spec.levels * spec.scale_bits + special_primes(spec) * SPECIAL_PRIME_BITS


def check(spec: ParameterSpec) -> Parameters:
    """Turn a spec into a checked set.

    Raises:
        ParameterError: a field is out of its range, or the chain leaves no level between two bootstraps.
    """
    ranges = {
        "log2_ring_dimension": (spec.log2_ring_dimension, 10, 17),
        "scale_bits": (spec.scale_bits, 30, 58),
        "first_modulus_bits": (spec.first_modulus_bits, spec.scale_bits + 1, 60),
        "levels": (spec.levels, 1, 60),
        "digits": (spec.digits, 1, spec.levels + 1),
        "correction_factor": (spec.correction_factor, 1, 30),
        "level_budget[0]": (spec.level_budget[0], 1, 6),
        "level_budget[1]": (spec.level_budget[1], 1, 6),
        "giant_steps[0]": (spec.giant_steps[0], 0, 64),
        "giant_steps[1]": (spec.giant_steps[1], 0, 64),
    }
    for field, (value, low, high) in ranges.items():
        if not low <= value <= high:
            raise ParameterError(f"{field} = {value} of parameter set {spec.name!r} is outside {low}..{high}")
    bits = log_qp_bits(spec)
    report = assess(
        log2_ring_dimension=spec.log2_ring_dimension,
        log_qp_bits=bits,
        sparse_secret=spec.secret == "sparse_encapsulated",
    )
    checked = Parameters(spec, bits, report)
    usable = checked.bootstrap_output_level - checked.bootstrap_input_level
    if usable < 1:
        raise ParameterError(f"parameter set {spec.name!r} leaves {usable} levels between two bootstraps")
    return checked
