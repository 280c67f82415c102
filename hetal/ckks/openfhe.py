"""OpenFHE contexts from checked parameters. Nothing that the other side sent is ever deserialised as a context."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

from hetal.ckks.objects import Expected
from hetal.ckks.parameters import Parameters, special_primes
from hetal.errors import BackendError, ParameterError

try:
    import openfhe
except ImportError as error:
    raise BackendError(f"the OpenFHE wheel does not import: {error}") from error


@lru_cache(maxsize=8)
def build_context(params: Parameters, *, complex_data: bool = False) -> Any:
    """The crypto context of a parameter set, the same in every process, ready for keys and bootstrapping.

    Bootstrapping is set up without its precomputation, which only an evaluating process needs
    (``EvalBootstrapPrecompute``).
    OpenFHE drops the imaginary part of a plaintext in a context for real data, and bootstraps slower in one for complex
    data; so ``complex_data`` gives a twin with the same moduli that only encodes.

    Raises:
        ParameterError: OpenFHE made another chain than the spec says.
    """
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
    if context.GetRingDimension() != params.ring_dimension or context.GetMultiplicativeDepth() != spec.levels:
        raise ParameterError(f"OpenFHE chose another ring or depth than parameter set {params.name!r} says")
    if not complex_data:
        set_up_bootstrap(context, params)
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


def expected_objects(params: Parameters, key_tag: str) -> Expected:
    """What every object of a job must look like, learnt from throw-away objects of our own context."""
    return _reference(params).for_key(key_tag)


@lru_cache(maxsize=8)
def _reference(params: Parameters) -> Expected:
    context = build_context(params)
    keys = context.KeyGen()
    plain = context.MakeCKKSPackedPlaintext([0.0], 1, 0)
    ciphertext = openfhe.Serialize(context.Encrypt(keys.publicKey, plain), openfhe.BINARY)
    tag = keys.secretKey.GetKeyTag()
    context.EvalMultKeyGen(keys.secretKey)
    context.EvalRotateKeyGen(keys.secretKey, [1, 2])
    mult_key = openfhe.SerializeEvalMultKeyString(openfhe.BINARY, tag)
    rotation_keys = openfhe.SerializeEvalAutomorphismKeyString(openfhe.BINARY, tag)
    # OpenFHE can only clear the keys of all tags, so references are made before a job's keys are loaded.
    openfhe.ClearEvalMultKeys()
    openfhe.CryptoContext.ClearEvalAutomorphismKeys()
    scales = [float(context.GetScalingFactorReal(level)) for level in range(params.top_level + 1)]
    reference = Expected.from_references(ciphertext, mult_key, rotation_keys, tag, scales)
    _check_chain(params, reference)
    return reference


def _check_chain(params: Parameters, reference: Expected) -> None:
    """Our security check counts bits by the spec; OpenFHE's real chain must be that one."""
    spec = params.spec
    moduli, special = reference.moduli, reference.special_moduli
    due = {
        "ring dimension": (reference.ring_dimension, params.ring_dimension),
        "digits": (reference.digits, spec.digits),
        "prime sizes": (
            [round(math.log2(q)) for q in moduli],
            [spec.first_modulus_bits] + [spec.scale_bits] * spec.levels,
        ),
        "special primes": (len(special), special_primes(spec)),
        "log2 QP": (max(params.log_qp_bits, round(sum(math.log2(q) for q in (*moduli, *special)))), params.log_qp_bits),
    }
    for what, (found, wanted) in due.items():
        if found != wanted:
            raise ParameterError(f"OpenFHE's chain for {params.name!r}: {what} is {found}, the spec says {wanted}")
