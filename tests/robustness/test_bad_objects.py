"""Objects that are well framed and wrong inside: one job fails with its own code, the server goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import numpy as np
import pytest

from hetal.ckks.framing import Kind, frame, join, split, unframe
from hetal.ckks.presets import TEST_PRESET, preset
from hetal.cli.demo import dataset
from hetal.cli.local_server import local_server
from hetal.client import Client, KeySet
from hetal.client.encrypt import Encryptor
from hetal.errors import HetalError
from hetal.protocol.job import INITIAL_WEIGHTS, batch_x_blob

DATA = dataset("wine")
PARAMS = preset(TEST_PRESET)


@pytest.fixture(scope="module")
def foreign() -> KeySet:
    return KeySet.generate(PARAMS)


@pytest.fixture
async def address() -> AsyncIterator[str]:
    async with local_server(allow_insecure=True) as listening:
        yield listening


def reframed(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[bytes], bytes]:
    def apply(blob: bytes) -> bytes:
        parts = split(unframe(blob, Kind.CIPHERTEXTS, PARAMS.digest))
        return frame(Kind.CIPHERTEXTS, PARAMS.digest, join(change(parts)))

    return apply


def oversized_residue(parts: list[bytes]) -> list[bytes]:
    data = bytearray(parts[0])
    data[8_000:8_016] = b"\xff" * 16
    return [bytes(data), *parts[1:]]


DAMAGES: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "RESIDUE_OUT_OF_RANGE": (batch_x_blob(0), reframed(oversized_residue)),
    "FRAME_TRUNCATED": (batch_x_blob(0), lambda blob: blob[: len(blob) // 2]),
    "HASH_MISMATCH": (INITIAL_WEIGHTS, lambda blob: blob[:-1] + bytes([blob[-1] ^ 1])),
    "PARAMETER_HASH_MISMATCH": (
        INITIAL_WEIGHTS,
        lambda blob: frame(Kind.CIPHERTEXTS, bytes(32), bytes(unframe(blob, Kind.CIPHERTEXTS, PARAMS.digest))),
    ),
    "OBJECT_MALFORMED": (batch_x_blob(0), reframed(lambda parts: [])),
    "FRAME_INVALID": (INITIAL_WEIGHTS, lambda blob: b"XXXX" + blob[4:]),
}


async def train(address: str, monkeypatch: pytest.MonkeyPatch, damage: Callable[[str, bytes], bytes]) -> HetalError:
    """The error of a training whose blobs pass through ``damage`` on their way out."""
    made = Encryptor.blobs

    def blobs(self: Encryptor, *arguments: Any) -> Iterator[tuple[str, bytes]]:
        for name, blob in made(self, *arguments):
            yield name, damage(name, blob)

    monkeypatch.setattr(Encryptor, "blobs", blobs)
    async with Client(address) as client:
        with pytest.raises(HetalError) as caught:
            await client.train(
                DATA.x_train,
                DATA.y_train,
                DATA.x_val,
                DATA.y_val,
                preset_name=TEST_PRESET,
                epochs=1,
                logits_max=32.0,
            )
        assert [job.failure.code for job in await client.jobs()] == [caught.value.code]
    return caught.value


@pytest.mark.parametrize("code", DAMAGES)
async def test_damaged_objects(address: str, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    victim, damage = DAMAGES[code]
    error = await train(address, monkeypatch, lambda name, blob: damage(blob) if name == victim else blob)
    assert error.code == code
    assert error.hint


async def test_objects_under_a_foreign_key(address: str, monkeypatch: pytest.MonkeyPatch, foreign: KeySet) -> None:
    part = foreign.encrypt(np.zeros(PARAMS.slots), PARAMS.bootstrap_input_level)
    swap = reframed(lambda parts: [part] * len(parts))
    error = await train(address, monkeypatch, lambda name, blob: swap(blob) if name == INITIAL_WEIGHTS else blob)
    assert error.code == "KEY_TAG_MISMATCH"
