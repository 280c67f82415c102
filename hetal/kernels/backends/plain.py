"""The NumPy oracle: exact slots, the same levels and counts as the real backends, noise on request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from hetal.kernels.evaluator import Ciphertext, Evaluator, LevelModel, Vector

Slots = NDArray[np.complex128]


@dataclass(frozen=True, slots=True)
class Noise:
    """Standard deviation of the Gaussian error added to each slot.

    Attributes:
        per_operation: after every product, rotation and conjugation.
        per_bootstrap: after every bootstrap.
        seed: of the generator.
    """

    per_operation: float = 0.0
    per_bootstrap: float = 0.0
    seed: int = 0


class PlainEvaluator(Evaluator):
    """Payloads are complex NumPy vectors. Use :meth:`encrypt` and :meth:`decrypt` to get in and out."""

    def __init__(self, model: LevelModel, noise: Noise | None = None) -> None:
        super().__init__(model)
        self.noise = noise or Noise()
        self._rng = np.random.default_rng(self.noise.seed)
        self._powers = galois_powers(self.slots)

    def encrypt(self, vector: Vector, level: int | None = None) -> Ciphertext:
        """A fresh ciphertext of ``vector`` (shorter vectors are padded with zeros), at the top level by default."""
        padded = np.zeros(self.slots, dtype=np.complex128)
        padded[: len(vector)] = vector
        return Ciphertext(padded, self.model.top_level if level is None else level)

    def decrypt(self, ct: Ciphertext) -> Slots:
        return cast(Slots, ct.payload)

    def _blur(self, values: Slots, deviation: float) -> Slots:
        if deviation == 0.0:
            return values
        error: Any = self._rng.normal(size=(2, self.slots)) * deviation
        return cast(Slots, values + error[0] + 1j * error[1])

    def _op(self, values: Slots) -> Slots:
        return self._blur(values, self.noise.per_operation)

    def _add(self, a: Ciphertext, b: Ciphertext) -> Slots:
        return cast(Slots, a.payload + b.payload)

    def _sub(self, a: Ciphertext, b: Ciphertext) -> Slots:
        return cast(Slots, a.payload - b.payload)

    def _negate(self, a: Ciphertext) -> Slots:
        return cast(Slots, -a.payload)

    def _add_plain(self, a: Ciphertext, vector: Vector) -> Slots:
        return cast(Slots, a.payload + vector)

    def _add_scalar(self, a: Ciphertext, value: float) -> Slots:
        return cast(Slots, a.payload + value)

    def _mul_integer(self, a: Ciphertext, factor: int) -> Slots:
        return cast(Slots, a.payload * factor)

    def _mul_monomial(self, a: Ciphertext, exponent: int) -> Slots:
        angles = (self._powers * exponent) % (4 * self.slots)
        return cast(Slots, a.payload * np.exp(1j * np.pi * angles / (2 * self.slots)))

    def _drop(self, a: Ciphertext, level: int) -> Slots:
        return cast(Slots, a.payload)

    def _mul_no_relin(self, a: Ciphertext, b: Ciphertext) -> Slots:
        return self._op(a.payload * b.payload)

    def _relinearize(self, a: Ciphertext) -> Slots:
        return cast(Slots, a.payload)

    def _mul_plain(self, a: Ciphertext, vector: Vector) -> Slots:
        return self._op(a.payload * vector)

    def _mul_scalar(self, a: Ciphertext, value: float) -> Slots:
        return self._op(a.payload * value)

    def _rotate(self, a: Ciphertext, steps: int) -> Slots:
        return self._op(np.roll(a.payload, -steps))

    def _rotate_many(self, a: Ciphertext, steps: Sequence[int]) -> list[Slots]:
        return [self._rotate(a, s) for s in steps]

    def _conjugate(self, a: Ciphertext) -> Slots:
        return self._op(np.conj(a.payload))

    def _bootstrap(self, a: Ciphertext, level: int) -> Slots:
        return self._blur(a.payload.real.astype(np.complex128), self.noise.per_bootstrap)

    def _phase(self, a: Ciphertext, period: float) -> Slots:
        return self._blur(np.exp(2j * np.pi * a.payload.real / period), self.noise.per_bootstrap)


@lru_cache(maxsize=8)
def galois_powers(slots: int) -> NDArray[np.int64]:
    """5^j mod 2N for j < slots: the exponent of zeta at which slot j evaluates the plaintext polynomial."""
    powers = np.empty(slots, dtype=np.int64)
    value = 1
    for j in range(slots):
        powers[j] = value
        value = value * 5 % (4 * slots)
    return powers
