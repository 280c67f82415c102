"""Tables of a ring on a device: its moduli with their twiddles, permutations, base conversions."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hetal.native.cuda.batches import Constant, Constants, ConversionPlan, Limb
from hetal.native.cuda.device import Buffer, Device
from hetal.native.residues import Basis, Words, bit_reversal

# From here on products of residues no longer fit into doubles' pairs.
NARROW_BITS: Final = 50
TIGHT_BITS: Final = 49
_WORD: Final = 1 << 64

Prime = tuple[int, int]
Array = NDArray[Any]


def quotient(value: int, modulus: int) -> int:
    """Shoup's, of a factor."""
    return (value << 64) // modulus


def constants(values: Sequence[int], moduli: Sequence[int]) -> Any:
    """Factors of limbs with their quotients."""
    array = Constants()
    for i, (value, modulus) in enumerate(zip(values, moduli, strict=True)):
        array[i] = Constant(value, (value << 64) // modulus)
    return array


def quotients(values: Words, moduli: Words) -> Words:
    """Shoup's quotients of many factors; ``moduli`` broadcasts."""
    estimate = values.astype(np.longdouble) / moduli.astype(np.longdouble) * np.longdouble(_WORD)
    # Just below 2^64 the estimate may round up to it.
    result: Words = np.minimum(estimate, np.longdouble(_WORD - 2)).astype(np.uint64)
    for _ in range(3):
        rest = (np.uint64(0) - result * moduli).astype(np.int64)
        result = result - (rest < 0).astype(np.uint64) + (rest >= moduli.astype(np.int64)).astype(np.uint64)
    return result


class Moduli:
    """All moduli of a ring, Q then P then those of the wire, on the device.

    Attributes:
        values: the moduli.
        wide: whether a residue is an integer there.
        address: of the table of ``Limb``.
        order: bit reversal of positions.
        by_node: twiddles on the host; by_node[rev(i)] = root^i.
    """

    def __init__(self, device: Device, log2: int, primes: Sequence[Prime]) -> None:
        n = 1 << log2
        self.values = [modulus for modulus, _ in primes]
        self.wide = [device.integers or m.bit_length() > NARROW_BITS for m in self.values]
        self.order = bit_reversal(log2)
        column = np.array(self.values, dtype=np.uint64).reshape(-1, 1)
        self.basis = Basis(self.values, np.empty((len(primes), 0), dtype=np.uint64), self.order)
        powers: Words = np.ones((len(primes), n), dtype=np.uint64)
        length = 1
        while length < n:
            step = self.basis.constants([pow(root, length, m) for m, root in primes])
            powers[:, length : 2 * length] = self.basis.multiply(powers[:, :length], step)
            length *= 2
        inverses = np.empty_like(powers)
        # psi^-i is -psi^(N-i).
        inverses[:, 1:] = column - powers[:, :0:-1]
        inverses[:, 0] = 1
        self.by_node = powers[:, self.order]
        self._memory: list[Buffer] = []
        table = (Limb * len(primes))()
        for i, (limb, modulus) in enumerate(zip(table, self.values, strict=True)):
            self._describe(limb, modulus, n, self.wide[i])
            both = (self.by_node[i], inverses[i, self.order])
            if self.wide[i]:
                parts = [half for words in both for half in (words, quotients(words, column[i]))]
            else:
                parts = [centred(words, modulus).view(np.uint64) for words in both]
            memory = device.take(8 * n * len(parts))
            self._memory.append(memory)
            for k, part in enumerate(parts):
                address = memory.address + 8 * n * k
                device.upload(address, np.ascontiguousarray(part).view(np.uint8))
                if self.wide[i]:
                    (limb.wide_backward if k > 1 else limb.wide_forward)[k % 2] = address
                else:
                    (limb.backward if k else limb.forward)[0] = address
        self._table = device.take(ctypes.sizeof(table))
        device.upload(self._table.address, np.frombuffer(bytes(table), dtype=np.uint8))
        self.address = self._table.address

    @staticmethod
    def _describe(limb: Any, modulus: int, dimension: int, wide: bool) -> None:
        limb.modulus = modulus
        limb.bits = modulus.bit_length()
        limb.wide = wide
        limb.tight = modulus.bit_length() > TIGHT_BITS
        limb.p = float(modulus)
        limb.inverse = 1.0 / float(modulus)
        word = _WORD % modulus
        limb.integer[:] = (modulus, _WORD // modulus, word, quotient(word, modulus))
        limb.dimension_inverse = pow(dimension, -1, modulus)

    def monomial(self, device: Device, exponent: int) -> Buffer:
        """X^exponent in evaluation form, as tables of 64 and N/64 factors per limb."""
        n = self.order.size
        node = self.by_node[:, n // 2]
        values = np.empty((len(self.values), 64 + n // 64), dtype=np.uint64)
        roots = [int(root) for root in node]

        def fill(first: Sequence[int], begin: int, count: int, bit: int) -> None:
            """Position i holds the value at psi^(2 rev(i) + 1): bit k of i stands for psi^(2 N / 2^(k+1))."""
            values[:, begin] = first
            half = 1
            while half < count:
                power = 2 * exponent * (n >> (bit + 1)) % (2 * n)
                step = self.basis.constants([pow(r, power, m) for r, m in zip(roots, self.values, strict=True)])
                values[:, begin + half : begin + 2 * half] = self.basis.multiply(values[:, begin : begin + half], step)
                half *= 2
                bit += 1

        fill([1] * len(roots), 0, 64, 0)
        fill([pow(r, exponent, m) for r, m in zip(roots, self.values, strict=True)], 64, n // 64, 6)
        rows = [
            row if wide else centred(row, m).view(np.uint64)
            for row, wide, m in zip(values, self.wide, self.values, strict=True)
        ]
        return device.table(np.stack(rows).tobytes())


def centred(residues: Words, modulus: int) -> NDArray[np.float64]:
    """Residues in the narrow form."""
    below = (np.uint64(modulus) - residues).astype(np.float64)
    return np.where(residues > np.uint64(modulus // 2), -below, residues.astype(np.float64))


def permutation(device: Device, order: Array, index: int) -> tuple[Buffer, Buffer]:
    """The tables of an automorphism: by blocks of eight words where they go, and how lanes move."""
    n = order.size
    inverse = pow(index, -1, 2 * n)
    places = order[((2 * order + 1) * inverse % (2 * n)) >> 1].reshape(-1, 8)
    variant = places[:, 0] & 7
    targets = ((places[:, 0] & ~7) | variant).astype(np.uint32)
    lanes = np.zeros((8, 8), dtype=np.int64)
    first = np.unique(variant, return_index=True)[1]
    for block in first:
        lanes[variant[block], places[block] & 7] = np.arange(8)
    return device.table(targets.tobytes()), device.table(lanes.tobytes())


@dataclass(frozen=True, slots=True)
class Conversion:
    """From residues of some limbs to others.

    Attributes:
        sources, targets: (position among the ring's moduli, row of the polynomial).
        constants: [target][source], the rounded quotient's last where the conversion is exact.
    """

    sources: Sequence[tuple[int, int]]
    targets: Sequence[tuple[int, int]]
    constants: Sequence[Sequence[int]]
    exact: bool


def conversion_plans(device: Device, moduli: Moduli, conversions: Sequence[Conversion]) -> Buffer:
    """A table of ``ConversionPlan``, with what they refer to behind it."""
    size = ctypes.sizeof(ConversionPlan) * len(conversions)
    parts: list[bytes] = []
    places: list[list[int]] = []
    at = -(-size // 8) * 8
    for c in conversions:
        row: list[int] = []
        for array in (
            np.array([limb for limb, _ in c.sources], dtype=np.uint32),
            np.array([row for _, row in c.sources], dtype=np.uint32),
            np.array([limb for limb, _ in c.targets], dtype=np.uint32),
            np.array([row for _, row in c.targets], dtype=np.uint32),
            np.array(c.constants, dtype=np.uint64),
        ):
            data = array.tobytes()
            data += bytes(-len(data) % 8)
            row.append(at)
            parts.append(data)
            at += len(data)
        places.append(row)
    memory = device.take(at)
    plans = (ConversionPlan * len(conversions))()
    for plan, c, row in zip(plans, conversions, places, strict=True):
        limbs = [limb for limb, _ in c.sources]
        narrow = [moduli.values[i].bit_length() for i in limbs if not moduli.wide[i]]
        plan.sources, plan.targets = len(c.sources), len(c.targets)
        plan.source_bits = max([30, *narrow])
        plan.exact = c.exact
        plan.integers = any(moduli.wide[i] for i in limbs)
        fields = ("source_limbs", "source_rows", "target_limbs", "target_rows", "constants")
        for name, offset in zip(fields, row, strict=True):
            setattr(plan, name, memory.address + offset)
    content = bytes(plans) + bytes(-size % 8) + b"".join(parts)
    device.upload(memory.address, np.frombuffer(content, dtype=np.uint8))
    return memory
