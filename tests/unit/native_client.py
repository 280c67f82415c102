"""A key owner in NumPy, on any engine: what the tests of the native scheme encrypt and decrypt with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hetal.ckks.chain import Chain, chain_of, engine_prime_count, engine_primes
from hetal.ckks.parameters import Parameters, ParameterSpec, check
from hetal.native.encoding import decode, encode
from hetal.native.scheme import Ct, Scheme

SPARSE_WEIGHT = 32
NOISE_DEVIATION = 3.19


def small_parameters(**changes: Any) -> Parameters:
    """An insecure set like the default preset, at N = 2^10."""
    spec: dict[str, Any] = {
        "name": "small",
        "log2_ring_dimension": 10,
        "scale_bits": 45,
        "first_modulus_bits": 49,
        "levels": 22,
        "digits": 3,
        "level_budget": (2, 2),
        "giant_steps": (8, 8),
        "correction_factor": 9,
    }
    return check(ParameterSpec(**{**spec, **changes}))


class Client:
    """A secret key, and a scheme with its evaluation keys.

    Args:
        engine: module with a ``Ring``.
        params: of the chain.
    """

    def __init__(self, engine: Any, params: Parameters, seed: int = 0, threads: int = 1) -> None:
        self.engine = engine
        self.params = params
        self.rng = np.random.default_rng(seed)
        self.chain: Chain = chain_of(params)
        self.q = [m for m, _ in self.chain.q]
        special = engine_primes(params)
        self.p = [m for m, _ in special]
        self.size = params.ring_dimension
        log2 = params.spec.log2_ring_dimension
        self.ring = engine.Ring(log2, list(self.chain.q), list(special), [], self.chain.digit_limbs, threads)
        self.scheme = Scheme(self.ring, self.chain)
        self.secret = self.rng.integers(-1, 2, self.size).astype(float)
        self.ephemeral = np.zeros(self.size)
        places = self.rng.choice(self.size, SPARSE_WEIGHT, replace=False)
        self.ephemeral[places] = self.rng.choice([-1.0, 1.0], SPARSE_WEIGHT)

    # -- keys ---------------------------------------------------------------------------------------------------------

    def make_keys(self, indices: Iterable[int], low_limbs: int = 0) -> None:
        """The relinearisation key, and keys by automorphism index, those of the encapsulation included.

        With ``low_limbs``, rotations also have keys for polynomials of that many limbs only.
        """
        scheme, ring, order = self.scheme, self.ring, 2 * self.size
        secret = ring.from_coefficients(self.secret, len(self.q), len(self.p))
        scheme.relinearization = self._key(ring.multiply(secret, secret), secret)
        for index in indices:
            if index == order - 4:
                scheme.encapsulation = self._key_to_ephemeral()
            elif index == order - 2:
                old = ring.from_coefficients(self.ephemeral, len(self.q), len(self.p))
                scheme.automorphisms[index] = self._key(old, secret)
            else:
                new = ring.automorphism(secret, pow(index, -1, order))
                scheme.automorphisms[index] = self._key(secret, new)
                if low_limbs and index != order - 1:
                    scheme.reduced[index] = [self._read(*self._last, low_limbs)]

    def _key_to_ephemeral(self) -> tuple[Any, Any]:
        first, *auxiliary = self.chain.encapsulation
        ring = self.engine.Ring(self.params.spec.log2_ring_dimension, [first], auxiliary, [], 1)
        old, new = (ring.from_coefficients(s, 1, len(auxiliary)) for s in (self.secret, self.ephemeral))
        return ring, self._key(old, new, ring, [first[0]], [m for m, _ in auxiliary], 1)

    def _key(
        self,
        old: Any,
        new: Any,
        ring: Any = None,
        q: Sequence[int] = (),
        p: Sequence[int] = (),
        digit_limbs: int = 0,
    ) -> Any:
        """Digit j: b = -a s_new + e + P s_old on the limbs of digit j. Over the main chain by default."""
        ring, q, p = ring or self.ring, q or self.q, p or self.p
        digit_limbs = digit_limbs or self.chain.digit_limbs
        words, offsets, at = [], ([], []), 0
        for start in range(0, len(q), digit_limbs):
            a = self._uniform(ring, [*q, *p], len(p))
            noise = ring.from_coefficients(self._noise(), len(q), len(p))
            own = [math.prod(p) % m if start <= i < start + digit_limbs else 0 for i, m in enumerate(q)]
            b = ring.subtract(noise, ring.multiply(a, new))
            b = ring.add(b, ring.multiply_constants(old, [*own, *([0] * len(p))]))
            for half, poly in enumerate((b, a)):
                words.append(ring.residues(poly).tobytes())
                offsets[half].append([at + 8 * self.size * i for i in range(len(q) + len(p))])
                at += len(words[-1])
        self._last = b"".join(words), offsets
        return ring.read_key(*self._last, len(q), len(p))

    def _read(self, data: bytes, offsets: Any, limbs: int) -> Any:
        return self.ring.read_key(data, offsets, limbs, engine_prime_count(self.params, limbs))

    def _uniform(self, ring: Any, moduli: Sequence[int], p_limbs: int) -> Any:
        rows = [self.rng.integers(0, m, self.size, dtype=np.uint64) for m in moduli]
        return ring.from_residues(np.stack(rows), p_limbs)

    def _noise(self) -> NDArray[np.float64]:
        return np.rint(self.rng.normal(0.0, NOISE_DEVIATION, self.size))

    # -- data ---------------------------------------------------------------------------------------------------------

    def encrypt(self, slots: NDArray[Any], level: int) -> Ct:
        scale = self.scheme.canonical_scale(level + 1)
        return Ct(self.encrypt_coefficients(encode(slots, scale), level + 1), scale)

    def encrypt_coefficients(self, coefficients: NDArray[np.float64], limbs: int) -> tuple[Any, Any]:
        """(c_0, c_1) with c_0 + c_1 s = the polynomial + noise."""
        ring = self.ring
        a = self._uniform(ring, self.q[:limbs], 0)
        message = ring.from_coefficients(coefficients + self._noise(), limbs)
        return ring.subtract(message, ring.multiply(a, ring.from_coefficients(self.secret, limbs))), a

    def decrypt(self, a: Ct) -> NDArray[np.complex128]:
        return decode(self.coefficients(a.parts), a.scale)

    def coefficients(self, parts: Sequence[Any], secret: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """c_0 + c_1 s, from the first two limbs: magnitudes up to q_0 q_1 / 2."""
        ring = self.ring
        limbs = min(2, parts[0].q_limbs)
        key = ring.from_coefficients(self.secret if secret is None else secret, limbs)
        product = ring.multiply(ring.truncate(parts[1], limbs), key)
        residues = ring.residues(ring.add(ring.truncate(parts[0], limbs), product))
        rows = [self.engine.inverse_ntt(ring, residues[i], i) for i in range(limbs)]
        values = [int(c) for c in rows[0]]
        if limbs == 2:
            first, second = self.q[:2]
            inverse = pow(first, -1, second)
            values = [x + first * ((int(y) - x) * inverse % second) for x, y in zip(values, rows[1], strict=True)]
        modulus = math.prod(self.q[:limbs])
        return np.array([float(v - modulus if 2 * v > modulus else v) for v in values])
