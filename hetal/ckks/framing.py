"""The frame of every object on the wire: magic, version, kind, parameter digest, length, SHA-256, payload."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Final

from hetal import limits
from hetal.errors import (
    FrameError,
    HashMismatchError,
    OversizedError,
    ParameterHashError,
    TruncatedError,
)

MAGIC: Final = b"HETL"
VERSION: Final = 1
DIGEST_BYTES: Final = 32
_HEAD: Final = struct.Struct("<4sHH32sQ32s")
_COUNT: Final = struct.Struct("<I")
_LENGTH: Final = struct.Struct("<Q")


class Kind(IntEnum):
    """What a frame holds."""

    CIPHERTEXTS = 1
    MULT_KEY = 2
    ROTATION_KEYS = 3
    CHECKPOINT = 4


def frame(kind: Kind, digest: bytes, payload: bytes | memoryview) -> bytes:
    """The framed payload. ``digest`` is :attr:`Parameters.digest`.

    Raises:
        FrameError: the digest has another length.
        OversizedError: the payload exceeds ``limits.BLOB_BYTES_MAX``.
    """
    payload = memoryview(payload).cast("B")
    if len(digest) != DIGEST_BYTES:
        raise FrameError(f"a parameter digest has {DIGEST_BYTES} bytes, not {len(digest)}")
    if len(payload) > limits.BLOB_BYTES_MAX:
        raise OversizedError(f"{len(payload)} bytes exceed BLOB_BYTES_MAX = {limits.BLOB_BYTES_MAX}")
    head = _HEAD.pack(MAGIC, VERSION, kind, digest, len(payload), hashlib.sha256(payload).digest())
    return b"".join((head, payload))


def unframe(data: bytes | memoryview, kind: Kind, digest: bytes) -> memoryview:
    """The payload, checked, without a copy: a view of ``data``.

    Raises:
        FrameError: wrong magic, version or kind, or bytes behind the payload.
        OversizedError: the announced length exceeds ``limits.BLOB_BYTES_MAX``.
        ParameterHashError: made under other parameters.
        TruncatedError: shorter than the head, or than the head announces.
        HashMismatchError: the payload is not the one that was framed.
    """
    view = memoryview(data).cast("B")
    if len(view) < _HEAD.size:
        raise TruncatedError(f"{len(view)} bytes are less than a frame's head of {_HEAD.size}")
    magic, version, found, found_digest, length, sha256 = _HEAD.unpack_from(view)
    if magic != MAGIC:
        raise FrameError("the object does not begin with the frame's magic bytes")
    if version != VERSION:
        raise FrameError(f"frame version {version}; this release reads version {VERSION}")
    if found != kind:
        raise FrameError(f"a frame of kind {found} where {kind.name} ({kind.value}) is expected")
    if length > limits.BLOB_BYTES_MAX:
        raise OversizedError(f"a payload of {length} bytes exceeds BLOB_BYTES_MAX = {limits.BLOB_BYTES_MAX}")
    if found_digest != digest:
        raise ParameterHashError(
            f"the object was made under parameters {bytes(found_digest).hex()[:16]}, the job has {digest.hex()[:16]}"
        )
    payload = view[_HEAD.size :]
    if len(payload) < length:
        raise TruncatedError(f"the frame announces {length} bytes and holds {len(payload)}")
    if len(payload) > length:
        raise FrameError(f"{len(payload) - length} bytes follow the frame's payload")
    if hashlib.sha256(payload).digest() != sha256:
        raise HashMismatchError("the payload does not have the SHA-256 that the frame announces")
    return payload


def kind_of(data: bytes | memoryview) -> Kind:
    """The kind that a frame's head announces; the rest may be missing.

    Raises:
        TruncatedError, FrameError: the bytes begin with no head of a frame.
    """
    view = memoryview(data).cast("B")
    if len(view) < _HEAD.size:
        raise TruncatedError(f"{len(view)} bytes are less than a frame's head of {_HEAD.size}")
    magic, version, kind, *_ = _HEAD.unpack_from(view)
    if magic != MAGIC or version != VERSION or kind not in set(Kind):
        raise FrameError("the object does not begin with the head of a frame")
    return Kind(kind)


def join(parts: Sequence[bytes]) -> bytes:
    """Several objects as one payload: count, then length and bytes of each.

    Raises:
        OversizedError: more than ``limits.CIPHERTEXTS_PER_BLOB_MAX`` objects.
    """
    if len(parts) > limits.CIPHERTEXTS_PER_BLOB_MAX:
        raise OversizedError(
            f"{len(parts)} objects exceed CIPHERTEXTS_PER_BLOB_MAX = {limits.CIPHERTEXTS_PER_BLOB_MAX}"
        )
    pieces = [_COUNT.pack(len(parts))]
    for part in parts:
        pieces += (_LENGTH.pack(len(part)), part)
    return b"".join(pieces)


def split(payload: bytes | memoryview) -> list[bytes]:
    """Inverse of :func:`join`; each object is copied once, as OpenFHE takes nothing but bytes.

    Raises:
        OversizedError, TruncatedError, FrameError: the count is beyond the limit, an object is missing or cut short,
            bytes follow the last one.
    """
    view = memoryview(payload)
    if len(view) < _COUNT.size:
        raise TruncatedError("the list of objects has no count")
    (count,) = _COUNT.unpack_from(view)
    if count > limits.CIPHERTEXTS_PER_BLOB_MAX:
        raise OversizedError(f"{count} objects exceed CIPHERTEXTS_PER_BLOB_MAX = {limits.CIPHERTEXTS_PER_BLOB_MAX}")
    parts: list[bytes] = []
    offset = _COUNT.size
    for index in range(count):
        if len(view) - offset < _LENGTH.size:
            raise TruncatedError(f"object {index} of {count} is missing")
        (length,) = _LENGTH.unpack_from(view, offset)
        offset += _LENGTH.size
        if length > len(view) - offset:
            raise TruncatedError(f"object {index} of {count} announces {length} bytes, {len(view) - offset} are left")
        parts.append(bytes(view[offset : offset + length]))
        offset += length
    if offset != len(view):
        raise FrameError(f"{len(view) - offset} bytes follow the last object")
    return parts
