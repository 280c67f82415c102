"""The 128-bit default preset, as far as seconds and a gigabyte or two allow."""

from __future__ import annotations

import numpy as np

from hetal.ckks.objects import expected_for, validate_ciphertext
from hetal.ckks.presets import DEFAULT_PRESET, preset
from hetal.client.keys import KeySet
from hetal.protocol.job import rotation_keys_blob


def test_keys_and_ciphertexts_at_128_bits() -> None:
    params = preset(DEFAULT_PRESET)
    keys = KeySet.generate(params)
    expected = expected_for(params, keys.key_tag)
    assert max(q.bit_length() for q in expected.chain.moduli) <= 49
    total = sum(np.log2(float(q)) for q in (*expected.chain.moduli, *expected.chain.special_moduli))
    assert 1500 < total < params.log_qp_bits + 0.5

    x = np.random.default_rng(0).uniform(-1, 1, params.slots)
    data = keys.encrypt(x, 3)
    assert validate_ciphertext(data, expected).limbs == 4
    assert len(data) <= params.ciphertext_bytes(3)
    assert np.abs(keys.decrypt(data) - x).max() < 1e-6
    # 27 for the bootstrap with giant steps of 8, as many as the product's key uploads are planned for.
    assert len(keys.rotation_indices([])) == 27
    assert keys.rotation_key_blob_names([])[0] == rotation_keys_blob(0)
