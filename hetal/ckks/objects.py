"""Our own reader and writer of OpenFHE's binary objects, from checked parameters alone.

OpenFHE's deserialisers trust sizes and pointers and can crash the process, so what the other side sent is checked here
before OpenFHE, or the native engine, sees a byte of it. All objects of a job contain the same context, so that part
must equal, byte for byte, the one that the parameters give (:mod:`hetal.ckks.heads`); behind it every field, pointer
and residue is checked. Readers return where the limbs lie: a limb is N little-endian words of 64 bits.
"""

from __future__ import annotations

import string
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import numpy as np

from hetal.ckks.chain import Chain, Prime, chain_of
from hetal.ckks.heads import (
    LITTLE_ENDIAN,
    NEW,
    SAME_TYPE,
    Head,
    Stream,
    ciphertext_head,
    mult_key_head,
    prime_pointers,
    rotation_key_head,
)
from hetal.ckks.parameters import Parameters
from hetal.errors import CiphertextFormatError, KeyTagError, ResidueError, TruncatedError

EVALUATION: Final = 0
CKKS_PACKED: Final = 4
KEYS_PER_OBJECT_MAX: Final = 256
STRING_MAX: Final = 4096
BIG_WORDS_MAX: Final = 512
SCALE_TOLERANCE: Final = 1e-3
KEY_TAG_CHARS: Final = 32

Primes = tuple[Prime, ...]
# Byte offsets of limbs: of a ciphertext [part][limb], of a key [half][digit][limb].
PartLimbs = list[list[int]]
KeyLimbs = list[list[list[int]]]


@dataclass(frozen=True, slots=True)
class Expected:
    """What the objects of one job look like. ``key_tag`` is empty while no job is known."""

    chain: Chain
    ciphertext: Head
    mult_key: Head
    rotation_keys: Head
    key_tag: str = ""

    def for_key(self, key_tag: str) -> Expected:
        return replace(self, key_tag=key_tag)


@dataclass(frozen=True, slots=True)
class CiphertextInfo:
    """What a valid ciphertext says of itself."""

    limbs: int
    scale_degree: int
    scale: float


def expected_for(params: Parameters, key_tag: str = "") -> Expected:
    """What every object of a job under these parameters and this key must look like.

    Raises:
        ParameterError: the parameters have no chain.
    """
    return _expected(params).for_key(key_tag)


@lru_cache(maxsize=16)
def _expected(params: Parameters) -> Expected:
    chain = chain_of(params)
    return Expected(
        chain, ciphertext_head(params, chain), mult_key_head(params, chain), rotation_key_head(params, chain)
    )


def write_ciphertext(expected: Expected, limbs: int, scale_degree: int, scale: float) -> tuple[bytearray, PartLimbs]:
    """A two-part ciphertext with zero residues, as OpenFHE writes one of that many limbs, and where its limbs lie.

    Args:
        limbs: 1 to all of Q's; OpenFHE's level is the number of those dropped.
        scale_degree: 1, or 2 where a rescaling is pending.
        scale: the scaling factor of the message.

    Raises:
        CiphertextFormatError: OpenFHE has no such ciphertext.
    """
    chain, head = expected.chain, expected.ciphertext
    dimension, kept = chain.ring_dimension, chain.q[:limbs]
    if not 1 <= limbs <= len(chain.q) or scale_degree not in (1, 2):
        raise CiphertextFormatError(f"no ciphertext has {limbs} limbs and noise scale degree {scale_degree}")
    stream = Stream(head.next_pointer, head.classes)
    stream.data += head.data
    stream.string(expected.key_tag.encode())
    stream.put("Q", 2)
    known = head.chain if len(kept) == len(chain.q) else None
    parts: PartLimbs = []
    for _ in range(2):
        stream.version("DCRTPoly")
        stream.put("Q", limbs)
        parts.append([_write_limb(stream, dimension, *limb) for limb in zip(kept, head.limbs, strict=False)])
        stream.put("i", EVALUATION)
        if known is not None:
            stream.refer(known)
            continue
        known = stream.chain_parameters(dimension, (modulus for modulus, _ in kept), limbs)
        for pointer in head.limbs[:limbs]:
            stream.refer(pointer)
    # Slots, level, hop level, noise scale degree; scale; integer scale; encoding.
    stream.put("IIII", dimension // 2, len(chain.q) - limbs, 0, scale_degree)
    stream.put("dQi", scale, 1, CKKS_PACKED)
    stream.define()
    # Entries of metadata.
    stream.put("Q", 0)
    return stream.data, parts


def _write_limb(stream: Stream, dimension: int, prime: Prime, pointer: int) -> int:
    stream.version("Poly")
    stream.put("IB", SAME_TYPE, 1)
    stream.version("NativeVector")
    stream.put("Q", dimension)
    at = len(stream.data)
    stream.data += bytes(8 * dimension)
    stream.put("Qi", prime[0], EVALUATION)
    stream.refer(pointer)
    return at


def ciphertext_limbs(
    data: bytes | memoryview, expected: Expected, *, check_residues: bool = True
) -> tuple[CiphertextInfo, PartLimbs]:
    """Check a two-part ciphertext.

    Args:
        check_residues: that every residue is below its modulus. False where whoever reads the limbs at the offsets
            refuses others itself, as the native engine does; it saves a pass over all of the data.

    Raises:
        CiphertextFormatError, TruncatedError, KeyTagError, ResidueError.
    """
    chain = expected.chain
    reader = _Reader(data, expected, expected.ciphertext, check_residues)
    reader.head(expected.ciphertext, "the crypto context of the ciphertext")
    reader.tag(expected.key_tag)
    limbs = reader.limb_count_ahead()
    if not 1 <= limbs <= len(chain.q):
        raise CiphertextFormatError(f"a ciphertext of {limbs} limbs; the chain has {len(chain.q)}")
    offsets = reader.polys([chain.q[:limbs]] * 2)
    reader.equal(chain.ring_dimension // 2, reader.u32(), "the slot count")
    level, hops, degree = reader.u32(), reader.u32(), reader.u32()
    reader.equal(len(chain.q) - limbs, level, "the level")
    reader.equal(0, hops, "the hop level")
    if degree not in (1, 2):
        raise CiphertextFormatError(f"noise scale degree {degree}")
    scale = reader.f64()
    ratio = scale / chain.scales[level] ** degree
    if not abs(ratio - 1.0) < SCALE_TOLERANCE:
        raise CiphertextFormatError(f"scale {scale:g} at level {level} where about {chain.scales[level]:g} is due")
    reader.equal(1, reader.u64(), "the integer scale")
    reader.equal(CKKS_PACKED, reader.u32(), "the encoding")
    reader.definition("the metadata")
    reader.equal(0, reader.u64(), "the number of metadata entries")
    reader.end()
    return CiphertextInfo(limbs, degree, scale), offsets


def mult_key_limbs(data: bytes | memoryview, expected: Expected, *, check_residues: bool = True) -> KeyLimbs:
    """Check a map that holds the one relinearisation key of the job; returns where its limbs lie.

    Half 0 is b and half 1 is a (the stream has a first); limbs are those of Q, then of the wire's P. Arguments and
    errors as :func:`ciphertext_limbs`.
    """
    reader = _Reader(data, expected, expected.mult_key, check_residues)
    reader.equal(LITTLE_ENDIAN, reader.u8(), "the byte order flag")
    reader.equal(1, reader.u64(), "the number of key tags")
    reader.tag(expected.key_tag)
    reader.equal(1, reader.u64(), "the number of relinearisation keys")
    reader.head(expected.mult_key, "the crypto context of the key")
    reader.tag(expected.key_tag)
    offsets = reader.halves(_digits(expected.chain))
    reader.end()
    return offsets


def rotation_key_limbs(
    data: bytes | memoryview, expected: Expected, *, check_residues: bool = True
) -> dict[int, KeyLimbs]:
    """Check a map of automorphism keys; returns where the limbs of each lie, by automorphism index.

    As :func:`mult_key_limbs`; but the key from the main to the sparse ephemeral secret (index 2N-4) has one digit, and
    the limbs of ``Chain.encapsulation``.
    """
    chain = expected.chain
    reader = _Reader(data, expected, expected.rotation_keys, check_residues)
    reader.equal(LITTLE_ENDIAN, reader.u8(), "the byte order flag")
    reader.equal(1, reader.u64(), "the number of key tags")
    reader.tag(expected.key_tag)
    reader.next_pointer = 1
    reader.definition("the key map")
    count = reader.count(KEYS_PER_OBJECT_MAX, "keys")
    order = 2 * chain.ring_dimension
    # To and from the sparse ephemeral secret. These two are no automorphisms.
    special = (order - 4, order - 2) if chain.encapsulation else ()
    offsets: dict[int, KeyLimbs] = {}
    for position in range(count):
        index = reader.u32()
        if index in offsets or not (0 < index < order and (index % 2 == 1 or index in special)):
            raise CiphertextFormatError(f"automorphism index {index} is repeated, or none below {order}")
        if position == 0:
            reader.head(expected.rotation_keys, "the crypto context of the key")
        else:
            # Names are counted: that of the key's class was the first.
            reader.equal(1, reader.u32(), "the key's class")
            reader.definition("the key")
            reader.equal(SAME_TYPE, reader.u32(), "the context's type")
            reader.equal(expected.rotation_keys.context, reader.u32(), "the context's pointer")
        if index == order - 4:
            # The ephemeral secret has a tag of its own.
            reader.any_tag()
            offsets[index] = reader.halves([chain.encapsulation])
        else:
            reader.tag(expected.key_tag)
            offsets[index] = reader.halves(_digits(chain))
    reader.end()
    return offsets


def validate_ciphertext(data: bytes | memoryview, expected: Expected) -> CiphertextInfo:
    """:func:`ciphertext_limbs` for those who hand the object on to OpenFHE."""
    return ciphertext_limbs(data, expected)[0]


def validate_mult_key(data: bytes | memoryview, expected: Expected) -> None:
    """:func:`mult_key_limbs` for those who hand the object on to OpenFHE."""
    mult_key_limbs(data, expected)


def validate_rotation_keys(data: bytes | memoryview, expected: Expected) -> list[int]:
    """:func:`rotation_key_limbs` for those who hand the object on to OpenFHE; returns the indices."""
    return list(rotation_key_limbs(data, expected))


def _digits(chain: Chain) -> list[Primes]:
    return [chain.q + chain.special] * chain.digits


class _Reader:
    """Bounded reads and checks; every refusal is a :class:`HetalError`."""

    def __init__(self, data: bytes | memoryview, expected: Expected, head: Head, check_residues: bool) -> None:
        self.data = memoryview(data)
        self.at = 0
        self.next_pointer = 0
        self._check_residues = check_residues
        self._dimension = expected.chain.ring_dimension
        self._classes: set[str] = set()
        # What pointers stand for: the context's, then those that the stream defines.
        self._limbs = prime_pointers(head, expected.chain.q)
        self._chains: dict[int, Primes] = {head.chain: expected.chain.q}

    # -- fields -------------------------------------------------------------------------------------------------------

    def take(self, count: int) -> memoryview:
        if count > len(self.data) - self.at:
            raise TruncatedError(f"the object ends at byte {len(self.data)}; {count} more are needed at byte {self.at}")
        self.at += count
        return self.data[self.at - count : self.at]

    def u8(self) -> int:
        return self.take(1)[0]

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def f64(self) -> float:
        return float(struct.unpack("<d", self.take(8))[0])

    def string(self) -> str:
        return bytes(self.take(self.count(STRING_MAX, "characters"))).decode("latin-1")

    def count(self, most: int, what: str) -> int:
        value = self.u64()
        if value > most:
            raise CiphertextFormatError(f"{value} {what} at byte {self.at - 8}; at most {most} are possible")
        return value

    def big(self) -> int:
        words = self.count(BIG_WORDS_MAX, "words of a big integer")
        value = int.from_bytes(self.take(8 * words), "little")
        self.equal(max(1, -(-value.bit_length() // 64)), words, "the number of words of a big integer")
        self.equal(value.bit_length(), self.u32(), "the length of a big integer")
        return value

    # -- checks -------------------------------------------------------------------------------------------------------

    def equal(self, value: int, found: int, what: str) -> None:
        if value != found:
            raise CiphertextFormatError(f"{what} is {found} where {value} is due, before byte {self.at}")

    def head(self, head: Head, what: str) -> None:
        if self.take(len(head.data)) != head.data:
            raise CiphertextFormatError(f"{what} is not the one that the job's parameters give")
        self.next_pointer = head.next_pointer

    def tag(self, key_tag: str) -> None:
        found = self.string()
        if found != key_tag:
            raise KeyTagError(f"the object carries key tag {found[:40]!r}, the job has {key_tag!r}")

    def any_tag(self) -> None:
        found = self.string()
        if len(found) != KEY_TAG_CHARS or not set(found) <= set(string.hexdigits):
            raise CiphertextFormatError(f"{found[:40]!r} is no key tag")

    def end(self) -> None:
        if self.at != len(self.data):
            raise CiphertextFormatError(f"{len(self.data) - self.at} bytes follow the object")

    def definition(self, what: str) -> None:
        """A pointer that must be defined here."""
        pointer = self.u32()
        if not pointer & NEW:
            raise CiphertextFormatError(f"{what} refers back where a new object is due, before byte {self.at}")
        self._claim(pointer)

    def _claim(self, pointer: int) -> int:
        """The id of a definition; ids count up in the order of the stream."""
        self.equal(self.next_pointer, pointer & ~NEW, "a pointer's id")
        self.next_pointer += 1
        return self.next_pointer - 1

    def _version(self, name: str) -> None:
        if name not in self._classes:
            self._classes.add(name)
            self.equal(0, self.u32(), f"the version of {name}")

    # -- polynomials --------------------------------------------------------------------------------------------------

    def limb_count_ahead(self) -> int:
        """Limbs of the first polynomial, without moving on; 8 bytes of count and 4 of a version precede it."""
        if len(self.data) - self.at < 20:
            raise TruncatedError("the object ends before its first polynomial")
        return int.from_bytes(self.data[self.at + 12 : self.at + 20], "little")

    def halves(self, digits: Sequence[Primes]) -> KeyLimbs:
        """The two vectors of a key, one polynomial over each of ``digits`` in both; the stream has a first."""
        a = self.polys(digits)
        return [self.polys(digits), a]

    def polys(self, over: Sequence[Primes]) -> PartLimbs:
        """A vector of polynomials, one over each of these sequences of primes."""
        self.equal(len(over), self.u64(), "the number of polynomials")
        offsets: PartLimbs = []
        for primes in over:
            self._version("DCRTPoly")
            self.equal(len(primes), self.u64(), "the number of limbs")
            offsets.append([self._limb(prime) for prime in primes])
            self.equal(EVALUATION, self.u32(), "the polynomial's form")
            self._chain_parameters(primes)
        return offsets

    def _limb(self, prime: Prime) -> int:
        modulus = prime[0]
        self._version("Poly")
        self.equal(SAME_TYPE, self.u32(), "the limb's type")
        self.equal(1, self.u8(), "the limb's presence")
        self._version("NativeVector")
        self.equal(self._dimension, self.u64(), "the ring dimension")
        at = self.at
        residues = self.take(8 * self._dimension)
        self.equal(modulus, self.u64(), "the limb's modulus")
        if self._check_residues and int(np.frombuffer(residues, dtype="<u8").max()) >= modulus:
            raise ResidueError(f"a residue is not below its modulus {modulus}")
        self.equal(EVALUATION, self.u32(), "the limb's form")
        self._limb_parameters(prime)
        return at

    def _limb_parameters(self, prime: Prime) -> None:
        self.equal(SAME_TYPE, self.u32(), "the type of limb parameters")
        pointer = self.u32()
        if pointer & NEW:
            identity = self._claim(pointer)
            self._ring()
            modulus, root = prime
            self.equal(modulus, self.u64(), "the modulus of limb parameters")
            self.equal(root, self.u64(), f"the root of unity modulo {modulus}")
            self.equal(0, self.u64(), "the big modulus of a limb")
            self.equal(0, self.u64(), "the big root of a limb")
            self._limbs[identity] = prime
        elif self._limbs.get(pointer) != prime:
            raise CiphertextFormatError(f"pointer {pointer} does not stand for modulus {prime[0]}")

    def _chain_parameters(self, primes: Primes) -> None:
        self.equal(SAME_TYPE, self.u32(), "the type of chain parameters")
        pointer = self.u32()
        if pointer & NEW:
            identity = self._claim(pointer)
            self._ring()
            self.equal(_product(primes), self.big(), "the composite modulus")
            for _ in range(3):
                self.equal(0, self.big(), "a field of chain parameters")
            self.equal(len(primes), self.u64(), "the number of chain parameters")
            for prime in primes:
                self._limb_parameters(prime)
            self._chains[identity] = primes
        elif self._chains.get(pointer) != primes:
            raise CiphertextFormatError(f"pointer {pointer} does not stand for this chain of moduli")

    def _ring(self) -> None:
        self.equal(2 * self._dimension, self.u32(), "the cyclotomic order")
        self.equal(self._dimension, self.u32(), "the ring dimension")


@lru_cache(maxsize=64)
def _product(primes: Primes) -> int:
    product = 1
    for modulus, _ in primes:
        product *= modulus
    return product
