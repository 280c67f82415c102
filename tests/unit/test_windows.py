"""The search for secrets in the clear: what is planted is found, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openfhe
import pytest

from hetal.ckks.chain import chain_of
from hetal.ckks.presets import TEST_PRESET, preset
from hetal.client.keys import KeySet, _limbs, _ternary
from hetal.client.windows import INTEGER_ENCODINGS, REAL_ENCODINGS, Windows

RNG = np.random.default_rng(11)
FEATURES = RNG.normal(size=(40, 13))
LABELS = RNG.integers(0, 2, 400)
NOISE = RNG.bytes(1 << 20)


def windows() -> Windows:
    found = Windows()
    found.add_reals("features", FEATURES)
    found.add_integers("labels", LABELS)
    found.add_text("class name", "malignant")
    return found


def planted(data: bytes, at: int) -> bytes:
    return NOISE[:at] + data + NOISE[at + len(data) :]


@pytest.mark.parametrize("at", [0, 1, 4093, (1 << 20) - 4000])
@pytest.mark.parametrize("encoding", REAL_ENCODINGS)
def test_a_row_and_a_column_of_features_are_found_at_any_offset(encoding: str, at: int) -> None:
    for values in (FEATURES[3], FEATURES[:, 5]):
        hits = windows().search(planted(values.astype(encoding).tobytes(), at))
        assert hits
        assert {hit.secret for hit in hits} == {"features"}
        assert all(at <= hit.offset < at + 40 * 8 for hit in hits)


@pytest.mark.parametrize("encoding", [*INTEGER_ENCODINGS, *REAL_ENCODINGS])
def test_labels_are_found_in_every_width(encoding: str) -> None:
    hits = windows().search(planted(LABELS.astype(encoding).tobytes(), 77))
    assert {hit.secret for hit in hits} == {"labels"}


@pytest.mark.parametrize("order", ["big", "little"])
def test_labels_are_found_as_bits(order: str) -> None:
    assert windows().search(planted(np.packbits(LABELS.astype(bool), bitorder=order).tobytes(), 5))


def test_text_is_found() -> None:
    assert [hit.encoding for hit in windows().search(planted(repr(float(FEATURES[7, 2])).encode(), 99))] == ["decimal"]
    assert [hit.encoding for hit in windows().search(planted(b"Malignant malignant", 99))] == ["utf-8"]


def test_nothing_is_found_where_nothing_is() -> None:
    regular = bytes(1 << 16) + bytes(range(256)) * 64 + np.arange(4096).tobytes() + np.linspace(0, 1, 4096).tobytes()
    for data in (b"", b"x", NOISE, regular, np.zeros(4096).tobytes(), np.ones(4096, np.int64).tobytes()):
        assert windows().search(data) == []


def test_a_window_across_two_blocks_is_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hetal.client.windows.BLOCK_BYTES", 4096)
    data = planted(FEATURES[3].tobytes(), 4096 - 40)
    offsets = [hit.offset for hit in windows().search(data)]
    assert len(offsets) == len(set(offsets)) >= 6


def test_uninformative_secrets_give_no_windows() -> None:
    empty = Windows()
    empty.add_reals("zeros", np.zeros((50, 50)))
    empty.add_integers("ones", np.ones(5000, dtype=int))
    empty.add_text("short", "no")
    assert len(empty) == 0


def test_files_of_a_tree_are_searched(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "leak").write_bytes(planted(FEATURES.tobytes(), 3))
    (tmp_path / "a" / "clean").write_bytes(NOISE)
    (tmp_path / "empty").touch()
    assert list(windows().search_tree(tmp_path)) == [tmp_path / "a" / "b" / "leak"]


def test_a_secret_key_is_found_in_its_own_form_and_in_nothing_public() -> None:
    keys = KeySet.generate(preset(TEST_PRESET))
    found = Windows()
    keys.add_secret_to(found)
    assert len(found) > 1000
    assert found.search(bytes(openfhe.Serialize(keys._secret, openfhe.BINARY)))
    public = (bytes(openfhe.Serialize(keys._public, openfhe.BINARY)), keys.mult_key_blob(), keys.encrypt(np.ones(8), 3))
    for data in public:
        assert found.search(data) == []
    other = Windows()
    KeySet.generate(preset(TEST_PRESET)).add_secret_to(other)
    assert other.search(bytes(openfhe.Serialize(keys._secret, openfhe.BINARY))) == []


def test_the_ternary_coefficients_of_a_key_are_searched_for() -> None:
    keys = KeySet.generate(preset(TEST_PRESET))
    limbs = _limbs(bytes(openfhe.Serialize(keys._secret, openfhe.BINARY)), keys.params)
    assert len(limbs) == len(chain_of(keys.params).q)
    coefficients = _ternary(limbs[0], keys.params)
    assert set(np.unique(coefficients).tolist()) == {-1, 0, 1}
    found = Windows()
    keys.add_secret_to(found)
    for encoding in ("<i1", "<i8", "<f8"):
        assert found.search(planted(coefficients.astype(encoding).tobytes(), 31))
