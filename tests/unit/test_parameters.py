"""Parameter sets: which are taken, what they count, how they are told apart."""

from __future__ import annotations

import dataclasses

import pytest

from hetal.ckks.parameters import check
from hetal.ckks.presets import DEFAULT_PRESET, PRESETS, TEST_PRESET, preset
from hetal.errors import ParameterError


def test_default_preset_is_128_bit_by_both_bounds() -> None:
    parameters = preset(DEFAULT_PRESET)
    assert parameters.log_qp_bits == 1553
    assert (parameters.security.ternary_bound_bits, parameters.security.sparse_bound_bits) == (1747, 1555)
    assert parameters.secure
    assert parameters.security.margin_bits == 2


def test_every_preset_is_secure_or_named_insecure() -> None:
    for name in PRESETS:
        assert preset(name).secure != name.startswith("insecure")


@pytest.mark.parametrize(
    "change",
    [
        {"levels": 0},
        {"levels": 61},
        {"log2_ring_dimension": 9},
        {"scale_bits": 59},
        {"first_modulus_bits": 44},
        {"digits": 0},
        {"digits": 28},
        {"level_budget": (0, 3)},
        {"correction_factor": 0},
        {"levels": 17},
    ],
)
def test_fields_out_of_range_are_named(change: dict[str, object]) -> None:
    with pytest.raises(ParameterError) as caught:
        check(dataclasses.replace(PRESETS[DEFAULT_PRESET], **change))  # type: ignore[arg-type]
    assert DEFAULT_PRESET in caught.value.message


def test_digest_tells_sets_apart() -> None:
    digests = {preset(name).digest for name in PRESETS}
    assert len(digests) == len(PRESETS)
    renamed = check(dataclasses.replace(PRESETS[TEST_PRESET], name="other"))
    assert renamed.digest not in digests


def test_unknown_preset() -> None:
    with pytest.raises(ParameterError, match="there are default"):
        preset("fast")
