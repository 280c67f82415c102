"""Frames and lists of objects: whatever the bytes, the answer is the original or an error of ours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetal.ckks.framing import Kind, frame, join, split, unframe
from hetal.errors import HetalError, IntegrityError, KeyTagError

KINDS = st.sampled_from(Kind)
DIGESTS = st.binary(min_size=32, max_size=32)
PAYLOADS = st.binary(max_size=200)


@given(KINDS, DIGESTS, PAYLOADS)
def test_unframe_inverts_frame(kind: Kind, digest: bytes, payload: bytes) -> None:
    assert bytes(unframe(frame(kind, digest, payload), kind, digest)) == payload


@given(KINDS, DIGESTS, PAYLOADS, st.data())
def test_no_changed_byte_goes_unnoticed(kind: Kind, digest: bytes, payload: bytes, data: st.DataObject) -> None:
    damaged = bytearray(frame(kind, digest, payload))
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(IntegrityError) as caught:
        unframe(bytes(damaged), kind, digest)
    assert not isinstance(caught.value, KeyTagError)


@given(KINDS, DIGESTS, PAYLOADS, st.data())
def test_no_other_length_is_taken(kind: Kind, digest: bytes, payload: bytes, data: st.DataObject) -> None:
    whole = frame(kind, digest, payload)
    with pytest.raises(IntegrityError):
        unframe(whole[: data.draw(st.integers(0, len(whole) - 1))], kind, digest)
    with pytest.raises(IntegrityError):
        unframe(whole + data.draw(st.binary(min_size=1, max_size=20)), kind, digest)


@given(KINDS, DIGESTS, st.binary(max_size=300))
def test_random_bytes_are_no_frame(kind: Kind, digest: bytes, data: bytes) -> None:
    with pytest.raises(IntegrityError):
        unframe(data, kind, digest)


@given(st.lists(st.binary(max_size=50), max_size=10))
def test_split_inverts_join(parts: list[bytes]) -> None:
    assert split(join(parts)) == parts
    assert split(memoryview(join(parts))) == parts


@given(st.lists(st.binary(max_size=8), max_size=4), st.data())
def test_a_damaged_list_is_refused_or_read_as_what_it_says(parts: list[bytes], data: st.DataObject) -> None:
    damaged = bytearray(join(parts))
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = split(bytes(damaged))
    except HetalError:
        return
    assert join(found) == bytes(damaged)


@given(st.binary(max_size=200))
def test_split_refuses_or_reads_any_bytes(data: bytes) -> None:
    try:
        parts = split(data)
    except HetalError:
        return
    assert join(parts) == data
