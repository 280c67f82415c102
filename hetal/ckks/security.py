"""Our own security check of a CKKS modulus chain.

Two bounds on log2(QP) apply. The ternary bound is the table of the 2024 security guidelines for fully homomorphic
encryption (Bossuat et al., eprint 2024/463; classical attacks, 128 bits). The sparse bound is for main secrets of
Hamming weight 192, the weight OpenFHE draws for ``SPARSE_ENCAPSULATED``; OpenFHE's own check applies the ternary table
there, which does not cover it, so we keep to log2(QP) <= 1555 at N = 2^16 as HEaaN, HETAL and Lattigo do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

TERNARY_LOG_QP_BITS_MAX: Final = {13: 214, 14: 430, 15: 868, 16: 1747, 17: 3523}
SPARSE_192_LOG_QP_BITS_MAX: Final = {16: 1555}


@dataclass(frozen=True, slots=True)
class SecurityReport:
    """Verdict of the check: ``bits`` is 128 when every applicable bound holds, 0 otherwise."""

    log_qp_bits: int
    ternary_bound_bits: int | None
    sparse_bound_bits: int | None
    bits: int

    @property
    def margin_bits(self) -> int | None:
        """Distance of log2(QP) to the tightest applicable bound; negative when the set is insecure."""
        bounds = [b for b in (self.ternary_bound_bits, self.sparse_bound_bits) if b is not None]
        return min(bounds) - self.log_qp_bits if bounds else None


def assess(*, log2_ring_dimension: int, log_qp_bits: int, sparse_secret: bool) -> SecurityReport:
    """Compare log2(QP) with the ternary bound and, for a weight-192 secret, with the sparse bound.

    A ring dimension without an entry in a table that applies counts as insecure: no bound is extrapolated.
    """
    ternary = TERNARY_LOG_QP_BITS_MAX.get(log2_ring_dimension)
    sparse = SPARSE_192_LOG_QP_BITS_MAX.get(log2_ring_dimension) if sparse_secret else None
    applicable = [ternary] + ([sparse] if sparse_secret else [])
    secure = all(bound is not None and log_qp_bits <= bound for bound in applicable)
    return SecurityReport(log_qp_bits, ternary, sparse, 128 if secure else 0)
