"""What OpenFHE's objects begin with: the crypto context and everything else before the key tag, written byte for byte.

Objects are cereal's portable binary, little endian: fields in order, no names. A shared pointer is a type id (for
polymorphic classes) and a pointer id; the top bit of either marks a definition, which follows. Class versions appear
where a class occurs first. The field orders are those of the ``save`` methods of OpenFHE 1.6.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from hetal.ckks.chain import Chain, Prime
from hetal.ckks.parameters import SPECIAL_PRIME_BITS, Parameters

NEW: Final = 0x80000000
# The object's class is the one that the pointer declares.
SAME_TYPE: Final = 0x40000000
NULL: Final = 0
LITTLE_ENDIAN: Final = 1
KEY_CLASS: Final = b"lbcrypto::EvalKeyRelinImpl<lbcrypto::DCRTPoly>"
PARAMETERS_CLASS: Final = b"lbcrypto::CryptoParametersCKKSRNS"
SCHEME_CLASS: Final = b"lbcrypto::SchemeCKKSRNS"
BOOTSTRAP_CLASS: Final = b"lbcrypto::FHECKKSRNS"

# Enumerators of constants-defs.h and stdlatticeparms.h.
HESTD_128_CLASSIC: Final = 0
HESTD_NOT_SET: Final = 6
SECRETS: Final = {"uniform_ternary": 1, "sparse_encapsulated": 3}
CKKS_SCHEME: Final = 1
HYBRID: Final = 2
FLEXIBLEAUTO: Final = 2
# PKE, KEYSWITCH, LEVELEDSHE, ADVANCEDSHE, FHE.
FEATURES: Final = 0x01 | 0x02 | 0x08 | 0x10 | 0x40


@dataclass(frozen=True, slots=True)
class Head:
    """The start of one class of object under one context.

    Attributes:
        data: all bytes from the first field that names the class to just before the key tag.
        context, chain: pointer ids of the context and of Q's parameters.
        limbs: pointer ids of the parameters of Q's primes.
        next_pointer: id of the first definition behind the head; ids count up from there.
        classes: those whose version has been written.
    """

    data: bytes
    context: int
    chain: int
    limbs: tuple[int, ...]
    next_pointer: int
    classes: frozenset[str]


class Stream:
    """A cereal stream that is being written."""

    def __init__(self, next_pointer: int = 1, classes: Iterable[str] = ()) -> None:
        self.data = bytearray()
        self.next_pointer = next_pointer
        self._next_name = 1
        self._classes = set(classes)

    @property
    def classes(self) -> frozenset[str]:
        return frozenset(self._classes)

    def put(self, layout: str, *values: float) -> None:
        """Fields in :mod:`struct`'s letters."""
        self.data += struct.pack("<" + layout, *values)

    def string(self, text: bytes) -> None:
        self.put("Q", len(text))
        self.data += text

    def big(self, value: int) -> None:
        """An integer of any size: its words and its length in bits."""
        self._version("BigInteger")
        words = max(1, -(-value.bit_length() // 64))
        self.put("Q", words)
        self.data += value.to_bytes(8 * words, "little")
        self.put("I", value.bit_length())

    def version(self, *classes: str, value: int = 0) -> None:
        for name in classes:
            self._version(name, value)

    def _version(self, name: str, value: int = 0) -> None:
        if name not in self._classes:
            self._classes.add(name)
            self.put("I", value)

    def define(self) -> int:
        """The id of an object whose fields follow."""
        self.put("I", NEW | self.next_pointer)
        self.next_pointer += 1
        return self.next_pointer - 1

    def define_same(self) -> int:
        self.put("I", SAME_TYPE)
        return self.define()

    def define_named(self, name: bytes) -> int:
        """As :meth:`define`, of a polymorphic class that occurs for the first time."""
        self.put("I", NEW | self._next_name)
        self._next_name += 1
        self.string(name)
        return self.define()

    def refer(self, pointer: int) -> None:
        self.put("II", SAME_TYPE, pointer)

    def limb_parameters(self, dimension: int, prime: Prime) -> int:
        pointer = self.define_same()
        self.version("ILNativeParams", "ElemParams<Native>")
        self.put("II", 2 * dimension, dimension)
        self.version("NativeInteger")
        # Big modulus and root are for composite moduli.
        self.put("QQQQ", *prime, 0, 0)
        return pointer

    def chain_parameters(self, dimension: int, moduli: Iterable[int], count: int) -> int:
        """All but the ``count`` pointers to limb parameters that must follow."""
        pointer = self.define_same()
        self.version("ILDCRTParams", "ElemParams<Big>")
        self.put("II", 2 * dimension, dimension)
        for value in (math.prod(moduli), 0, 0, 0):
            self.big(value)
        self.put("Q", count)
        return pointer


def context_head(params: Parameters, chain: Chain) -> Head:
    """A context by itself, as ``Serialize(context)`` gives it."""
    stream = Stream()
    stream.put("B", LITTLE_ENDIAN)
    return _with_context(stream, params, chain)


def ciphertext_head(params: Parameters, chain: Chain) -> Head:
    stream = Stream()
    stream.put("B", LITTLE_ENDIAN)
    stream.define_same()
    stream.version("Ciphertext", value=1)
    stream.version("CryptoObject")
    return _with_context(stream, params, chain)


def mult_key_head(params: Parameters, chain: Chain) -> Head:
    """Behind the byte order, the number of key tags, the tag and the number of keys."""
    return _key_head(Stream(), params, chain)


def rotation_key_head(params: Parameters, chain: Chain) -> Head:
    """Of a map's first key. Before it the map itself is defined."""
    return _key_head(Stream(next_pointer=2), params, chain)


def _key_head(stream: Stream, params: Parameters, chain: Chain) -> Head:
    stream.define_named(KEY_CLASS)
    stream.version("EvalKeyRelin", "EvalKey", "Key", "CryptoObject")
    return _with_context(stream, params, chain)


def _with_context(stream: Stream, params: Parameters, chain: Chain) -> Head:
    context = stream.define_same()
    stream.version("CryptoContext", value=1)
    stream.define_named(PARAMETERS_CLASS)
    stream.version("CryptoParametersCKKSRNS", "CryptoParametersRNS", "CryptoParametersRLWE", "CryptoParametersBase")
    pointer = stream.chain_parameters(chain.ring_dimension, chain.moduli, len(chain.q))
    limbs = tuple(stream.limb_parameters(chain.ring_dimension, prime) for prime in chain.q)
    _encoding(stream, params)
    _scheme_parameters(stream, params)
    _bootstrap(stream, params)
    stream.put("i", CKKS_SCHEME)
    return Head(bytes(stream.data), context, pointer, limbs, stream.next_pointer, stream.classes)


def _encoding(stream: Stream, params: Parameters) -> None:
    stream.define_same()
    stream.version("EncodingParams")
    # Plaintext modulus: in CKKS the scale's bits. Its root, big modulus and big root; generator; batch size.
    stream.put("QQQQII", params.spec.scale_bits, 0, 0, 0, 0, params.slots)


def _scheme_parameters(stream: Stream, params: Parameters) -> None:
    spec = params.spec
    # Standard deviation of the error; assurance measure; noise scale; digit size (of BV key switching); noise estimate.
    stream.put("ffQId", 3.19, 36.0, 1, 0, 0.0)
    # Multiplicative depth; additions, key switches and re-encryption hops to allow for; highest power of the secret.
    stream.put("IIIII", spec.levels, 0, 0, 0, 2)
    # Secret; modes of re-encryption (none), multiparty (fixed noise), execution and decryption noise; security.
    stream.put("iiiiii", SECRETS[spec.secret], 0, 1, 0, 0, HESTD_128_CLASSIC if params.secure else HESTD_NOT_SET)
    # Noise flooding: deviation, statistical security, adversarial queries; parties of threshold decryption.
    stream.put("dddI", 0.0, 30.0, 1.0, 1)
    # Techniques of key switching, scaling, encryption (standard) and multiplication (HPS, a BFV setting).
    stream.put("iiii", HYBRID, FLEXIBLEAUTO, 0, 1)
    # Digits; bits of a special prime; bits of FLEXIBLEAUTOEXT's extra modulus.
    stream.put("III", spec.digits, SPECIAL_PRIME_BITS, 0)
    # Compression of interactive bootstrapping (slack); composite degree; register bits; data type (real).
    stream.put("iIIi", 3, 1, 64, 0)


def _bootstrap(stream: Stream, params: Parameters) -> None:
    spec = params.spec
    stream.define_named(SCHEME_CLASS)
    stream.version("SchemeCKKSRNS", "SchemeRNS", "SchemeBase")
    stream.define_named(BOOTSTRAP_CLASS)
    # One set-up, by the number of slots.
    stream.put("QI", 1, params.slots)
    stream.define_same()
    steps = [_giant_steps(params, i) for i in range(2)]
    # The last flag: StC before ModRaise.
    stream.put("IIIIIB", *steps, params.slots, *spec.level_budget, 1)
    stream.put("I", spec.correction_factor)
    # No scheme switching.
    stream.put("II", NULL, FEATURES)


def _giant_steps(params: Parameters, transform: int) -> int:
    """The spec's, or OpenFHE's own choice where that is 0 or more than there are rotations."""
    layers = _collapsed_layers(params.slots.bit_length() - 1, params.spec.level_budget[transform])
    rotations = (1 << (layers + 1)) - 1
    steps = params.spec.giant_steps[transform]
    return steps if 0 < steps <= rotations else 1 << (layers // 2 + 1 + (rotations > 7))


def _collapsed_layers(layers: int, budget: int) -> int:
    """FFT layers that are merged into each level of a linear transform."""
    merged = math.ceil(layers / budget)
    return merged - 1 if math.ceil(layers / merged) < budget else merged


def prime_pointers(head: Head, primes: Sequence[Prime]) -> dict[int, Prime]:
    return dict(zip(head.limbs, primes, strict=True))
