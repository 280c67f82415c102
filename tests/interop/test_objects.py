"""Our reader of OpenFHE's objects: takes what OpenFHE writes, and answers every mutation with an error of ours."""

from __future__ import annotations

import numpy as np
import pytest

from hetal.ckks.framing import Kind, unframe
from hetal.ckks.objects import Expected, validate_ciphertext, validate_mult_key, validate_rotation_keys
from hetal.ckks.openfhe import expected_objects
from hetal.ckks.presets import preset
from hetal.client.keys import KeySet
from hetal.errors import CiphertextFormatError, HetalError, KeyTagError, ResidueError, TruncatedError

PARAMS = preset("insecure-test")
HEADER_BYTES = 2_400
VALIDATORS = {
    "ciphertext": validate_ciphertext,
    "mult key": validate_mult_key,
    "rotation keys": validate_rotation_keys,
    "encapsulation keys": validate_rotation_keys,
}


@pytest.fixture(scope="module")
def job() -> tuple[Expected, dict[str, bytes]]:
    keys = KeySet.generate(PARAMS)
    blobs = [bytes(unframe(blob, Kind.ROTATION_KEYS, PARAMS.digest)) for _, blob in keys.rotation_key_blobs([1])]
    objects = {
        "ciphertext": keys.encrypt(np.linspace(-1, 1, PARAMS.slots), 2),
        "mult key": bytes(unframe(keys.mult_key_blob(), Kind.MULT_KEY, PARAMS.digest)),
        "rotation keys": blobs[-1],
        "encapsulation keys": blobs[0],
    }
    return expected_objects(PARAMS, keys.key_tag), objects


@pytest.mark.parametrize("name", VALIDATORS)
def test_accepts_what_openfhe_writes(job: tuple[Expected, dict[str, bytes]], name: str) -> None:
    expected, objects = job
    VALIDATORS[name](objects[name], expected)


def test_reports_level_and_indices(job: tuple[Expected, dict[str, bytes]]) -> None:
    expected, objects = job
    info = validate_ciphertext(objects["ciphertext"], expected)
    assert (info.limbs, info.scale_degree) == (3, 1)
    order = 2 * PARAMS.ring_dimension
    indices = validate_rotation_keys(objects["encapsulation keys"], expected)
    assert {order - 4, order - 2, order - 1} <= set(indices)


@pytest.mark.parametrize("name", VALIDATORS)
@pytest.mark.parametrize(
    "mutation", ["truncated", "truncated in header", "bit in header", "bytes in header", "random", "grown"]
)
def test_every_structural_mutation_is_refused(job: tuple[Expected, dict[str, bytes]], name: str, mutation: str) -> None:
    expected, objects = job
    good = objects[name]
    rng = np.random.default_rng(len(name) * 100 + len(mutation))
    for _ in range(425):
        data = mutate(good, mutation, rng)
        if data == good or (name.startswith(("rot", "enc")) and only_index_differs(good, data)):
            continue
        with pytest.raises(HetalError):
            VALIDATORS[name](data, expected)


def only_index_differs(good: bytes, data: bytes) -> bool:
    """A map may say of its first key that it belongs to another automorphism; no structure contradicts it."""
    at = 1 + 8 + 8 + 32 + 4 + 8
    return good[:at] + good[at + 4 :] == data[:at] + data[at + 4 :]


def mutate(good: bytes, mutation: str, rng: np.random.Generator) -> bytes:
    match mutation:
        case "truncated":
            return good[: int(rng.integers(len(good)))]
        case "truncated in header":
            return good[: int(rng.integers(HEADER_BYTES))]
        case "random":
            return b"\x01" * int(rng.integers(2)) + rng.bytes(int(rng.integers(4_000)))
        case "grown":
            return good + rng.bytes(int(rng.integers(1, 50)))
    data = bytearray(good)
    # Residues of the first limb begin within a hundred bytes of the head; they are not structure.
    at = int(rng.integers(HEADER_BYTES - 600))
    if mutation == "bit in header":
        data[at] ^= 1 << int(rng.integers(8))
    else:
        data[at : at + 4] = rng.bytes(4)
    return bytes(data)


@pytest.mark.parametrize("name", VALIDATORS)
def test_any_flipped_bit_is_refused_or_stays_a_residue(job: tuple[Expected, dict[str, bytes]], name: str) -> None:
    """Inside the limbs a flipped bit may give another residue; nothing but a HetalError may come out otherwise."""
    expected, objects = job
    rng = np.random.default_rng(7)
    good = objects[name]
    accepted = 0
    for _ in range(60):
        data = bytearray(good)
        data[int(rng.integers(len(good)))] ^= 1 << int(rng.integers(8))
        try:
            VALIDATORS[name](bytes(data), expected)
            accepted += 1
        except HetalError:
            continue
    assert accepted < 60


def test_residue_beyond_its_modulus(job: tuple[Expected, dict[str, bytes]]) -> None:
    expected, objects = job
    data = bytearray(objects["ciphertext"])
    data[9_000 : 9_000 + 64] = b"\xff" * 64
    with pytest.raises(ResidueError):
        validate_ciphertext(bytes(data), expected)


def test_foreign_key_tag(job: tuple[Expected, dict[str, bytes]]) -> None:
    expected, objects = job
    for name, validate in VALIDATORS.items():
        with pytest.raises(KeyTagError, match="the job has"):
            validate(objects[name], expected.for_key("f" * 32))


def test_objects_of_another_parameter_set(job: tuple[Expected, dict[str, bytes]]) -> None:
    expected, objects = job
    other = expected.for_key(expected.key_tag)
    with pytest.raises((CiphertextFormatError, TruncatedError, KeyTagError)):
        validate_mult_key(objects["rotation keys"], other)
    with pytest.raises(HetalError):
        validate_ciphertext(objects["mult key"], other)
