"""Our own reader of OpenFHE's binary objects: what the other side sent is checked before OpenFHE sees a byte of it.

OpenFHE's deserialisers trust sizes and pointers and can crash the process. Objects are cereal's portable binary: a
flag byte, then fields in order. A shared pointer is a type id and a pointer id whose top bit marks the definition;
class versions appear where a class occurs first. All objects of a job contain the same context, so that part must
equal, byte for byte, the one in an object that this process made itself (:class:`Dialect`); behind it every field,
pointer and residue is checked.
"""

from __future__ import annotations

import string
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from hetal.errors import CiphertextFormatError, KeyTagError, ResidueError, TruncatedError

NEW: Final = 0x80000000
SAME_TYPE: Final = 0x40000000
EVALUATION: Final = 0
CKKS_PACKED: Final = 4
KEY_CLASS: Final = b"lbcrypto::EvalKeyRelinImpl<lbcrypto::DCRTPoly>"
KEYS_PER_OBJECT_MAX: Final = 256
CHAIN_MAX: Final = 128
SCALE_TOLERANCE: Final = 1e-3
KEY_TAG_CHARS: Final = 32
# The key that switches to the sparse ephemeral secret lives over the first modulus and two auxiliary primes. OpenFHE
# takes the largest two of this size whatever the job's chain is, and indexes the key's limbs without a look at them.
AUXILIARY_PRIME_BITS: Final = 33
AUXILIARY_PRIMES: Final = 2
# Miller-Rabin with these bases is exact below 3.3e24.
_WITNESSES: Final = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)

Chain = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one class of object looks under one context, learnt from a trusted specimen.

    Attributes:
        head: bytes from the first field that names the class to just before the (inner) key tag.
        limbs, chains: pointer ids that the head defines, and what they stand for.
        next_pointer: id of the first definition behind the head; ids count up from there.
        context_pointer: id of the context, for the second and later keys of a map.
    """

    head: bytes
    limbs: tuple[tuple[int, int], ...]
    chains: tuple[tuple[int, Chain], ...]
    next_pointer: int = 0
    context_pointer: int = 0


@dataclass(frozen=True, slots=True)
class Expected:
    """What the objects of one job look like. ``key_tag`` is empty while no job is known.

    Attributes:
        moduli, special_moduli: the chains Q and P in OpenFHE's order.
        digits: polynomials in each half of a key-switching key.
        scales: scaling factor of a ciphertext of noise scale degree 1, by the number of limbs dropped.
        encapsulation: moduli of the key with automorphism index 2N-4.
    """

    ring_dimension: int
    moduli: Chain
    special_moduli: Chain
    digits: int
    scales: tuple[float, ...]
    ciphertext: Dialect
    mult_key: Dialect
    rotation_keys: Dialect
    encapsulation: Chain
    key_tag: str = ""

    def for_key(self, key_tag: str) -> Expected:
        return replace(self, key_tag=key_tag)

    @staticmethod
    def from_references(
        ciphertext: bytes, mult_key: bytes, rotation_keys: bytes, key_tag: str, scales: Sequence[float]
    ) -> Expected:
        """Learn from our own full-level ciphertext, relinearisation key and map of two rotation keys."""
        tag = struct.pack("<Q", len(key_tag)) + key_tag.encode()
        reader = _Reader(ciphertext)
        reader.learn = True
        head = reader.until(tag)
        reader.string()
        parts = reader.polys(None)
        # Slots, level, hops, scale degree; scale; integer scale; encoding.
        reader.take(16 + 8 + 8 + 4)
        reader.definition("the metadata")
        plain = reader.dialect(head)
        ring_dimension = reader.ring_dimension

        def key(data: bytes, count: int) -> tuple[Dialect, list[Chain]]:
            reader = _Reader(data)
            reader.learn = True
            reader.take(1 + 8)
            reader.string()
            reader.take(8 if count == 1 else 4 + 8 + 4)
            head = reader.until(tag)
            reader.string()
            shape = reader.polys(None)
            reader.polys(None)
            known = reader.dialect(head)
            if count > 1:
                reader.take(4 + 4 + 4 + 4)
                known = replace(known, context_pointer=reader.u32())
            return known, shape

        mult, shape = key(mult_key, 1)
        rotation, _ = key(rotation_keys, 2)
        moduli = parts[0]
        return Expected(
            ring_dimension=ring_dimension,
            moduli=moduli,
            special_moduli=shape[0][len(moduli) :],
            digits=len(shape),
            scales=tuple(scales),
            ciphertext=plain,
            mult_key=mult,
            rotation_keys=rotation,
            encapsulation=(moduli[0], *_auxiliary_primes(2 * ring_dimension)),
        )


@dataclass(frozen=True, slots=True)
class CiphertextInfo:
    """What a valid ciphertext says of itself."""

    limbs: int
    scale_degree: int


def validate_ciphertext(data: bytes | memoryview, expected: Expected) -> CiphertextInfo:
    """Check a two-part ciphertext.

    Raises:
        CiphertextFormatError, TruncatedError, KeyTagError, ResidueError.
    """
    reader = _Reader(data, expected, expected.ciphertext)
    reader.same(expected.ciphertext, "the crypto context of the ciphertext")
    reader.tag(expected.key_tag)
    limbs = reader.limb_count_ahead()
    if not 1 <= limbs <= len(expected.moduli):
        raise CiphertextFormatError(f"a ciphertext of {limbs} limbs; the chain has {len(expected.moduli)}")
    reader.polys([expected.moduli[:limbs]] * 2)
    reader.equal(expected.ring_dimension // 2, reader.u32(), "the slot count")
    level, hops, degree = reader.u32(), reader.u32(), reader.u32()
    reader.equal(len(expected.moduli) - limbs, level, "the level")
    reader.equal(0, hops, "the hop level")
    if degree not in (1, 2):
        raise CiphertextFormatError(f"noise scale degree {degree}")
    scale = reader.f64()
    ratio = scale / expected.scales[level] ** degree
    if not abs(ratio - 1.0) < SCALE_TOLERANCE:
        raise CiphertextFormatError(f"scale {scale:g} at level {level} where about {expected.scales[level]:g} is due")
    reader.equal(1, reader.u64(), "the integer scale")
    reader.equal(CKKS_PACKED, reader.u32(), "the encoding")
    reader.definition("the metadata")
    reader.equal(0, reader.u64(), "the number of metadata entries")
    reader.end()
    return CiphertextInfo(limbs, degree)


def validate_mult_key(data: bytes | memoryview, expected: Expected) -> None:
    """Check a map that holds the one relinearisation key of the job."""
    reader = _Reader(data, expected, expected.mult_key)
    reader.equal(1, reader.u8(), "the byte order flag")
    reader.equal(1, reader.u64(), "the number of key tags")
    reader.tag(expected.key_tag)
    reader.equal(1, reader.u64(), "the number of relinearisation keys")
    reader.same(expected.mult_key, "the crypto context of the key")
    reader.tag(expected.key_tag)
    reader.key_polys([(*expected.moduli, *expected.special_moduli)] * expected.digits)
    reader.end()


def validate_rotation_keys(data: bytes | memoryview, expected: Expected) -> list[int]:
    """Check a map of automorphism keys; returns their indices."""
    reader = _Reader(data, expected, expected.rotation_keys)
    reader.equal(1, reader.u8(), "the byte order flag")
    reader.equal(1, reader.u64(), "the number of key tags")
    reader.tag(expected.key_tag)
    reader.next_pointer = 1
    reader.definition("the key map")
    count = reader.count(KEYS_PER_OBJECT_MAX, "keys")
    order = 2 * expected.ring_dimension
    indices: list[int] = []
    for position in range(count):
        index = reader.u32()
        sound = 0 < index < order and (index % 2 == 1 or index in (order - 4, order - 2))
        if not sound or index in indices:
            raise CiphertextFormatError(f"automorphism index {index} is repeated, or none below {order}")
        indices.append(index)
        if position == 0:
            reader.same(expected.rotation_keys, "the crypto context of the key")
        else:
            reader.equal(1, reader.u32(), "the key's class")
            reader.definition("the key")
            reader.equal(SAME_TYPE, reader.u32(), "the context's type")
            reader.equal(expected.rotation_keys.context_pointer, reader.u32(), "the context's pointer")
        if index == order - 4:
            # From the main to the sparse ephemeral secret (encapsulation), which has a tag of its own.
            reader.any_tag()
            reader.key_polys([expected.encapsulation])
        else:
            reader.tag(expected.key_tag)
            reader.key_polys([(*expected.moduli, *expected.special_moduli)] * expected.digits)
    reader.end()
    return indices


class _Reader:
    """Bounded reads and checks; every refusal is a :class:`HetalError`."""

    def __init__(
        self, data: bytes | memoryview, expected: Expected | None = None, dialect: Dialect | None = None
    ) -> None:
        self.data = memoryview(data)
        self.at = 0
        self.learn = False
        self.ring_dimension = expected.ring_dimension if expected else 0
        self.versions: set[str] = set()
        self.limbs: dict[int, int] = dict(dialect.limbs) if dialect else {}
        self.chains: dict[int, Chain] = dict(dialect.chains) if dialect else {}
        self.defined: set[int] = set()
        self.next_pointer = 0

    # -- fields -------------------------------------------------------------------------------------------------------

    def take(self, count: int) -> memoryview:
        if count > len(self.data) - self.at:
            raise TruncatedError(f"the object ends at byte {len(self.data)}; {count} more are needed at byte {self.at}")
        self.at += count
        return self.data[self.at - count : self.at]

    def u8(self) -> int:
        return self.take(1)[0]

    def u32(self) -> int:
        return int(struct.unpack("<I", self.take(4))[0])

    def u64(self) -> int:
        return int(struct.unpack("<Q", self.take(8))[0])

    def f64(self) -> float:
        return float(struct.unpack("<d", self.take(8))[0])

    def string(self) -> str:
        return bytes(self.take(self.count(4096, "characters"))).decode("latin-1")

    def count(self, most: int, what: str) -> int:
        value = self.u64()
        if value > most:
            raise CiphertextFormatError(f"{value} {what} at byte {self.at - 8}; at most {most} are possible")
        return value

    def until(self, marker: bytes) -> bytes:
        """Of a trusted specimen: the bytes before the next ``marker``."""
        return bytes(self.take(bytes(self.data).index(marker, self.at) - self.at))

    def dialect(self, head: bytes) -> Dialect:
        """What this specimen refers to without defining it: the pointers of its head."""
        return Dialect(
            head,
            tuple((i, q) for i, q in self.limbs.items() if i not in self.defined),
            tuple((i, c) for i, c in self.chains.items() if i not in self.defined),
            min(self.defined, default=0),
        )

    # -- checks -------------------------------------------------------------------------------------------------------

    def equal(self, value: int, found: int, what: str) -> None:
        if value != found:
            raise CiphertextFormatError(f"{what} is {found} where {value} is due, before byte {self.at}")

    def same(self, dialect: Dialect, what: str) -> None:
        if self.take(len(dialect.head)) != dialect.head:
            raise CiphertextFormatError(f"{what} is not the one that the job's parameters give")
        self.next_pointer = dialect.next_pointer

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
        self.claim(pointer)

    def claim(self, pointer: int) -> int:
        """The id of a definition; ids count up in the order of the stream."""
        identity = pointer & ~NEW
        if self.learn:
            self.defined.add(identity)
        else:
            self.equal(self.next_pointer, identity, "a pointer's id")
            self.next_pointer += 1
        return identity

    def version(self, name: str) -> None:
        if name not in self.versions:
            self.versions.add(name)
            self.equal(0, self.u32(), f"the version of {name}")

    # -- polynomials --------------------------------------------------------------------------------------------------

    def limb_count_ahead(self) -> int:
        """Limbs of the first polynomial, without moving on; 8 bytes of count and 4 of a version precede it."""
        if len(self.data) - self.at < 20:
            raise TruncatedError("the object ends before its first polynomial")
        return int(struct.unpack_from("<Q", self.data, self.at + 12)[0])

    def key_polys(self, chains: list[Chain]) -> None:
        """The two vectors of a key, one polynomial over each of ``chains`` in both."""
        self.polys(chains)
        self.polys(chains)

    def polys(self, chains: list[Chain] | None) -> list[Chain]:
        """A vector of polynomials over these chains of moduli; None takes what a trusted specimen has."""
        count = self.count(CHAIN_MAX, "polynomials")
        if chains is not None:
            self.equal(len(chains), count, "the number of polynomials")
        found: list[Chain] = []
        for position in range(count):
            self.version("DCRTPoly")
            limbs = self.count(CHAIN_MAX, "limbs")
            if chains is not None:
                self.equal(len(chains[position]), limbs, "the number of limbs")
            chain = tuple(self.limb(chains[position][i] if chains is not None else None) for i in range(limbs))
            self.equal(EVALUATION, self.u32(), "the polynomial's form")
            self.chain_parameters(chain)
            found.append(chain)
        return found

    def limb(self, modulus: int | None) -> int:
        self.version("Poly")
        self.equal(SAME_TYPE, self.u32(), "the limb's type")
        self.equal(1, self.u8(), "the limb's presence")
        self.version("NativeVector")
        length = self.count(1 << 17, "residues")
        if self.ring_dimension == 0:
            self.ring_dimension = length
        self.equal(self.ring_dimension, length, "the ring dimension")
        residues = np.frombuffer(self.take(8 * length), dtype="<u8")
        found = self.u64()
        if modulus is not None:
            self.equal(modulus, found, "the limb's modulus")
        if int(residues.max()) >= found:
            raise ResidueError(f"a residue is not below its modulus {found}")
        self.equal(EVALUATION, self.u32(), "the limb's form")
        self.limb_parameters(found)
        return found

    def limb_parameters(self, modulus: int) -> None:
        self.equal(SAME_TYPE, self.u32(), "the type of limb parameters")
        pointer = self.u32()
        if pointer & NEW:
            identity = self.claim(pointer)
            order, dimension = self.u32(), self.u32()
            self.equal(2 * self.ring_dimension, order, "the cyclotomic order")
            self.equal(self.ring_dimension, dimension, "the ring dimension")
            self.equal(modulus, self.u64(), "the modulus of limb parameters")
            root = self.u64()
            if modulus < 3 or pow(root, self.ring_dimension, modulus) != modulus - 1:
                raise CiphertextFormatError(f"{root} is no primitive root of order {order} modulo {modulus}")
            self.equal(0, self.u64(), "the big modulus of a limb")
            self.equal(0, self.u64(), "the big root of a limb")
            self.limbs[identity] = modulus
        elif self.learn and pointer not in self.limbs:
            self.limbs[pointer] = modulus
        elif self.limbs.get(pointer) != modulus:
            raise CiphertextFormatError(f"pointer {pointer} does not stand for modulus {modulus}")

    def chain_parameters(self, chain: Chain) -> None:
        self.equal(SAME_TYPE, self.u32(), "the type of chain parameters")
        pointer = self.u32()
        if pointer & NEW:
            identity = self.claim(pointer)
            self.equal(2 * self.ring_dimension, self.u32(), "the cyclotomic order")
            self.equal(self.ring_dimension, self.u32(), "the ring dimension")
            product = 1
            for modulus in chain:
                product *= modulus
            self.equal(product, self.big(), "the composite modulus")
            for _ in range(3):
                self.equal(0, self.big(), "a field of chain parameters")
            self.equal(len(chain), self.count(CHAIN_MAX, "limbs"), "the number of chain parameters")
            for modulus in chain:
                self.limb_parameters(modulus)
            self.chains[identity] = chain
        elif self.learn and pointer not in self.chains:
            self.chains[pointer] = chain
        elif self.chains.get(pointer) != chain:
            raise CiphertextFormatError(f"pointer {pointer} does not stand for this chain of moduli")

    def big(self) -> int:
        words = self.count(512, "words of a big integer")
        value = int.from_bytes(self.take(8 * words), "little")
        self.equal(max(1, -(-value.bit_length() // 64)), words, "the number of words of a big integer")
        self.equal(value.bit_length(), self.u32(), "the length of a big integer")
        return value


def _auxiliary_primes(order: int) -> Chain:
    """The largest primes of ``AUXILIARY_PRIME_BITS`` that are 1 modulo the cyclotomic order, largest first."""
    found: list[int] = []
    candidate = (1 << AUXILIARY_PRIME_BITS) - order + 1
    while len(found) < AUXILIARY_PRIMES:
        if _is_prime(candidate):
            found.append(candidate)
        candidate -= order
    return tuple(found)


def _is_prime(n: int) -> bool:
    """Miller-Rabin, for odd ``n`` above the witnesses."""
    twos = ((n - 1) & (1 - n)).bit_length() - 1
    for base in _WITNESSES:
        powers = [pow(base, (n - 1) >> (twos - i), n) for i in range(twos)]
        if powers[0] != 1 and n - 1 not in powers:
            return False
    return True
