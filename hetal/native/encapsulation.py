"""From one limb to many: the modulus raised under a sparse ephemeral secret (Bossuat-Troncoso-Hubaux 2022).

Raising the modulus of a ciphertext adds a multiple of q_0 to its message, as large as its secret is heavy. So a
ciphertext of one limb is first switched to a secret of 32 non-zero coefficients, which only ever exists modulo q_0 and
two small primes, and afterwards back to the dense one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hetal.ckks.chain import Chain
from hetal.errors import ParameterError

Poly = Any
Pair = tuple[Poly, Poly]


class Encapsulation:
    """The key from the dense to the ephemeral secret, over its own small chain.

    Args:
        ring: an engine's Ring over q_0 with the auxiliary primes as special ones, of digits of one limb.
        key: of that ring; index 2N - 4 on the wire.
    """

    def __init__(self, ring: Any, key: Any) -> None:
        self.ring = ring
        self.key = key

    @classmethod
    def read(
        cls,
        engine: Any,
        chain: Chain,
        data: bytes | bytearray | memoryview,
        offsets: Sequence[Sequence[Sequence[int]]],
        threads: int = 1,
    ) -> Encapsulation:
        """From the bytes of the key.

        Args:
            engine: the module of the engine.
            chain: of the parameters.
            data: the serialised keys.
            offsets: of the key's limbs, as ``Ring.read_key`` takes them.

        Raises:
            ParameterError: the parameters have no ephemeral secret.
        """
        if not chain.encapsulation:
            raise ParameterError("the parameters have no sparse ephemeral secret")
        first, auxiliary = chain.encapsulation[:1], chain.encapsulation[1:]
        log2_dimension = chain.ring_dimension.bit_length() - 1
        ring = engine.Ring(log2_dimension, first, auxiliary, [], 1, threads)
        return cls(ring, ring.read_key(data, offsets, 1, len(auxiliary)))

    def enter(self, main: Any, a: Pair) -> Pair:
        """A ciphertext of one limb under the dense secret, under the ephemeral one.

        Args:
            main: the Ring of ``a`` and of the result.
        """
        small = self.ring
        second = small.from_residues(main.residues(a[1]))
        b, x = small.mod_down_pair(small.switch(second, [self.key], [1])[0])
        b, x = (main.from_residues(small.residues(part)) for part in (b, x))
        return main.add(a[0], b), x


def raise_modulus(ring: Any, a: Pair, limbs: int) -> Pair:
    """(c_0, c_1) of one limb with ``limbs`` limbs: its message grows by an unknown multiple of q_0."""
    return ring.raise_modulus(a[0], limbs), ring.raise_modulus(a[1], limbs)


def leave(ring: Any, a: Pair, key: Any) -> Pair:
    """A ciphertext under the ephemeral secret, under the dense one again (index 2N - 2 on the wire)."""
    b, x = ring.mod_down_pair(ring.switch(a[1], [key], [1])[0])
    return ring.add(a[0], b), x
