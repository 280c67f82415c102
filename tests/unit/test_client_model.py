"""The decrypted classifier and its file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from hetal.client.dataset import LabelMap, Standardizer
from hetal.client.model import Model
from hetal.errors import InputError, NotFiniteError, ShapeError

RNG = np.random.default_rng(2)
X = RNG.normal(size=(20, 4)) * 3 + 1
X[:, 3] = 8.0
WEIGHTS = RNG.normal(size=(3, 5))
LABELS = ("ham", "spam", "zebra")
INFO = {"preset": "default", "job": "a" * 32, "history": {"losses": [0.5, 0.25], "accuracies": [0.7, 0.9]}}


@pytest.fixture
def model() -> Model:
    return Model(WEIGHTS, Standardizer.fit(X), LabelMap(LABELS), INFO)


def test_logits_are_of_standardised_features_with_a_bias(model: Model) -> None:
    varying = X[:, :3]
    expected = 0.5 * (varying - varying.mean(axis=0)) / varying.std(axis=0) @ WEIGHTS[:, :3].T + WEIGHTS[:, 4]
    assert_allclose(model.logits(X), expected)


def test_predictions_are_the_users_own_labels(model: Model) -> None:
    predicted = model.predict(X)
    assert predicted.tolist() == [LABELS[i] for i in model.logits(X).argmax(axis=1)]
    assert model.accuracy(X, predicted) == 1.0
    assert model.accuracy(X, np.full(20, "ham")) == (predicted == "ham").mean()


def test_probabilities_sum_to_one_even_for_huge_logits(model: Model) -> None:
    huge = Model(WEIGHTS * 1e4, model.standardizer, model.labels)
    assert_allclose(huge.predict_proba(X).sum(axis=1), 1.0)
    assert_array_equal(huge.predict_proba(X).argmax(axis=1), model.logits(X).argmax(axis=1))


def test_a_saved_model_predicts_the_same(model: Model, tmp_path: Path) -> None:
    # The name is kept as it is: NumPy would append a suffix of its own.
    path = tmp_path / "model"
    model.save(path)
    loaded = Model.load(path)
    assert_array_equal(loaded.logits(X), model.logits(X))
    assert loaded.predict(X).tolist() == model.predict(X).tolist()
    assert loaded.info == INFO
    with np.load(path, allow_pickle=False) as file:
        assert all(file[name].dtype != object for name in file.files)


@pytest.mark.parametrize("values", [(0, 1, 2), (-1.5, 0.0, 2.5), (False, True)])
def test_labels_keep_their_type_in_the_file(tmp_path: Path, values: tuple[object, ...]) -> None:
    weights = WEIGHTS[: len(values)]
    Model(weights, Standardizer.identity(4), LabelMap(values)).save(tmp_path / "m.npz")
    loaded = Model.load(tmp_path / "m.npz").labels.values
    assert loaded == values
    assert [type(v) for v in loaded] == [type(v) for v in values]


def test_features_are_checked_as_in_training(model: Model) -> None:
    with pytest.raises(ShapeError, match="3 columns where 4"):
        model.predict(X[:, :3])
    with pytest.raises(NotFiniteError):
        model.predict(np.full((1, 4), np.nan))


@pytest.mark.parametrize("head", [None, "[1]", "{", json.dumps({"format": 1}), json.dumps({"format": 99})])
def test_other_npz_files_are_no_models(model: Model, tmp_path: Path, head: str | None) -> None:
    path = tmp_path / "m.npz"
    if head is None:
        np.savez(path, X=X)
    else:
        np.savez(path, weights=WEIGHTS, mean=X[0], scale=X[0], head=np.array(head))
    with pytest.raises(InputError, match=r"m\.npz"):
        Model.load(path)


def test_a_damaged_model_file_is_an_input_error(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    model.save(path)
    content = path.read_bytes()
    for cut in (0, 10, len(content) // 2, len(content) - 5):
        path.write_bytes(content[:cut])
        with pytest.raises(InputError, match="no model file"):
            Model.load(path)
