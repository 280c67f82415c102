"""Plain vectors as polynomials, kept for the next time that they are used."""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hetal import limits
from hetal.errors import NotFiniteError
from hetal.native.encoding import encode, periodic

# The engine takes coefficients below 2^62.
COEFFICIENT_BITS: Final = 61
# Read-only vectors whose hash is remembered.
FROZEN_VECTORS_MAX: Final = 1024

Poly = Any


class PlaintextCache:
    """Encoded vectors, the least recently used forgotten first. Safe for threads.

    Attributes:
        nbytes: of the polynomials held; at most ``limits.PLAINTEXT_CACHE_BYTES``.
    """

    def __init__(self, ring: Any, moduli: Sequence[int]) -> None:
        self._ring = ring
        self._moduli = moduli
        self._entries: OrderedDict[tuple[bytes, int, float, bool], Poly] = OrderedDict()
        self._frozen: OrderedDict[int, tuple[NDArray[Any], bytes]] = OrderedDict()
        self._lock = Lock()
        self.nbytes = 0

    def encode(self, vector: NDArray[Any], limbs: int, scale: float, *, compact: bool = True) -> Poly:
        """The polynomial with these slots; compact (a factor only) where the vector has a period.

        Raises:
            NotFiniteError: a slot is NaN or infinite.
        """
        key = (self._digest(vector), limbs, scale, compact)
        with self._lock:
            known = self._entries.get(key)
            if known is not None:
                self._entries.move_to_end(key)
                return known
        encoded = self._encode(vector, limbs, scale, compact)
        with self._lock:
            if key not in self._entries:
                self._entries[key] = encoded
                self.nbytes += encoded.nbytes
            while self.nbytes > limits.PLAINTEXT_CACHE_BYTES:
                self.nbytes -= self._entries.popitem(last=False)[1].nbytes
        return encoded

    def _digest(self, vector: NDArray[Any]) -> bytes:
        """Of the slots. Kernels keep their masks, read-only, and use them in every iteration: those are hashed once."""
        with self._lock:
            known = self._frozen.get(id(vector))
        if known is not None:
            return known[1]
        digest = hashlib.blake2b(np.ascontiguousarray(vector, dtype=np.complex128).data, digest_size=16).digest()
        if not vector.flags.writeable:
            with self._lock:
                # The vector is held, so that no other one gets its id.
                self._frozen[id(vector)] = (vector, digest)
                while len(self._frozen) > FROZEN_VECTORS_MAX:
                    self._frozen.popitem(last=False)
        return digest

    def clear(self) -> None:
        with self._lock:
            self._frozen.clear()
            self._entries.clear()
            self.nbytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def _encode(self, vector: NDArray[Any], limbs: int, scale: float, compact: bool) -> Poly:
        if not np.isfinite(vector).all():
            raise NotFiniteError("a plain operand holds NaN or infinite values")
        coefficients = encode(periodic(vector), scale)
        largest = float(np.abs(coefficients).max())
        excess = max(0, math.frexp(largest)[1] - COEFFICIENT_BITS)
        if len(coefficients) < self._ring.dimension and not (compact and excess == 0):
            whole = np.zeros(self._ring.dimension)
            whole[:: len(whole) // len(coefficients)] = coefficients
            coefficients = whole
        if excess == 0:
            return self._ring.from_coefficients(coefficients, limbs)
        # Doubles have 53 bits: nothing that counts is cut off.
        encoded = self._ring.from_coefficients(np.rint(np.ldexp(coefficients, -excess)), limbs)
        return self._ring.multiply_constants(encoded, [(1 << excess) % m for m in self._moduli[:limbs]])
