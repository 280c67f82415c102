"""What the client does to data before encryption, and every way data can be wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hetal.client.dataset import LabelMap, Standardizer, load, load_array, prepare, stratified
from hetal.client.model import Model
from hetal.client.session import job_spec
from hetal.errors import (
    EmptyValidationError,
    HetalError,
    InputError,
    LabelRangeError,
    LayoutError,
    NotFiniteError,
    ShapeError,
    SingleClassError,
)
from hetal.protocol.job import SoftmaxSpec

X = np.random.default_rng(0).normal(3.0, 2.0, (40, 5))
Y = np.array(["healthy", "ill"])[np.arange(40) % 2]


def prepared(**changes: object) -> object:
    arguments: dict[str, object] = {"x": X[:30], "y": Y[:30], "x_val": X[30:], "y_val": Y[30:]} | changes
    return prepare(**arguments, standardize=True, seed=0)  # type: ignore[arg-type]


def test_standardises_with_training_statistics_alone() -> None:
    data = prepare(X[:30], Y[:30], X[30:] + 100, Y[30:], standardize=True, seed=0)
    assert np.abs(data.x_train.mean(axis=0)).max() < 1e-12
    assert data.x_train.std(axis=0) == pytest.approx(0.5)
    assert data.x_val.min() > 10


def test_constant_columns_become_zero() -> None:
    x = X.copy()
    x[:, 2] = 0.1 + 0.2
    standardizer = Standardizer.fit(x)
    assert (standardizer(x)[:, 2] == 0.0).all()
    assert np.isfinite(standardizer(X)).all()


def test_batch_order_is_fixed_by_the_seed_and_keeps_rows_together() -> None:
    one = prepare(X[:30], Y[:30], X[30:], Y[30:], standardize=False, seed=1)
    same = prepare(X[:30], Y[:30], X[30:], Y[30:], standardize=False, seed=1)
    other = prepare(X[:30], Y[:30], X[30:], Y[30:], standardize=False, seed=2)
    assert (one.x_train == same.x_train).all()
    assert (one.x_train != other.x_train).any()
    for row, label in zip(one.x_train, one.y_train, strict=True):
        at = int(np.flatnonzero((row == X).all(axis=1))[0])
        assert Y[at] == one.labels.values[label]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"x": np.where(np.arange(150).reshape(30, 5) == 7, np.nan, X[:30])}, NotFiniteError),
        ({"x_val": np.where(np.arange(50).reshape(10, 5) == 7, np.inf, X[30:])}, NotFiniteError),
        ({"y": np.array(["ill"] * 30)}, SingleClassError),
        ({"y_val": np.array(["unknown"] * 10)}, LabelRangeError),
        ({"x_val": X[:0], "y_val": Y[:0]}, EmptyValidationError),
        ({"x_val": None}, EmptyValidationError),
        ({"y": Y[:29]}, ShapeError),
        ({"y_val": Y[:3]}, ShapeError),
        ({"x": X[:30, 0]}, ShapeError),
        ({"x_val": X[30:, :4]}, ShapeError),
        ({"x": [["a", "b"]]}, ShapeError),
    ],
)
def test_wrong_data_is_named(changes: dict[str, object], error: type[HetalError]) -> None:
    with pytest.raises(error) as caught:
        prepared(**changes)
    assert type(caught.value) is error
    assert caught.value.hint


@pytest.mark.parametrize(
    ("classes", "options", "error"),
    [
        (600, {}, LayoutError),
        (3, {"epochs": 0}, InputError),
        (3, {"batch_size": 0}, InputError),
        (3, {"learning_rate": float("nan")}, InputError),
        (3, {"softmax": SoftmaxSpec(extensions=40)}, InputError),
    ],
)
def test_what_the_layout_or_the_options_cannot_hold(
    classes: int, options: dict[str, object], error: type[HetalError]
) -> None:
    x = np.random.default_rng(0).normal(size=(1200, 3))
    data = prepare(x, np.arange(1200) % classes, x, np.arange(1200) % classes, standardize=True, seed=0)
    arguments: dict[str, object] = {"epochs": 1, "batch_size": None, "learning_rate": 1.0} | options
    with pytest.raises(error):
        job_spec(data, preset_name="insecure-test", **arguments)  # type: ignore[arg-type]


def test_stratified_takes_of_every_class() -> None:
    labels = np.array([0] * 90 + [1] * 10 + [2] * 3)
    chosen = stratified(labels, 0.2, seed=0)
    assert [int(chosen[labels == c].sum()) for c in range(3)] == [18, 2, 1]


def test_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "split.npz", X_train=X[:30], y_train=Y[:30], X_val=X[30:], y_val=Y[30:])
    np.savez(tmp_path / "whole.npz", X=X, y=Y)
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    rows = "\n".join(",".join([*(f"{v:.17g}" for v in row), label]) for row, label in zip(X, Y, strict=True))
    (tmp_path / "table.csv").write_text("a,b,c,d,e,diagnosis\n" + rows + "\n")
    split = load(tmp_path / "split.npz")
    assert split.x_val is not None and len(split.x_val) == 10
    for data in (
        load(tmp_path / "whole.npz"),
        load(tmp_path / "x.npy", labels=tmp_path / "y.npy"),
        load(tmp_path / "table.csv", label_column="diagnosis"),
    ):
        assert (data.x_train == X).all()
        assert (data.y_train == Y).all()
        parted = data.with_validation(0.25, seed=0)
        assert parted.x_val is not None and len(parted.x_val) == 10
        assert len(parted.limited(10, seed=0).x_train) == 10
    assert load_array(tmp_path / "x.npy").shape == (40, 5)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.npz", b"no archive"),
        ("a.npy", b"no array"),
        ("a.csv", b""),
        ("a.csv", b"a,label\n1,2\n3\n"),
        ("a.csv", b"a,b\n1,2\n"),
        ("a.csv", b"a,label\nx,1\n"),
    ],
)
def test_unreadable_files_are_input_errors(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError):
        load(tmp_path / name)


def test_npz_with_pickles_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "evil.npz", X=np.array([{"a": 1}], dtype=object), y=np.array([1]))
    with pytest.raises(InputError):
        load(tmp_path / "evil.npz")


def test_model_round_trip(tmp_path: Path) -> None:
    weights = np.random.default_rng(1).normal(size=(2, 6))
    model = Model(weights, Standardizer.fit(X), LabelMap.fit(Y), {"preset": "default", "job": "j"})
    model.save(tmp_path / "m.npz")
    loaded = Model.load(tmp_path / "m.npz")
    assert (loaded.predict(X) == model.predict(X)).all()
    assert loaded.predict_proba(X).sum(axis=1) == pytest.approx(1.0)
    assert set(loaded.predict(X)) <= {"healthy", "ill"}
    assert loaded.info == model.info
    assert loaded.accuracy(X, loaded.predict(X)) == 1.0
    with pytest.raises(ShapeError):
        loaded.predict(X[:, :3])
    (tmp_path / "bad.npz").write_bytes(b"x")
    with pytest.raises(InputError):
        Model.load(tmp_path / "bad.npz")
