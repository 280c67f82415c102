"""A client's keys, for the tests of what single backends owe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from hetal.ckks.framing import Kind, unframe
from hetal.ckks.parameters import Parameters
from hetal.client.keys import KeySet

M = TypeVar("M", bound="KeyMaterial")


@dataclass
class KeyMaterial:
    """One client's keys as the payloads a server gets."""

    keys: KeySet
    mult_key: bytes
    rotation_keys: list[bytes]

    @classmethod
    def make(cls: type[M], params: Parameters, steps: Sequence[int]) -> M:
        keys = KeySet.generate(params)
        mult_key = bytes(unframe(keys.mult_key_blob(), Kind.MULT_KEY, params.digest))
        blobs = [blob for _, blob in keys.rotation_key_blobs(steps)]
        return cls(keys, mult_key, [bytes(unframe(blob, Kind.ROTATION_KEYS, params.digest)) for blob in blobs])
