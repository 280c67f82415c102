"""Key sets: the secret stays where it is."""

from __future__ import annotations

import copy
import json
import logging
import os
import pickle
import stat
import struct
import threading
from pathlib import Path

import numpy as np
import openfhe
import pytest

from hetal import limits
from hetal.ckks.framing import Kind, join, split, unframe
from hetal.ckks.objects import expected_for, validate_ciphertext, validate_mult_key, validate_rotation_keys
from hetal.ckks.openfhe import conjugation_index, rotation_index
from hetal.ckks.presets import preset
from hetal.client import keys as module
from hetal.client.keys import KeySet
from hetal.errors import (
    DivergedError,
    HetalError,
    InputError,
    KeyFileError,
    KeyTagError,
    NotFiniteError,
    ParameterHashError,
    ResidueError,
    ShapeError,
    TruncatedError,
)

PARAMS = preset("insecure-test")


@pytest.fixture(scope="module")
def keys() -> KeySet:
    return KeySet.generate(PARAMS)


def secret_bytes(keys: KeySet) -> bytes:
    return bytes(openfhe.Serialize(keys._secret, openfhe.BINARY))


def test_encrypts_and_decrypts_at_any_level(keys: KeySet) -> None:
    x = np.random.default_rng(0).uniform(-1, 1, PARAMS.slots)
    sizes = []
    for level in (0, 5, PARAMS.top_level):
        data = keys.encrypt(x, level)
        assert np.abs(keys.decrypt(data) - x).max() < 1e-8
        sizes.append(len(data))
    assert sizes == sorted(sizes)
    assert np.abs(keys.decrypt(keys.encrypt(np.array([1.0, 2.0]), 1))[:3] - [1, 2, 0]).max() < 1e-8


@pytest.mark.parametrize(
    ("vector", "level", "error"),
    [
        (np.zeros(PARAMS.slots + 1), 1, ShapeError),
        (np.zeros((2, 2)), 1, ShapeError),
        (np.zeros(0), 1, ShapeError),
        (np.array([1.0, np.nan]), 1, NotFiniteError),
        (np.zeros(4), -1, InputError),
        (np.zeros(4), PARAMS.top_level + 1, InputError),
    ],
)
def test_refuses_what_it_cannot_encrypt(
    keys: KeySet, vector: np.ndarray[tuple[int, ...], np.dtype[np.float64]], level: int, error: type[HetalError]
) -> None:
    with pytest.raises(error) as caught:
        keys.encrypt(vector, level)
    assert type(caught.value) is error


def test_nothing_shows_the_secret(keys: KeySet, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("hetal").info("%s %r", keys, keys)
    for text in (repr(keys), str(keys), caplog.text):
        assert keys.key_tag in text
        assert len(text) < 300
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy, lambda k: k.__getstate__(), lambda k: k.__reduce__()):
        with pytest.raises(TypeError, match="secret key"):
            attempt(keys)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="secret key"):
            pickle.dumps({"keys": [keys]}, protocol=protocol)


def test_no_blob_contains_the_secret(keys: KeySet) -> None:
    limbs = secret_bytes(keys)
    # Windows of the serialised residues, well behind the header that all objects share.
    windows = [limbs[at : at + 16] for at in range(20_000, len(limbs) - 16, 4_096)]
    assert len(windows) > 50
    blobs = [keys.mult_key_blob(), keys.encrypt(np.ones(PARAMS.slots), 3)]
    blobs += [blob for _, blob in keys.rotation_key_blobs([1, 2])]
    assert not any(window in blob for window in windows for blob in blobs)


def test_rotation_keys_come_in_small_groups_with_known_names(keys: KeySet) -> None:
    steps = [1, 3, PARAMS.slots - 1]
    names = []
    for name, blob in keys.rotation_key_blobs(steps):
        unframe(blob, Kind.ROTATION_KEYS, PARAMS.digest)
        assert len(blob) <= 8 * PARAMS.key_bytes()
        names.append(name)
    assert names == keys.rotation_key_blob_names(steps)
    assert not openfhe.CryptoContext.GetAllEvalAutomorphismKeys()


def test_blobs_hold_each_listed_key_once(keys: KeySet) -> None:
    steps = [1, 3, -1, PARAMS.slots + 1]
    expected = expected_for(PARAMS, keys.key_tag)
    found: list[int] = []
    for number, (_, blob) in enumerate(keys.rotation_key_blobs(steps)):
        indices = validate_rotation_keys(unframe(blob, Kind.ROTATION_KEYS, PARAMS.digest), expected)
        assert number == 0 or len(indices) <= limits.ROTATION_KEYS_PER_BLOB
        found += indices
    assert sorted(found) == keys.rotation_indices(steps)
    order = 2 * PARAMS.ring_dimension
    assert {order - 4, order - 2, conjugation_index(PARAMS)} <= set(found)
    assert {rotation_index(PARAMS, s) for s in steps} <= set(found)
    validate_mult_key(unframe(keys.mult_key_blob(), Kind.MULT_KEY, PARAMS.digest), expected)


def test_ciphertexts_made_during_key_generation_have_the_jobs_header(keys: KeySet) -> None:
    """The encapsulation keys need another bootstrap set-up for a while, and every header carries the set-up."""
    expected = expected_for(PARAMS, keys.key_tag)
    done = threading.Event()

    def generate() -> None:
        try:
            for _ in range(3):
                next(keys.rotation_key_blobs([1]))
        finally:
            done.set()

    thread = threading.Thread(target=generate)
    thread.start()
    made = 0
    while not done.is_set() or made == 0:
        data = keys.encrypt(np.ones(4), 1)
        validate_ciphertext(data, expected)
        assert abs(keys.decrypt(data)[0] - 1) < 1e-6
        made += 1
    thread.join()


def test_saves_privately_and_loads(keys: KeySet, tmp_path: Path) -> None:
    for passphrase in (None, "correct horse"):
        path = tmp_path / f"key-{passphrase}"
        keys.save(path, passphrase)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        loaded = KeySet.load(path, PARAMS, passphrase)
        x = np.linspace(-1, 1, PARAMS.slots, dtype=np.float64)
        assert np.abs(loaded.decrypt(keys.encrypt(x, 2)) - x).max() < 1e-8
        assert (secret_bytes(keys)[20_000:20_032] in path.read_bytes()) is (passphrase is None)
    assert len(list(tmp_path.iterdir())) == 2


def test_key_file_is_private_from_its_first_byte(keys: KeySet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also under a lax umask, and where a world-readable file of that name is replaced."""
    path = tmp_path / "key"
    path.write_bytes(b"old")
    path.chmod(0o644)
    seen: list[int] = []
    fsync = os.fsync

    def watch(handle: int) -> None:
        seen.extend(stat.S_IMODE(entry.stat().st_mode) for entry in tmp_path.iterdir() if entry != path)
        assert path.read_bytes() == b"old"
        fsync(handle)

    monkeypatch.setattr(os, "fsync", watch)
    umask = os.umask(0)
    try:
        keys.save(path)
    finally:
        os.umask(umask)
    assert seen == [0o600]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert KeySet.load(path, PARAMS).key_tag == keys.key_tag


def test_a_failed_save_leaves_nothing(keys: KeySet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyFileError, match="No space"):
        keys.save(tmp_path / "key")
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyFileError, match="No such file"):
        keys.save(tmp_path / "absent" / "key")
    with pytest.raises(KeyFileError, match="empty passphrase"):
        keys.save(tmp_path / "key", "")


def test_every_damage_to_an_open_key_file_is_an_error_of_ours(keys: KeySet, tmp_path: Path) -> None:
    """OpenFHE's own reader of private keys can crash the process on these."""
    path = tmp_path / "key"
    keys.save(path)
    good = path.read_bytes()
    rng = np.random.default_rng(3)
    for at in (*range(4, 300), *rng.integers(300, len(good), 100).tolist()):
        data = bytearray(good)
        data[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        try:
            loaded = KeySet.load(path, PARAMS)
        except (KeyFileError, ParameterHashError):
            continue
        # The preset's name in the head is there for error messages alone.
        assert loaded.key_tag == keys.key_tag
        assert good.index(b'"preset"') < at < good.index(b'"digest"')
    for size in (0, 3, 100, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:size])
        with pytest.raises(KeyFileError):
            KeySet.load(path, PARAMS)


def test_head_must_agree_with_the_key(keys: KeySet, tmp_path: Path) -> None:
    path = tmp_path / "key"
    keys.save(path)
    magic, head_bytes, body = split(path.read_bytes())
    head = json.loads(head_bytes)
    path.write_bytes(join([magic, json.dumps(head | {"key_tag": "0" * 32}).encode(), body]))
    with pytest.raises(KeyFileError, match="another key"):
        KeySet.load(path, PARAMS)
    others: tuple[object, ...] = ([], "text", 3, None)
    for other in others:
        path.write_bytes(join([magic, json.dumps(other).encode(), body]))
        with pytest.raises(KeyFileError, match="no key file"):
            KeySet.load(path, PARAMS)


def test_equal_passphrases_give_different_files(keys: KeySet, tmp_path: Path) -> None:
    bodies = []
    for name in ("one", "two"):
        keys.save(tmp_path / name, "same")
        bodies.append(split((tmp_path / name).read_bytes())[2])
    head = module.SALT_BYTES + module.NONCE_BYTES
    assert bodies[0][: module.SALT_BYTES] != bodies[1][: module.SALT_BYTES]
    assert bodies[0][head:] != bodies[1][head:]


def test_refuses_wrong_passphrases_files_and_parameters(keys: KeySet, tmp_path: Path) -> None:
    path = tmp_path / "key"
    keys.save(path, "right")
    with pytest.raises(KeyFileError, match="wrong passphrase"):
        KeySet.load(path, PARAMS, "wrong")
    with pytest.raises(KeyFileError, match="no passphrase"):
        KeySet.load(path, PARAMS)
    with pytest.raises(ParameterHashError):
        KeySet.load(path, preset("default"), "right")
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(KeyFileError):
        KeySet.load(path, PARAMS, "right")
    path.write_bytes(b"nonsense")
    with pytest.raises(KeyFileError):
        KeySet.load(path, PARAMS)
    with pytest.raises(KeyFileError):
        KeySet.load(tmp_path / "absent", PARAMS)


def test_decrypts_only_its_own_well_formed_ciphertexts(keys: KeySet) -> None:
    other = KeySet.generate(PARAMS)
    with pytest.raises(KeyTagError):
        keys.decrypt(other.encrypt(np.zeros(PARAMS.slots), 1))
    data = bytearray(keys.encrypt(np.zeros(PARAMS.slots), 1))
    data[10_000:10_008] = b"\xff" * 8
    with pytest.raises(ResidueError):
        keys.decrypt(bytes(data))
    with pytest.raises(TruncatedError):
        keys.decrypt(bytes(data[:9_000]))
    with pytest.raises(HetalError):
        keys.decrypt(keys.mult_key_blob())


@pytest.mark.parametrize("level", [0, 1, PARAMS.bootstrap_output_level, PARAMS.top_level])
def test_noise_is_reported_as_divergence(keys: KeySet, level: int) -> None:
    """A well-formed ciphertext whose message wrapped around: residues in range that mean nothing."""
    data = bytearray(keys.encrypt(np.zeros(PARAMS.slots), level))
    rng = np.random.default_rng(level)
    count = PARAMS.ring_dimension
    at = data.find(struct.pack("<Q", count), 1_700)
    while at >= 0:
        end = at + 8 + 8 * count
        (modulus,) = struct.unpack_from("<Q", data, end)
        data[at + 8 : end] = rng.integers(0, modulus, count, dtype=np.uint64).tobytes()
        at = data.find(struct.pack("<Q", count), end)
    with pytest.raises(DivergedError):
        keys.decrypt(bytes(data))
