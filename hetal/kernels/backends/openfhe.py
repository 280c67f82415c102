"""The reference backend: OpenFHE on the CPU.

Levels: a ciphertext with t limbs and noise scale degree d (1, or 2 while a rescaling is pending) is at level t - d.
OpenFHE's FLEXIBLEAUTO rescales as late as it can. Products with small integers and with monomials are free: the
operand is encoded so that its polynomial has coefficients k or 1 exactly, and the scale is then declared to be what it
was.

OpenFHE holds evaluation keys and the bootstrap's precomputation per process, and clears them for all key tags at
once: a process has one open evaluator. ``OMP_NUM_THREADS`` counts from the import of openfhe on; who starts the
process sets it, to 1 where ``threads`` is more than 1.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock, local
from typing import Any, TypeVar

import numpy as np
import openfhe

from hetal import limits
from hetal.ckks.framing import Kind
from hetal.ckks.objects import expected_for, validate_ciphertext, validate_mult_key, validate_rotation_keys
from hetal.ckks.openfhe import (
    bootstrap_indices,
    build_context,
    conjugation_index,
    rotation_index,
    set_up_bootstrap,
)
from hetal.ckks.parameters import PARALLEL_RING_DIMENSION_MAX, Parameters
from hetal.errors import BackendError, CiphertextFormatError, FrameError, LevelError, MissingKeyError
from hetal.kernels.backends.plain import galois_powers
from hetal.kernels.evaluator import Ciphertext, Evaluator, Vector, level_model

T = TypeVar("T")
R = TypeVar("R")


class Cell:
    """Payload of a :class:`Ciphertext`. A pending rescaling is done in place, so that several products do it once."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class OpenFheEvaluator(Evaluator):
    """Evaluates under the keys of one key tag.

    Args:
        params: checked parameters.
        key_tag: of the client's key pair.
        threads: for :meth:`map` at rings up to ``PARALLEL_RING_DIMENSION_MAX``; larger rings are left to OpenMP.
    """

    def __init__(self, params: Parameters, key_tag: str, threads: int = 1) -> None:
        super().__init__(level_model(params))
        self.params = params
        self.key_tag = key_tag
        self._context = build_context(params)
        self._encoder = build_context(params, complex_data=True)
        self._expected = expected_for(params, key_tag)
        self._threads = threads if params.ring_dimension <= PARALLEL_RING_DIMENSION_MAX else 1
        # Learning which keys a bootstrap needs clears OpenFHE's key tables, so it comes before any key is loaded.
        self._bootstrap_automorphisms = bootstrap_indices(params, params.spec.giant_steps)
        self._plaintexts: OrderedDict[tuple[bytes, int], Any] = OrderedDict()
        self._plaintext_entries_max = min(
            limits.PLAINTEXT_CACHE_ENTRIES,
            max(1, limits.PLAINTEXT_CACHE_BYTES // (params.limb_bytes() * (params.bootstrap_output_level + 2))),
        )
        self._lock = Lock()
        self._in_map = local()
        self._has_mult_key = False
        self._automorphisms: set[int] = set()
        self._keys: Any = None

    # -- keys ---------------------------------------------------------------------------------------------------------

    def load_key(self, kind: Kind, payload: bytes | memoryview, levels: Mapping[int, int] | None = None) -> None:
        """Take one payload of evaluation keys, checked byte by byte before OpenFHE sees it.

        Args:
            levels: the highest level at which each rotation is made, for backends that can keep smaller keys. OpenFHE
                keeps them whole.

        Raises:
            IntegrityError: the bytes are no evaluation keys of this job, or hold a key that is loaded already.
        """
        try:
            if kind is Kind.MULT_KEY:
                validate_mult_key(payload, self._expected)
                openfhe.DeserializeEvalMultKeyString(bytes(payload), openfhe.BINARY)
                self._has_mult_key = True
            elif kind is Kind.ROTATION_KEYS:
                indices = validate_rotation_keys(payload, self._expected)
                openfhe.DeserializeEvalAutomorphismKeyString(bytes(payload), openfhe.BINARY)
                self._automorphisms.update(indices)
            else:
                raise FrameError(f"{kind.name} is no kind of evaluation key")
        except RuntimeError as error:
            raise CiphertextFormatError(f"OpenFHE refuses an evaluation key: {error}") from error

    def finish_keys(self, required_steps: Iterable[int]) -> None:
        """Check that all keys that a plan needs are there, and prepare the bootstrap (seconds, gigabytes at large
        rings).

        Args:
            required_steps: slots by which the plan rotates.

        Raises:
            MissingKeyError: naming the keys that are missing.
        """
        if not self._has_mult_key:
            raise MissingKeyError("no relinearisation key")
        missing = [s for s in required_steps if s % self.slots and not self._has_rotation(s)]
        if missing:
            raise MissingKeyError(f"no key for rotation by {', '.join(map(str, missing[:8]))} slots")
        needed = {*self._bootstrap_automorphisms, conjugation_index(self.params)}
        absent = sorted(needed - self._automorphisms)
        if absent:
            raise MissingKeyError(f"no key for the bootstrap's automorphisms {', '.join(map(str, absent[:8]))}")
        self._keys = openfhe.CryptoContext.GetEvalAutomorphismKeyMap(self.key_tag)
        self._context.EvalBootstrapPrecompute(self.slots)

    def close(self) -> None:
        """Free the process's evaluation keys and the bootstrap's precomputation."""
        self._keys = None
        self._has_mult_key = False
        self._automorphisms.clear()
        self._plaintexts.clear()
        openfhe.CryptoContext.ClearEvalAutomorphismKeys()
        openfhe.ClearEvalMultKeys()
        set_up_bootstrap(self._context, self.params)

    def _has_rotation(self, steps: int) -> bool:
        return rotation_index(self.params, steps) in self._automorphisms

    # -- bytes --------------------------------------------------------------------------------------------------------

    def load(self, data: bytes) -> Ciphertext:
        """A ciphertext of the other side, checked before OpenFHE sees it.

        Raises:
            IntegrityError: the bytes are no ciphertext under this job's parameters and key.
        """
        info = validate_ciphertext(data, self._expected)
        if info.limbs < info.scale_degree:
            raise CiphertextFormatError(f"{info.limbs} limbs cannot hold a scale of degree {info.scale_degree}")
        level = info.limbs - info.scale_degree
        ct = openfhe.DeserializeCiphertextString(bytes(data), openfhe.BINARY)
        # OpenFHE keeps something beside the polynomials that serialisation loses: a ciphertext as deserialised, and all
        # that is computed from it, takes twice the time in a bootstrap or more. Compress to the same level restores it.
        return Ciphertext(Cell(self._context.Compress(ct, level + 1)), level)

    def dump(self, ct: Ciphertext) -> bytes:
        """Serialised, with a pending rescaling done first, so that every object has the plain form of a fresh one."""
        return bytes(openfhe.Serialize(self._settled(ct), openfhe.BINARY))

    def dump_result(self, ct: Ciphertext, level: int) -> bytes:
        """Serialised at ``level``: what the key owner only decrypts needs no more limbs.

        Raises:
            LevelError: the ciphertext is below ``level``.
        """
        if level > ct.level:
            raise LevelError(f"a ciphertext at level {ct.level} cannot be sent at level {level}")
        return bytes(openfhe.Serialize(self._context.Compress(ct.payload.value, level + 1), openfhe.BINARY))

    def _level(self, value: Any) -> int:
        return int(self.model.top_level + 1 - value.GetLevel() - value.GetNoiseScaleDeg())

    def _settled(self, ct: Ciphertext) -> Any:
        """With noise scale degree 1. OpenFHE's Rescale is empty in the automatic modes; Compress rescales."""
        cell: Cell = ct.payload
        value = cell.value
        if value.GetNoiseScaleDeg() > 1:
            cell.value = value = self._context.Compress(value, ct.level + 1)
        return value

    # -- operations ---------------------------------------------------------------------------------------------------

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """In threads at small rings; a map inside a map is sequential."""
        if self._threads <= 1 or len(items) <= 1 or getattr(self._in_map, "value", False):
            return super().map(function, items)

        def enter() -> None:
            self._in_map.value = True

        with ThreadPoolExecutor(self._threads, initializer=enter) as pool:
            return list(pool.map(function, items))

    def _add(self, a: Ciphertext, b: Ciphertext) -> Cell:
        return Cell(self._context.EvalAdd(a.payload.value, b.payload.value))

    def _sub(self, a: Ciphertext, b: Ciphertext) -> Cell:
        return Cell(self._context.EvalSub(a.payload.value, b.payload.value))

    def _negate(self, a: Ciphertext) -> Cell:
        return Cell(self._context.EvalNegate(a.payload.value))

    def _add_plain(self, a: Ciphertext, vector: Vector) -> Cell:
        value = self._settled(a)
        return Cell(self._context.EvalAdd(value, self._encode(vector, value.GetLevel())))

    def _add_scalar(self, a: Ciphertext, value: float) -> Cell:
        return Cell(self._context.EvalAdd(a.payload.value, value))

    def _mul_integer(self, a: Ciphertext, factor: int) -> Cell:
        value = self._settled(a)
        # OpenFHE rounds a constant by adding 1/2 and cutting, which is off by one for negative integers.
        product = self._context.EvalMult(value, abs(factor) / self._scale(value.GetLevel()))
        kept = self._keep_scale(product, value)
        return Cell(self._context.EvalNegate(kept) if factor < 0 else kept)

    def _mul_monomial(self, a: Ciphertext, exponent: int) -> Cell:
        value = self._settled(a)
        level = value.GetLevel()
        angles = (galois_powers(self.slots) * exponent) % (4 * self.slots)
        values = np.exp(1j * np.pi * angles / (2 * self.slots)) / self._scale(level)
        return Cell(self._keep_scale(self._context.EvalMult(value, self._encode(values, level)), value))

    def _drop(self, a: Ciphertext, level: int) -> Cell:
        # A multiplication by the ratio of scales ends exactly at the scale that OpenFHE assumes at the lower level.
        value = self._context.Compress(a.payload.value, level + 2)
        scale = self._scale(value.GetLevel())
        product = self._context.EvalMult(value, scale / value.GetScalingFactor())
        product.SetScalingFactor(scale * scale)
        return Cell(product)

    def _mul_no_relin(self, a: Ciphertext, b: Ciphertext) -> Cell:
        return Cell(self._context.EvalMultNoRelin(self._settled(a), self._settled(b)))

    def _relinearize(self, a: Ciphertext) -> Cell:
        return Cell(self._context.Relinearize(a.payload.value))

    def _mul_plain(self, a: Ciphertext, vector: Vector) -> Cell:
        value = self._settled(a)
        return Cell(self._context.EvalMult(value, self._encode(vector, value.GetLevel())))

    def _mul_scalar(self, a: Ciphertext, value: float) -> Cell:
        return Cell(self._context.EvalMult(self._settled(a), value))

    def _rotate(self, a: Ciphertext, steps: int) -> Cell:
        self._require_rotation(steps)
        return Cell(self._context.EvalRotate(a.payload.value, steps))

    def _rotate_many(self, a: Ciphertext, steps: Sequence[int]) -> list[Cell]:
        if not steps:
            return []
        for count in steps:
            self._require_rotation(count)
        value = self._settled(a)
        digits = self._context.EvalFastRotationPrecompute(value)
        order = 2 * self.params.ring_dimension
        return [Cell(self._context.EvalFastRotation(value, count, order, digits)) for count in steps]

    def _require_rotation(self, steps: int) -> None:
        if not self._has_rotation(steps):
            raise MissingKeyError(f"no key for rotation by {steps} slots")

    def _conjugate(self, a: Ciphertext) -> Cell:
        if self._keys is None:
            raise MissingKeyError("finish_keys has not been called")
        return Cell(self._context.EvalAutomorphism(a.payload.value, conjugation_index(self.params), self._keys))

    def _bootstrap(self, a: Ciphertext, level: int) -> Cell:
        if self._keys is None:
            # Without its precomputation OpenFHE's bootstrap ends the process.
            raise MissingKeyError("finish_keys has not been called")
        # From a level above its output OpenFHE hands back its input without a word.
        refreshed = self._context.EvalBootstrap(self.drop(a, self.model.bootstrap_input_level).payload.value)
        left = self._level(refreshed)
        if left != level:
            raise LevelError(f"OpenFHE's bootstrap leaves at level {left}, not {level}")
        return Cell(refreshed)

    def _phase(self, a: Ciphertext, period: float) -> Cell:
        raise BackendError("OpenFHE hands out no phase", hint="Use the native backend, or another softmax.")

    # -- plaintexts ---------------------------------------------------------------------------------------------------

    def scale(self, a: Ciphertext) -> float:
        """Squared while a rescaling is pending."""
        return float(a.payload.value.GetScalingFactor())

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
            while len(self._plaintexts) > self._plaintext_entries_max:
                self._plaintexts.popitem(last=False)
        return encoded
