"""Our reader of OpenFHE's objects: takes what OpenFHE writes, and answers every mutation with an error of ours."""

from __future__ import annotations

import dataclasses
import struct

import numpy as np
import pytest

from hetal.ckks.framing import Kind, unframe
from hetal.ckks.objects import Expected, expected_for, validate_ciphertext, validate_mult_key, validate_rotation_keys
from hetal.ckks.parameters import Parameters, check
from hetal.ckks.presets import PRESETS, TEST_PRESET, preset
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
    return made_under(PARAMS)


def made_under(params: Parameters) -> tuple[Expected, dict[str, bytes]]:
    keys = KeySet.generate(params)
    blobs = [bytes(unframe(blob, Kind.ROTATION_KEYS, params.digest)) for _, blob in keys.rotation_key_blobs([1])]
    objects = {
        "ciphertext": keys.encrypt(np.linspace(-1, 1, params.slots, dtype=np.float64), 2),
        "mult key": bytes(unframe(keys.mult_key_blob(), Kind.MULT_KEY, params.digest)),
        "rotation keys": blobs[-1],
        "encapsulation keys": blobs[0],
    }
    return expected_for(params, keys.key_tag), objects


def limb_spans(data: bytes | bytearray, ring_dimension: int) -> list[tuple[int, int]]:
    """Where the residues of each limb lie; a limb's length occurs nowhere else behind the header."""
    spans = []
    length = struct.pack("<Q", ring_dimension)
    at = data.find(length, 1_700)
    while at >= 0:
        spans.append((at + 8, at + 8 + 8 * ring_dimension))
        at = data.find(length, spans[-1][1])
    return spans


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
def test_no_structural_byte_behind_the_header_can_change(job: tuple[Expected, dict[str, bytes]], name: str) -> None:
    """Between and behind the limbs: lengths, moduli, pointers, chains, scale. Only these may differ: the low bits of
    the scale, and of the encapsulation key the tag, which is that of a secret drawn for it."""
    expected, objects = job
    good = objects[name]
    spans = limb_spans(good, PARAMS.ring_dimension)
    edges = [HEADER_BYTES - 600, *(edge for span in spans for edge in span), len(good)]
    structure = [at for start, end in zip(edges[::2], edges[1::2], strict=True) for at in range(start, end)]
    free: set[int] = set()
    if name == "ciphertext":
        # From the end: metadata 12, encoding 4, integer scale 8, scale 8.
        free = set(range(len(good) - 32, len(good) - 24))
    if name == "encapsulation keys":
        own = expected.key_tag.encode()
        at = next(s for s in range(len(good)) if is_tag(good, s) and good[s + 8 : s + 40] != own)
        free = set(range(at + 8, at + 40))
    rng = np.random.default_rng(11)
    chosen = rng.choice(structure, min(600, len(structure)), replace=False).tolist()
    for at in chosen:
        data = bytearray(good)
        data[at] ^= 1 << int(rng.integers(8))
        try:
            VALIDATORS[name](bytes(data), expected)
        except HetalError:
            continue
        assert at in free


def is_tag(data: bytes, at: int) -> bool:
    return data[at : at + 8] == struct.pack("<Q", 32) and all(c in b"0123456789abcdef" for c in data[at + 8 : at + 40])


@pytest.mark.parametrize("name", VALIDATORS)
def test_any_flipped_bit_is_refused_or_stays_a_residue(job: tuple[Expected, dict[str, bytes]], name: str) -> None:
    """Inside the limbs a flipped bit may give another residue; nothing but a HetalError may come out otherwise."""
    expected, objects = job
    rng = np.random.default_rng(7)
    good = objects[name]
    spans = limb_spans(good, PARAMS.ring_dimension)
    accepted = 0
    for _ in range(60):
        at = int(rng.integers(len(good)))
        data = bytearray(good)
        data[at] ^= 1 << int(rng.integers(8))
        try:
            VALIDATORS[name](bytes(data), expected)
        except HetalError:
            continue
        accepted += 1
        assert any(start <= at < end for start, end in spans)
    assert 0 < accepted < 60


@pytest.mark.parametrize("name", VALIDATORS)
def test_residues_are_checked_in_every_limb(job: tuple[Expected, dict[str, bytes]], name: str) -> None:
    """A residue equal to its modulus is the least that is refused; one less is taken."""
    expected, objects = job
    good = objects[name]
    spans = limb_spans(good, PARAMS.ring_dimension)
    for start, end in (spans[0], spans[len(spans) // 2], spans[-1]):
        (modulus,) = struct.unpack_from("<Q", good, end)
        for at in (start, end - 8):
            data = bytearray(good)
            struct.pack_into("<Q", data, at, modulus - 1)
            VALIDATORS[name](bytes(data), expected)
            struct.pack_into("<Q", data, at, modulus)
            with pytest.raises(ResidueError, match=str(modulus)):
                VALIDATORS[name](bytes(data), expected)


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_encapsulation_key_must_have_all_its_limbs(job: tuple[Expected, dict[str, bytes]], kept: int) -> None:
    """OpenFHE indexes the three limbs without a look at how many there are."""
    expected, objects = job
    encapsulation = tuple(modulus for modulus, _ in expected.chain.encapsulation)
    assert len(encapsulation) == 3
    good = objects["encapsulation keys"]
    spans = limb_spans(good, PARAMS.ring_dimension)
    moduli = [struct.unpack_from("<Q", good, end)[0] for _, end in spans]
    first = next(i for i in range(len(moduli)) if tuple(moduli[i : i + 3]) == encapsulation)
    # The count of limbs stands 20 to 24 bytes before the first limb's residues, depending on class versions.
    start = spans[first][0]
    at = next(p for p in range(start - 40, start - 8) if good[p : p + 8] == struct.pack("<Q", 3))
    data = good[:at] + struct.pack("<Q", kept) + good[at + 8 :]
    with pytest.raises(CiphertextFormatError, match=f"number of limbs is {kept} where 3"):
        validate_rotation_keys(data, expected)


def test_encapsulation_chain_is_the_one_openfhe_uses(job: tuple[Expected, dict[str, bytes]]) -> None:
    """Two primes of 33 bits in every ring; the 2^16 ring's are checked by the key test of the default preset."""
    expected, objects = job
    first, *auxiliary = (modulus for modulus, _ in expected.chain.encapsulation)
    assert first == expected.chain.moduli[0]
    order = 2 * PARAMS.ring_dimension
    for q in auxiliary:
        assert q.bit_length() == 33
        assert q % order == 1
        assert struct.pack("<Q", q) in objects["encapsulation keys"]


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


@pytest.mark.parametrize(
    "change",
    [{"levels": 22}, {"digits": 2}, {"scale_bits": 44}, {"log2_ring_dimension": 10}, {"first_modulus_bits": 56}],
    ids=lambda change: next(iter(change)),
)
def test_objects_of_another_parameter_set(job: tuple[Expected, dict[str, bytes]], change: dict[str, int]) -> None:
    """Also where no length differs, and where the forger knows the job's key tag."""
    expected, _ = job
    other = check(dataclasses.replace(PRESETS[TEST_PRESET], name="other", **change))  # type: ignore[arg-type]
    theirs, objects = made_under(other)
    for name, validate in VALIDATORS.items():
        validate(objects[name], theirs)
        with pytest.raises((CiphertextFormatError, TruncatedError, KeyTagError)):
            validate(objects[name], expected)
        forged = objects[name].replace(theirs.key_tag.encode(), expected.key_tag.encode())
        with pytest.raises((CiphertextFormatError, TruncatedError)):
            validate(forged, expected)


def test_objects_of_another_class(job: tuple[Expected, dict[str, bytes]]) -> None:
    expected, objects = job
    for name, data in objects.items():
        for validate in set(VALIDATORS.values()) - {VALIDATORS[name]}:
            with pytest.raises((CiphertextFormatError, TruncatedError, KeyTagError)):
                validate(data, expected)
