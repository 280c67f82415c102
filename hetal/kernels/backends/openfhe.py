"""The reference backend: OpenFHE on the CPU.

Levels: a ciphertext with t limbs and noise scale degree d (1, or 2 while a rescaling is pending) is at level t - d. OpenFHE's
FLEXIBLEAUTO rescales as late as it can. Products with small integers and with monomials are free: the operand is
encoded so that its polynomial has coefficients k or 1 exactly, and the scale is then declared to be what it was.

``OMP_NUM_THREADS`` counts from the import of openfhe on; who starts the process sets it.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any, Final, TypeVar

import numpy as np
import openfhe

from hetal import limits
from hetal.ckks.framing import Kind
from hetal.ckks.objects import validate_ciphertext, validate_mult_key, validate_rotation_keys
from hetal.ckks.openfhe import build_context, conjugation_index, expected_objects, rotation_index
from hetal.ckks.parameters import Parameters
from hetal.errors import LevelError, MissingKeyError
from hetal.kernels.backends.plain import galois_powers
from hetal.kernels.evaluator import Ciphertext, Evaluator, Vector, level_model

T = TypeVar("T")
R = TypeVar("R")

# Below this ring dimension one operation is too small to share among threads, so whole ciphertexts are.
PARALLEL_RING_DIMENSION_MAX: Final = 1 << 13


class OpenFheEvaluator(Evaluator):
    """Evaluates under the keys of one key tag.

    Args:
        params: checked parameters.
        key_tag: of the client's key pair.
        threads: for :meth:`map` at small rings.
    """

    def __init__(self, params: Parameters, key_tag: str, threads: int = 1) -> None:
        super().__init__(level_model(params))
        self.params = params
        self.key_tag = key_tag
        self._context = build_context(params)
        self._encoder = build_context(params, complex_data=True)
        self._expected = expected_objects(params, key_tag)
        self._threads = threads if params.ring_dimension <= PARALLEL_RING_DIMENSION_MAX else 1
        self._plaintexts: OrderedDict[tuple[bytes, int], Any] = OrderedDict()
        self._lock = Lock()
        self._automorphisms: set[int] = set()
        self._keys: Any = None

    # -- keys ---------------------------------------------------------------------------------------------------------

    def load_key(self, kind: Kind, payload: bytes) -> None:
        """Take one payload of evaluation keys, checked byte by byte before OpenFHE sees it."""
        if kind is Kind.MULT_KEY:
            validate_mult_key(payload, self._expected)
            openfhe.DeserializeEvalMultKeyString(bytes(payload), openfhe.BINARY)
        elif kind is Kind.ROTATION_KEYS:
            self._automorphisms.update(validate_rotation_keys(payload, self._expected))
            openfhe.DeserializeEvalAutomorphismKeyString(bytes(payload), openfhe.BINARY)
        else:
            raise MissingKeyError(f"{kind.name} is no kind of evaluation key")

    def finish_keys(self, required_steps: Iterable[int]) -> None:
        """Check that the rotations a plan needs are there, and prepare the bootstrap.

        Raises:
            MissingKeyError: naming the rotations without a key.
        """
        missing = [s for s in required_steps if rotation_index(self.params, s) not in self._automorphisms]
        if missing:
            raise MissingKeyError(f"no key for rotation by {', '.join(map(str, missing[:8]))} slots")
        if conjugation_index(self.params) not in self._automorphisms:
            raise MissingKeyError("no key for the conjugation")
        self._keys = openfhe.CryptoContext.GetEvalAutomorphismKeyMap(self.key_tag)
        self._context.EvalBootstrapPrecompute(self.slots)

    def close(self) -> None:
        """Free this key tag's evaluation keys, which OpenFHE holds per process."""
        openfhe.CryptoContext.ClearEvalAutomorphismKeys(self.key_tag)
        openfhe.ClearEvalMultKeys(self.key_tag)

    # -- bytes --------------------------------------------------------------------------------------------------------

    def load(self, data: bytes) -> Ciphertext:
        """A ciphertext of the other side, checked before OpenFHE sees it."""
        validate_ciphertext(data, self._expected)
        return self._wrap(openfhe.DeserializeCiphertextString(bytes(data), openfhe.BINARY))

    def dump(self, ct: Ciphertext) -> bytes:
        """Serialised, with a pending rescaling done first, so that every object has the plain form of a fresh one."""
        return bytes(openfhe.Serialize(self._settled(ct.payload), openfhe.BINARY))

    def dump_result(self, ct: Ciphertext, level: int) -> bytes:
        """Serialised at ``level``: what the key owner only decrypts needs no more limbs."""
        return bytes(openfhe.Serialize(self._context.Compress(ct.payload, level + 1), openfhe.BINARY))

    def _wrap(self, payload: Any) -> Ciphertext:
        return Ciphertext(payload, self.model.top_level - payload.GetLevel() - (payload.GetNoiseScaleDeg() - 1))

    def _settled(self, payload: Any) -> Any:
        """With noise scale degree 1. OpenFHE's Rescale is empty in the automatic modes; Compress rescales."""
        if payload.GetNoiseScaleDeg() == 1:
            return payload
        towers = self.model.top_level + 1 - payload.GetLevel()
        return self._context.Compress(payload, towers - 1)

    # -- operations ---------------------------------------------------------------------------------------------------

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
        if self._threads <= 1 or len(items) <= 1:
            return super().map(function, items)
        with ThreadPoolExecutor(self._threads) as pool:
            return list(pool.map(function, items))

    def _add(self, a: Ciphertext, b: Ciphertext) -> Any:
        return self._context.EvalAdd(a.payload, b.payload)

    def _sub(self, a: Ciphertext, b: Ciphertext) -> Any:
        return self._context.EvalSub(a.payload, b.payload)

    def _negate(self, a: Ciphertext) -> Any:
        return self._context.EvalNegate(a.payload)

    def _add_plain(self, a: Ciphertext, vector: Vector) -> Any:
        payload = self._settled(a.payload)
        return self._context.EvalAdd(payload, self._encode(vector, payload.GetLevel()))

    def _add_scalar(self, a: Ciphertext, value: float) -> Any:
        return self._context.EvalAdd(a.payload, value)

    def _mul_integer(self, a: Ciphertext, factor: int) -> Any:
        payload = self._settled(a.payload)
        unit = 1.0 / self._scale(payload.GetLevel())
        return self._keep_scale(self._context.EvalMult(payload, factor * unit), payload)

    def _mul_monomial(self, a: Ciphertext, exponent: int) -> Any:
        payload = self._settled(a.payload)
        level = payload.GetLevel()
        angles = (galois_powers(self.slots) * exponent) % (4 * self.slots)
        values = np.exp(1j * np.pi * angles / (2 * self.slots)) / self._scale(level)
        return self._keep_scale(self._context.EvalMult(payload, self._encode(values, level)), payload)

    def _drop(self, a: Ciphertext, level: int) -> Any:
        # A multiplication by the ratio of scales ends exactly at the scale that OpenFHE assumes at the lower level.
        payload = self._context.Compress(a.payload, level + 2)
        scale = self._scale(payload.GetLevel())
        product = self._context.EvalMult(payload, scale / payload.GetScalingFactor())
        product.SetScalingFactor(scale * scale)
        return product

    def _mul_no_relin(self, a: Ciphertext, b: Ciphertext) -> Any:
        return self._context.EvalMultNoRelin(a.payload, b.payload)

    def _relinearize(self, a: Ciphertext) -> Any:
        return self._context.Relinearize(a.payload)

    def _mul_plain(self, a: Ciphertext, vector: Vector) -> Any:
        payload = self._settled(a.payload)
        return self._context.EvalMult(payload, self._encode(vector, payload.GetLevel()))

    def _mul_scalar(self, a: Ciphertext, value: float) -> Any:
        return self._context.EvalMult(a.payload, value)

    def _rotate(self, a: Ciphertext, steps: int) -> Any:
        return self._context.EvalRotate(a.payload, steps)

    def _rotate_many(self, a: Ciphertext, steps: Sequence[int]) -> list[Any]:
        if not steps:
            return []
        digits = self._context.EvalFastRotationPrecompute(a.payload)
        order = 2 * self.params.ring_dimension
        return [self._context.EvalFastRotation(a.payload, s, order, digits) for s in steps]

    def _conjugate(self, a: Ciphertext) -> Any:
        return self._context.EvalAutomorphism(a.payload, conjugation_index(self.params), self._keys)

    def _bootstrap(self, a: Ciphertext) -> Any:
        refreshed = self._context.EvalBootstrap(a.payload)
        level = self._wrap(refreshed).level
        # With too few levels OpenFHE hands back its input without a word.
        if level != self.model.bootstrap_output_level:
            raise LevelError(f"the bootstrap left level {level}, not {self.model.bootstrap_output_level}")
        return refreshed

    # -- plaintexts ---------------------------------------------------------------------------------------------------

    def _scale(self, openfhe_level: int) -> float:
        return float(self._context.GetScalingFactorReal(openfhe_level))

    @staticmethod
    def _keep_scale(product: Any, operand: Any) -> Any:
        product.SetScalingFactor(operand.GetScalingFactor())
        product.SetNoiseScaleDeg(operand.GetNoiseScaleDeg())
        return product

    def _encode(self, vector: Vector, openfhe_level: int) -> Any:
        key = (hashlib.blake2b(np.ascontiguousarray(vector).tobytes(), digest_size=16).digest(), openfhe_level)
        with self._lock:
            if key in self._plaintexts:
                self._plaintexts.move_to_end(key)
                return self._plaintexts[key]
        encoded = self._encoder.MakeCKKSPackedPlaintext(np.ascontiguousarray(vector), 1, openfhe_level)
        with self._lock:
            self._plaintexts[key] = encoded
            while len(self._plaintexts) > limits.PLAINTEXT_CACHE_ENTRIES:
                self._plaintexts.popitem(last=False)
        return encoded
