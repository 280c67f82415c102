"""Mutants of OpenFHE's objects and the verdict on what our readers say to them. Also run by scripts/fuzz_objects.py."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import numpy as np

from hetal.ckks import objects
from hetal.ckks.heads import NEW, SAME_TYPE
from hetal.ckks.objects import Expected, ciphertext_limbs, expected_for, mult_key_limbs, rotation_key_limbs
from hetal.ckks.parameters import Parameters, ParameterSpec, log_qp_bits
from hetal.ckks.security import assess
from hetal.errors import HetalError

Generator = np.random.Generator
KEY_TAG = "0123456789abcdef" * 2
EPHEMERAL_TAG = "fedcba9876543210" * 2
# Between the start of a key's tag and the residues of its first limb, in the second and later keys of a map: the
# number of polynomials and of limbs, the limb's type, presence and length.
AFTER_TAG = 8 + 8 + 4 + 1 + 8
HUGE = (1 << 16, (1 << 17) + 1, 1 << 31, 1 << 32, (1 << 61) + 1, 1 << 63, (1 << 64) - 1)
ODD_SCALES = (0.0, -0.0, -1.0, 5e-324, 1.0, float("inf"), float("-inf"), float("nan"), 1.7e308, 2.0**52)


@dataclass(frozen=True)
class Specimen:
    """A sound object with a map of its bytes.

    Attributes:
        fields: (offset, length) of each field behind the head, but for residues.
        limbs: (start, end, modulus) of the residues of each limb.
        free: (start, end) of fields that nothing else in the object contradicts: the low bits of a scale, the
            automorphism that a key is for, the tag of the ephemeral secret.
        equals: by the offset of a pointer, the pointers that stand for an equal definition: a key has limb parameters
            of its own beside the context's.
    """

    name: str
    data: bytes
    expected: Expected
    head_end: int
    fields: list[tuple[int, int]]
    limbs: list[tuple[int, int, int]]
    free: list[tuple[int, int]] = field(default_factory=list)
    equals: dict[int, set[int]] = field(default_factory=dict)

    def read(self, data: bytes, check_residues: bool) -> None:
        reader_of(self.name)(data, self.expected, check_residues=check_residues)


def reader_of(name: str) -> Callable[..., Any]:
    return READERS[name.split(",")[0]]


READERS: dict[str, Callable[..., Any]] = {
    "ciphertext": ciphertext_limbs,
    "mult key": mult_key_limbs,
    "rotation keys": rotation_key_limbs,
}


def short_parameters() -> Parameters:
    """A ring of 2^10 with three limbs in two digits: too short to bootstrap, so that a reading takes microseconds."""
    spec = ParameterSpec(
        name="short",
        log2_ring_dimension=10,
        scale_bits=40,
        first_modulus_bits=48,
        levels=2,
        digits=2,
        level_budget=(1, 1),
        giant_steps=(8, 8),
        correction_factor=9,
    )
    bits = log_qp_bits(spec)
    return Parameters(spec, bits, assess(log2_ring_dimension=10, log_qp_bits=bits, sparse_secret=True))


# -- specimens --------------------------------------------------------------------------------------------------------


def specimens(seed: int = 0) -> list[Specimen]:
    """One of each kind of object that OpenFHE writes. Tags and residues are replaced, by the seed."""
    import openfhe

    from hetal.ckks.openfhe import build_context, set_up_bootstrap

    params = short_parameters()
    context = build_context(params)
    keys = context.KeyGen()
    tag = keys.secretKey.GetKeyTag()
    context.EvalMultKeyGen(keys.secretKey)
    made: dict[str, Any] = {}
    for dropped in range(3):
        plain = context.MakeCKKSPackedPlaintext([0.5], 1, dropped)
        made[f"ciphertext, {3 - dropped} limbs"] = context.Encrypt(keys.publicKey, plain)
    made["ciphertext, scale degree 2"] = context.EvalMult(made["ciphertext, 3 limbs"], made["ciphertext, 3 limbs"])
    found = {name: openfhe.Serialize(value, openfhe.BINARY) for name, value in made.items()}
    found["mult key"] = openfhe.SerializeEvalMultKeyString(openfhe.BINARY, tag)
    context.EvalRotateKeyGen(keys.secretKey, [1, 2])
    found["rotation keys"] = openfhe.SerializeEvalAutomorphismKeyString(openfhe.BINARY, tag)
    openfhe.CryptoContext.ClearEvalAutomorphismKeys()
    context.EvalBootstrapSetup([1, 1], [0, 0], 2, 0, False, True)
    context.EvalBootstrapKeyGen(keys.secretKey, 2)
    set_up_bootstrap(context, params)
    found["rotation keys, encapsulation"] = openfhe.SerializeEvalAutomorphismKeyString(openfhe.BINARY, tag)
    openfhe.ClearEvalMultKeys()
    openfhe.CryptoContext.ClearEvalAutomorphismKeys()
    rng = np.random.default_rng(seed)
    expected = expected_for(params, KEY_TAG)
    return [mapped(name, data.replace(tag.encode(), KEY_TAG.encode()), expected, rng) for name, data in found.items()]


def mapped(name: str, data: bytes, expected: Expected, rng: Generator) -> Specimen:
    chain = expected.chain
    taken: list[tuple[int, int]] = []
    take = objects._Reader.take
    readers: list[Any] = []

    def recording(reader: Any, count: int) -> memoryview:
        taken.append((reader.at, count))
        readers[:] = [reader]
        return take(reader, count)

    with patch.object(objects._Reader, "take", recording):
        result = reader_of(name)(data, expected)
    own = bytearray(data)
    if name.startswith("ciphertext"):
        offsets, free = [result[1]], [(len(data) - 32, len(data) - 24)]
    elif name.startswith("mult"):
        offsets, free = result, []
    else:
        offsets, free = [half for halves in result.values() for half in halves], []
        for index, halves in result.items():
            first = halves[1][0][0]
            # Before the second and later indices' tags: class, pointer, and the context's type and pointer.
            at = first - AFTER_TAG - 40 - 16 - 4 if free else 1 + 8 + 8 + len(KEY_TAG) + 4 + 8
            free.append((at, at + 4))
            if index == 2 * chain.ring_dimension - 4:
                at = first - AFTER_TAG - len(EPHEMERAL_TAG)
                own[at : at + len(EPHEMERAL_TAG)] = EPHEMERAL_TAG.encode()
                free.append((at, at + len(EPHEMERAL_TAG)))
    limbs = []
    for at in sorted(at for half in offsets for digit in half for at in digit):
        end = at + 8 * chain.ring_dimension
        (modulus,) = struct.unpack_from("<Q", data, end)
        own[at:end] = rng.integers(modulus, size=chain.ring_dimension, dtype=np.uint64).tobytes()
        limbs.append((at, end, modulus))
    kind = name.split(",")[0]
    head = {"ciphertext": expected.ciphertext, "mult key": expected.mult_key}.get(kind, expected.rotation_keys)
    head_end = data.index(head.data) + len(head.data)
    residues = {at for at, _, _ in limbs}
    fields = [(at, count) for at, count in taken if count <= 32 and at not in residues]
    return Specimen(name, bytes(own), expected, head_end, fields, limbs, free, equal_pointers(readers[0], data, fields))


def equal_pointers(reader: Any, data: bytes, fields: list[tuple[int, int]]) -> dict[int, set[int]]:
    """Of every reference behind a type field: which pointers mean the same."""
    meanings: dict[int, Any] = {**reader._limbs, **reader._chains}
    found = {}
    for (before, size), (at, length) in pairwise(fields):
        if (size, length) == (4, 4) and data[before:at] == struct.pack("<I", SAME_TYPE):
            (pointer,) = struct.unpack_from("<I", data, at)
            meaning = meanings.get(pointer)
            found[at] = {other for other in meanings if meanings[other] == meaning and not pointer & NEW}
    return found


# -- mutations --------------------------------------------------------------------------------------------------------

Mutation = Callable[[Specimen, Generator], bytes]


def at_random(rng: Generator, below: int) -> int:
    return int(rng.integers(below))


def some_field(specimen: Specimen, rng: Generator, length: int | None = None) -> tuple[int, int]:
    """A field behind the head, or one in five times a place in the head."""
    if rng.random() < 0.2:
        size = length or int(rng.choice([1, 4, 8]))
        return at_random(rng, specimen.head_end - size), size
    fields = [(at, size) for at, size in specimen.fields if length in (None, size)]
    return fields[at_random(rng, len(fields))]


def put(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def truncated(specimen: Specimen, rng: Generator) -> bytes:
    return specimen.data[: at_random(rng, len(specimen.data))]


def truncated_in_head(specimen: Specimen, rng: Generator) -> bytes:
    return specimen.data[: at_random(rng, specimen.head_end + 100)]


def bit_anywhere(specimen: Specimen, rng: Generator) -> bytes:
    at = at_random(rng, len(specimen.data))
    return put(specimen.data, at, bytes([specimen.data[at] ^ 1 << at_random(rng, 8)]))


def bit_in_head(specimen: Specimen, rng: Generator) -> bytes:
    at = at_random(rng, specimen.head_end)
    return put(specimen.data, at, bytes([specimen.data[at] ^ 1 << at_random(rng, 8)]))


def bit_in_field(specimen: Specimen, rng: Generator) -> bytes:
    at, size = some_field(specimen, rng)
    at += at_random(rng, size)
    return put(specimen.data, at, bytes([specimen.data[at] ^ 1 << at_random(rng, 8)]))


def bytes_in_head(specimen: Specimen, rng: Generator) -> bytes:
    return put(specimen.data, at_random(rng, specimen.head_end - 4), rng.bytes(4))


def random_field(specimen: Specimen, rng: Generator) -> bytes:
    at, size = some_field(specimen, rng)
    return put(specimen.data, at, rng.bytes(size))


def random_bytes(specimen: Specimen, rng: Generator) -> bytes:
    return b"\x01" * at_random(rng, 2) + rng.bytes(at_random(rng, 4_000))


def random_after_head(specimen: Specimen, rng: Generator) -> bytes:
    kept = specimen.data[: specimen.head_end + int(rng.choice([0, 40, 60]))]
    return kept + rng.bytes(at_random(rng, 4_000))


def huge_size(specimen: Specimen, rng: Generator) -> bytes:
    at, _ = some_field(specimen, rng, 8)
    return put(specimen.data, at, struct.pack("<Q", HUGE[at_random(rng, len(HUGE))]))


def near_number(specimen: Specimen, rng: Generator) -> bytes:
    at, size = some_field(specimen, rng)
    old = int.from_bytes(specimen.data[at : at + size], "little")
    new = [old + 1, old - 1, 2 * old, old // 2, 0, 1, -1, -old, old << 8][at_random(rng, 9)]
    return put(specimen.data, at, (new % (1 << 8 * size)).to_bytes(size, "little"))


def wrong_pointer(specimen: Specimen, rng: Generator) -> bytes:
    at, _ = some_field(specimen, rng, 4)
    identity = at_random(rng, 64)
    pointer = [identity, NEW | identity, SAME_TYPE | identity, SAME_TYPE, NEW, NEW | SAME_TYPE, 0, 0xFFFFFFFF]
    return put(specimen.data, at, struct.pack("<I", pointer[at_random(rng, len(pointer))]))


def swapped_fields(specimen: Specimen, rng: Generator) -> bytes:
    data = specimen.data
    size = int(rng.choice([1, 4, 8]))
    (one, _), (other, _) = some_field(specimen, rng, size), some_field(specimen, rng, size)
    if abs(one - other) < size:
        return data
    return put(put(data, one, data[other : other + size]), other, data[one : one + size])


def swapped_limbs(specimen: Specimen, rng: Generator) -> bytes:
    data = specimen.data
    (one, end, _), (other, other_end, _) = (specimen.limbs[at_random(rng, len(specimen.limbs))] for _ in range(2))
    return put(put(data, one, data[other:other_end]), other, data[one:end])


def inserted(specimen: Specimen, rng: Generator) -> bytes:
    at = some_field(specimen, rng)[0] if rng.random() < 0.8 else len(specimen.data)
    return specimen.data[:at] + rng.bytes(1 + at_random(rng, 16)) + specimen.data[at:]


def deleted(specimen: Specimen, rng: Generator) -> bytes:
    at, size = some_field(specimen, rng)
    return specimen.data[:at] + specimen.data[at + (size if rng.random() < 0.5 else 1 + at_random(rng, 16)) :]


def repeated(specimen: Specimen, rng: Generator) -> bytes:
    """A span of fields and limbs occurs twice, or not at all."""
    (start, _), (end, size) = sorted(some_field(specimen, rng) for _ in range(2))
    span = specimen.data[start : end + size]
    return specimen.data[:start] + span * (2 * at_random(rng, 2)) + specimen.data[end + size :]


def spoilt_residue(specimen: Specimen, rng: Generator) -> bytes:
    start, end, modulus = specimen.limbs[at_random(rng, len(specimen.limbs))]
    residue = [modulus, modulus + 1, modulus - 1, (1 << 64) - 1, 1 << 63, at_random(rng, 1 << 62)][at_random(rng, 6)]
    return put(specimen.data, start + 8 * at_random(rng, (end - start) // 8), struct.pack("<Q", residue))


def odd_scale(specimen: Specimen, rng: Generator) -> bytes:
    at = specimen.free[0][0] if specimen.name.startswith("ciphertext") else some_field(specimen, rng, 8)[0]
    (old,) = struct.unpack_from("<d", specimen.data, at)
    scales = (*ODD_SCALES, old * 1.002, old * 0.998, old * old, old**0.5 if old > 0 else 0.0)
    return put(specimen.data, at, struct.pack("<d", scales[at_random(rng, len(scales))]))


MUTATIONS: dict[str, Mutation] = {
    "truncated anywhere": truncated,
    "truncated in the head": truncated_in_head,
    "a bit anywhere": bit_anywhere,
    "a bit of the head": bit_in_head,
    "a bit of a field": bit_in_field,
    "four random bytes in the head": bytes_in_head,
    "a random field": random_field,
    "random bytes": random_bytes,
    "random bytes behind the head": random_after_head,
    "a huge size": huge_size,
    "a number beside the right one": near_number,
    "a wrong pointer": wrong_pointer,
    "two fields swapped": swapped_fields,
    "two limbs swapped": swapped_limbs,
    "bytes inserted": inserted,
    "bytes deleted": deleted,
    "a span doubled or dropped": repeated,
    "a residue replaced": spoilt_residue,
    "an odd scale": odd_scale,
}


# -- verdicts ---------------------------------------------------------------------------------------------------------

RESIDUES = "residues alone"
FREE = "free fields"
FAILURE = "FAILURE"


def verdict(specimen: Specimen, data: bytes, check_residues: bool = True) -> str:
    """The code of the error, or what an accepted mutant changed; failures begin with :data:`FAILURE`.

    Free fields include pointers to an equal definition.
    """
    try:
        specimen.read(data, check_residues)
    except HetalError as error:
        return error.code
    except Exception as error:
        return f"{FAILURE}: {type(error).__name__}: {error}"
    if len(data) != len(specimen.data):
        return f"{FAILURE}: {len(data)} bytes are accepted for {len(specimen.data)}"
    changed = np.frombuffer(data, np.uint8) != np.frombuffer(specimen.data, np.uint8)
    for start, end, _ in specimen.limbs:
        changed[start:end] = False
    if not changed.any():
        return RESIDUES
    for start, end in specimen.free:
        changed[start:end] = False
    for at, pointers in specimen.equals.items():
        if changed[at : at + 4].any() and struct.unpack_from("<I", data, at)[0] in pointers:
            changed[at : at + 4] = False
    if changed.any():
        return f"{FAILURE}: byte {int(changed.argmax())} has changed and is accepted"
    return FREE


def mutants(specimen: Specimen, mutation: str, seed: int, count: int) -> Iterator[bytes]:
    """The same ones for the same seed; none equals the specimen."""
    rng = np.random.default_rng([seed, list(MUTATIONS).index(mutation), *specimen.name.encode()])
    made = 0
    while made < count:
        data = MUTATIONS[mutation](specimen, rng)
        if data != specimen.data:
            made += 1
            yield data


def verdicts(specimen: Specimen, mutation: str, seed: int, count: int) -> Counter[str]:
    """Every third mutant is read as by the native engine, which checks residues itself."""
    found = enumerate(mutants(specimen, mutation, seed, count))
    return Counter(verdict(specimen, data, check_residues=number % 3 != 0) for number, data in found)
