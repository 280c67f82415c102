"""Checkpoints on disk: the last sound one is found, and a damaged one costs no more than itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from hetal.errors import DamagedCheckpointError, HashMismatchError
from hetal.server.checkpoint import LAST, PREVIOUS, Checkpoints


class Reader:
    """Takes what begins with ``ok``."""

    def __init__(self) -> None:
        self.read: bytes | None = None

    def __call__(self, data: bytes) -> None:
        if not data.startswith(b"ok"):
            raise HashMismatchError("damaged")
        self.read = data


def restored(folder: Path) -> bytes | None:
    reader = Reader()
    return reader.read if Checkpoints(folder).restore(reader) else None


def test_the_last_one_is_restored(tmp_path: Path) -> None:
    assert restored(tmp_path) is None
    checkpoints = Checkpoints(tmp_path)
    for number in range(3):
        checkpoints.save(b"ok%d" % number)
        assert restored(tmp_path) == b"ok%d" % number
    assert sorted(path.name for path in tmp_path.iterdir()) == [LAST, PREVIOUS]
    assert (tmp_path / PREVIOUS).read_bytes() == b"ok1"


def test_a_damaged_one_gives_way_to_the_one_before(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(b"ok0")
    checkpoints.save(b"ok1")
    (tmp_path / LAST).write_bytes(b"bad")
    assert restored(tmp_path) == b"ok0"
    checkpoints.save(b"ok2")
    (tmp_path / LAST).write_bytes(b"bad")
    assert restored(tmp_path) == b"ok0", "the damaged one did not become the one before"


def test_the_one_before_serves_where_the_last_is_gone(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(b"ok0")
    checkpoints.save(b"ok1")
    (tmp_path / LAST).unlink()
    assert restored(tmp_path) == b"ok0"


def test_nothing_sound_has_a_name(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(b"bad")
    with pytest.raises(DamagedCheckpointError, match="none of the job's 1"):
        restored(tmp_path)
    checkpoints.save(b"bad")
    with pytest.raises(DamagedCheckpointError, match="none of the job's 2"):
        restored(tmp_path)
