"""From one limb to many: the modulus raised under a sparse ephemeral secret (Bossuat-Troncoso-Hubaux 2022).

Raising the modulus of a ciphertext adds a multiple of q_0 to its message, as large as its secret is heavy. So a
ciphertext of one limb is first switched to a secret of 32 non-zero coefficients, which only ever exists modulo q_0 and
two small primes, and afterwards back to the dense one.
"""

from __future__ import annotations

from typing import Any

Poly = Any
Key = Any
Pair = tuple[Poly, Poly]


def raise_modulus(ring: Any, a: Pair, limbs: int) -> Pair:
    """(c_0, c_1) of one limb with ``limbs`` limbs: its message grows by an unknown multiple of q_0."""
    return ring.raise_modulus(a[0], limbs), ring.raise_modulus(a[1], limbs)


def raise_encapsulated(ring: Any, a: Pair, limbs: int, small: tuple[Any, Key], back: Key) -> Pair:
    """As :func:`raise_modulus`, with the small multiple of q_0 that the ephemeral secret makes of it.

    Args:
        ring: of ``a`` and of the result.
        a: a ciphertext of one limb.
        limbs: of the result.
        small: the Ring over q_0 with the auxiliary primes as special ones, and its key to the ephemeral secret
            (index 2N - 4 on the wire).
        back: the key back (2N - 2).
    """
    small_ring, key = small
    second = small_ring.adopt(a[1], ring)
    b, x = small_ring.mod_down_pair(small_ring.switch(second, [key], [1])[0])
    b, x = (ring.adopt(part, small_ring) for part in (b, x))
    c0, c1 = raise_modulus(ring, (ring.add(a[0], b), x), limbs)
    b, x = ring.mod_down_pair(ring.switch(c1, [back], [1])[0])
    return ring.add(c0, b), x
