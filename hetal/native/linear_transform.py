"""One stage of a linear transform of slots, on ciphertexts (double hoisting; Bossuat-Mouchet-Troncoso-Hubaux 2021,
section 4).

The input is decomposed once for all baby steps; sums of products with the diagonals stay modulo Q * P, and are rotated
there by giant steps, one after the other; one division at the end takes away P and rescales.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from hetal.errors import LevelError, MissingKeyError
from hetal.native.encoding import COEFFICIENTS_MIN, encode
from hetal.native.transforms import Stage

# Inner sums that are held at a time: each is a ciphertext modulo Q * P, but reading the rotated input once for several
# of them saves memory traffic.
ROWS_AT_ONCE: Final = 4
# Shorter diagonals are encoded as if they had this period.
PERIOD_MIN: Final = COEFFICIENTS_MIN // 2

Poly = Any
Key = Any
Pair = tuple[Poly, Poly]


class LinearTransform:
    """A stage with its diagonals encoded for polynomials of one number of limbs.

    Args:
        ring: an engine's Ring.
        stage: of a transform.
        limbs: of the ciphertexts that it takes; the result has one less.
        p_limbs: special primes of the keys.
        scale: of the diagonals: slots of the result are multiplied by ``scale`` over the modulus that is dropped.
    """

    def __init__(self, ring: Any, stage: Stage, limbs: int, p_limbs: int, scale: float) -> None:
        self.ring = ring
        self.limbs = limbs
        self.p_limbs = p_limbs
        order = 2 * ring.dimension
        self._giant = pow(5, stage.steps[-1], order)
        rows = stage.rows()
        babies = sorted({baby for row in rows for baby in row})
        self._babies = [pow(5, (baby << stage.low) % stage.slots, order) for baby in babies]
        self._rows: list[list[Poly | None]] = []
        for row in rows:
            self._rows.append([self._encoded(row[baby], scale) if baby in row else None for baby in babies])

    @property
    def nbytes(self) -> int:
        """Memory of the diagonals."""
        return sum(d.nbytes for row in self._rows for d in row if d is not None)

    @property
    def automorphisms(self) -> frozenset[int]:
        """Indices of the keys that it needs."""
        wanted = {index for index in self._babies if index != 1}
        return frozenset(wanted | {self._giant} if len(self._rows) > 1 else wanted)

    def apply(self, a: Pair, keys: Mapping[int, Key]) -> Pair:
        """The transformed ciphertext, rescaled: one level.

        Args:
            a: (c_0, c_1) of ``limbs`` limbs.
            keys: by automorphism index.

        Raises:
            LevelError: ``a`` has another number of limbs.
            MissingKeyError: a key is missing.
        """
        if a[0].q_limbs != self.limbs:
            raise LevelError(f"diagonals encoded for {self.limbs} limbs, a ciphertext of {a[0].q_limbs}")
        missing = self.automorphisms - set(keys)
        if missing:
            raise MissingKeyError(f"no key for automorphism {min(missing)} of a linear transform")
        parts = self._rotated(a, keys)
        total: Pair | None = None
        for start in reversed(range(0, len(self._rows), ROWS_AT_ONCE)):
            group = self._rows[start : start + ROWS_AT_ONCE]
            for inner in reversed(self.ring.transform(parts, group)):
                total = inner if total is None else self._turned(total, keys[self._giant], inner)
        result: Pair = self.ring.mod_down_pair(total, 1)
        return result

    def _rotated(self, a: Pair, keys: Mapping[int, Key]) -> list[Pair]:
        """P times the input's rotations by all baby steps, modulo Q * P."""
        ring = self.ring
        moved = [index for index in self._babies if index != 1]
        switched = iter(ring.switch(a[1], [keys[index] for index in moved], moved, (a[0], None)))
        parts: list[Pair] = []
        for index in self._babies:
            if index == 1:
                parts.append((ring.extend(a[0], self.p_limbs), ring.extend(a[1], self.p_limbs)))
            else:
                parts.append(next(switched))
        return parts

    def _turned(self, total: Pair, key: Key, inner: Pair) -> Pair:
        """A sum modulo Q * P, rotated by a giant step, and the next inner sum."""
        second = self.ring.mod_down(total[1])
        rotated: Pair = self.ring.switch(second, [key], [self._giant], (total[0], None), [inner])[0]
        return rotated

    def _encoded(self, diagonal: np.ndarray[Any, Any], scale: float) -> Poly:
        slots = max(len(diagonal), PERIOD_MIN)
        coefficients = encode(np.tile(diagonal, slots // len(diagonal)), scale)
        return self.ring.from_coefficients(coefficients, self.limbs, self.p_limbs)
