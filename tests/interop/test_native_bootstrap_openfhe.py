"""The native bootstrap under OpenFHE's keys, against OpenFHE's own of the same ciphertext."""

from __future__ import annotations

import numpy as np
import pytest

from hetal.ckks.framing import Kind, unframe
from hetal.ckks.parameters import Parameters, ParameterSpec, check
from hetal.ckks.presets import TEST_PRESET, preset
from hetal.client.keys import KeySet
from hetal.kernels.backends.native import NativeEvaluator
from hetal.kernels.backends.openfhe import OpenFheEvaluator

# Above 2^50 the engine computes with 64-bit integers.
LARGE_WORDS = check(
    ParameterSpec(
        name="large-words",
        log2_ring_dimension=11,
        scale_bits=50,
        first_modulus_bits=55,
        levels=24,
        digits=1,
        level_budget=(3, 2),
        giant_steps=(8, 8),
        correction_factor=10,
    )
)


@pytest.mark.parametrize("params", [preset(TEST_PRESET), LARGE_WORDS], ids=lambda params: params.name)
def test_no_less_precise_than_openfhe(params: Parameters) -> None:
    keys = KeySet.generate(params)
    mult_key = unframe(keys.mult_key_blob(), Kind.MULT_KEY, params.digest)
    rotation_keys = [unframe(blob, Kind.ROTATION_KEYS, params.digest) for _, blob in keys.rotation_key_blobs([])]
    x = np.random.default_rng(0).uniform(-1, 1, params.slots)
    data = keys.encrypt(x, params.bootstrap_input_level)
    errors = {}
    for backend in (NativeEvaluator, OpenFheEvaluator):
        evaluator = backend(params, keys.key_tag, 1)
        evaluator.load_key(Kind.MULT_KEY, mult_key)
        for payload in rotation_keys:
            evaluator.load_key(Kind.ROTATION_KEYS, payload)
        evaluator.finish_keys([])
        result = evaluator.bootstrap(evaluator.load(data))
        assert result.level == params.bootstrap_output_level
        errors[backend] = np.abs(keys.decrypt(evaluator.dump(result)) - x)
        evaluator.close()
    native, openfhe = errors[NativeEvaluator], errors[OpenFheEvaluator]
    # Measured: 9 bits and more.
    assert native.max() < openfhe.max() / 64
    assert native.mean() < openfhe.mean() / 64
