"""The parameter sets we ship (figures behind the choices: docs/parameters.md)."""

from __future__ import annotations

from typing import Final

from hetal.ckks.parameters import Parameters, ParameterSpec, check
from hetal.errors import ParameterError

DEFAULT_PRESET: Final = "default"
TEST_PRESET: Final = "insecure-test"

_SPECS: Final = (
    ParameterSpec(
        name=DEFAULT_PRESET,
        log2_ring_dimension=16,
        scale_bits=44,
        first_modulus_bits=49,
        levels=26,
        digits=4,
        level_budget=(3, 3),
        giant_steps=(8, 8),
        correction_factor=9,
    ),
    ParameterSpec(
        name="deep",
        log2_ring_dimension=16,
        scale_bits=45,
        first_modulus_bits=50,
        levels=28,
        digits=6,
        level_budget=(3, 3),
        giant_steps=(8, 8),
        correction_factor=9,
    ),
    ParameterSpec(
        name=TEST_PRESET,
        log2_ring_dimension=11,
        scale_bits=45,
        first_modulus_bits=49,
        levels=24,
        digits=1,
        level_budget=(2, 2),
        giant_steps=(8, 8),
        correction_factor=9,
    ),
)
PRESETS: Final[dict[str, ParameterSpec]] = {spec.name: spec for spec in _SPECS}


def preset(name: str) -> Parameters:
    """The checked preset of that name.

    Raises:
        ParameterError: no such preset.
    """
    if name not in PRESETS:
        raise ParameterError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    return check(PRESETS[name])
