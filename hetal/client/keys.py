"""The only home of secret keys.

A :class:`KeySet` lives in the client's process. It shows its secret in no repr, pickle, copy or log, and writes it to
disk only when :meth:`KeySet.save` is called. OpenFHE holds evaluation keys in tables of the process, so they are
generated, serialised and cleared a few at a time. OpenFHE clears those tables for all key tags at once: while a key
set makes evaluation keys, nothing else in its process can keep any.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Final, NoReturn

import numpy as np
import openfhe
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from numpy.typing import NDArray

from hetal import limits
from hetal.ckks.chain import chain_of
from hetal.ckks.framing import Kind, frame, join, split
from hetal.ckks.objects import expected_for, validate_ciphertext
from hetal.ckks.openfhe import (
    bootstrap_indices,
    build_context,
    conjugation_index,
    rotation_index,
    set_up_bootstrap,
)
from hetal.ckks.parameters import Parameters
from hetal.client.windows import Windows
from hetal.errors import (
    CiphertextFormatError,
    DivergedError,
    HetalError,
    InputError,
    KeyFileError,
    NotFiniteError,
    ParameterHashError,
    ShapeError,
)
from hetal.native import reference
from hetal.protocol.job import rotation_keys_blob

FILE_MAGIC: Final = b"HETALKEY1"
SALT_BYTES: Final = 16
NONCE_BYTES: Final = 12
# 128 MiB and a third of a second per guess.
SCRYPT_N: Final = 1 << 17
ENCAPSULATION_STEPS: Final = (1, 1)
NOISE: Final = "a ciphertext of the server decrypts to noise: its message outgrew the modulus"
# OpenFHE's tables of evaluation keys are global; two key sets of one process take turns.
_TABLES: Final = Lock()
# Every serialised object carries the bootstrap's set-up in its header, and making the encapsulation keys changes it for
# a while: no ciphertext is written or read meanwhile. Taken inside _TABLES where both are.
_SET_UP: Final = Lock()


class KeySet:
    """One key pair under one parameter set. Make it with :meth:`generate` or :meth:`load`."""

    def __init__(self, params: Parameters, public: Any, secret: Any) -> None:
        self.params = params
        self._context = build_context(params)
        self._public = public
        self._secret = secret
        self.key_tag: str = secret.GetKeyTag()
        with _TABLES:
            self._expected = expected_for(params, self.key_tag)

    @classmethod
    def generate(cls, params: Parameters) -> KeySet:
        """A fresh key pair."""
        pair = build_context(params).KeyGen()
        return cls(params, pair.publicKey, pair.secretKey)

    def __repr__(self) -> str:
        return f"KeySet(preset={self.params.name!r}, key_tag={self.key_tag!r})"

    def _refuse(self, *_: object) -> NoReturn:
        raise TypeError("a KeySet holds a secret key and cannot be copied or pickled; use save() with a passphrase")

    __reduce__ = __reduce_ex__ = __copy__ = __deepcopy__ = __getstate__ = _refuse

    # -- data ---------------------------------------------------------------------------------------------------------

    def encrypt(self, vector: NDArray[np.float64] | NDArray[np.complex128], level: int) -> bytes:
        """A fresh ciphertext at ``level`` (rescalings left), serialised.

        Args:
            vector: at most ``params.slots`` real or complex values; the other slots are 0.
            level: 0 to ``params.top_level``.

        Raises:
            ShapeError, NotFiniteError, InputError: the vector or the level is none of these.
        """
        complex_data = np.iscomplexobj(vector)
        values = np.ascontiguousarray(vector, dtype=np.complex128 if complex_data else np.float64)
        if values.ndim != 1 or not 1 <= values.size <= self.params.slots:
            raise ShapeError(f"an array of shape {values.shape} does not fit {self.params.slots} slots")
        if not np.isfinite(values).all():
            raise NotFiniteError("a vector to encrypt holds NaN or infinite values")
        if not 0 <= level <= self.params.top_level:
            raise InputError(f"level {level} is outside 0..{self.params.top_level} of {self.params.name!r}")
        # A context for real data drops imaginary parts.
        encoder = build_context(self.params, complex_data=True) if complex_data else self._context
        plain = encoder.MakeCKKSPackedPlaintext(values, 1, self.params.top_level - level)
        ciphertext = self._context.Encrypt(self._public, plain)
        with _SET_UP:
            return bytes(openfhe.Serialize(ciphertext, openfhe.BINARY))

    def decrypt(self, data: bytes) -> NDArray[np.float64]:
        """The real slots of a ciphertext that the server sent; its bytes are checked first.

        Raises:
            IntegrityError: the bytes are no ciphertext of this key.
            DivergedError: the message is too large for the modulus, so that nothing sensible decrypts.
        """
        validate_ciphertext(data, self._expected)
        try:
            with _SET_UP:
                ciphertext = openfhe.DeserializeCiphertextString(bytes(data), openfhe.BINARY)
        except RuntimeError as error:
            raise CiphertextFormatError(f"OpenFHE refuses a ciphertext of the server: {error}") from error
        try:
            plain = self._context.Decrypt(ciphertext, self._secret)
            plain.SetLength(self.params.slots)
            values = np.array(plain.GetRealPackedValue())
        except RuntimeError as error:
            raise DivergedError(NOISE) from error
        # With many limbs a message can outgrow OpenFHE's doubles, which it does not report.
        if not np.isfinite(values).all():
            raise DivergedError(NOISE)
        return values

    # -- evaluation keys ----------------------------------------------------------------------------------------------

    def mult_key_blob(self) -> bytes:
        """The framed relinearisation key."""
        with _TABLES:
            self._context.EvalMultKeyGen(self._secret)
            try:
                payload = bytes(openfhe.SerializeEvalMultKeyString(openfhe.BINARY, self.key_tag))
            finally:
                openfhe.ClearEvalMultKeys()
        return frame(Kind.MULT_KEY, self.params.digest, payload)

    def rotation_indices(self, steps: Sequence[int]) -> list[int]:
        """Automorphisms that need a key: the bootstrap's, the conjugation, and the rotations by ``steps``."""
        wanted = set(self._bootstrap_indices()) | {rotation_index(self.params, s) for s in steps}
        wanted.add(conjugation_index(self.params))
        return sorted(wanted)

    def rotation_key_blob_names(self, steps: Sequence[int]) -> list[str]:
        """Names that :meth:`rotation_key_blobs` will yield, without generating a key."""
        ordinary = len(set(self.rotation_indices(steps)) - set(self._encapsulation_indices()))
        groups = -(-ordinary // limits.ROTATION_KEYS_PER_BLOB) + 1
        return [rotation_keys_blob(i) for i in range(groups)]

    def rotation_key_blobs(self, steps: Sequence[int]) -> Iterator[tuple[str, bytes]]:
        """Framed rotation keys, a few per blob; each group is generated when it is asked for and freed after.

        The first blob holds the keys of the sparse-secret encapsulation.
        """
        special = set(self._encapsulation_indices())
        ordinary = [i for i in self.rotation_indices(steps) if i not in special]
        size = limits.ROTATION_KEYS_PER_BLOB
        yield rotation_keys_blob(0), self._encapsulation_blob()
        for number, start in enumerate(range(0, len(ordinary), size), start=1):
            yield rotation_keys_blob(number), self._ordinary_blob(ordinary[start : start + size])

    def _ordinary_blob(self, indices: list[int]) -> bytes:
        with _TABLES:
            try:
                self._context.EvalAutomorphismKeyGen(self._secret, indices)
                payload = self._serialised_table()
            finally:
                openfhe.CryptoContext.ClearEvalAutomorphismKeys()
        return frame(Kind.ROTATION_KEYS, self.params.digest, payload)

    def _encapsulation_blob(self) -> bytes:
        # OpenFHE makes these keys only along with a bootstrap's rotations; without baby steps those are fewest.
        with _TABLES:
            try:
                with _SET_UP:
                    try:
                        set_up_bootstrap(self._context, self.params, ENCAPSULATION_STEPS)
                        self._context.EvalBootstrapKeyGen(self._secret, self.params.slots)
                    finally:
                        set_up_bootstrap(self._context, self.params)
                payload = self._serialised_table()
            finally:
                openfhe.CryptoContext.ClearEvalAutomorphismKeys()
        return frame(Kind.ROTATION_KEYS, self.params.digest, payload)

    def _bootstrap_indices(self) -> tuple[int, ...]:
        with _TABLES:
            return bootstrap_indices(self.params, self.params.spec.giant_steps)

    def _encapsulation_indices(self) -> tuple[int, ...]:
        with _TABLES:
            return bootstrap_indices(self.params, ENCAPSULATION_STEPS)

    def _serialised_table(self) -> bytes:
        return bytes(openfhe.SerializeEvalAutomorphismKeyString(openfhe.BINARY, self.key_tag))

    # -- audit --------------------------------------------------------------------------------------------------------

    def add_secret_to(self, windows: Windows) -> None:
        """Hand the windows of the secret key to a search: of its residues, and of its ternary coefficients."""
        limbs = _limbs(bytes(openfhe.Serialize(self._secret, openfhe.BINARY)), self.params)
        for limb in limbs:
            windows.add_bytes("secret key", limb.tobytes())
        windows.add_integers("secret key", _ternary(limbs[0], self.params))

    # -- file ---------------------------------------------------------------------------------------------------------

    def save(self, path: Path, passphrase: str | None = None) -> None:
        """Write the key pair to a file of mode 0600, encrypted (scrypt, AES-256-GCM) where a passphrase is given.

        Raises:
            KeyFileError: the file cannot be written, or the passphrase is empty.
        """
        if passphrase == "":
            raise KeyFileError("an empty passphrase protects nothing; give one, or none at all")
        head: dict[str, object] = {
            "preset": self.params.name,
            "digest": self.params.digest.hex(),
            "key_tag": self.key_tag,
            "encrypted": passphrase is not None,
        }
        body = join(
            [
                bytes(openfhe.Serialize(self._public, openfhe.BINARY)),
                bytes(openfhe.Serialize(self._secret, openfhe.BINARY)),
            ]
        )
        if passphrase is None:
            # OpenFHE's reader can crash on damaged bytes. (Of an encrypted body, GCM's tag says as much.)
            head["sha256"] = hashlib.sha256(body).hexdigest()
        head_bytes = json.dumps(head).encode()
        if passphrase is not None:
            salt, nonce = secrets.token_bytes(SALT_BYTES), secrets.token_bytes(NONCE_BYTES)
            body = salt + nonce + AESGCM(_derive(passphrase, salt)).encrypt(nonce, body, head_bytes)
        try:
            _write_private(Path(path), join([FILE_MAGIC, head_bytes, body]))
        except OSError as error:
            raise KeyFileError(f"cannot write {path}: {error.strerror}") from error

    @classmethod
    def load(cls, path: Path, params: Parameters, passphrase: str | None = None) -> KeySet:
        """Read a file that :meth:`save` wrote.

        Raises:
            KeyFileError: unreadable, damaged, wrong passphrase, or none given where one is needed.
            ParameterHashError: the file belongs to other parameters.
        """
        try:
            magic, head_bytes, body = split(Path(path).read_bytes())
            head = json.loads(head_bytes)
        except (OSError, ValueError, HetalError) as error:
            raise KeyFileError(f"{path} is no readable key file: {error}") from error
        if magic != FILE_MAGIC or not isinstance(head, dict) or not isinstance(head.get("encrypted"), bool):
            raise KeyFileError(f"{path} is no key file of this release")
        if head.get("digest") != params.digest.hex():
            raise ParameterHashError(
                f"{path} holds a key for parameter set {head.get('preset')!r}, not {params.name!r}"
            )
        if head["encrypted"]:
            if passphrase is None:
                raise KeyFileError(f"{path} is encrypted and no passphrase was given")
            salt, nonce = body[:SALT_BYTES], body[SALT_BYTES : SALT_BYTES + NONCE_BYTES]
            try:
                body = AESGCM(_derive(passphrase, salt)).decrypt(nonce, body[SALT_BYTES + NONCE_BYTES :], head_bytes)
            except (InvalidTag, ValueError) as error:
                raise KeyFileError(f"{path} does not open: wrong passphrase or damaged file") from error
        elif head.get("sha256") != hashlib.sha256(body).hexdigest():
            raise KeyFileError(f"{path} is damaged: its bytes do not have the SHA-256 that its head says")
        try:
            # Builds the context first, so that the keys attach to it.
            build_context(params)
            public, secret = split(body)
            keys = cls(
                params,
                openfhe.DeserializePublicKeyString(public, openfhe.BINARY),
                openfhe.DeserializePrivateKeyString(secret, openfhe.BINARY),
            )
        except (RuntimeError, HetalError) as error:
            raise KeyFileError(f"{path} is damaged: {error}") from error
        if not keys.key_tag == keys._public.GetKeyTag() == head.get("key_tag"):
            raise KeyFileError(f"{path} holds another key than its head says")
        return keys


def _limbs(data: bytes, params: Parameters) -> list[NDArray[np.uint64]]:
    """The limbs of a serialised secret key: wherever the number N stands before N residues. The rest is public."""
    size, largest = params.ring_dimension, max(modulus for modulus, _ in chain_of(params).q)
    count, at, found = size.to_bytes(8, "little"), -1, []
    while (at := data.find(count, at + 1)) >= 0:
        words = np.frombuffer(data[at + 8 : at + 8 + 8 * size], dtype="<u8").astype(np.uint64)
        if len(words) == size and (words < largest).all():
            found.append(words)
            at += 8 * size
    return found


def _ternary(limb: NDArray[np.uint64], params: Parameters) -> NDArray[np.int64]:
    """Coefficients in -1, 0, 1 of a secret key, from its first limb."""
    prime = chain_of(params).q[0]
    ring = reference.Ring(params.spec.log2_ring_dimension, [prime], [], [], 1)
    residues = reference.inverse_ntt(ring, limb, 0)
    return np.where(residues > prime[0] // 2, residues - np.uint64(prime[0]), residues).astype(np.int64)


def _derive(passphrase: str, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=32, n=SCRYPT_N, r=8, p=1).derive(passphrase.encode())


def _write_private(path: Path, data: bytes) -> None:
    """Atomic, and never readable by others: the temporary file is made with mode 0600."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        os.fchmod(handle, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
