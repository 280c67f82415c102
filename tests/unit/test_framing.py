"""Frames: every field that is wrong has its own error."""

from __future__ import annotations

import hashlib
import struct

import pytest

from hetal import limits
from hetal.ckks.framing import Kind, frame, join, split, unframe
from hetal.errors import (
    FrameError,
    HashMismatchError,
    HetalError,
    OversizedError,
    ParameterHashError,
    TruncatedError,
)

DIGEST = bytes(range(32))
FRAME = frame(Kind.CIPHERTEXTS, DIGEST, b"payload")


def test_layout_on_the_wire() -> None:
    """docs/protocol.md describes these bytes; another implementation reads them."""
    head = b"HETL" + struct.pack("<HH", 1, 1) + DIGEST + struct.pack("<Q", 7)
    assert head + hashlib.sha256(b"payload").digest() + b"payload" == FRAME


@pytest.mark.parametrize("kind", Kind)
def test_round_trip(kind: Kind) -> None:
    for payload in (b"", b"payload"):
        assert bytes(unframe(frame(kind, DIGEST, payload), kind, DIGEST)) == payload


def test_takes_views_and_copies_nothing() -> None:
    whole = bytearray(b"....") + FRAME
    payload = unframe(memoryview(whole)[4:], Kind.CIPHERTEXTS, DIGEST)
    assert bytes(payload) == b"payload"
    whole[-1:] = b"X"
    assert bytes(payload) == b"payloaX"
    assert frame(Kind.CIPHERTEXTS, DIGEST, memoryview(b"<payload>")[1:-1]) == FRAME


def test_digest_must_have_its_length() -> None:
    with pytest.raises(FrameError, match="32 bytes"):
        frame(Kind.CHECKPOINT, b"short", b"")


def test_payloads_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BLOB_BYTES_MAX", 6)
    with pytest.raises(OversizedError, match="BLOB_BYTES_MAX = 6"):
        frame(Kind.CIPHERTEXTS, DIGEST, b"payload")
    with pytest.raises(OversizedError, match="BLOB_BYTES_MAX = 6"):
        unframe(FRAME, Kind.CIPHERTEXTS, DIGEST)


def test_lists_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CIPHERTEXTS_PER_BLOB_MAX", 2)
    with pytest.raises(OversizedError, match="CIPHERTEXTS_PER_BLOB_MAX = 2"):
        join([b""] * 3)
    assert split(join([b""] * 2)) == [b"", b""]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", TruncatedError),
        (FRAME[:10], TruncatedError),
        (FRAME[:-1], TruncatedError),
        (FRAME + b"x", FrameError),
        (b"HATL" + FRAME[4:], FrameError),
        (FRAME[:4] + b"\x09\x00" + FRAME[6:], FrameError),
        (frame(Kind.MULT_KEY, DIGEST, b"payload"), FrameError),
        (frame(Kind.CIPHERTEXTS, bytes(32), b"payload"), ParameterHashError),
        (FRAME[:-1] + b"x", HashMismatchError),
        (FRAME[:40] + struct.pack("<Q", 1 << 60) + FRAME[48:], OversizedError),
    ],
    ids=["empty", "head", "payload", "trailing", "magic", "version", "kind", "digest", "hash", "length"],
)
def test_each_defect_has_its_own_error(data: bytes, error: type[HetalError]) -> None:
    with pytest.raises(error) as caught:
        unframe(data, Kind.CIPHERTEXTS, DIGEST)
    assert type(caught.value) is error
    assert caught.value.hint


def test_split_does_not_trust_counts_or_lengths() -> None:
    with pytest.raises(OversizedError):
        split(struct.pack("<I", 0xFFFFFFFF))
    with pytest.raises(TruncatedError):
        split(struct.pack("<IQ", 1, 1 << 62))
    with pytest.raises(TruncatedError, match="no count"):
        split(b"\x01")
    with pytest.raises(TruncatedError, match="object 1 of 2"):
        split(struct.pack("<IQ", 2, 0))
    with pytest.raises(FrameError):
        split(join([b"a"]) + b"b")
