"""Frames: every field that is wrong has its own error."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def test_round_trip() -> None:
    assert bytes(unframe(FRAME, Kind.CIPHERTEXTS, DIGEST)) == b"payload"


@pytest.mark.parametrize(
    ("data", "error"),
    [
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
    ids=["head", "payload", "trailing", "magic", "version", "kind", "digest", "hash", "length"],
)
def test_each_defect_has_its_own_error(data: bytes, error: type[HetalError]) -> None:
    with pytest.raises(error) as caught:
        unframe(data, Kind.CIPHERTEXTS, DIGEST)
    assert type(caught.value) is error
    assert caught.value.hint


@given(st.lists(st.binary(max_size=50), max_size=10))
def test_join_and_split_are_inverse(parts: list[bytes]) -> None:
    assert split(join(parts)) == parts


@given(st.binary(max_size=200))
def test_split_refuses_or_reads_any_bytes(data: bytes) -> None:
    try:
        parts = split(data)
    except HetalError:
        return
    assert join(parts) == data


def test_split_does_not_trust_counts_or_lengths() -> None:
    with pytest.raises(OversizedError):
        split(struct.pack("<I", 0xFFFFFFFF))
    with pytest.raises(TruncatedError):
        split(struct.pack("<IQ", 1, 1 << 62))
    with pytest.raises(FrameError):
        split(join([b"a"]) + b"b")
