"""What we write from parameters alone equals OpenFHE's own bytes, and OpenFHE goes on computing with it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import openfhe
import pytest

from hetal.ckks.chain import chain_of
from hetal.ckks.framing import Kind, unframe
from hetal.ckks.heads import Head, ciphertext_head, context_head, mult_key_head, rotation_key_head
from hetal.ckks.objects import (
    CiphertextInfo,
    Expected,
    ciphertext_limbs,
    expected_for,
    mult_key_limbs,
    rotation_key_limbs,
    write_ciphertext,
)
from hetal.ckks.openfhe import build_context, set_up_bootstrap
from hetal.ckks.parameters import Parameters, ParameterSpec, check
from hetal.ckks.presets import PRESETS, TEST_PRESET, preset
from hetal.client.keys import KeySet
from hetal.errors import CiphertextFormatError, ResidueError

PARAMS = preset(TEST_PRESET)
FULL = PARAMS.top_level + 1
X = np.linspace(-1, 1, PARAMS.slots)


def small(**change: Any) -> Parameters:
    base: dict[str, Any] = {
        "name": "small",
        "log2_ring_dimension": 10,
        "scale_bits": 40,
        "first_modulus_bits": 48,
        "levels": 24,
        "digits": 3,
        "level_budget": (2, 2),
        "giant_steps": (8, 8),
        "correction_factor": 9,
    }
    return check(ParameterSpec(**(base | change)))


SMALL_SETS = [
    small(),
    small(secret="uniform_ternary"),
    small(digits=1, correction_factor=14),
    small(first_modulus_bits=60, levels=30, digits=4),
    *(small(level_budget=budgets, giant_steps=(0, 0)) for budgets in ((1, 1), (2, 5), (4, 3), (5, 6), (6, 4))),
    # Giant steps beyond the number of rotations fall back to OpenFHE's own.
    small(level_budget=(4, 2), giant_steps=(32, 3)),
    small(log2_ring_dimension=11, level_budget=(3, 2), giant_steps=(15, 16)),
]


@pytest.mark.parametrize(
    "params", [*map(preset, PRESETS), *SMALL_SETS], ids=lambda p: f"{p.name}-{p.spec.level_budget}-{p.spec.digits}"
)
def test_context_is_openfhes(params: Parameters) -> None:
    made = openfhe.Serialize(build_context(params), openfhe.BINARY)
    assert context_head(params, chain_of(params)).data == made


@pytest.mark.parametrize("params", [PARAMS, *SMALL_SETS[:4]], ids=lambda p: f"{p.name}-{p.spec.secret}-{p.spec.digits}")
def test_heads_are_openfhes_and_readers_take_its_objects(params: Parameters) -> None:
    """Everything before the key tag, byte for byte; behind it the readers check every field."""
    chain = chain_of(params)
    context = build_context(params)
    keys = context.KeyGen()
    key_tag = keys.secretKey.GetKeyTag()
    context.EvalMultKeyGen(keys.secretKey)
    context.EvalBootstrapSetup([1, 1], [0, 0], 2, 0, False, True)
    context.EvalBootstrapKeyGen(keys.secretKey, 2)
    set_up_bootstrap(context, params)
    mult_key = openfhe.SerializeEvalMultKeyString(openfhe.BINARY, key_tag)
    rotation_keys = openfhe.SerializeEvalAutomorphismKeyString(openfhe.BINARY, key_tag)
    openfhe.ClearEvalMultKeys()
    openfhe.CryptoContext.ClearEvalAutomorphismKeys()
    plain = context.MakeCKKSPackedPlaintext([0.5], 1, 2)
    ciphertext = openfhe.Serialize(context.Encrypt(keys.publicKey, plain), openfhe.BINARY)

    tag = len(key_tag).to_bytes(8, "little") + key_tag.encode()

    def begins(data: bytes, before: int, head: Head) -> None:
        assert data[before : before + len(head.data)] == head.data
        assert data[before + len(head.data) :].startswith(tag)

    begins(ciphertext, 0, ciphertext_head(params, chain))
    # The byte order flag, the number of tags, the tag, the number of keys.
    begins(mult_key, 1 + 8 + len(tag) + 8, mult_key_head(params, chain))
    # The same with the map's pointer, and the first key's index.
    begins(rotation_keys, 1 + 8 + len(tag) + 4 + 8 + 4, rotation_key_head(params, chain))

    expected = expected_for(params, key_tag)
    info, parts = ciphertext_limbs(ciphertext, expected)
    assert info == CiphertextInfo(len(chain.q) - 2, 1, chain.scales[2])
    assert [len(part) for part in parts] == [info.limbs] * 2
    full = len(chain.q) + len(chain.special)
    halves = mult_key_limbs(mult_key, expected)
    assert [[len(digit) for digit in half] for half in halves] == [[full] * chain.digits] * 2
    # The stream has a, half 1, before b.
    assert halves[1][0][0] < halves[0][0][0]
    order = 2 * params.ring_dimension
    by_index = rotation_key_limbs(rotation_keys, expected)
    assert (order - 1) in by_index
    if params.spec.secret == "sparse_encapsulated":
        assert [[len(digit) for digit in half] for half in by_index.pop(order - 4)] == [[3]] * 2
    assert not any(index % 2 == 0 for index in by_index if index != order - 2)
    for halves in by_index.values():
        assert [[len(digit) for digit in half] for half in halves] == [[full] * chain.digits] * 2


# -- against one job's keys -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keys() -> KeySet:
    return KeySet.generate(PARAMS)


@pytest.fixture(scope="module")
def expected(keys: KeySet) -> Expected:
    return expected_for(PARAMS, keys.key_tag)


@pytest.fixture(scope="module")
def context(keys: KeySet) -> Any:
    """With the job's relinearisation key loaded."""
    made = build_context(PARAMS)
    blob = unframe(keys.mult_key_blob(), Kind.MULT_KEY, PARAMS.digest)
    openfhe.DeserializeEvalMultKeyString(bytes(blob), openfhe.BINARY)
    return made


def limb(data: bytes | bytearray, at: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    return np.frombuffer(data, "<u8", PARAMS.ring_dimension, at)


def with_limbs_of(expected: Expected, theirs: bytes, limbs: int | None = None) -> bytes:
    """Our ciphertext with the residues and the scale of theirs, of its first limbs."""
    info, offsets = ciphertext_limbs(theirs, expected)
    ours, places = write_ciphertext(expected, limbs or info.limbs, info.scale_degree, info.scale)
    for part, areas in zip(offsets, places, strict=True):
        for at, to in zip(part, areas, strict=False):
            assert not limb(ours, to).any()
            ours[to : to + 8 * PARAMS.ring_dimension] = limb(theirs, at).tobytes()
    return bytes(ours)


def encrypted(keys: KeySet, values: Any, level: int) -> Any:
    return openfhe.DeserializeCiphertextString(keys.encrypt(values, level), openfhe.BINARY)


def decrypted(keys: KeySet, data: bytes) -> Any:
    return np.asarray(keys.decrypt(data)).real


def test_equals_openfhes_products_at_every_level() -> None:
    """Of ciphertexts that this context made itself: a deserialised one has pointers of its own."""
    made = build_context(PARAMS)
    own = made.KeyGen()
    made.EvalMultKeyGen(own.secretKey)
    expected = expected_for(PARAMS, own.secretKey.GetKeyTag())
    value = made.Encrypt(own.publicKey, made.MakeCKKSPackedPlaintext(X.tolist()))
    seen = []
    while value.GetLevel() < FULL - 2:
        value = made.EvalMult(value, value)
        theirs = openfhe.Serialize(value, openfhe.BINARY)
        assert with_limbs_of(expected, theirs) == theirs
        seen.append(FULL - value.GetLevel())
    assert seen == list(range(FULL, 1, -1))


def test_equals_a_fresh_ciphertext_of_all_limbs(keys: KeySet, expected: Expected) -> None:
    theirs = keys.encrypt(X, PARAMS.top_level)
    assert with_limbs_of(expected, theirs) == theirs


@pytest.mark.parametrize("limbs", [1, 2, 5, FULL - 1, FULL])
def test_openfhe_decrypts_fewer_limbs(keys: KeySet, expected: Expected, limbs: int) -> None:
    """Dropping limbs changes neither message nor scale; 1/scale of it is the canonical one of the new level."""
    theirs = keys.encrypt(X / 2, PARAMS.top_level)
    ours = with_limbs_of(expected, theirs, limbs)
    info, _ = ciphertext_limbs(ours, expected)
    assert (info.limbs, info.scale_degree) == (limbs, 1)
    assert np.abs(decrypted(keys, ours) - X / 2).max() < 1e-8


@pytest.mark.parametrize("limbs", [3, 12, FULL])
def test_openfhe_goes_on_computing(keys: KeySet, expected: Expected, context: Any, limbs: int) -> None:
    theirs = keys.encrypt(X, limbs - 1)
    fresh = openfhe.DeserializeCiphertextString(with_limbs_of(expected, theirs), openfhe.BINARY)
    square = context.EvalMult(fresh, fresh)
    # A pending rescaling travels as noise scale degree 2.
    back = with_limbs_of(expected, openfhe.Serialize(square, openfhe.BINARY))
    assert ciphertext_limbs(back, expected)[0].scale_degree == 2
    assert np.abs(decrypted(keys, back) - X**2).max() < 1e-8
    again = openfhe.DeserializeCiphertextString(back, openfhe.BINARY)
    result = context.EvalAdd(context.EvalMult(again, again), encrypted(keys, X, limbs - 1))
    found = decrypted(keys, openfhe.Serialize(result, openfhe.BINARY))
    assert np.abs(found - (X**4 + X)).max() < 1e-7


def test_sum_written_limb_by_limb(keys: KeySet, expected: Expected) -> None:
    level = 6
    summands = [keys.encrypt(X, level), keys.encrypt(0.25 * X, level)]
    info, offsets = ciphertext_limbs(summands[0], expected)
    ours, places = write_ciphertext(expected, info.limbs, 1, info.scale)
    for part, areas in zip(offsets, places, strict=True):
        for at, to, modulus in zip(part, areas, expected.chain.moduli, strict=False):
            total = (limb(summands[0], at) + limb(summands[1], at)) % np.uint64(modulus)
            ours[to : to + 8 * PARAMS.ring_dimension] = total.tobytes()
    assert np.abs(decrypted(keys, bytes(ours)) - 1.25 * X).max() < 1e-8


@pytest.mark.parametrize(("limbs", "degree"), [(0, 1), (FULL + 1, 1), (-1, 1), (3, 0), (3, 3)])
def test_refuses_to_write_what_openfhe_does_not_have(expected: Expected, limbs: int, degree: int) -> None:
    with pytest.raises(CiphertextFormatError):
        write_ciphertext(expected, limbs, degree, 2.0**50)


def test_residues_may_be_left_to_whoever_reads_them(keys: KeySet, expected: Expected) -> None:
    data = bytearray(keys.encrypt(X, 3))
    info, offsets = ciphertext_limbs(bytes(data), expected)
    at = offsets[1][2]
    data[at : at + 8] = expected.chain.moduli[2].to_bytes(8, "little")
    with pytest.raises(ResidueError):
        ciphertext_limbs(bytes(data), expected)
    assert ciphertext_limbs(bytes(data), expected, check_residues=False) == (info, offsets)
    data[at + 8 * PARAMS.ring_dimension] ^= 1
    with pytest.raises(CiphertextFormatError, match="modulus"):
        ciphertext_limbs(bytes(data), expected, check_residues=False)


def test_offsets_of_keys_point_at_residues_below_their_moduli(keys: KeySet, expected: Expected) -> None:
    data = bytes(unframe(keys.mult_key_blob(), Kind.MULT_KEY, PARAMS.digest))
    moduli = (*expected.chain.moduli, *expected.chain.special_moduli)
    for half in mult_key_limbs(data, expected):
        for digit in half:
            for at, modulus in zip(digit, moduli, strict=True):
                assert modulus >> 3 < limb(data, at).max() < modulus
                assert int.from_bytes(data[at + 8 * PARAMS.ring_dimension :][:8], "little") == modulus


def test_readers_and_writer_work_without_openfhe() -> None:
    program = """
import sys
sys.modules["openfhe"] = None
from hetal.ckks.objects import ciphertext_limbs, expected_for, write_ciphertext
from hetal.ckks.presets import preset
expected = expected_for(preset("insecure-test"), "0" * 32)
data, offsets = write_ciphertext(expected, 4, 1, expected.chain.scales[-4])
assert ciphertext_limbs(bytes(data), expected)[1] == offsets
"""
    subprocess.run([sys.executable, "-c", program], check=True)
