"""OpenFHE contexts from checked parameters. Nothing that the other side sent is ever deserialised as a context."""

from __future__ import annotations

from functools import lru_cache
from threading import Lock
from typing import Any, Final

from hetal.ckks.chain import chain_of
from hetal.ckks.heads import context_head
from hetal.ckks.parameters import Parameters
from hetal.errors import BackendError, ParameterError

try:
    import openfhe
except ImportError as error:
    raise BackendError(f"the OpenFHE wheel does not import: {error}") from error


# OpenFHE hands out one context for equal parameters: two threads would set it up at the same time.
_BUILDING: Final = Lock()


def build_context(params: Parameters, *, complex_data: bool = False) -> Any:
    """The crypto context of a parameter set, the same in every process, ready for keys and bootstrapping.

    Bootstrapping is set up without its precomputation, which only an evaluating process needs
    (``EvalBootstrapPrecompute``).
    OpenFHE drops the imaginary part of a plaintext in a context for real data, and bootstraps slower in one for complex
    data; so ``complex_data`` gives a twin with the same moduli that only encodes.

    Raises:
        ParameterError: OpenFHE refuses the set, or makes another context of it than :func:`chain_of` says.
    """
    with _BUILDING:
        return _context(params, complex_data)


@lru_cache(maxsize=8)
def _context(params: Parameters, complex_data: bool) -> Any:
    spec = params.spec
    p = _settings(params, spec.levels, spec.digits)
    levels = openfhe.SecurityLevel
    p.SetSecurityLevel(levels.HEStd_128_classic if params.secure else levels.HEStd_NotSet)
    if complex_data:
        p.SetCKKSDataType(openfhe.CKKSDataType.COMPLEX)
    try:
        context = openfhe.GenCryptoContext(p)
    except RuntimeError as error:
        raise ParameterError(f"OpenFHE refuses parameter set {params.name!r}: {error}") from error
    _enable(context)
    if not complex_data:
        set_up_bootstrap(context, params)
        # Security was assessed for this chain, and the other side expects these bytes in every object.
        if openfhe.Serialize(context, openfhe.BINARY) != context_head(params, chain_of(params)).data:
            raise ParameterError(f"OpenFHE makes another context of parameter set {params.name!r} than 1.6 does")
    return context


def set_up_bootstrap(context: Any, params: Parameters, giant_steps: tuple[int, int] | None = None) -> None:
    """StC-first bootstrap of all slots, without its precomputation. ``giant_steps`` overrides the spec's."""
    spec = params.spec
    context.ClearBootstrapPrecom()
    context.EvalBootstrapSetup(
        list(spec.level_budget),
        list(giant_steps or spec.giant_steps),
        params.slots,
        spec.correction_factor,
        False,
        True,
    )


@lru_cache(maxsize=16)
def bootstrap_indices(params: Parameters, giant_steps: tuple[int, int]) -> tuple[int, ...]:
    """Automorphisms for which a bootstrap needs keys, learnt from throw-away keys under a chain of three primes."""
    p = _settings(params, levels=2, digits=1)
    p.SetSecurityLevel(openfhe.SecurityLevel.HEStd_NotSet)
    context = openfhe.GenCryptoContext(p)
    _enable(context)
    set_up_bootstrap(context, params, giant_steps)
    secret = context.KeyGen().secretKey
    context.EvalBootstrapKeyGen(secret, params.slots)
    indices = tuple(sorted(context.GetExistingEvalAutomorphismKeyIndices(secret.GetKeyTag())))
    openfhe.CryptoContext.ClearEvalAutomorphismKeys()
    return indices


def _enable(context: Any) -> None:
    for feature in ("PKE", "KEYSWITCH", "LEVELEDSHE", "ADVANCEDSHE", "FHE"):
        context.Enable(getattr(openfhe, feature))


def _settings(params: Parameters, levels: int, digits: int) -> Any:
    spec = params.spec
    p = openfhe.CCParamsCKKSRNS()
    p.SetRingDim(params.ring_dimension)
    p.SetMultiplicativeDepth(levels)
    p.SetScalingModSize(spec.scale_bits)
    p.SetFirstModSize(spec.first_modulus_bits)
    p.SetNumLargeDigits(digits)
    p.SetScalingTechnique(openfhe.ScalingTechnique.FLEXIBLEAUTO)
    p.SetKeySwitchTechnique(openfhe.KeySwitchTechnique.HYBRID)
    secrets = openfhe.SecretKeyDist
    sparse = spec.secret == "sparse_encapsulated"
    p.SetSecretKeyDist(secrets.SPARSE_ENCAPSULATED if sparse else secrets.UNIFORM_TERNARY)
    return p


def conjugation_index(params: Parameters) -> int:
    """Automorphism X -> X^(2N-1)."""
    return 2 * params.ring_dimension - 1


def rotation_index(params: Parameters, steps: int) -> int:
    """Automorphism X -> X^(5^steps) of a rotation by ``steps`` slots."""
    return pow(5, steps % params.slots, 2 * params.ring_dimension)
