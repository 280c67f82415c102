"""OpenFHE encrypts, the engine computes, OpenFHE decrypts: at every ring dimension that a chain of ours can have."""

from __future__ import annotations

import numpy as np
import pytest

from hetal.ckks.framing import Kind, unframe
from hetal.ckks.parameters import ParameterSpec, check
from hetal.client.keys import KeySet
from hetal.kernels.backends.native import NativeEvaluator


@pytest.mark.parametrize("log2_dimension", [11, 12, 13, 14, 15, 16])
def test_round_trip(log2_dimension: int) -> None:
    spec = ParameterSpec(
        name=f"round-trip-{log2_dimension}",
        log2_ring_dimension=log2_dimension,
        scale_bits=45,
        first_modulus_bits=49,
        levels=17,
        digits=3,
        level_budget=(2, 2),
        giant_steps=(8, 8),
        correction_factor=9,
    )
    params = check(spec)
    keys = KeySet.generate(params)
    ev = NativeEvaluator(params, keys.key_tag, threads=2)
    ev.load_key(Kind.MULT_KEY, unframe(keys.mult_key_blob(), Kind.MULT_KEY, params.digest))
    x, y, v = np.random.default_rng(log2_dimension).uniform(-1, 1, (3, params.slots))
    level = 4
    a, b = (ev.load(keys.encrypt(vector, level)) for vector in (x, y))
    # A scale of 45 bits, and noise that grows with the square root of the dimension.
    bound = 2.0**-24
    assert np.abs(keys.decrypt(ev.dump(a)) - x).max() < bound
    result = ev.add_scalar(ev.mul_plain(ev.mul(a, b), v), 0.25)
    assert result.level == level - 2
    assert np.abs(keys.decrypt(ev.dump(result)) - (x * y * v + 0.25)).max() < bound
    assert np.abs(keys.decrypt(ev.dump_result(result, 0)) - (x * y * v + 0.25)).max() < bound
