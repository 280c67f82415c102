"""Polynomials and keys on a device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hetal.native.cuda.device import Buffer

if TYPE_CHECKING:
    from hetal.native.cuda.keys import KeyCache


class Poly:
    """One polynomial, limbs one after the other. See ``_engine.pyi``."""

    __slots__ = ("buffer", "log2_run", "p_limbs", "q_limbs", "words")

    def __init__(self, buffer: Buffer, q_limbs: int, p_limbs: int, words: int, log2_run: int = 0) -> None:
        self.buffer = buffer
        self.q_limbs = q_limbs
        self.p_limbs = p_limbs
        self.words = words
        self.log2_run = log2_run

    @property
    def address(self) -> int:
        return self.buffer.address

    @property
    def limbs(self) -> int:
        return self.q_limbs + self.p_limbs

    @property
    def run(self) -> int:
        return 1 << self.log2_run

    @property
    def nbytes(self) -> int:
        return 8 * self.words * self.limbs


class Key:
    """A key-switching key: [half][digit][limb][word] in one block, which a cache may move to the host and back."""

    __slots__ = ("__weakref__", "_cache", "digits", "nbytes", "number", "p_limbs", "q_limbs")

    def __init__(self, cache: KeyCache, number: int, q_limbs: int, p_limbs: int, digits: int, nbytes: int) -> None:
        self._cache = cache
        self.number = number
        self.q_limbs = q_limbs
        self.p_limbs = p_limbs
        self.digits = digits
        self.nbytes = nbytes

    def __del__(self) -> None:
        self._cache.dropped.append(self.number)
