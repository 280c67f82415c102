"""The one seam between algorithms and cryptography: the operations a backend must offer.

:class:`Evaluator` owns what every backend shares: the level arithmetic, the counting of operations and the checks. A
backend implements the underscored methods on its own payloads. Conventions:

* A ciphertext holds ``slots`` complex numbers. ``rotate(ct, k)`` moves slot j+k to slot j, cyclically.
* ``level`` is the number of rescalings left; a product of any kind costs one level, all else is free. Backends rescale
  as late as they can (OpenFHE's FLEXIBLEAUTO), so a sum of products is rescaled once.
* Scales are the backend's: operands of different scales are brought together before they are added, so kernels see
  values alone; :meth:`Evaluator.scale` tells.
* ``mul_no_relin`` returns a three-part ciphertext; sums of those are relinearised once (lazy relinearisation). Only
  addition, subtraction, negation, plain and scalar products, and ``relinearize`` accept three parts.
* A plain operand is a NumPy vector of ``slots`` numbers, real or complex; encodings are cached by content.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from hetal.ckks.parameters import Parameters
from hetal.errors import LevelError, ShapeError

Vector = NDArray[np.float64] | NDArray[np.complex128]
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Ciphertext:
    """A handle on a backend's ciphertext. Immutable: every operation returns a new one.

    Attributes:
        payload: the backend's own object.
        level: rescalings left.
        parts: 2, or 3 before relinearisation.
    """

    payload: Any
    level: int
    parts: int = 2


@dataclass(slots=True)
class Stage:
    """What a part of a circuit took.

    Attributes:
        seconds: of wall time.
        counts: operations by name and level of the result.
    """

    seconds: float = 0.0
    counts: Counter[tuple[str, int]] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Refresh:
    """What the planner decided for one checkpoint: bootstrap or not, and the level to go on at."""

    bootstrap: bool
    level: int


@dataclass(frozen=True, slots=True)
class LevelModel:
    """The level arithmetic of a parameter set, all that planning needs to know of it."""

    slots: int
    top_level: int
    bootstrap_input_level: int
    bootstrap_output_level: int
    phase_output_level: int


def level_model(params: Parameters) -> LevelModel:
    """The level arithmetic of a checked parameter set."""
    return LevelModel(
        params.slots,
        params.top_level,
        params.bootstrap_input_level,
        params.bootstrap_output_level,
        params.phase_output_level,
    )


class Evaluator(ABC):
    """Homomorphic operations on :class:`Ciphertext` with level tracking and counting.

    Attributes:
        counts: operations executed so far, keyed by (operation, level of its result). Operations: ``mul`` (tensor
            product), ``relin``, ``mul_plain``, ``mul_scalar``, ``rotate``, ``rotate_hoisted``, ``conjugate``,
            ``bootstrap``, ``phase``, ``add``.
        stages: seconds and operations by the stage of a circuit that they ran in, see :meth:`stage`.
        schedule: the plan's decision per checkpoint name; a name that is missing means "go on as it is".
    """

    def __init__(self, model: LevelModel) -> None:
        self.model = model
        self.counts: Counter[tuple[str, int]] = Counter()
        self.stages: dict[str, Stage] = {}
        self.schedule: Mapping[str, Refresh] = {}

    @property
    def slots(self) -> int:
        return self.model.slots

    def total(self, operation: str) -> int:
        """How often ``operation`` ran, over all levels."""
        return sum(count for (name, _), count in self.counts.items() if name == operation)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Attribute what runs inside to a stage. Stages do not nest, and are entered by one thread."""
        before, began = self.counts.copy(), time.perf_counter()
        yield
        stage = self.stages.setdefault(name, Stage())
        stage.seconds += time.perf_counter() - began
        stage.counts.update(self.counts - before)

    def scale(self, a: Ciphertext) -> float:
        """What slots are multiplied by before rounding; 1 where they are exact. Backends keep it, kernels may ask."""
        return 1.0

    # -- free operations ------------------------------------------------------------------------------------------

    def add(self, a: Ciphertext, b: Ciphertext) -> Ciphertext:
        level = min(a.level, b.level)
        self.counts["add", level] += 1
        return Ciphertext(self._add(a, b), level, max(a.parts, b.parts))

    def sub(self, a: Ciphertext, b: Ciphertext) -> Ciphertext:
        level = min(a.level, b.level)
        self.counts["add", level] += 1
        return Ciphertext(self._sub(a, b), level, max(a.parts, b.parts))

    def sum(self, terms: Iterable[Ciphertext]) -> Ciphertext:
        """Sum of one or more ciphertexts."""
        iterator = iter(terms)
        total = next(iterator)
        for term in iterator:
            total = self.add(total, term)
        return total

    def negate(self, a: Ciphertext) -> Ciphertext:
        return Ciphertext(self._negate(a), a.level, a.parts)

    def add_plain(self, a: Ciphertext, vector: Vector) -> Ciphertext:
        return Ciphertext(self._add_plain(a, self._vector(vector)), a.level, a.parts)

    def add_scalar(self, a: Ciphertext, value: float) -> Ciphertext:
        return Ciphertext(self._add_scalar(a, float(value)), a.level, a.parts)

    def mul_integer(self, a: Ciphertext, factor: int) -> Ciphertext:
        """Product with a small integer; costs no level (the scale stays)."""
        return Ciphertext(self._mul_integer(a, int(factor)), a.level, a.parts)

    def mul_monomial(self, a: Ciphertext, exponent: int) -> Ciphertext:
        """Product with X^exponent: slot j times zeta^(exponent * 5^j), zeta = exp(i pi / N). No key, no level."""
        return Ciphertext(self._mul_monomial(a, exponent % (4 * self.slots)), a.level, a.parts)

    def mul_i(self, a: Ciphertext) -> Ciphertext:
        """Product with the imaginary unit, X^(N/2)."""
        return self.mul_monomial(a, self.slots)

    def drop(self, a: Ciphertext, level: int) -> Ciphertext:
        """Give up levels down to ``level``."""
        if level > a.level:
            raise LevelError(f"cannot raise a ciphertext from level {a.level} to {level} without a bootstrap")
        return a if level == a.level else Ciphertext(self._drop(a, level), level, a.parts)

    # -- products: one level --------------------------------------------------------------------------------------

    def mul_no_relin(self, a: Ciphertext, b: Ciphertext) -> Ciphertext:
        self._two_parts(a, b)
        level = self._spend(min(a.level, b.level), "a product")
        self.counts["mul", level] += 1
        return Ciphertext(self._mul_no_relin(a, b), level, 3)

    def inner_product(self, a: Sequence[Ciphertext], b: Sequence[Ciphertext]) -> Ciphertext:
        """sum_i a[i] * b[i], of three parts: a level below the lowest operand.

        Counted as products and additions; a backend may make them in one pass.

        Raises:
            ShapeError: no terms, or not as many on both sides.
        """
        if not a or len(a) != len(b):
            raise ShapeError(f"{len(a)} ciphertexts times {len(b)}")
        self._two_parts(*a, *b)
        level = self._spend(min(ct.level for ct in (*a, *b)), "an inner product")
        self.counts["mul", level] += len(a)
        self.counts["add", level] += len(a) - 1
        return Ciphertext(self._inner_product(a, b), level, 3)

    def relinearize(self, a: Ciphertext) -> Ciphertext:
        if a.parts == 2:
            return a
        self.counts["relin", a.level] += 1
        return Ciphertext(self._relinearize(a), a.level, 2)

    def mul(self, a: Ciphertext, b: Ciphertext) -> Ciphertext:
        return self.relinearize(self.mul_no_relin(a, b))

    def square(self, a: Ciphertext) -> Ciphertext:
        return self.mul(a, a)

    def mul_plain(self, a: Ciphertext, vector: Vector) -> Ciphertext:
        level = self._spend(a.level, "a plaintext product")
        self.counts["mul_plain", level] += 1
        return Ciphertext(self._mul_plain(a, self._vector(vector)), level, a.parts)

    def mul_scalar(self, a: Ciphertext, value: float) -> Ciphertext:
        level = self._spend(a.level, "a scalar product")
        self.counts["mul_scalar", level] += 1
        return Ciphertext(self._mul_scalar(a, float(value)), level, a.parts)

    def combine(self, cts: Sequence[Ciphertext], factors: Sequence[float | Vector]) -> Ciphertext:
        """sum_i factors[i] * cts[i], of numbers and plain vectors: a level below the lowest ciphertext.

        Counted as products and additions; a backend may make them in one pass.

        Raises:
            ShapeError: no terms, or not a factor each.
        """
        if not cts or len(cts) != len(factors):
            raise ShapeError(f"{len(factors)} factors for {len(cts)} ciphertexts")
        level = self._spend(min(ct.level for ct in cts), "a linear combination")
        checked = [float(f) if isinstance(f, (int, float)) else self._vector(f) for f in factors]
        scalars = sum(isinstance(f, float) for f in checked)
        self.counts["mul_scalar", level] += scalars
        self.counts["mul_plain", level] += len(cts) - scalars
        self.counts["add", level] += len(cts) - 1
        return Ciphertext(self._combine(cts, checked), level, max(ct.parts for ct in cts))

    # -- key switches: no level -----------------------------------------------------------------------------------

    def rotate(self, a: Ciphertext, steps: int) -> Ciphertext:
        self._two_parts(a)
        steps %= self.slots
        if steps == 0:
            return a
        self.counts["rotate", a.level] += 1
        return Ciphertext(self._rotate(a, steps), a.level)

    def rotate_many(self, a: Ciphertext, steps: Sequence[int]) -> list[Ciphertext]:
        """Several rotations of one ciphertext, decomposed once (hoisting)."""
        self._two_parts(a)
        wanted = [s % self.slots for s in steps]
        self.counts["rotate_hoisted", a.level] += sum(1 for s in wanted if s)
        payloads = self._rotate_many(a, [s for s in wanted if s])
        rotated = iter(payloads)
        return [Ciphertext(next(rotated), a.level) if s else a for s in wanted]

    def conjugate(self, a: Ciphertext) -> Ciphertext:
        self._two_parts(a)
        self.counts["conjugate", a.level] += 1
        return Ciphertext(self._conjugate(a), a.level)

    # -- bootstrapping --------------------------------------------------------------------------------------------

    def bootstrap(self, a: Ciphertext, level: int | None = None) -> Ciphertext:
        """Refresh real slots of magnitude <= 1.

        Args:
            level: to leave at, the model's ``bootstrap_output_level`` by default. A backend that has phases may go up
                to the level below theirs, at a loss of precision.

        Raises:
            LevelError: ``a`` is too low, or ``level`` too high.
        """
        model = self.model
        self._enters_bootstrap(a)
        level = model.bootstrap_output_level if level is None else level
        if level > max(model.bootstrap_output_level, model.phase_output_level):
            raise LevelError(f"no bootstrap leaves at level {level}")
        self.counts["bootstrap", level] += 1
        return Ciphertext(self._bootstrap(a, level), level)

    def phase(self, a: Ciphertext, period: float) -> Ciphertext:
        """exp(2 pi i x / period) of real slots x, refreshed to the model's ``phase_output_level``.

        A bootstrap computes it on its way (:meth:`hetal.native.bootstrap.Bootstrapper.phase`).

        Raises:
            LevelError: ``a`` is below the bootstrap's input level.
            BackendError: this backend has no such bootstrap.
        """
        self._enters_bootstrap(a)
        self.counts["phase", self.model.phase_output_level] += 1
        return Ciphertext(self._phase(a, float(period)), self.model.phase_output_level)

    def _enters_bootstrap(self, a: Ciphertext) -> None:
        self._two_parts(a)
        if a.level < self.model.bootstrap_input_level:
            raise LevelError(f"a bootstrap must be entered at level {self.model.bootstrap_input_level}, not {a.level}")

    def checkpoint(self, a: Ciphertext, name: str, bound: float = 1.0) -> Ciphertext:
        """A place where the planner may bootstrap, and drops the levels that nothing below needs.

        Args:
            name: the same for all ciphertexts that are in the same place of the circuit.
            bound: largest magnitude of a slot. Above 1 the bootstrap costs one level more, for scaling by 2^-k; the
                way back is an integer product and free.
        """
        step = self.schedule.get(name)
        if step is None:
            return a
        if step.bootstrap:
            exponent = max(0, int(np.ceil(np.log2(bound))))
            if exponent:
                a = self.mul_scalar(a, 2.0**-exponent)
            a = self.bootstrap(a)
            if exponent:
                a = self.mul_integer(a, 1 << exponent)
        return self.drop(a, min(step.level, a.level))

    # -- data and execution ---------------------------------------------------------------------------------------

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Apply ``function`` to independent items; a backend may run them in parallel."""
        return [function(item) for item in items]

    def _spend(self, level: int, what: str) -> int:
        if level < 1:
            raise LevelError(f"{what} needs a level, and the ciphertext has none left")
        return level - 1

    @staticmethod
    def _two_parts(*cts: Ciphertext) -> None:
        if any(ct.parts != 2 for ct in cts):
            raise LevelError("relinearise before this operation", hint="This is a fault in a kernel.")

    def _vector(self, vector: Vector) -> Vector:
        array: Any = np.asarray(vector)
        if array.shape != (self.slots,):
            raise ShapeError(f"a plain operand has {self.slots} slots, not shape {array.shape}")
        return cast(Vector, array)

    def _inner_product(self, a: Sequence[Ciphertext], b: Sequence[Ciphertext]) -> Any:
        def product(x: Ciphertext, y: Ciphertext) -> Ciphertext:
            return Ciphertext(self._mul_no_relin(x, y), min(x.level, y.level) - 1, 3)

        total, *terms = map(product, a, b)
        for term in terms:
            total = Ciphertext(self._add(total, term), min(total.level, term.level), 3)
        return total.payload

    def _combine(self, cts: Sequence[Ciphertext], factors: Sequence[float | Vector]) -> Any:
        def product(ct: Ciphertext, factor: float | Vector) -> Ciphertext:
            payload = self._mul_scalar(ct, factor) if isinstance(factor, float) else self._mul_plain(ct, factor)
            return Ciphertext(payload, ct.level - 1, ct.parts)

        total, *terms = map(product, cts, factors)
        for term in terms:
            total = Ciphertext(self._add(total, term), min(total.level, term.level), max(total.parts, term.parts))
        return total.payload

    @abstractmethod
    def _add(self, a: Ciphertext, b: Ciphertext) -> Any: ...
    @abstractmethod
    def _sub(self, a: Ciphertext, b: Ciphertext) -> Any: ...
    @abstractmethod
    def _negate(self, a: Ciphertext) -> Any: ...
    @abstractmethod
    def _add_plain(self, a: Ciphertext, vector: Vector) -> Any: ...
    @abstractmethod
    def _add_scalar(self, a: Ciphertext, value: float) -> Any: ...
    @abstractmethod
    def _mul_integer(self, a: Ciphertext, factor: int) -> Any: ...
    @abstractmethod
    def _mul_monomial(self, a: Ciphertext, exponent: int) -> Any: ...
    @abstractmethod
    def _drop(self, a: Ciphertext, level: int) -> Any: ...
    @abstractmethod
    def _mul_no_relin(self, a: Ciphertext, b: Ciphertext) -> Any: ...
    @abstractmethod
    def _relinearize(self, a: Ciphertext) -> Any: ...
    @abstractmethod
    def _mul_plain(self, a: Ciphertext, vector: Vector) -> Any: ...
    @abstractmethod
    def _mul_scalar(self, a: Ciphertext, value: float) -> Any: ...
    @abstractmethod
    def _rotate(self, a: Ciphertext, steps: int) -> Any: ...
    @abstractmethod
    def _rotate_many(self, a: Ciphertext, steps: Sequence[int]) -> list[Any]: ...
    @abstractmethod
    def _conjugate(self, a: Ciphertext) -> Any: ...
    @abstractmethod
    def _bootstrap(self, a: Ciphertext, level: int) -> Any: ...
    @abstractmethod
    def _phase(self, a: Ciphertext, period: float) -> Any: ...
