"""The compiled engine: arithmetic on polynomials modulo X^N + 1 in residue number systems.

Residues are held in evaluation form, in OpenFHE's order: position i of a limb holds the value at
psi^(2*bitrev(i)+1), where psi is the modulus' root. How a residue is stored (a centred double below 2^50, a 64-bit
integer above) is the engine's own business; what goes in and out are integers in [0, modulus).

Every operation releases the GIL, runs on ``Ring.threads`` threads and returns new polynomials; its operands stay as
they are. Limb counts: a polynomial has ``q_limbs`` limbs modulo the first primes of Q, then ``p_limbs`` limbs modulo
the first primes of P. Operands of unequal shape raise ValueError, unless a method says more.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

class Poly:
    """One polynomial. ``run`` consecutive words of a limb are equal and stored once; 1 but for compact plaintexts."""

    @property
    def q_limbs(self) -> int: ...
    @property
    def p_limbs(self) -> int: ...
    @property
    def run(self) -> int: ...
    @property
    def nbytes(self) -> int: ...

class Key:
    """A key-switching key: per digit a pair (b, a) over the first ``q_limbs`` primes of Q and ``p_limbs`` of P."""

    @property
    def q_limbs(self) -> int: ...
    @property
    def p_limbs(self) -> int: ...
    @property
    def digits(self) -> int: ...
    @property
    def nbytes(self) -> int: ...

class Ring:
    """The polynomial ring of one chain of moduli, with its tables.

    Args:
        log2_dimension: of N; 10 to 17.
        q: (modulus, root) of the primes of Q; root is a primitive 2N-th root of unity.
        p: (modulus, root) of the special primes. P must exceed the largest digit by about 2^12.
        wire_p: (modulus, root) of the special primes under which keys arrive, where they are others than p; keys are
            then switched from modulus Q*wire_P to Q*P as they are loaded (a public operation: round(P/wire_P * key)).
        digit_limbs: primes of Q in one digit of hybrid key switching.
        threads: of each operation.
        variant: "auto", or the name of an instruction set of :func:`variants`; or "emulated": the kernels that a GPU
            runs, lane by lane, for tests.
    """

    def __init__(
        self,
        log2_dimension: int,
        q: Sequence[tuple[int, int]],
        p: Sequence[tuple[int, int]],
        wire_p: Sequence[tuple[int, int]],
        digit_limbs: int,
        threads: int = 1,
        variant: str = "auto",
    ) -> None: ...
    @property
    def dimension(self) -> int: ...
    @property
    def threads(self) -> int: ...
    @property
    def variant(self) -> str: ...
    @property
    def pool_bytes(self) -> int:
        """Memory held for limbs, in use or free for reuse."""

    # -- in and out ---------------------------------------------------------------------------------------------------

    def zeros(self, q_limbs: int, p_limbs: int = 0) -> Poly: ...
    def from_residues(self, residues: NDArray[np.uint64], p_limbs: int = 0) -> Poly:
        """From an array (q_limbs + p_limbs, N) of evaluation-form residues. ValueError where one is not below its
        modulus."""
    def residues(self, a: Poly) -> NDArray[np.uint64]:
        """The inverse of :meth:`from_residues`."""
    def from_coefficients(self, coefficients: NDArray[np.float64], q_limbs: int, p_limbs: int = 0) -> Poly:
        """The polynomial with these integer coefficients (magnitudes below 2^62), in evaluation form.

        With fewer than N coefficients (a power of two n >= 64) the polynomial is sum c_k X^(k*N/n), and is stored
        compactly (``run`` = N/n).
        """
    def read(self, data: bytes | bytearray | memoryview, offsets: Sequence[int], q_limbs: int) -> Poly:
        """Limbs of N little-endian 64-bit residues each, at these byte offsets of ``data``. ValueError where one is out
        of bounds or a residue is not below its modulus."""
    def write(self, a: Poly, out: bytearray | memoryview, offsets: Sequence[int]) -> None:
        """The inverse of :meth:`read`: into a writable buffer."""
    def read_key(
        self,
        data: bytes | bytearray | memoryview,
        offsets: Sequence[Sequence[Sequence[int]]],
        q_limbs: int,
        p_limbs: int,
    ) -> Key:
        """A key from wire bytes.

        Args:
            data: the serialised key.
            offsets: [half][digit][limb]: where each limb of N words lies; half 0 is b, half 1 is a; limbs are those of
                all of Q, then of wire_p (of p where wire_p is empty).
            q_limbs: how many limbs of Q to keep: the key then serves polynomials of up to that many limbs. Digits that
                such polynomials do not have are dropped.
            p_limbs: how many special primes the kept key has (the first ones); where fewer than len(p), the key is
                switched to that smaller P. All of wire_p's limbs are read.
        """

    # -- limb by limb -------------------------------------------------------------------------------------------------

    def add(self, a: Poly, b: Poly) -> Poly: ...
    def subtract(self, a: Poly, b: Poly) -> Poly: ...
    def negate(self, a: Poly) -> Poly: ...
    def multiply(self, a: Poly, b: Poly) -> Poly:
        """The product; b may be compact, and may have more limbs than a (the first q_limbs and p_limbs count)."""
    def dot(self, a: Sequence[Poly], b: Sequence[Poly]) -> Poly:
        """sum a[i] * b[i], reduced once. As :meth:`multiply` for each pair. At most 64 terms."""
    def tensor(self, a: tuple[Poly, Poly], b: tuple[Poly, Poly]) -> tuple[Poly, Poly, Poly]:
        """(a0 b0, a0 b1 + a1 b0, a1 b1)."""
    def multiply_constants(self, a: Poly, constants: Sequence[int]) -> Poly:
        """Limb i times constants[i] in [0, modulus): q limbs first, then p limbs."""
    def add_constants(self, a: Poly, constants: Sequence[int]) -> Poly:
        """Adds the constant polynomial with these residues."""
    def multiply_monomial(self, a: Poly, exponent: int) -> Poly:
        """a * X^exponent, 0 <= exponent < 2N."""
    def automorphism(self, a: Poly, index: int) -> Poly:
        """a(X^index), index odd."""
    def truncate(self, a: Poly, q_limbs: int) -> Poly:
        """The first q_limbs limbs modulo Q and none modulo P. Shares memory with a."""
    def extend(self, a: Poly, p_limbs: int) -> Poly:
        """P_k * a modulo Q and P_k, where P_k is the product of the first p_limbs special primes; a.p_limbs must be
        0."""

    def adopt(self, a: Poly, source: Ring) -> Poly:
        """A polynomial of one limb of another ring, of the same dimension and first prime of Q. Shares memory."""

    # -- between bases ------------------------------------------------------------------------------------------------

    def rescale(self, a: Poly) -> Poly:
        """round(a / q_last): one limb of Q less. a.p_limbs must be 0."""
    def mod_down(self, a: Poly, drop: int = 0) -> Poly:
        """round(a / (P_k * the product of the last ``drop`` primes)), with a.p_limbs = k >= 1 and drop 0 or 1; the
        result has a.q_limbs - drop limbs and no special ones. Exact rounding, up to 1 unit in a few coefficients."""
    def mod_down_pair(self, pair: tuple[Poly, Poly], drop: int = 0) -> tuple[Poly, Poly]:
        """:meth:`mod_down` of both, sharing the threads better than one after the other."""
    def raise_modulus(self, a: Poly, q_limbs: int) -> Poly:
        """The centred representative modulo q_0 of a polynomial of one limb, modulo q_limbs primes."""
    def switch(
        self,
        a: Poly,
        keys: Sequence[Key],
        indices: Sequence[int],
        before: tuple[Poly | None, Poly | None] | None = None,
        after: Sequence[tuple[Poly, Poly]] | None = None,
    ) -> list[tuple[Poly, Poly]]:
        """Key-switch ``a`` with each key, decomposed once (hoisting), then apply the automorphism ``indices[i]`` (1 for
        none) to both parts.

        The results are over Q and P (p_limbs = the keys'), P times the switched value: (b, a) with
        b + a*s_new = P * a * s_old + noise; :meth:`mod_down` finishes. All keys have the same p_limbs and at least
        a.q_limbs limbs.

        ``before`` is added to both parts before the automorphism: polynomials over Q and P, or over Q alone, for P
        times which they stand. ``after[i]``, over Q and P, is added to the pair ``i`` after it.
        """
    def transform(
        self, parts: Sequence[tuple[Poly, Poly]], diagonals: Sequence[Sequence[Poly | None]]
    ) -> list[tuple[Poly, Poly]]:
        """For each row g of diagonals: (sum_b parts[b][0] * d[g][b], sum_b parts[b][1] * d[g][b]), skipping None. At
        most 64 terms a row; parts are read once for all rows."""

def variants() -> list[str]:
    """Instruction sets that this processor can run, best first: "avx512", "avx2", "portable"."""

def set_sequential(on: bool) -> None:
    """Whether the calling thread does all work of its operations alone, on rings of any number of threads: for threads
    that each have a ciphertext of their own."""

def forward_ntt(ring: Ring, coefficients: NDArray[np.uint64], limb: int) -> NDArray[np.uint64]:
    """One limb from coefficients to evaluation form (limb counts Q, then P): for tests and benchmarks."""

def inverse_ntt(ring: Ring, values: NDArray[np.uint64], limb: int) -> NDArray[np.uint64]: ...
def measure(ring: Ring, threads: int = 1, rounds: int = 21) -> dict[str, float]:
    """Median seconds of single limb kernels ("forward", "inverse", "multiply", "convert_pair", "inner_product_term")
    with every thread at work on limbs of its own, and the machine's limits as rates: "peak" (double-precision
    multiply-adds and additions a second) and "read" (bytes a second from memory). The first modulus must be below
    2^50."""
