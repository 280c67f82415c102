"""What only the OpenFHE backend owes: checked bytes, missing keys named, clean closing, bounded caches."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from material import KeyMaterial as Material

from hetal import limits
from hetal.ckks.framing import Kind
from hetal.ckks.objects import expected_for
from hetal.ckks.openfhe import build_context
from hetal.ckks.parameters import check
from hetal.ckks.presets import PRESETS, TEST_PRESET, preset
from hetal.client.keys import KeySet
from hetal.errors import CiphertextFormatError, FrameError, IntegrityError, KeyTagError, LevelError, MissingKeyError
from hetal.kernels.backends.openfhe import OpenFheEvaluator

PARAMS = preset(TEST_PRESET)
STEPS = [1, 5]


@pytest.fixture(scope="module")
def material() -> Material:
    return Material.make(PARAMS, STEPS)


@pytest.fixture
def evaluator(material: Material) -> Iterator[OpenFheEvaluator]:
    """Without keys."""
    made = OpenFheEvaluator(PARAMS, material.keys.key_tag)
    yield made
    made.close()


@pytest.fixture
def ready(evaluator: OpenFheEvaluator, material: Material) -> OpenFheEvaluator:
    evaluator.load_key(Kind.MULT_KEY, material.mult_key)
    for payload in material.rotation_keys:
        evaluator.load_key(Kind.ROTATION_KEYS, payload)
    evaluator.finish_keys(STEPS)
    return evaluator


def vector() -> np.ndarray:
    return np.random.default_rng(3).uniform(-1, 1, PARAMS.slots)


def test_dump_and_load(ready: OpenFheEvaluator, material: Material) -> None:
    square = ready.square(ready.load(material.keys.encrypt(vector(), 9)))
    again = ready.load(ready.dump(square))
    assert again.level == square.level == 8
    assert np.abs(material.keys.decrypt(ready.dump(ready.mul(again, square))) - vector() ** 4).max() < 2**-25


@pytest.mark.parametrize("level", [0, 2])
def test_results_are_sent_small(ready: OpenFheEvaluator, material: Material, level: int) -> None:
    result = ready.square(ready.load(material.keys.encrypt(vector(), 9)))
    data = ready.dump_result(result, level)
    assert len(data) <= PARAMS.ciphertext_bytes(level) < len(ready.dump(result))
    assert ready.load(data).level == level
    assert np.abs(material.keys.decrypt(data) - vector() ** 2).max() < 2**-25
    with pytest.raises(LevelError):
        ready.dump_result(result, 9)


def test_three_parts_are_not_a_message(ready: OpenFheEvaluator, material: Material) -> None:
    a = ready.load(material.keys.encrypt(vector(), 9))
    with pytest.raises(IntegrityError):
        ready.load(ready.dump(ready.mul_no_relin(a, a)))


def test_a_scale_that_the_limbs_cannot_hold_is_refused(ready: OpenFheEvaluator, material: Material) -> None:
    """A valid object otherwise: one limb, and the degree and the square of the scale of a pending rescaling."""
    data = bytearray(material.keys.encrypt(vector(), 0))
    degree, scale = struct.unpack_from("<Id", data, len(data) - 36)
    assert degree == 1
    struct.pack_into("<Id", data, len(data) - 36, 2, scale**2)
    with pytest.raises(CiphertextFormatError, match="degree 2"):
        ready.load(bytes(data))


@pytest.mark.full
def test_loaded_ciphertexts_bootstrap_as_fast_as_computed_ones(ready: OpenFheEvaluator, material: Material) -> None:
    """Without care in ``load`` the ratio is above 2 (processor time, least of three)."""

    def cost_s(data: bytes, dropped: bool) -> float:
        ct = ready.load(data)
        ct = ready.drop(ct, PARAMS.bootstrap_input_level) if dropped else ct
        costs = []
        for _ in range(3):
            began = time.process_time()
            ready.bootstrap(ct)
            costs.append(time.process_time() - began)
        return min(costs)

    computed = cost_s(material.keys.encrypt(vector(), 6), dropped=True)
    assert cost_s(material.keys.encrypt(vector(), PARAMS.bootstrap_input_level), dropped=False) < 1.5 * computed


def test_ciphertexts_of_another_key_are_refused(ready: OpenFheEvaluator) -> None:
    with pytest.raises(KeyTagError):
        ready.load(KeySet.generate(PARAMS).encrypt(vector(), 9))


def test_keys_of_another_key_tag_are_refused(material: Material) -> None:
    stranger = OpenFheEvaluator(PARAMS, "0" * 32)
    with pytest.raises(KeyTagError):
        stranger.load_key(Kind.MULT_KEY, material.mult_key)
    with pytest.raises(KeyTagError):
        stranger.load_key(Kind.ROTATION_KEYS, material.rotation_keys[1])


def test_what_is_no_key_is_refused(evaluator: OpenFheEvaluator, material: Material) -> None:
    with pytest.raises(FrameError):
        evaluator.load_key(Kind.CHECKPOINT, material.mult_key)
    with pytest.raises(IntegrityError):
        evaluator.load_key(Kind.ROTATION_KEYS, material.mult_key)
    evaluator.load_key(Kind.MULT_KEY, material.mult_key)
    with pytest.raises(CiphertextFormatError):
        evaluator.load_key(Kind.MULT_KEY, material.mult_key)


def test_missing_keys_are_named(evaluator: OpenFheEvaluator, material: Material) -> None:
    with pytest.raises(MissingKeyError, match="relinearisation"):
        evaluator.finish_keys([])
    evaluator.load_key(Kind.MULT_KEY, material.mult_key)
    with pytest.raises(MissingKeyError, match="bootstrap"):
        evaluator.finish_keys([])
    for payload in material.rotation_keys:
        evaluator.load_key(Kind.ROTATION_KEYS, payload)
    with pytest.raises(MissingKeyError, match="rotation by 333 slots"):
        evaluator.finish_keys([*STEPS, 333])
    evaluator.finish_keys([0, *STEPS, 1 - PARAMS.slots])
    a = evaluator.load(material.keys.encrypt(vector(), 4))
    with pytest.raises(MissingKeyError, match="rotation by 333 slots"):
        evaluator.rotate(a, 333)
    with pytest.raises(MissingKeyError, match="rotation by 333 slots"):
        evaluator.rotate_many(a, [1, 333])


def test_nothing_that_needs_keys_runs_before_they_are_finished(evaluator: OpenFheEvaluator, material: Material) -> None:
    """OpenFHE's bootstrap would end the process here."""
    a = evaluator.load(material.keys.encrypt(vector(), 4))
    for operation in (evaluator.bootstrap, evaluator.conjugate, lambda ct: evaluator.rotate(ct, 1)):
        with pytest.raises(MissingKeyError):
            operation(a)


def test_a_closed_evaluator_has_no_keys_and_a_new_one_works(ready: OpenFheEvaluator, material: Material) -> None:
    a = ready.load(material.keys.encrypt(vector(), 4))
    ready.close()
    for operation in (ready.bootstrap, ready.conjugate, lambda ct: ready.rotate(ct, 1)):
        with pytest.raises(MissingKeyError):
            operation(a)
    again = OpenFheEvaluator(PARAMS, material.keys.key_tag)
    again.load_key(Kind.MULT_KEY, material.mult_key)
    for payload in material.rotation_keys:
        again.load_key(Kind.ROTATION_KEYS, payload)
    again.finish_keys(STEPS)
    refreshed = again.bootstrap(again.load(material.keys.encrypt(vector(), 4)))
    assert np.abs(material.keys.decrypt(again.dump(refreshed)) - vector()).max() < 1e-4


def test_the_plaintext_cache_is_bounded_and_right(
    ready: OpenFheEvaluator, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PLAINTEXT_CACHE_ENTRIES", 3)
    small = OpenFheEvaluator(PARAMS, material.keys.key_tag)
    a = small.load(material.keys.encrypt(vector(), 4))
    for factor in (1.0, 2.0, 3.0, 4.0, 5.0, 1.0, 5.0):
        product = small.mul_plain(a, np.full(PARAMS.slots, factor))
        assert np.abs(material.keys.decrypt(small.dump(product)) - factor * vector()).max() < 2**-25
    assert len(small._plaintexts) == 3


@pytest.mark.parametrize("levels, digits, scale_bits", [(18, 1, 50), (20, 3, 45), (24, 5, 52)])
def test_contexts_are_the_spec(levels: int, digits: int, scale_bits: int) -> None:
    spec = replace(
        PRESETS[TEST_PRESET],
        name="insecure-other",
        levels=levels,
        digits=digits,
        scale_bits=scale_bits,
        first_modulus_bits=scale_bits + 5,
    )
    params = check(spec)
    expected = expected_for(params, "tag")
    assert expected.chain.ring_dimension == params.ring_dimension
    assert len(expected.chain.moduli) == levels + 1
    assert [round(np.log2(q)) for q in expected.chain.moduli] == [scale_bits + 5] + [scale_bits] * levels
    assert expected.chain.digits == digits
    assert build_context(params) is build_context(params)


def test_scales_are_near_the_spec_and_squared_while_a_rescaling_is_pending(
    ready: OpenFheEvaluator, material: Material
) -> None:
    ct = ready.load(material.keys.encrypt(vector(), 6))
    bits = PARAMS.spec.scale_bits
    assert np.log2(ready.scale(ct)) == pytest.approx(bits, abs=1e-3)
    assert np.log2(ready.scale(ready.mul(ct, ct))) == pytest.approx(2 * bits, abs=1e-3)
    assert ready.scale(ready.mul_integer(ct, 8)) == ready.scale(ct)
