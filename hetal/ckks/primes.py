"""Primes that split X^N + 1, and their roots of unity."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

# Miller-Rabin with these bases is exact below 3.3e24.
_WITNESSES: Final = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41)


def is_prime(n: int) -> bool:
    """Exact for 0 <= n < 3.3e24."""
    if n < 2 or any(n % base == 0 for base in _WITNESSES):
        return n in _WITNESSES
    twos = ((n - 1) & (1 - n)).bit_length() - 1
    for base in _WITNESSES:
        power = pow(base, (n - 1) >> twos, n)
        if power in (1, n - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % n
            if power == n - 1:
                break
        else:
            return False
    return True


def prime_above(start: int, step: int) -> int:
    """The first prime of start + step, start + 2 step, ..."""
    candidate = start + step
    while not is_prime(candidate):
        candidate += step
    return candidate


def prime_below(start: int, step: int) -> int:
    """The first prime of start - step, start - 2 step, ..., or 0 where there is none."""
    candidate = start - step
    while candidate > 0 and not is_prime(candidate):
        candidate -= step
    return max(candidate, 0)


@lru_cache(maxsize=512)
def least_root(prime: int, order: int) -> int:
    """The least primitive root of unity of that order, a power of two that divides prime - 1."""
    half = order // 2
    base = next(b for b in range(2, prime) if pow(b, (prime - 1) // 2, prime) == prime - 1)
    root = least = pow(base, (prime - 1) // order, prime)
    # All primitive roots are the odd powers of one; a root's negative is its power half + 1, so half of them do.
    square = root * root % prime
    for _ in range(half // 2):
        least = min(least, root, prime - root)
        root = root * square % prime
    return least
