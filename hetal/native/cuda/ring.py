"""The compiled engine's Ring on a device: the same methods, the same residues.

Polynomials stay on the device; only :meth:`Ring.residues`, :meth:`Ring.write` and the reading of objects wait for it.
Everything else gives work to its stream and returns. Operands of several polynomials go through the same launches, and
so do all limbs of each.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Any, ClassVar, Concatenate, Final, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from hetal.native.cuda import batches
from hetal.native.cuda.batches import BATCH_POLYS, SWITCH_KEYS, TERMS_MAX, Chain, Operand, polys
from hetal.native.cuda.device import Buffer, Device, Recording
from hetal.native.cuda.keys import KeyCache
from hetal.native.cuda.polynomials import Key, Poly
from hetal.native.cuda.tables import Conversion, Moduli, Prime, constants, conversion_plans, permutation
from hetal.native.roofline import ADD_REDUCE, BUTTERFLY, MULTIPLY_ADD, MULTIPLY_REDUCE

COMPACT_WORDS_MIN: Final = 64
COEFFICIENT_MAX: Final = 2.0**62
MODULUS_BITS_MAX: Final = 60
# Recordings of one ring: shapes of what is done again and again.
RECORDINGS_MAX: Final = 64
# Terms that one accumulator takes of any modulus.
FUSED_DIGITS_MAX: Final = 8
# Tables of monomials, and compact constants, that are kept.
MONOMIALS_MAX: Final = 128
CONSTANTS_MAX: Final = 4096
_LIMB_BYTES: Final = ctypes.sizeof(batches.Limb)

Bytes = bytes | bytearray | memoryview
Words = NDArray[np.uint64]
Pair = tuple[Poly, Poly]
P = ParamSpec("P")
R = TypeVar("R")


def _locked(method: Callable[Concatenate[Ring, P], R]) -> Callable[Concatenate[Ring, P], R]:
    @wraps(method)
    def call(ring: Ring, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with ring.device.lock:
            return method(ring, *args, **kwargs)

    return call


def _require(condition: Any, message: str) -> None:
    if not condition:
        raise ValueError(message)


class _Division:
    """Constants of :meth:`Ring.mod_down`, for one shape."""

    def __init__(self, scale: Any, plan: Buffer, finish: Any) -> None:
        self.scale = scale
        self.plan = plan
        self.finish = finish


class _Decomposition:
    """Constants of :meth:`Ring.switch`, for one shape."""

    def __init__(self, scale: Any, plans: Buffer, targets: int, pairs: int, extend: Any) -> None:
        self.scale = scale
        self.plans = plans
        self.targets = targets
        self.pairs = pairs
        self.extend = extend


class Ring:
    """See ``_engine.pyi``; a subclass has the device. ``threads`` and ``variant`` change nothing."""

    device: ClassVar[Device]
    keys: ClassVar[KeyCache]

    def __init__(
        self,
        log2_dimension: int,
        q: Sequence[Prime],
        p: Sequence[Prime],
        wire_p: Sequence[Prime],
        digit_limbs: int,
        threads: int = 1,
        variant: str = "auto",
    ) -> None:
        _require(10 <= log2_dimension <= 17, "log2 of the ring dimension must be 10 to 17")
        fits = 1 <= len(q) <= TERMS_MAX and len(p) <= TERMS_MAX and len(wire_p) <= TERMS_MAX
        _require(fits, f"1 to {TERMS_MAX} moduli are possible")
        _require(1 <= digit_limbs < TERMS_MAX, "a digit has at least one limb")
        _require(threads >= 1, "at least one thread is needed")
        self.dimension = 1 << log2_dimension
        self.threads = threads
        self.variant = self.device.driver.facts.name
        self._log2 = log2_dimension
        self._q_count, self._p_count, self._wire_count = len(q), len(p), len(wire_p)
        self._digit_limbs = digit_limbs
        self._limb_bytes = 8 << log2_dimension
        primes = [*q, *p, *wire_p]
        for modulus, root in primes:
            fits = 2 < modulus < 1 << MODULUS_BITS_MAX and pow(root, self.dimension, modulus) == modulus - 1
            _require(fits, f"modulus {modulus} with root {root} has no transform of size {self.dimension} below 2^60")
        self._first = primes[0]
        with self.device.lock:
            self._moduli = Moduli(self.device, log2_dimension, primes)
            self._bad = self.device.take(256)
        self._chains: dict[tuple[int, int], Chain] = {}
        self._divisions: dict[tuple[int, int, int], _Division] = {}
        self._decompositions: dict[tuple[int, int], _Decomposition] = {}
        self._raises: dict[int, Buffer] = {}
        self._permutations: dict[int, tuple[Buffer, Buffer]] = {}
        self._monomials: dict[int, Buffer] = {}
        self._constants: dict[tuple[bytes, int, int], Poly] = {}
        self._recordings: dict[Any, tuple[Recording, list[Poly], list[Poly], Any] | None] = {}
        self._seen: set[Any] = set()

    @property
    def pool_bytes(self) -> int:
        return self.device.pool.held_bytes

    # -- in and out ---------------------------------------------------------------------------------------------------

    @_locked
    def zeros(self, q_limbs: int, p_limbs: int = 0) -> Poly:
        out = self._like(q_limbs, p_limbs)
        self.device.clear(out.address, out.nbytes)
        return out

    @_locked
    def from_residues(self, residues: Words, p_limbs: int = 0) -> Poly:
        _require(residues.ndim == 2 and residues.shape[1] == self.dimension, "a limb has N residues")
        q_limbs = residues.shape[0] - p_limbs
        out = self._like(q_limbs, p_limbs)
        words = np.ascontiguousarray(residues, dtype=np.uint64)
        positions = self._positions(q_limbs, p_limbs)
        self._import(out.address, words, self._chain(q_limbs), positions)
        return out

    @_locked
    def residues(self, a: Poly) -> Words:
        self._check(a)
        _require(a.log2_run == 0, "a compact polynomial cannot be written")
        scratch = self.device.take(a.nbytes)
        argument = batches.Unary(self._chain(a.q_limbs), polys([scratch.address]), polys([a.address]))
        self._launch("export_words", a.limbs, 1, argument, 2 * a.limbs, a.limbs)
        words: Words = np.empty((a.limbs, self.dimension), dtype=np.uint64)
        self.device.download(words.reshape(-1).view(np.uint8), scratch.address)
        return words

    @_locked
    def from_coefficients(self, coefficients: NDArray[np.float64], q_limbs: int, p_limbs: int = 0) -> Poly:
        size = coefficients.size
        power = COMPACT_WORDS_MIN <= size <= self.dimension and size & (size - 1) == 0
        _require(power, f"{size} coefficients; a power of two from {COMPACT_WORDS_MIN} to {self.dimension} is due")
        _require(bool((np.abs(coefficients) < COEFFICIENT_MAX).all()), "a coefficient is not below 2^62")
        self._count(q_limbs, p_limbs)
        if size > COMPACT_WORDS_MIN:
            return self._encoded(coefficients, q_limbs, p_limbs)
        # Series have the same constants each time.
        key = coefficients.tobytes(), q_limbs, p_limbs
        known = self._constants.get(key)
        if known is None:
            known = self._encoded(coefficients, q_limbs, p_limbs)
            if len(self._constants) >= CONSTANTS_MAX:
                self._constants.clear()
            # What a graph writes is there when the graph has run, and no sooner.
            if self.device.recording is None:
                self._constants[key] = known
        return known

    def _encoded(self, coefficients: NDArray[np.float64], q_limbs: int, p_limbs: int) -> Poly:
        size = coefficients.size
        log2, limbs = size.bit_length() - 1, q_limbs + p_limbs
        out = Poly(self.device.take(8 * size * limbs), q_limbs, p_limbs, size, self._log2 - log2)
        scratch = self.device.constant(np.ascontiguousarray(coefficients, dtype=np.float64).view(np.uint8))
        argument = batches.Unary(self._chain(q_limbs), polys([out.address]), polys([scratch.address]))
        self._launch("from_integers", limbs, 1, argument, limbs + 1, 4 * limbs, log2)
        self._forward(self._chain(q_limbs), [out.address], limbs, log2=log2)
        return out

    @_locked
    def read(self, data: Bytes, offsets: Sequence[int], q_limbs: int) -> Poly:
        _require(len(offsets) == q_limbs, "one offset for each limb is needed")
        out = self._like(q_limbs, 0)
        words = self._gather(data, offsets, "the object")
        self._import(out.address, words, self._chain(q_limbs), self._positions(q_limbs, 0))
        return out

    @_locked
    def write(self, a: Poly, out: bytearray | memoryview, offsets: Sequence[int]) -> None:
        _require(len(offsets) == a.limbs, "one offset for each limb is needed")
        view = memoryview(out).cast("B")
        within = all(0 <= offset <= len(view) - self._limb_bytes for offset in offsets)
        _require(within, "a limb lies outside the buffer")
        for offset, row in zip(offsets, self.residues(a), strict=True):
            view[offset : offset + self._limb_bytes] = row.astype("<u8", copy=False).tobytes()

    @_locked
    def read_key(self, data: Bytes, offsets: Sequence[Sequence[Sequence[int]]], q_limbs: int, p_limbs: int) -> Key:
        fits = 1 <= q_limbs <= self._q_count and 1 <= p_limbs <= self._p_count
        _require(fits, f"a key of {q_limbs} + {p_limbs} limbs")
        digits = -(-q_limbs // self._digit_limbs)
        wires = self._wire_count or self._p_count
        _require(len(offsets) == 2, "a key has two halves")
        _require(all(len(half) >= digits for half in offsets), "the key has too few digits")
        for half in offsets:
            due = all(len(digit) == self._q_count + wires for digit in half)
            _require(due, "a digit of the key has another number of limbs than its chain")
        limbs = q_limbs + p_limbs
        key, address = self.keys.make(q_limbs, p_limbs, digits, 2 * digits * limbs * self._limb_bytes)
        rows = [digit for half in offsets for digit in half[:digits]]
        conversion = self._key_conversion(q_limbs, p_limbs)
        for i, row in enumerate(rows):
            to = address + i * limbs * self._limb_bytes
            if conversion is None:
                kept = [*row[:q_limbs], *row[self._q_count : self._q_count + p_limbs]]
                words = self._gather(data, kept, "the key")
                self._import(to, words, self._chain(q_limbs), self._positions(q_limbs, p_limbs), "the key")
            else:
                self._convert_key(to, data, row, q_limbs, p_limbs, conversion)
        return key

    def _key_conversion(self, q_limbs: int, p_limbs: int) -> tuple[range, list[int], int, Any, Buffer, Any] | None:
        """How halves of keys come from the wire's special primes to ours: positions of the primes divided by, of the
        limbs kept, which of these arrive, and the constants."""
        p_at, wire_at = self._q_count, self._q_count + self._p_count
        kept = self._positions(q_limbs, p_limbs)
        if self._wire_count:
            sources, arriving = range(wire_at, wire_at + self._wire_count), q_limbs
            factor = math.prod(self._moduli.values[i] for i in range(p_at, p_at + p_limbs))
        elif p_limbs < self._p_count:
            # The kept primes divide both P and P': the dropped ones are divided by instead.
            sources, arriving, factor = range(p_at + p_limbs, wire_at), q_limbs + p_limbs, 1
        else:
            return None
        divisor, scale, rows, finish = self._division_constants(list(sources), kept, factor)
        targets = [(position, row) for row, position in enumerate(kept)]
        conversion = Conversion([(position, row) for row, position in enumerate(sources)], targets, rows, True)
        plan = conversion_plans(self.device, self._moduli, [conversion])
        moduli = [self._moduli.values[i] for i in kept]
        factors = constants([factor % m for m in moduli[:arriving]], moduli[:arriving])
        # Limbs that do not arrive count as zero.
        last = [f if row < arriving else m - f for row, (f, m) in enumerate(zip(finish, moduli, strict=True))]
        del divisor
        return sources, kept, arriving, (scale, factors, factor == 1), plan, constants(last, moduli)

    def _convert_key(
        self, to: int, data: Bytes, row: Sequence[int], q_limbs: int, p_limbs: int, conversion: Any
    ) -> None:
        sources, kept, arriving, (scale, factors, plain), plan, finish = conversion
        limbs, size = len(kept), self._limb_bytes
        start = self._moduli.address + sources.start * _LIMB_BYTES
        wire = Chain(start, len(sources), 0)
        y = self.device.take(len(sources) * size)
        skipped = sources.start - (self._q_count + self._p_count if self._wire_count else self._q_count)
        at = self._q_count + skipped
        self._import(
            y.address, self._gather(data, row[at : at + len(sources)], "the key"), wire, list(sources), "the key"
        )
        self._inverse(wire, [y.address], [y.address], len(sources), scale)
        part = self.device.take(limbs * size)
        self._convert(plan, 0, [part.address], [y.address], limbs, len(sources) * limbs, len(sources))
        chain = self._chain(q_limbs)
        self._forward(chain, [part.address], limbs)
        value = self.device.take(arriving * size)
        words = self._gather(data, [*row[:q_limbs], *row[self._q_count :][: arriving - q_limbs]], "the key")
        self._import(value.address, words, chain, kept[:arriving], "the key")
        if not plain:
            argument = batches.WithConstants(chain, polys([value.address]), polys([value.address]), factors)
            self._launch("multiply_constants", arriving, 1, argument, 2 * arriving, MULTIPLY_REDUCE * arriving)
        subtraction = batches.SubtractMultiply(
            chain, polys([to]), polys([value.address]), polys([part.address]), finish
        )
        self._launch("subtract_multiply", arriving, 1, subtraction, 3 * arriving, MULTIPLY_REDUCE * arriving)
        if arriving < limbs:
            rest = limbs - arriving
            offset = arriving * size
            after = Chain(self._moduli.address + self._q_count * _LIMB_BYTES, rest, 0)
            factors = type(finish)(*finish[arriving:limbs])
            argument = batches.WithConstants(after, polys([to + offset]), polys([part.address + offset]), factors)
            self._launch("multiply_constants", rest, 1, argument, 2 * rest, MULTIPLY_REDUCE * rest)

    # -- limb by limb -------------------------------------------------------------------------------------------------

    @_locked
    def together(self, operation: str, a: Sequence[Poly], *operands: Sequence[Any]) -> list[Poly]:
        """``operation`` of each of several polynomials of one shape, in launches for all of them: "add", "subtract",
        "negate", "multiply", "multiply_constants", "multiply_monomial", "rescale" or "mod_down". Constants and
        exponents must be the same for all."""
        count = min([len(a), *map(len, operands)])
        if not count:
            return []
        a = a[:count]
        if operation in ("rescale", "mod_down"):
            special = a[0].p_limbs > 0
            _require(special == (operation == "mod_down"), f"{operation} of {a[0].q_limbs} + {a[0].p_limbs} limbs")
            return self._divided(a, 0 if special else 1)
        if operation == "negate":
            return self._unary("negate", a)
        if operation == "multiply":
            return self._products(a, operands[0][:count])
        if operation == "multiply_constants":
            return self._with_constants(operation, a, operands[0][0], MULTIPLY_REDUCE)
        if operation == "multiply_monomial":
            return self._turned(a, operands[0][0])
        return self._binary(operation, a, operands[0][:count], ADD_REDUCE)

    @_locked
    def add(self, a: Poly, b: Poly) -> Poly:
        return self._binary("add", [a], [b], ADD_REDUCE)[0]

    @_locked
    def subtract(self, a: Poly, b: Poly) -> Poly:
        return self._binary("subtract", [a], [b], ADD_REDUCE)[0]

    @_locked
    def negate(self, a: Poly) -> Poly:
        return self._unary("negate", [a])[0]

    @_locked
    def multiply(self, a: Poly, b: Poly) -> Poly:
        return self._products([a], [b])[0]

    @_locked
    def dot(self, a: Sequence[Poly], b: Sequence[Poly]) -> Poly:
        _require(1 <= len(a) <= TERMS_MAX and len(a) == len(b), f"1 to {TERMS_MAX} pairs")
        self._same(*a)
        for x, y in zip(a, b, strict=True):
            self._operand(x, y)
        first = a[0]
        out = self._like(first.q_limbs, first.p_limbs)
        argument = batches.Dot(self._chain(first.q_limbs), len(a), 1, self._diagonals(first, [b]))
        argument.outs[0][0] = out.address
        for k, x in enumerate(a):
            argument.parts[0][k] = x.address
        moved = first.limbs * (1 + sum(1 + 1 / y.run for y in b))
        self._launch("dot", first.limbs, 1, argument, moved, MULTIPLY_ADD * first.limbs * len(a))
        return out

    @_locked
    def tensor(self, a: Pair, b: Pair) -> tuple[Poly, Poly, Poly]:
        self._same(*a, *b)
        out = [self._like(a[0].q_limbs, a[0].p_limbs) for _ in range(3)]
        argument = batches.Tensor(self._chain(a[0].q_limbs))
        for places, operands in ((argument.out, out), (argument.a, a), (argument.b, b)):
            for place, x in zip(places, operands, strict=True):
                place[0] = x.address
        limbs = a[0].limbs
        self._launch("tensor", limbs, 1, argument, 7 * limbs, 4 * MULTIPLY_REDUCE * limbs)
        return out[0], out[1], out[2]

    @_locked
    def multiply_constants(self, a: Poly, constants: Sequence[int]) -> Poly:
        return self._with_constants("multiply_constants", [a], constants, MULTIPLY_REDUCE)[0]

    @_locked
    def add_constants(self, a: Poly, constants: Sequence[int]) -> Poly:
        return self._with_constants("add_constants", [a], constants, ADD_REDUCE)[0]

    @_locked
    def multiply_monomial(self, a: Poly, exponent: int) -> Poly:
        return self._turned([a], exponent)[0]

    @_locked
    def automorphism(self, a: Poly, index: int) -> Poly:
        self._same(a)
        moves = self._permutation(index)
        out = self._like(a.q_limbs, a.p_limbs)
        argument = batches.Permute(self._chain(a.q_limbs), polys([out.address]), polys([a.address]), moves)
        self._launch("permute", a.limbs, 1, argument, 2 * a.limbs, 0)
        return out

    @_locked
    def truncate(self, a: Poly, q_limbs: int) -> Poly:
        self._check(a)
        _require(1 <= q_limbs <= a.q_limbs, f"{q_limbs} limbs of {a.q_limbs}")
        return Poly(a.buffer, q_limbs, 0, a.words, a.log2_run)

    @_locked
    def extend(self, a: Poly, p_limbs: int) -> Poly:
        self._same(a)
        _require(a.p_limbs == 0 and p_limbs >= 1, "the polynomial must have no special limbs")
        out = self._like(a.q_limbs, p_limbs)
        factors = self._decomposition(a.q_limbs, p_limbs).extend
        argument = batches.WithConstants(self._chain(a.q_limbs), polys([out.address]), polys([a.address]), factors)
        self._launch("multiply_constants", a.q_limbs, 1, argument, 2 * a.q_limbs, MULTIPLY_REDUCE * a.q_limbs)
        self.device.clear(out.address + a.q_limbs * self._limb_bytes, p_limbs * self._limb_bytes)
        return out

    @_locked
    def adopt(self, a: Poly, source: Ring) -> Poly:
        shared = a.q_limbs == 1 and a.p_limbs == 0 and a.log2_run == 0
        same = self._first == source._first and self.dimension == source.dimension and self.device is source.device
        _require(shared and same, "one limb modulo the first prime of both rings is due")
        return Poly(a.buffer, 1, 0, a.words)

    # -- between bases ------------------------------------------------------------------------------------------------

    @_locked
    def rescale(self, a: Poly) -> Poly:
        _require(a.p_limbs == 0, "rescale takes a polynomial without special limbs")
        return self._divided([a], 1)[0]

    @_locked
    def mod_down(self, a: Poly, drop: int = 0) -> Poly:
        _require(a.p_limbs > 0, "mod_down takes a polynomial with special limbs")
        return self._divided([a], drop)[0]

    @_locked
    def mod_down_pair(self, pair: Pair, drop: int = 0) -> Pair:
        _require(pair[0].p_limbs > 0, "mod_down takes a polynomial with special limbs")
        first, second = self._divided(pair, drop)
        return first, second

    @_locked
    def raise_modulus(self, a: Poly, q_limbs: int) -> Poly:
        self._same(a)
        _require(a.q_limbs == 1 and a.p_limbs == 0, "the modulus is raised from one limb")
        out = self._like(q_limbs, 0)
        size = self._limb_bytes
        self.device.copy(out.address, a.address, size)
        if q_limbs == 1:
            return out
        y = self.device.take(size)
        self._inverse(self._chain(1), [y.address], [a.address], 1, self._scaled([1], [0]))
        plan = self._raises.get(q_limbs)
        if plan is None:
            targets = [(i, i) for i in range(1, q_limbs)]
            conversion = Conversion([(0, 0)], targets, [[1]] * len(targets), False)
            plan = self._raises[q_limbs] = conversion_plans(self.device, self._moduli, [conversion])
        self._convert(plan, 0, [out.address], [y.address], q_limbs - 1, q_limbs - 1, 1)
        self._forward(self._chain(q_limbs, first=1), [out.address + size], q_limbs - 1)
        return out

    @_locked
    def switch(
        self,
        a: Poly,
        keys: Sequence[Key],
        indices: Sequence[int],
        before: tuple[Poly | None, Poly | None] | None = None,
        after: Sequence[Pair] | None = None,
    ) -> list[Pair]:
        self._same(a)
        _require(a.p_limbs == 0, "the polynomial must have no special limbs")
        _require(len(keys) == len(indices), "one automorphism for each key is needed")
        if not keys:
            return []
        q_limbs, p_limbs = a.q_limbs, keys[0].p_limbs
        digits = -(-q_limbs // self._digit_limbs)
        for key in keys:
            fits = key.p_limbs == p_limbs and key.q_limbs >= q_limbs and key.digits >= digits
            _require(
                fits,
                f"a key of {key.q_limbs} + {key.p_limbs} limbs for a polynomial of {q_limbs} limbs, beside keys of "
                f"{p_limbs} special limbs",
            )
        addends = self._addends(before or (None, None), q_limbs, p_limbs)
        _require(after is None or len(after) == len(keys), "one addend for each key is needed")
        for x in (x for pair in after or () for x in pair):
            self._check(x)
            due = (x.q_limbs, x.p_limbs, x.log2_run) == (q_limbs, p_limbs, 0)
            _require(due, f"an addend of {x.q_limbs} + {x.p_limbs} limbs")
        moves = [batches.Permutation() if index == 1 else self._permutation(index) for index in indices]
        fused = self.device.fused and len(keys) == 1 and digits <= FUSED_DIGITS_MAX
        decomposed, stride = self._decomposed(a, p_limbs, digits, columns_only=fused)
        out = [(self._like(q_limbs, p_limbs), self._like(q_limbs, p_limbs)) for _ in keys]
        for chosen in _chunks(range(len(keys)), SWITCH_KEYS):
            batch = [keys[i] for i in chosen]
            argument = batches.Switch(
                self._chain(q_limbs), digits, self._digit_limbs, a.address, decomposed.address, stride
            )
            self._add_before(argument, addends, q_limbs, p_limbs)
            for slot, i, address in zip(argument.keys, chosen, self.keys.need(batch), strict=False):
                self._describe_key(slot, keys[i], address, moves[i], out[i], after[i] if after else None)
            limbs, count = q_limbs + p_limbs, len(batch)
            added = sum(x.limbs for x in addends if x) + (2 * limbs if after else 0)
            moved = limbs * digits + count * (2 * limbs * (digits + 1) + added)
            work: float = count * (MULTIPLY_ADD * 2 * digits * limbs + 3 * added)
            if fused:
                rows = self._log2 - self.device.shape(self._log2).column_levels
                work += rows * BUTTERFLY * (digits * limbs - q_limbs)
            self._launch("switch_rows" if fused else "inner_product", limbs, count, argument, moved, work)
            self.keys.used(batch)
        return out

    @_locked
    def transform(self, parts: Sequence[Pair], diagonals: Sequence[Sequence[Poly | None]]) -> list[Pair]:
        terms = len(parts)
        _require(1 <= terms <= TERMS_MAX, f"1 to {TERMS_MAX} terms are possible")
        first = parts[0][0]
        self._same(*(half for pair in parts for half in pair))
        for row in diagonals:
            _require(len(row) == terms, "a row of diagonals has another length than there are parts")
            for d in row:
                if d is not None:
                    self._operand(first, d)
        out = [(self._like(first.q_limbs, first.p_limbs), self._like(first.q_limbs, first.p_limbs)) for _ in diagonals]
        for chosen in _chunks(range(len(diagonals)), TERMS_MAX):
            rows = [diagonals[g] for g in chosen]
            table = self._diagonals(first, rows)
            argument = batches.Transform(self._chain(first.q_limbs), terms, len(rows), table)
            for half in range(2):
                for k, pair in enumerate(parts):
                    argument.parts[half][k] = pair[half].address
                for place, g in enumerate(chosen):
                    argument.outs[half][place] = out[g][half].address
            groups = -(-len(rows) // batches.TRANSFORM_ROWS)
            present = [d for row in rows for d in row if d is not None]
            moved = first.limbs * (2 * terms * groups + 2 * len(rows) + sum(1 / d.run for d in present))
            work = MULTIPLY_ADD * 2 * first.limbs * len(present)
            self._launch("transform", first.limbs, groups, argument, moved, work)
        return out

    @_locked
    def transformed_limb(self, residues: Words, limb: int, *, forward: bool) -> Words:
        """One limb from coefficients to evaluation form, or back; limb counts Q, then P."""
        _require(0 <= limb < self._q_count + self._p_count and residues.size == self.dimension, "no such limb")
        chain = Chain(self._moduli.address + limb * _LIMB_BYTES, 1, 0)
        a = Poly(self.device.take(self._limb_bytes), 1, 0, self.dimension)
        self._import(a.address, residues.reshape(1, -1), chain, [limb])
        if forward:
            self._forward(chain, [a.address], 1)
        else:
            self._inverse(chain, [a.address], [a.address], 1, self._scaled([1], [limb]))
        words: Words = np.empty(self.dimension, dtype=np.uint64)
        argument = batches.Unary(chain, polys([a.address]), polys([a.address]))
        self._launch("export_words", 1, 1, argument, 2, 1)
        self.device.download(words.view(np.uint8), a.address)
        return words

    # -- graphs -------------------------------------------------------------------------------------------------------

    @_locked
    def replayed(
        self, key: Any, inputs: Sequence[Poly], work: Callable[[list[Poly]], tuple[list[Poly], Any]]
    ) -> tuple[list[Poly], Any]:
        """What ``work`` makes of the inputs, as one graph from the third call on.

        Args:
            key: of what work does: with the same key, and inputs of the same shape, it gives the same launches.
            work: returns polynomials and anything else, the same each time.
        """
        shape = (key, tuple((x.q_limbs, x.p_limbs, x.log2_run) for x in inputs))
        if self.device.recording is not None:
            return work(list(inputs))
        if shape not in self._recordings:
            # The first call makes the tables that launches need.
            if shape not in self._seen:
                self._seen.add(shape)
                return work(list(inputs))
            self._record(shape, inputs, work)
        known = self._recordings[shape]
        if known is None:
            return work(list(inputs))
        recording, places, results, rest = known
        for place, x in zip(places, inputs, strict=True):
            self.device.copy(place.address, x.address, x.nbytes)
        self.device.replay(recording)
        return [self._copied(x) for x in results], rest

    def _record(self, shape: Any, inputs: Sequence[Poly], work: Callable[[list[Poly]], tuple[list[Poly], Any]]) -> None:
        if len(self._recordings) >= RECORDINGS_MAX:
            self._recordings[shape] = None
            return
        places = [Poly(self.device.take(x.nbytes), x.q_limbs, x.p_limbs, x.words, x.log2_run) for x in inputs]
        made = self.device.record(lambda: work(places), places)
        if made is None:
            self._recordings[shape] = None
        else:
            recording, (results, rest) = made
            self._recordings[shape] = recording, places, results, rest

    def forget_recordings(self) -> None:
        """Frees their memory."""
        with self.device.lock:
            self.device.synchronize()
            for known in self._recordings.values():
                if known is not None:
                    known[0].close()
            self._recordings.clear()
            self._seen.clear()

    def _copied(self, a: Poly) -> Poly:
        out = Poly(self.device.take(a.nbytes), a.q_limbs, a.p_limbs, a.words, a.log2_run)
        self.device.copy(out.address, a.address, a.nbytes)
        return out

    # -- launches -----------------------------------------------------------------------------------------------------

    def _launch(
        self, entry: str, limbs: int, count: int, argument: Any, moved: float, work: float, log2: int | None = None
    ) -> None:
        """``moved`` limbs, ``work`` operations per word of a limb."""
        self.device.launch(entry, log2 or self._log2, limbs, count, argument, moved, work)

    def _forward(
        self,
        chain: Chain,
        addresses: list[int],
        limbs: int,
        *,
        own: int = 0,
        log2: int | None = None,
        columns_only: bool = False,
    ) -> None:
        """Transforms, in place; without the ``own`` limbs of which digits are made, where these are digits."""
        log2 = log2 or self._log2
        digit_limbs = self._digit_limbs if own else 0
        columns = self.device.shape(log2).column_levels
        for first, part in _batched(addresses):
            argument = batches.Forward(chain, polys(part), digit_limbs, first)
            done = limbs * len(part) - own * len(part) / len(addresses)
            if columns:
                self._launch("forward_columns", limbs, len(part), argument, 2 * done, columns * BUTTERFLY * done, log2)
            if columns_only:
                continue
            work = (log2 - columns) * BUTTERFLY * done
            self._launch("forward_rows", limbs, len(part), argument, 2 * done, work, log2)

    def _inverse(self, chain: Chain, out: list[int], a: list[int], limbs: int, scale: Any) -> None:
        columns = self.device.shape(self._log2).column_levels
        for first, part in _batched(out):
            done = limbs * len(part)
            rows = batches.Unary(chain, polys(part), polys(a[first : first + len(part)]))
            self._launch("inverse_rows", limbs, len(part), rows, 2 * done, (self._log2 - columns) * BUTTERFLY * done)
            argument = batches.InverseColumns(chain, polys(part), scale)
            self._launch("inverse_columns", limbs, len(part), argument, 2 * done, columns * BUTTERFLY * done)

    def _convert(
        self, plans: Buffer, step: int, out: list[int], y: list[int], targets: int, pairs: int, sources: int
    ) -> None:
        """``out`` by the plans, each ``step`` after the one before; ``targets`` of the largest plan. ``pairs`` of
        limbs and ``sources`` of each conversion are for the log."""
        size = batches.CONVERSION_TARGETS
        groups = -(-targets // size)
        for first, part in _batched(out):
            argument = batches.Convert(
                self._moduli.address,
                plans.address + first * step * _PLAN_BYTES,
                step,
                polys(part),
                polys(y[first : first + len(part)]),
            )
            moved = len(part) * (sources * groups + targets)
            self._launch("convert", groups, len(part), argument, moved, MULTIPLY_ADD * pairs * len(part))

    def _each(self, a: Sequence[Poly]) -> Iterator[tuple[Sequence[Poly], list[Poly], Any]]:
        """Up to ``BATCH_POLYS`` polynomials at a time, with their results to be written, and the head of an argument
        that most entry points share: chain, results, operands."""
        for chosen in _chunks(range(len(a)), BATCH_POLYS):
            part = a[chosen.start : chosen.stop]
            out = [self._like(x.q_limbs, x.p_limbs) for x in part]
            head = self._chain(part[0].q_limbs), polys([x.address for x in out]), polys([x.address for x in part])
            yield part, out, head

    def _unary(self, entry: str, a: Sequence[Poly]) -> list[Poly]:
        self._same(*a)
        results: list[Poly] = []
        for part, out, head in self._each(a):
            done = a[0].limbs * len(part)
            self._launch(entry, a[0].limbs, len(part), batches.Unary(*head), 2 * done, done)
            results += out
        return results

    def _binary(self, entry: str, a: Sequence[Poly], b: Sequence[Poly], work: float) -> list[Poly]:
        self._same(*a, *b)
        results: list[Poly] = []
        for part, out, head in self._each(a):
            others = polys([x.address for x in b[len(results) : len(results) + len(part)]])
            done = a[0].limbs * len(part)
            self._launch(entry, a[0].limbs, len(part), batches.Binary(*head, others), 3 * done, work * done)
            results += out
        return results

    def _products(self, a: Sequence[Poly], b: Sequence[Poly]) -> list[Poly]:
        self._same(*a)
        for x, y in zip(a, b, strict=True):
            self._operand(x, y)
        results: list[Poly] = []
        for part, out, head in self._each(a):
            argument = batches.MultiplyOperand(*head)
            factors = b[len(results) : len(results) + len(part)]
            for place, factor in enumerate(factors):
                argument.b[place] = Operand(factor.address, factor.log2_run, factor.q_limbs - a[0].q_limbs)
            done = a[0].limbs * len(part)
            moved = 2 * done + a[0].limbs * sum(1 / factor.run for factor in factors)
            self._launch("multiply_operand", a[0].limbs, len(part), argument, moved, MULTIPLY_REDUCE * done)
            results += out
        return results

    def _with_constants(self, entry: str, a: Sequence[Poly], values: Sequence[int], work: float) -> list[Poly]:
        self._same(*a)
        _require(len(values) == a[0].limbs, "one constant for each limb is needed")
        moduli = [self._moduli.values[i] for i in self._positions(a[0].q_limbs, a[0].p_limbs)]
        below = all(0 <= c < m for c, m in zip(values, moduli, strict=True))
        _require(below, "a constant is not below its modulus")
        factors = constants(values, moduli)
        results: list[Poly] = []
        for part, out, head in self._each(a):
            done = a[0].limbs * len(part)
            argument = batches.WithConstants(*head, factors)
            self._launch(entry, a[0].limbs, len(part), argument, 2 * done, work * done)
            results += out
        return results

    def _turned(self, a: Sequence[Poly], exponent: int) -> list[Poly]:
        self._same(*a)
        _require(0 <= exponent < 2 * self.dimension, "an exponent below 2N is due")
        tables = self._monomials.get(exponent)
        if tables is None:
            tables = self._moduli.monomial(self.device, exponent)
            if len(self._monomials) >= MONOMIALS_MAX:
                self._monomials.clear()
            self._monomials[exponent] = tables
        self.device.keep(tables)
        results: list[Poly] = []
        for part, out, head in self._each(a):
            done = a[0].limbs * len(part)
            argument = batches.MultiplyMonomial(*head, tables.address)
            work = 2 * MULTIPLY_REDUCE * done
            self._launch("multiply_monomial", a[0].limbs, len(part), argument, 2 * done, work)
            results += out
        return results

    def _divided(self, a: Sequence[Poly], drop: int) -> list[Poly]:
        self._same(*a)
        q_limbs, p_limbs = a[0].q_limbs, a[0].p_limbs
        left = q_limbs - drop
        _require(drop in (0, 1) and left >= 1, f"a polynomial of {q_limbs} + {p_limbs} limbs cannot drop {drop}")
        division = self._division(q_limbs, p_limbs, drop)
        sources, size = p_limbs + drop, self._limb_bytes
        out = [self._like(left, 0) for _ in a]
        rest = self.device.take(len(a) * sources * size)
        y = [rest.address + i * sources * size for i in range(len(a))]
        # The dropped limb, then the special ones.
        chain = Chain(self._moduli.address + left * _LIMB_BYTES, drop, self._q_count - q_limbs)
        self._inverse(chain, y, [x.address + left * size for x in a], sources, division.scale)
        to = [x.address for x in out]
        self._convert(division.plan, 0, to, y, left, sources * left, sources)
        target = self._chain(left)
        columns = self.device.shape(self._log2).column_levels
        for first, part in _batched(to):
            done = left * len(part)
            forward = batches.Forward(target, polys(part))
            self._launch("forward_columns", left, len(part), forward, 2 * done, columns * BUTTERFLY * done)
            x = [one.address for one in a[first : first + len(part)]]
            last = batches.ForwardRowsDivide(target, polys(part), polys(x), polys(part), division.finish)
            work = ((self._log2 - columns) * BUTTERFLY + MULTIPLY_REDUCE) * done
            self._launch("forward_rows_divide", left, len(part), last, 3 * done, work)
        return out

    def _decomposed(self, a: Poly, p_limbs: int, digits: int, *, columns_only: bool = False) -> tuple[Buffer, int]:
        """All digits over Q and P, without the limbs that are the polynomial's own; and words from one to the next.
        Transformed, or after the first pass only."""
        plan = self._decomposition(a.q_limbs, p_limbs)
        limbs, size = a.q_limbs + p_limbs, self._limb_bytes
        chain = self._chain(a.q_limbs)
        y = self.device.take(a.q_limbs * size)
        self._inverse(chain, [y.address], [a.address], a.q_limbs, plan.scale)
        memory = self.device.take(digits * limbs * size)
        out = [memory.address + d * limbs * size for d in range(digits)]
        sources = a.q_limbs / digits
        self._convert(plan.plans, 1, out, [y.address] * digits, plan.targets, plan.pairs // digits, int(sources))
        self._forward(chain, out, limbs, own=a.q_limbs, columns_only=columns_only)
        return memory, limbs * self.dimension

    def _describe_key(self, slot: Any, key: Key, address: int, moves: Any, out: Pair, after: Pair | None) -> None:
        limbs = key.q_limbs + key.p_limbs
        slot.b = address
        slot.a = address + key.digits * limbs * self._limb_bytes
        slot.digit_stride = limbs * self.dimension
        slot.permutation = moves
        slot.out[0], slot.out[1] = out[0].address, out[1].address
        if after is not None:
            slot.after[0], slot.after[1] = after[0].address, after[1].address
        slot.p_offset = key.q_limbs - out[0].q_limbs

    def _addends(
        self, before: tuple[Poly | None, Poly | None], q_limbs: int, p_limbs: int
    ) -> tuple[Poly | None, Poly | None]:
        for x in before:
            if x is not None:
                self._check(x)
                due = x.q_limbs == q_limbs and x.p_limbs in (0, p_limbs) and x.log2_run == 0
                _require(due, f"an addend of {x.q_limbs} + {x.p_limbs} limbs")
        first, second = before
        alike = first is None or second is None or first.p_limbs == second.p_limbs
        _require(alike, "both addends have special limbs, or none has")
        return before

    def _add_before(self, argument: Any, addends: tuple[Poly | None, Poly | None], q_limbs: int, p_limbs: int) -> None:
        present = [x for x in addends if x is not None]
        if not present:
            return
        for half, x in enumerate(addends):
            argument.before[half] = x.address if x is not None else 0
        # Without special limbs, P times the addend is meant, which is 0 modulo P.
        plan = self._decomposition(q_limbs, p_limbs)
        argument.before_limbs = present[0].limbs
        argument.constants = self._ones(q_limbs, p_limbs) if present[0].p_limbs else plan.extend

    def _diagonals(self, first: Poly, rows: Sequence[Sequence[Poly | None]]) -> int:
        """Address of a table of factors."""
        table = np.zeros((sum(map(len, rows)), 2), dtype=np.uint64)
        for place, d in zip(table, (d for row in rows for d in row), strict=True):
            if d is not None:
                place[0] = d.address
                place[1] = d.log2_run | (d.q_limbs - first.q_limbs) << 32
        return self.device.table(table.tobytes()).address

    def _import(
        self, address: int, words: Words, chain: Chain, positions: Sequence[int], what: str | None = None
    ) -> None:
        """Residues to the engine's form at the address, checked."""
        self.device.upload(address, words.reshape(-1).view(np.uint8))
        self.device.clear(self._bad.address, 8)
        limbs = len(positions)
        argument = batches.Import(chain, polys([address]), polys([address]), self._bad.address)
        self._launch("import_words", limbs, 1, argument, 2 * limbs, limbs)
        bad = np.empty(8, dtype=np.uint8)
        self.device.download(bad, self._bad.address)
        if bad.any():
            column = np.array([self._moduli.values[i] for i in positions], dtype=np.uint64).reshape(-1, 1)
            limb = int(np.flatnonzero((words >= column).any(axis=1))[0])
            _require(False, f"a residue of {what or f'limb {limb}'} is not below its modulus")

    def _gather(self, data: Bytes, offsets: Sequence[int], what: str) -> Words:
        view = memoryview(data).cast("B")
        size = self._limb_bytes
        _require(all(0 <= o <= len(view) - size for o in offsets), f"a limb lies outside {what}")
        words: Words = np.empty((len(offsets), self.dimension), dtype=np.uint64)
        for row, offset in zip(words, offsets, strict=True):
            row[:] = np.frombuffer(view[offset : offset + size], dtype="<u8")
        return words

    # -- constants ----------------------------------------------------------------------------------------------------

    def _chain(self, q_limbs: int, first: int = 0) -> Chain:
        """Limbs of Q from ``first`` to below ``q_limbs``, then those of P."""
        known = self._chains.get((q_limbs, first))
        if known is None:
            known = self._chains[q_limbs, first] = self._chain_of(q_limbs, first)
        return known

    def _chain_of(self, q_limbs: int, first: int) -> Chain:
        return Chain(self._moduli.address + first * _LIMB_BYTES, q_limbs - first, self._q_count - q_limbs)

    def _positions(self, q_limbs: int, p_limbs: int) -> list[int]:
        """Of a polynomial's limbs among the ring's moduli."""
        return [*range(q_limbs), *range(self._q_count, self._q_count + p_limbs)]

    def _scaled(self, values: Sequence[int], positions: Sequence[int]) -> Any:
        """Factors over N, as an inverse transform wants them."""
        moduli = [self._moduli.values[i] for i in positions]
        scaled = [v * pow(self.dimension, -1, m) % m for v, m in zip(values, moduli, strict=True)]
        return constants(scaled, moduli)

    def _ones(self, q_limbs: int, p_limbs: int) -> Any:
        return constants([1] * (q_limbs + p_limbs), [self._moduli.values[i] for i in self._positions(q_limbs, p_limbs)])

    def _division_constants(
        self, sources: Sequence[int], targets: Sequence[int], factor: int = 1
    ) -> tuple[int, Any, list[list[int]], list[int]]:
        """To divide ``factor`` times a polynomial by the product of the sources."""
        values = self._moduli.values
        divisor = math.prod(values[i] for i in sources)
        others = [divisor // values[i] for i in sources]
        scale = [factor * pow(other, -1, values[i]) % values[i] for i, other in zip(sources, others, strict=True)]
        rows = [[*(other % values[t] for other in others), -divisor % values[t]] for t in targets]
        finish = [pow(divisor, -1, values[t]) for t in targets]
        return divisor, self._scaled(scale, sources), rows, finish

    def _division(self, q_limbs: int, p_limbs: int, drop: int) -> _Division:
        shape = q_limbs, p_limbs, drop
        known = self._divisions.get(shape)
        if known is None:
            left = q_limbs - drop
            special = range(self._q_count, self._q_count + p_limbs)
            # The order of the quotient's sum is the CPU's: special primes first.
            sources = [*special, *range(left, q_limbs)]
            rows = [*range(drop, drop + p_limbs), *range(drop)]
            _, scale, factors, finish = self._division_constants(sources, range(left))
            in_rows = type(scale)(*(scale[sources.index(i)] for i in (*range(left, q_limbs), *special)))
            targets = [(i, i) for i in range(left)]
            conversion = Conversion(list(zip(sources, rows, strict=True)), targets, factors, True)
            plan = conversion_plans(self.device, self._moduli, [conversion])
            known = _Division(in_rows, plan, constants(finish, self._moduli.values[:left]))
            self._divisions[shape] = known
        return known

    def _decomposition(self, q_limbs: int, p_limbs: int) -> _Decomposition:
        shape = q_limbs, p_limbs
        known = self._decompositions.get(shape)
        if known is None:
            values = self._moduli.values
            positions = self._positions(q_limbs, p_limbs)
            scale: list[int] = []
            conversions: list[Conversion] = []
            for begin in range(0, q_limbs, self._digit_limbs):
                own = range(begin, min(q_limbs, begin + self._digit_limbs))
                product = math.prod(values[i] for i in own)
                others = [product // values[i] for i in own]
                scale += [pow(other, -1, values[i]) for i, other in zip(own, others, strict=True)]
                targets = [(position, row) for row, position in enumerate(positions) if row not in own]
                rows = [[other % values[position] for other in others] for position, _ in targets]
                conversions.append(Conversion([(i, i) for i in own], targets, rows, False))
            special = math.prod(values[self._q_count : self._q_count + p_limbs])
            moduli = [values[i] for i in positions]
            known = _Decomposition(
                self._scaled(scale, range(q_limbs)),
                conversion_plans(self.device, self._moduli, conversions),
                max(len(c.targets) for c in conversions),
                sum(len(c.targets) * len(c.sources) for c in conversions),
                constants([special % m for m in moduli], moduli),
            )
            self._decompositions[shape] = known
        return known

    def _permutation(self, index: int) -> Any:
        _require(0 < index < 2 * self.dimension and index % 2 == 1, f"automorphism {index}")
        known = self._permutations.get(index)
        if known is None:
            known = self._permutations[index] = permutation(self.device, self._moduli.order, index)
        self.device.keep(known)
        return batches.Permutation(known[0].address, known[1].address)

    # -- shapes -------------------------------------------------------------------------------------------------------

    def _count(self, q_limbs: int, p_limbs: int) -> None:
        fits = 0 <= q_limbs <= self._q_count and 0 <= p_limbs <= self._p_count and q_limbs + p_limbs >= 1
        _require(fits, f"{q_limbs} + {p_limbs} limbs where the chain has {self._q_count} + {self._p_count}")

    def _like(self, q_limbs: int, p_limbs: int) -> Poly:
        self._count(q_limbs, p_limbs)
        return Poly(self.device.take((q_limbs + p_limbs) * self._limb_bytes), q_limbs, p_limbs, self.dimension)

    def _check(self, a: Poly) -> None:
        belongs = a.q_limbs <= self._q_count and a.p_limbs <= self._p_count and a.words << a.log2_run == self.dimension
        _require(belongs, "the polynomial belongs to another ring")
        if self.device.recording is not None:
            self.device.keep_operand(a.buffer)

    def _same(self, *operands: Poly) -> None:
        first = operands[0]
        for a in operands:
            self._check(a)
            same = (a.q_limbs, a.p_limbs, a.log2_run) == (first.q_limbs, first.p_limbs, 0)
            _require(same, f"operands of {first.q_limbs} + {first.p_limbs} and {a.q_limbs} + {a.p_limbs} limbs")

    def _operand(self, a: Poly, b: Poly) -> None:
        self._same(a)
        self._check(b)
        fits = b.q_limbs >= a.q_limbs and b.p_limbs >= a.p_limbs
        _require(fits, f"a factor of {b.q_limbs} + {b.p_limbs} limbs for a polynomial of {a.q_limbs} + {a.p_limbs}")


_PLAN_BYTES: Final = ctypes.sizeof(batches.ConversionPlan)


def _chunks(items: range, size: int) -> Iterator[range]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _batched(addresses: list[int]) -> Iterator[tuple[int, list[int]]]:
    """Up to ``BATCH_POLYS`` at a time, with the place of the first."""
    for start in range(0, len(addresses), BATCH_POLYS):
        yield start, addresses[start : start + BATCH_POLYS]
