"""The native backend: our own CKKS engine, on OpenFHE's keys and ciphertexts.

Levels and scales are OpenFHE's (:mod:`hetal.native.scheme`), so that what either side computes the other one can use.
Nothing here is shared between evaluators: a process may have several open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from threading import local
from typing import Any, TypeVar, cast

from hetal.ckks.chain import chain_of, engine_prime_count, engine_primes
from hetal.ckks.framing import Kind
from hetal.ckks.objects import (
    KeyLimbs,
    ciphertext_limbs,
    expected_for,
    mult_key_limbs,
    rotation_key_limbs,
    write_ciphertext,
)
from hetal.ckks.parameters import PARALLEL_RING_DIMENSION_MAX, Parameters
from hetal.errors import CiphertextFormatError, FrameError, LevelError, MissingKeyError, ResidueError
from hetal.kernels.evaluator import Ciphertext, Evaluator, Vector, level_model
from hetal.native import load_engine
from hetal.native.bootstrap import Bootstrapper
from hetal.native.scheme import Ct, Scheme
from hetal.native.transforms import Stage, bootstrap_automorphisms, coeffs_to_slots, slots_to_coeffs

T = TypeVar("T")
R = TypeVar("R")


class Cell:
    """Payload of a :class:`Ciphertext`. A pending rescaling is done in place, so that several products do it once."""

    __slots__ = ("value",)

    def __init__(self, value: Ct) -> None:
        self.value = value


class NativeEvaluator(Evaluator):
    """Evaluates under the keys of one key tag.

    Args:
        params: checked parameters.
        key_tag: of the client's key pair.
        threads: for :meth:`map`, and inside an operation at rings above ``PARALLEL_RING_DIMENSION_MAX``.
        device: that computes, as :func:`hetal.native.load_engine` names it.
        engine: what has the class Ring; by default that of the device.

    Raises:
        BackendError: the compiled engine is not built.
        DeviceError: there is no such device.
    """

    def __init__(
        self, params: Parameters, key_tag: str, threads: int = 1, *, device: str = "cpu", engine: Any = None
    ) -> None:
        super().__init__(level_model(params))
        self.params = params
        self.key_tag = key_tag
        chain = chain_of(params)
        self._expected = expected_for(params, key_tag)
        small = params.ring_dimension <= PARALLEL_RING_DIMENSION_MAX
        # A device does one thing at a time, and each operation with all that it has.
        self._threads = threads if device == "cpu" else 1
        self._engine = engine or load_engine(device)
        log2_dimension = params.spec.log2_ring_dimension
        ring = self._engine.Ring(
            log2_dimension,
            list(chain.q),
            list(engine_primes(params)),
            list(chain.special),
            chain.digit_limbs,
            1 if small else threads,
        )
        self.scheme = Scheme(ring, chain)
        self._bootstrapper: Bootstrapper | None = None
        self._in_map = local()

    # -- keys ---------------------------------------------------------------------------------------------------------

    def load_key(self, kind: Kind, payload: bytes | memoryview, levels: Mapping[int, int] | None = None) -> None:
        """Take one payload of evaluation keys, checked byte by byte.

        Args:
            levels: the highest level at which each rotation, by steps, is made outside of the bootstrap. Keys are then
                kept for these levels and for the bootstrap's alone, at low levels in a fraction of the memory, and
                those that nothing needs are not kept. By default all keys serve all levels.

        Raises:
            IntegrityError: the bytes are no evaluation keys of this job, or hold a key that is loaded already.
        """
        if kind is Kind.MULT_KEY:
            offsets = mult_key_limbs(payload, self._expected, check_residues=False)
            if self.scheme.relinearization is not None:
                raise CiphertextFormatError("there is a relinearisation key already")
            self.scheme.relinearization = self._read(payload, offsets, len(self._expected.chain.q))
        elif kind is Kind.ROTATION_KEYS:
            for index, limbs in rotation_key_limbs(payload, self._expected, check_residues=False).items():
                self._take_automorphism(index, payload, limbs, levels)
        else:
            raise FrameError(f"{kind.name} is no kind of evaluation key")

    def _take_automorphism(
        self, index: int, payload: bytes | memoryview, offsets: KeyLimbs, levels: Mapping[int, int] | None
    ) -> None:
        scheme, chain = self.scheme, self._expected.chain
        to_sparse = bool(chain.encapsulation) and index == 2 * chain.ring_dimension - 4
        if index in scheme.automorphisms or (to_sparse and scheme.encapsulation is not None):
            raise CiphertextFormatError(f"there is a key for automorphism {index} already")
        if to_sparse:
            first, *auxiliary = chain.encapsulation
            log2_dimension = self.params.spec.log2_ring_dimension
            ring = self._engine.Ring(log2_dimension, [first], auxiliary, [], 1, scheme.ring.threads)
            with _residues_checked():
                scheme.encapsulation = ring, ring.read_key(payload, offsets, 1, len(auxiliary))
            return
        keys = [self._read(payload, offsets, limbs) for limbs in self._key_limbs(index, levels)]
        if keys:
            scheme.reduced[index] = keys[:-1]
            scheme.automorphisms[index] = keys[-1]

    def _key_limbs(self, index: int, levels: Mapping[int, int] | None) -> list[int]:
        """For how many limbs a key is kept, ascending."""
        top = len(self._expected.chain.q)
        if levels is None:
            return [top]
        bootstrap = bootstrap_key_limbs(self.params).get(index, set())
        planned = {level + 1 for steps, level in levels.items() if self.scheme.rotation_index(steps) == index}
        # A key for all levels serves what is planned too.
        return sorted(bootstrap if top in bootstrap else bootstrap | planned)

    def _read(self, payload: bytes | memoryview, offsets: KeyLimbs, limbs: int) -> Any:
        """A key that serves polynomials of up to that many limbs."""
        with _residues_checked():
            return self.scheme.ring.read_key(payload, offsets, limbs, engine_prime_count(self.params, limbs))

    def finish_keys(self, required_steps: Iterable[int]) -> None:
        """Check that all keys that a plan needs are there, and prepare the bootstrap.

        Args:
            required_steps: slots by which the plan rotates.

        Raises:
            MissingKeyError: naming the keys that are missing.
        """
        if self.scheme.relinearization is None:
            raise MissingKeyError("no relinearisation key")
        missing = [s for s in required_steps if s % self.slots and not self._has_rotation(s)]
        if missing:
            raise MissingKeyError(f"no key for rotation by {', '.join(map(str, missing[:8]))} slots")
        needed = bootstrap_automorphisms(self.params)
        absent = [index for index in needed if not self._has_automorphism(index)]
        if absent:
            raise MissingKeyError(f"no key for the bootstrap's automorphisms {', '.join(map(str, absent[:8]))}")
        self._bootstrapper = Bootstrapper(self.scheme, self.params)

    def close(self) -> None:
        """Free the evaluation keys and all that was precomputed."""
        self._bootstrapper = None
        self.scheme.relinearization = self.scheme.encapsulation = None
        self.scheme.automorphisms.clear()
        self.scheme.reduced.clear()
        self.scheme.plaintexts.clear()
        close = getattr(self._engine, "close", None)
        if close is not None:
            close()

    def _has_rotation(self, steps: int) -> bool:
        return self.scheme.rotation_index(steps) in self.scheme.automorphisms

    def _has_automorphism(self, index: int) -> bool:
        if self._expected.chain.encapsulation and index == 2 * self.params.ring_dimension - 4:
            return self.scheme.encapsulation is not None
        return index in self.scheme.automorphisms

    # -- bytes --------------------------------------------------------------------------------------------------------

    def load(self, data: bytes) -> Ciphertext:
        """A ciphertext of the other side, checked byte by byte.

        Raises:
            IntegrityError: the bytes are no ciphertext under this job's parameters and key.
        """
        info, offsets = ciphertext_limbs(data, self._expected, check_residues=False)
        if info.limbs < info.scale_degree:
            raise CiphertextFormatError(f"{info.limbs} limbs cannot hold a scale of degree {info.scale_degree}")
        with _residues_checked():
            parts = tuple(self.scheme.ring.read(data, part, info.limbs) for part in offsets)
        value = Ct(parts, info.scale, info.scale_degree)
        return Ciphertext(Cell(value), value.level)

    def dump(self, ct: Ciphertext) -> bytes:
        """Serialised, with a pending rescaling done first, so that every object has the plain form of a fresh one.

        Raises:
            CiphertextFormatError: the ciphertext was not relinearised.
        """
        value = self._settled(ct)
        if len(value.parts) != 2:
            raise CiphertextFormatError(f"a ciphertext of {len(value.parts)} parts has no serialised form")
        data, offsets = write_ciphertext(self._expected, value.limbs, value.degree, value.scale)
        for part, places in zip(value.parts, offsets, strict=True):
            self.scheme.ring.write(part, data, places)
        return bytes(data)

    def dump_result(self, ct: Ciphertext, level: int) -> bytes:
        """Serialised at ``level``: what the key owner only decrypts needs no more limbs.

        Raises:
            LevelError: the ciphertext is below ``level``.
        """
        if level > ct.level:
            raise LevelError(f"a ciphertext at level {ct.level} cannot be sent at level {level}")
        return self.dump(self.drop(ct, level))

    def _settled(self, ct: Ciphertext) -> Ct:
        cell: Cell = ct.payload
        value = cell.value
        if value.degree > 1:
            cell.value = value = self.scheme.settle(value)
        return value

    # -- operations ---------------------------------------------------------------------------------------------------

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """In threads, each of which does its operations alone; a map inside a map is sequential."""
        if self._threads <= 1 or len(items) <= 1 or getattr(self._in_map, "value", False):
            return super().map(function, items)

        def enter() -> None:
            self._in_map.value = True
            self._engine.set_sequential(True)

        with ThreadPoolExecutor(self._threads, initializer=enter) as pool:
            return list(pool.map(function, items))

    def scale(self, a: Ciphertext) -> float:
        """Squared while a rescaling is pending."""
        return cast(Cell, a.payload).value.scale

    def _add(self, a: Ciphertext, b: Ciphertext) -> Cell:
        return Cell(self.scheme.add(*self._level_operands(a, b)))

    def _sub(self, a: Ciphertext, b: Ciphertext) -> Cell:
        return Cell(self.scheme.subtract(*self._level_operands(a, b)))

    def _level_operands(self, a: Ciphertext, b: Ciphertext) -> tuple[Ct, Ct]:
        """What is rescaled on the way is kept: operands of one level and different degrees."""
        first, second = a.payload.value, b.payload.value
        if a.level == b.level and first.degree != second.degree:
            return self._settled(a), self._settled(b)
        return first, second

    def _negate(self, a: Ciphertext) -> Cell:
        return Cell(self.scheme.negate(a.payload.value))

    def _add_plain(self, a: Ciphertext, vector: Vector) -> Cell:
        return Cell(self.scheme.add_plain(a.payload.value, vector))

    def _add_scalar(self, a: Ciphertext, value: float) -> Cell:
        return Cell(self.scheme.add_constant(a.payload.value, value))

    def _mul_integer(self, a: Ciphertext, factor: int) -> Cell:
        return Cell(self.scheme.multiply_integer(a.payload.value, factor))

    def _mul_monomial(self, a: Ciphertext, exponent: int) -> Cell:
        return Cell(self.scheme.multiply_monomial(a.payload.value, exponent))

    def _drop(self, a: Ciphertext, level: int) -> Cell:
        return Cell(self.scheme.drop(a.payload.value, level))

    def _mul_no_relin(self, a: Ciphertext, b: Ciphertext) -> Cell:
        if a.level == b.level:
            return Cell(self.scheme.tensor(self._settled(a), self._settled(b)))
        return Cell(self.scheme.tensor(a.payload.value, b.payload.value))

    def _inner_product(self, a: Sequence[Ciphertext], b: Sequence[Ciphertext]) -> Cell:
        return Cell(self.scheme.inner_product([self._settled(ct) for ct in a], [self._settled(ct) for ct in b]))

    def _relinearize(self, a: Ciphertext) -> Cell:
        return Cell(self.scheme.relinearize(a.payload.value))

    def _mul_plain(self, a: Ciphertext, vector: Vector) -> Cell:
        return Cell(self.scheme.multiply_plain(self._settled(a), vector))

    def _mul_scalar(self, a: Ciphertext, value: float) -> Cell:
        return Cell(self.scheme.multiply_constant(self._settled(a), value))

    def _combine(self, cts: Sequence[Ciphertext], factors: Sequence[float | Vector]) -> Cell:
        return Cell(self.scheme.combine([(self._settled(ct), f) for ct, f in zip(cts, factors, strict=True)]))

    def _rotate(self, a: Ciphertext, steps: int) -> Cell:
        return Cell(self.scheme.rotate(self._settled(a), steps))

    def _rotate_many(self, a: Ciphertext, steps: Sequence[int]) -> list[Cell]:
        return [Cell(value) for value in self.scheme.rotate_many(self._settled(a), steps)] if steps else []

    def _conjugate(self, a: Ciphertext) -> Cell:
        return Cell(self.scheme.conjugate(self._settled(a)))

    def _bootstrap(self, a: Ciphertext, level: int) -> Cell:
        return Cell(self._ready_bootstrapper().bootstrap(self._settled(a), level=level))

    def _phase(self, a: Ciphertext, period: float) -> Cell:
        bootstrapper = self._ready_bootstrapper()
        value, level = bootstrapper.phase(self._settled(a), period), self.model.phase_output_level
        return Cell(self.scheme.drop(value, level) if value.level > level else value)

    def _ready_bootstrapper(self) -> Bootstrapper:
        if self._bootstrapper is None:
            raise MissingKeyError("finish_keys has not been called")
        return self._bootstrapper


@contextmanager
def _residues_checked() -> Iterator[None]:
    """The engine refuses residues that are not below their modulus; the rest of the object was checked before."""
    try:
        yield
    except ValueError as error:
        raise ResidueError(str(error)) from error


@lru_cache(maxsize=8)
def bootstrap_key_limbs(params: Parameters) -> dict[int, set[int]]:
    """By automorphism index: for how many limbs a bootstrap needs keys.

    SlotsToCoeffs works at the bootstrap's input level, all else on raised ciphertexts. Keys that serve those serve
    SlotsToCoeffs too, but the keys of one stage must share their special primes.
    """
    top, low, order = params.top_level + 1, params.bootstrap_input_level + 1, 2 * params.ring_dimension

    def indices(stage: Stage) -> set[int]:
        return {pow(5, steps, order) for steps in stage.steps}

    stages = slots_to_coeffs(params)
    lowered = set[int]().union(*map(indices, stages))
    raised = set[int]().union(*map(indices, coeffs_to_slots(params)))
    limbs: dict[int, set[int]] = {}
    for index in bootstrap_automorphisms(params):
        limbs[index] = set() if index in lowered and index not in raised else {top}
    for stage in stages:
        if not indices(stage) <= raised:
            for index in indices(stage) & limbs.keys():
                limbs[index].add(low)
    return limbs
