"""What only the native backend owes: checked bytes, missing keys named, keys kept small, bounded caches, its twin."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
from material import KeyMaterial
from numpy.typing import NDArray

from hetal import limits
from hetal.ckks.framing import Kind, unframe
from hetal.ckks.objects import ciphertext_limbs, expected_for, rotation_key_limbs
from hetal.ckks.parameters import check
from hetal.ckks.presets import PRESETS, TEST_PRESET, preset
from hetal.client.keys import KeySet
from hetal.errors import (
    CiphertextFormatError,
    FrameError,
    IntegrityError,
    KeyTagError,
    LevelError,
    MissingKeyError,
    NotFiniteError,
    ResidueError,
    ScaleError,
)
from hetal.kernels.backends.native import Cell, NativeEvaluator
from hetal.kernels.evaluator import Ciphertext
from hetal.native import reference
from hetal.native.scheme import Ct

PARAMS = preset(TEST_PRESET)
STEPS = [1, 5]
TOP = PARAMS.top_level
PRECISION = 2.0**-25


class Material(KeyMaterial):
    """With its evaluator."""

    def evaluator(self) -> NativeEvaluator:
        made = NativeEvaluator(PARAMS, self.keys.key_tag)
        made.load_key(Kind.MULT_KEY, self.mult_key)
        for payload in self.rotation_keys:
            made.load_key(Kind.ROTATION_KEYS, payload)
        return made

    def decrypt(self, ev: NativeEvaluator, ct: Ciphertext) -> NDArray[np.float64]:
        return self.keys.decrypt(ev.dump(ct))


@pytest.fixture(scope="module")
def material() -> Material:
    return Material.make(PARAMS, STEPS)


@pytest.fixture(scope="module")
def shared(material: Material) -> Iterator[NativeEvaluator]:
    made = material.evaluator()
    made.finish_keys(STEPS)
    yield made
    made.close()


@pytest.fixture
def evaluator(material: Material) -> NativeEvaluator:
    """Without keys."""
    return NativeEvaluator(PARAMS, material.keys.key_tag)


def vector() -> NDArray[np.float64]:
    return np.random.default_rng(3).uniform(-1, 1, PARAMS.slots)


# -- bytes ------------------------------------------------------------------------------------------------------------


def test_dump_and_load(shared: NativeEvaluator, material: Material) -> None:
    square = shared.square(shared.load(material.keys.encrypt(vector(), 9)))
    again = shared.load(shared.dump(square))
    assert again.level == square.level == 8
    assert np.abs(material.decrypt(shared, shared.mul(again, square)) - vector() ** 4).max() < PRECISION


def test_a_ciphertext_comes_out_as_it_went_in(shared: NativeEvaluator, material: Material) -> None:
    for level in (0, 9, TOP):
        data = material.keys.encrypt(vector(), level)
        again = shared.dump(shared.load(data))
        expected = expected_for(PARAMS, material.keys.key_tag)
        (info, before), (same, after) = (ciphertext_limbs(d, expected) for d in (data, again))
        assert info == same
        for old, new in zip(chain(*before), chain(*after), strict=True):
            assert data[old:][: PARAMS.limb_bytes()] == again[new:][: PARAMS.limb_bytes()]


@pytest.mark.parametrize("level", [0, 2])
def test_results_are_sent_small(shared: NativeEvaluator, material: Material, level: int) -> None:
    result = shared.square(shared.load(material.keys.encrypt(vector(), 9)))
    data = shared.dump_result(result, level)
    assert len(data) <= PARAMS.ciphertext_bytes(level) < len(shared.dump(result))
    assert shared.load(data).level == level
    assert np.abs(material.keys.decrypt(data) - vector() ** 2).max() < PRECISION
    with pytest.raises(LevelError, match="level 8 cannot be sent at level 9"):
        shared.dump_result(result, 9)


def test_three_parts_are_not_a_message(shared: NativeEvaluator, material: Material) -> None:
    a = shared.load(material.keys.encrypt(vector(), 9))
    with pytest.raises(IntegrityError, match="3 parts"):
        shared.dump(shared.mul_no_relin(a, a))


def test_a_scale_that_the_limbs_cannot_hold_is_refused(shared: NativeEvaluator, material: Material) -> None:
    """A valid object otherwise: one limb, and the degree and the square of the scale of a pending rescaling."""
    data = bytearray(material.keys.encrypt(vector(), 0))
    degree, scale = struct.unpack_from("<Id", data, len(data) - 36)
    assert degree == 1
    struct.pack_into("<Id", data, len(data) - 36, 2, scale**2)
    with pytest.raises(CiphertextFormatError, match="degree 2"):
        shared.load(bytes(data))


@pytest.mark.parametrize("excess", [0, 1, 2**63])
def test_residues_that_are_not_below_their_modulus_are_refused(
    shared: NativeEvaluator, evaluator: NativeEvaluator, material: Material, excess: int
) -> None:
    expected = expected_for(PARAMS, material.keys.key_tag)
    ciphertext = bytearray(material.keys.encrypt(vector(), 3))
    place = ciphertext_limbs(ciphertext, expected)[1][1][2] + 8 * 77
    struct.pack_into("<Q", ciphertext, place, (expected.chain.moduli[2] + excess) % 2**64)
    with pytest.raises(ResidueError):
        shared.load(bytes(ciphertext))
    for payload in (bytearray(blob) for blob in material.rotation_keys[:2]):
        # Of the last limb of the last key, a special one.
        offsets = list(rotation_key_limbs(payload, expected).values())[-1]
        special = len(offsets[0][0]) == len(expected.chain.encapsulation)
        modulus = (expected.chain.encapsulation if special else expected.chain.special)[-1][0]
        struct.pack_into("<Q", payload, offsets[1][0][-1] + 8 * 5, modulus + excess)
        with pytest.raises(ResidueError):
            evaluator.load_key(Kind.ROTATION_KEYS, bytes(payload))


def test_ciphertexts_of_another_key_are_refused(shared: NativeEvaluator) -> None:
    stranger = KeySet.generate(PARAMS)
    with pytest.raises(KeyTagError):
        shared.load(stranger.encrypt(vector(), 9))


# -- keys -------------------------------------------------------------------------------------------------------------


def test_keys_of_another_key_tag_are_refused(material: Material) -> None:
    stranger = NativeEvaluator(PARAMS, "0" * 32)
    with pytest.raises(KeyTagError):
        stranger.load_key(Kind.MULT_KEY, material.mult_key)
    with pytest.raises(KeyTagError):
        stranger.load_key(Kind.ROTATION_KEYS, material.rotation_keys[1])


def test_what_is_no_key_is_refused(evaluator: NativeEvaluator, material: Material) -> None:
    with pytest.raises(FrameError):
        evaluator.load_key(Kind.CHECKPOINT, material.mult_key)
    with pytest.raises(IntegrityError):
        evaluator.load_key(Kind.ROTATION_KEYS, material.mult_key)
    evaluator.load_key(Kind.MULT_KEY, material.mult_key)
    with pytest.raises(CiphertextFormatError, match="already"):
        evaluator.load_key(Kind.MULT_KEY, material.mult_key)
    for payload in material.rotation_keys[:2]:
        evaluator.load_key(Kind.ROTATION_KEYS, payload)
        with pytest.raises(CiphertextFormatError, match="already"):
            evaluator.load_key(Kind.ROTATION_KEYS, payload)


def test_missing_keys_are_named(evaluator: NativeEvaluator, material: Material) -> None:
    with pytest.raises(MissingKeyError, match="relinearisation"):
        evaluator.finish_keys([])
    evaluator.load_key(Kind.MULT_KEY, material.mult_key)
    with pytest.raises(MissingKeyError, match="bootstrap"):
        evaluator.finish_keys([])
    for payload in material.rotation_keys[1:]:
        evaluator.load_key(Kind.ROTATION_KEYS, payload)
    with pytest.raises(MissingKeyError, match=str(2 * PARAMS.ring_dimension - 4)):
        evaluator.finish_keys([])
    evaluator.load_key(Kind.ROTATION_KEYS, material.rotation_keys[0])
    with pytest.raises(MissingKeyError, match="rotation by 333 slots"):
        evaluator.finish_keys([*STEPS, 333])
    evaluator.finish_keys([0, *STEPS, 1 - PARAMS.slots])
    a = evaluator.load(material.keys.encrypt(vector(), 4))
    with pytest.raises(MissingKeyError, match="rotation by 333 slots"):
        evaluator.rotate(a, 333)
    with pytest.raises(MissingKeyError, match="rotation by 333 slots"):
        evaluator.rotate_many(a, [1, 333])


def test_nothing_that_needs_keys_runs_without_them(evaluator: NativeEvaluator, material: Material) -> None:
    a = evaluator.load(material.keys.encrypt(vector(), 4))
    for operation in (evaluator.bootstrap, evaluator.conjugate, lambda ct: evaluator.rotate(ct, 1), evaluator.square):
        with pytest.raises(MissingKeyError):
            operation(a)


def test_a_closed_evaluator_has_no_keys_and_others_go_on(shared: NativeEvaluator, material: Material) -> None:
    closed = material.evaluator()
    closed.finish_keys(STEPS)
    a = closed.load(material.keys.encrypt(vector(), 4))
    closed.mul_plain(a, vector())
    closed.close()
    assert len(closed.scheme.plaintexts) == closed.scheme.plaintexts.nbytes == 0
    for operation in (closed.bootstrap, closed.conjugate, lambda ct: closed.rotate(ct, 1), closed.square):
        with pytest.raises(MissingKeyError):
            operation(a)
    refreshed = shared.bootstrap(shared.load(material.keys.encrypt(vector(), 4)))
    assert np.abs(material.decrypt(shared, refreshed) - vector()).max() < 1e-4


@pytest.mark.parametrize("levels, level_budget", [(24, (2, 2)), (25, (2, 3))])
def test_keys_are_kept_for_the_levels_at_which_they_are_used(levels: int, level_budget: tuple[int, int]) -> None:
    """With other budgets up and down, the bootstrap uses some keys at the bottom of the chain alone."""
    # OpenFHE has one context, with one set-up, for all parameters of the same chain.
    params = check(replace(PARAMS.spec, name="insecure-other", levels=levels, level_budget=level_budget))
    # Neither 77 nor 99 slots are a rotation of the bootstrap's.
    steps = {1: 8, 77: 8, 99: 2}
    keys = KeySet.generate(params)
    payloads = [
        bytes(unframe(blob, Kind.ROTATION_KEYS, params.digest)) for _, blob in keys.rotation_key_blobs([*steps, 333])
    ]
    mult_key = bytes(unframe(keys.mult_key_blob(), Kind.MULT_KEY, params.digest))
    whole, small = (NativeEvaluator(params, keys.key_tag) for _ in range(2))
    for ev, used in ((whole, None), (small, steps)):
        ev.load_key(Kind.MULT_KEY, mult_key)
        for payload in payloads:
            ev.load_key(Kind.ROTATION_KEYS, payload, used)
        ev.finish_keys(steps)

    # Nothing rotates by 333 slots.
    assert whole.scheme.rotation_index(333) in whole.scheme.automorphisms
    assert small.scheme.rotation_index(333) not in small.scheme.automorphisms
    both = [ev.scheme.automorphisms[ev.scheme.rotation_index(99)] for ev in (small, whole)]
    assert (both[0].q_limbs, both[1].q_limbs) == (3, params.top_level + 1)
    assert both[0].nbytes < 0.2 * both[1].nbytes
    kept, all_kept = (
        sum(key.nbytes for keys in (ev.scheme.automorphisms.values(), *ev.scheme.reduced.values()) for key in keys)
        for ev in (small, whole)
    )
    assert kept < all_kept

    a = small.load(keys.encrypt(vector(), 12))
    for count, level in ((1, 8), (77, 8), (77, 5), (99, 2), (99, 0)):
        rotated = small.rotate(small.drop(a, level), count)
        assert np.abs(keys.decrypt(small.dump(rotated)) - np.roll(vector(), -count)).max() < PRECISION
    # Keys over different special primes.
    for ct, count in zip(small.rotate_many(small.drop(a, 2), [99, 1, 77]), (99, 1, 77), strict=True):
        assert np.abs(keys.decrypt(small.dump(ct)) - np.roll(vector(), -count)).max() < PRECISION
    refreshed = small.bootstrap(a)
    assert np.abs(keys.decrypt(small.dump(refreshed)) - vector()).max() < 1e-4
    with pytest.raises(LevelError, match="rotation by 99 slots serves up to level 2, not level 12"):
        small.rotate(a, 99)


# -- plaintexts and scales --------------------------------------------------------------------------------------------


def test_the_plaintext_cache_is_bounded_and_right(
    evaluator: NativeEvaluator, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = evaluator.load(material.keys.encrypt(vector(), 4))
    polynomial = 5 * 8 * PARAMS.ring_dimension
    monkeypatch.setattr(limits, "PLAINTEXT_CACHE_BYTES", 3 * polynomial + 1)
    ramp = np.linspace(-1, 1, PARAMS.slots)
    for factor in (1.0, 2.0, 3.0, 4.0, 5.0, 1.0, 5.0):
        product = evaluator.mul_plain(a, factor * ramp)
        assert np.abs(material.decrypt(evaluator, product) - factor * ramp * vector()).max() < PRECISION
    assert (len(evaluator.scheme.plaintexts), evaluator.scheme.plaintexts.nbytes) == (3, 3 * polynomial)


def test_vectors_with_a_period_take_little_of_the_cache(evaluator: NativeEvaluator, material: Material) -> None:
    a = evaluator.load(material.keys.encrypt(vector(), 4))
    mask = np.tile(np.arange(32) % 2 - 0.25, PARAMS.slots // 32)
    product = evaluator.mul_plain(a, mask)
    assert np.abs(material.decrypt(evaluator, product) - mask * vector()).max() < PRECISION
    assert evaluator.scheme.plaintexts.nbytes == 5 * 8 * 64


@pytest.mark.parametrize("size", [1e-9, 1.0, 300.0])
def test_large_and_small_plain_operands(shared: NativeEvaluator, material: Material, size: float) -> None:
    """Coefficients may have more bits than the engine takes at once, the more where a rescaling is pending."""
    a = shared.load(material.keys.encrypt(vector(), 9))
    plain = size * np.cos(np.arange(PARAMS.slots))
    tolerance = PRECISION * max(1.0, size)
    for ct, want in ((a, vector()), (shared.mul_scalar(a, 0.5), vector() / 2)):
        assert np.abs(material.decrypt(shared, shared.add_plain(ct, plain)) - plain - want).max() < tolerance
        assert np.abs(material.decrypt(shared, shared.mul_plain(ct, plain)) - plain * want).max() < tolerance
        assert np.abs(material.decrypt(shared, shared.add_scalar(ct, size)) - size - want).max() < tolerance


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_plain_operands_that_are_no_numbers_are_refused(
    shared: NativeEvaluator, material: Material, value: float
) -> None:
    a = shared.load(material.keys.encrypt(vector(), 4))
    bad = vector()
    bad[3] = value
    for operation in (
        lambda: shared.mul_plain(a, bad),
        lambda: shared.add_plain(a, bad),
        lambda: shared.mul_scalar(a, value),
        lambda: shared.add_scalar(a, value),
    ):
        with pytest.raises(NotFiniteError):
            operation()


def test_scales_are_near_the_spec_and_squared_while_a_rescaling_is_pending(
    shared: NativeEvaluator, material: Material
) -> None:
    ct = shared.load(material.keys.encrypt(vector(), 6))
    bits = PARAMS.spec.scale_bits
    assert np.log2(shared.scale(ct)) == pytest.approx(bits, abs=1e-3)
    assert np.log2(shared.scale(shared.mul_scalar(ct, 0.5))) == pytest.approx(2 * bits, abs=1e-3)
    assert shared.scale(shared.mul_integer(ct, 8)) == shared.scale(ct)


def test_sums_of_different_scales_are_refused_with_both(shared: NativeEvaluator, material: Material) -> None:
    ct = shared.load(material.keys.encrypt(vector(), 6))
    value = ct.payload.value
    other = Ciphertext(Cell(Ct(value.parts, value.scale * (1 + 1e-9))), 6)
    with pytest.raises(ScaleError) as caught:
        shared.add(ct, other)
    assert repr(value.scale) in caught.value.message and repr(value.scale * (1 + 1e-9)) in caught.value.message


def test_every_result_has_the_canonical_scale_of_its_limbs(shared: NativeEvaluator, material: Material) -> None:
    """So that OpenFHE and later sums take it without an adjustment."""
    ev = shared
    a, b = ev.load(material.keys.encrypt(vector(), 11)), ev.load(material.keys.encrypt(vector(), 7))
    product = ev.mul(a, b)
    for ct in (
        a,
        product,
        ev.mul_no_relin(product, product),
        ev.relinearize(ev.mul_no_relin(a, product)),
        ev.mul_plain(product, vector()),
        ev.mul_scalar(ev.mul_scalar(a, 0.3), 0.3),
        ev.add(a, product),
        ev.drop(a, 2),
        ev.drop(ev.mul_scalar(a, 0.3), 2),
        ev.rotate(ev.mul_scalar(b, 0.3), 1),
        ev.conjugate(b),
        ev.bootstrap(a),
    ):
        value = ct.payload.value
        assert value.level == ct.level
        canonical = ev.scheme.canonical_scale(value.limbs, value.degree)
        assert value.scale == pytest.approx(canonical, rel=2.0**-44)


@pytest.mark.parametrize("name", ["default", "deep"])
def test_the_chains_of_the_large_presets_in_a_small_ring(name: str) -> None:
    """Several digits, a last one that is shorter, and primes below 2^50."""
    params = check(replace(PRESETS[name], name="insecure-other", log2_ring_dimension=11))
    keys = KeySet.generate(params)
    ev = NativeEvaluator(params, keys.key_tag)
    ev.load_key(Kind.MULT_KEY, bytes(unframe(keys.mult_key_blob(), Kind.MULT_KEY, params.digest)))
    for _, blob in keys.rotation_key_blobs([77]):
        ev.load_key(Kind.ROTATION_KEYS, bytes(unframe(blob, Kind.ROTATION_KEYS, params.digest)))
    ev.finish_keys([77])

    def error(ct: Ciphertext, want: NDArray[np.float64]) -> float:
        return float(np.abs(keys.decrypt(ev.dump(ct)) - want).max())

    x = vector()
    for level in (params.top_level, 15, 8, 7, 6, 1):
        a = ev.load(keys.encrypt(x, level))
        assert error(ev.mul(a, a), x * x) < 2.0**-27
        assert error(ev.rotate(a, 77), np.roll(x, -77)) < 2.0**-27
        assert error(ev.conjugate(a), x) < 2.0**-27
        assert error(ev.mul_plain(a, x), x * x) < 2.0**-27
        assert error(ev.drop(a, level - 1), x) < 2.0**-27
    refreshed = ev.bootstrap(ev.load(keys.encrypt(x, params.bootstrap_input_level)))
    assert refreshed.level == params.bootstrap_output_level
    assert error(refreshed, x) < 2.0**-20


# -- the twin ---------------------------------------------------------------------------------------------------------


def test_the_twin_computes_the_same_bytes(shared: NativeEvaluator, material: Material) -> None:
    twin = NativeEvaluator(PARAMS, material.keys.key_tag, engine=reference)
    twin.load_key(Kind.MULT_KEY, material.mult_key)
    twin.load_key(Kind.ROTATION_KEYS, material.rotation_keys[1])
    held = {index: steps for steps in range(PARAMS.slots) for index in [twin.scheme.rotation_index(steps)]}
    steps = next(held[index] for index in twin.scheme.automorphisms if index in held)
    data = material.keys.encrypt(vector(), 5)

    def compute(ev: NativeEvaluator) -> bytes:
        a = ev.load(data)
        b = ev.mul_plain(ev.rotate(a, steps), vector() - 0.5j)
        return ev.dump(ev.add_scalar(ev.mul_monomial(ev.mul(ev.sub(a, b), a), 3), 0.25))

    assert compute(twin) == compute(shared)
