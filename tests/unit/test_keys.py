"""Key sets: the secret stays where it is."""

from __future__ import annotations

import copy
import logging
import pickle
import stat
from pathlib import Path

import numpy as np
import openfhe
import pytest

from hetal.ckks.framing import Kind, unframe
from hetal.ckks.presets import preset
from hetal.client.keys import KeySet
from hetal.errors import KeyFileError, KeyTagError, ParameterHashError, ResidueError

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


def test_nothing_shows_the_secret(keys: KeySet, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("hetal").info("%s %r", keys, keys)
    for text in (repr(keys), str(keys), caplog.text):
        assert keys.key_tag in text
        assert len(text) < 300
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="secret key"):
            attempt(keys)


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


def test_saves_privately_and_loads(keys: KeySet, tmp_path: Path) -> None:
    for passphrase in (None, "correct horse"):
        path = tmp_path / f"key-{passphrase}"
        keys.save(path, passphrase)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        loaded = KeySet.load(path, PARAMS, passphrase)
        x = np.linspace(-1, 1, PARAMS.slots)
        assert np.abs(loaded.decrypt(keys.encrypt(x, 2)) - x).max() < 1e-8
        assert (secret_bytes(keys)[20_000:20_032] in path.read_bytes()) is (passphrase is None)
    assert len(list(tmp_path.iterdir())) == 2


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
