"""Files of features and labels in every form, also damaged ones; splits and labels at their edges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from hetal.client.dataset import Dataset, LabelMap, Standardizer, load, load_array, prepare, stratified
from hetal.errors import (
    EmptyValidationError,
    HetalError,
    InputError,
    LabelRangeError,
    NotFiniteError,
    ShapeError,
    SingleClassError,
)

RNG = np.random.default_rng(1)
X = RNG.normal(size=(12, 3)) * [1.0, 50.0, 0.01] + [0.0, 1000.0, -3.0]
Y = np.array(["spam", "ham", "spam", "eggs"] * 3)
X_VAL, Y_VAL = X[:4] + 0.1, Y[:4]


class TestLoading:
    def test_npz_with_all_parts_and_half_precision(self, tmp_path: Path) -> None:
        parts = {"X_train": X.astype(np.float16), "y_train": Y, "X_val": X_VAL, "y_val": Y_VAL, "X_test": X[:2]}
        np.savez(tmp_path / "d.npz", **parts, y_test=Y[:2])
        data = load(tmp_path / "d.npz")
        assert_array_equal(data.y_train, Y)
        assert data.x_test is not None
        assert data.x_test.shape == (2, 3)
        prepared = prepare(data.x_train, data.y_train, data.x_val, data.y_val, standardize=True, seed=0)
        assert prepared.x_train.dtype == np.float64

    def test_npz_with_x_and_y_alone_has_no_validation_rows(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "d.npz", X=X, y=Y)
        assert load(tmp_path / "d.npz").x_val is None

    def test_npy_needs_labels_beside_it(self, tmp_path: Path) -> None:
        np.save(tmp_path / "x.npy", X)
        np.save(tmp_path / "y.npy", Y)
        assert_array_equal(load(tmp_path / "x.npy", tmp_path / "y.npy").y_train, Y)
        with pytest.raises(InputError, match="features alone") as caught:
            load(tmp_path / "x.npy")
        assert "--labels" in caught.value.hint

    def test_csv_takes_its_labels_from_the_named_column(self, tmp_path: Path) -> None:
        (tmp_path / "d.csv").write_text("a,kind,b\n1,x,2\n3,y,4.5\n")
        data = load(tmp_path / "d.csv", label_column="kind")
        assert_array_equal(data.x_train, [[1, 2], [3, 4.5]])
        assert data.y_train.tolist() == ["x", "y"]
        with pytest.raises(InputError, match="'label'"):
            load(tmp_path / "d.csv")

    def test_csv_labels_that_are_integers_stay_integers(self, tmp_path: Path) -> None:
        (tmp_path / "d.csv").write_text("a,label\n1,0\n3,-1\n")
        assert load(tmp_path / "d.csv").y_train.tolist() == [0, -1]

    def test_csv_of_features_with_labels_in_another_file(self, tmp_path: Path) -> None:
        (tmp_path / "x.csv").write_text("a,b\n1,2\n3,4\n")
        (tmp_path / "y.csv").write_text("label\ncat\ndog\n")
        data = load(tmp_path / "x.csv", tmp_path / "y.csv")
        assert data.x_train.shape == (2, 2)
        assert data.y_train.tolist() == ["cat", "dog"]

    @pytest.mark.parametrize(
        "content", [b"", b"PK\x03\x04 cut short", b"\x93NUMPY\x01\x00"], ids=["empty", "zip", "npy"]
    )
    @pytest.mark.parametrize("suffix", [".npz", ".npy", ".csv"])
    def test_files_that_are_cut_short_are_input_errors(self, tmp_path: Path, suffix: str, content: bytes) -> None:
        path = tmp_path / f"d{suffix}"
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"d\.(npz|npy|csv)"):
            load(path, path)
        with pytest.raises(InputError):
            load_array(tmp_path / f"missing{suffix}")

    def test_half_an_npz_is_an_input_error(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "whole.npz", X=X, y=Y)
        content = (tmp_path / "whole.npz").read_bytes()
        (tmp_path / "half.npz").write_bytes(content[: len(content) // 2])
        with pytest.raises(InputError, match="half"):
            load(tmp_path / "half.npz")

    def test_an_archive_under_the_name_of_an_array_is_refused(self, tmp_path: Path) -> None:
        with (tmp_path / "x.npy").open("wb") as file:
            np.savez(file, X=X)
        with pytest.raises(InputError, match="several arrays"):
            load_array(tmp_path / "x.npy")

    def test_pickles_are_not_read(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "d.npz", X=X, y=np.array([{}] * len(X)))
        with pytest.raises(InputError, match="pickle"):
            load(tmp_path / "d.npz")

    def test_npz_without_the_expected_names(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "d.npz", features=X)
        with pytest.raises(InputError, match="X_train"):
            load(tmp_path / "d.npz")


class TestSplitting:
    def test_validation_share_is_stratified_and_disjoint(self) -> None:
        y = np.array([0] * 80 + [1] * 20)
        x = np.arange(100.0)[:, None]
        data = Dataset(x, y).with_validation(0.1, seed=3)
        assert data.x_val is not None
        assert data.y_val is not None
        assert np.bincount(data.y_val).tolist() == [8, 2]
        assert sorted([*data.x_train[:, 0], *data.x_val[:, 0]]) == list(range(100))

    def test_the_only_row_of_a_class_stays_in_training(self) -> None:
        assert not stratified(np.array([0, 0, 0, 1]), 0.5, seed=0)[3]

    @pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0, float("nan")])
    def test_a_fraction_that_leaves_nothing_is_refused(self, fraction: float) -> None:
        with pytest.raises(EmptyValidationError):
            Dataset(X, Y).with_validation(fraction, seed=0)

    def test_given_validation_rows_are_kept(self) -> None:
        data = Dataset(X, Y, X_VAL, Y_VAL)
        assert data.with_validation(0.5, seed=0) is data

    def test_a_row_limit_samples_training_and_validation_alike(self) -> None:
        limited = Dataset(X, Y, X_VAL, Y_VAL, X, Y).limited(6, seed=0)
        assert (len(limited.x_train), len(limited.y_train)) == (6, 6)
        assert limited.x_val is not None
        assert len(limited.x_val) == 2
        assert limited.x_test is X


class TestPreparing:
    @pytest.mark.parametrize("value", [0.0, 0.1, 1e9])
    def test_a_constant_column_becomes_zero(self, value: float) -> None:
        x = np.column_stack([np.full(7, value), np.arange(7.0)])
        standardizer = Standardizer.fit(x)
        assert_array_equal(standardizer(x)[:, 0], 0.0)
        assert_array_equal(standardizer(x + 5.0)[:, 0], 0.0)

    def test_labels_of_any_kind_map_to_classes_and_back(self) -> None:
        for values in (["b", "a", "b"], [7, -2, 7], [True, False, True]):
            labels = LabelMap.fit(np.array(values))
            codes = labels.encode(values, "labels", 3)
            assert codes.tolist() == [1, 0, 1]
            assert labels.decode(codes).tolist() == values

    @pytest.mark.parametrize(
        ("error", "changes"),
        [
            (NotFiniteError, {"x": np.where(np.arange(3) == 1, np.nan, X)}),
            (NotFiniteError, {"x_val": np.full((4, 3), np.inf)}),
            (ShapeError, {"x": X[:, 0]}),
            (ShapeError, {"x": X[:, :0]}),
            (ShapeError, {"x": [["a", "b", "c"]] * 12}),
            (ShapeError, {"x": [[1.0, 2.0], [1.0]]}),
            (ShapeError, {"x_val": X_VAL[:, :2]}),
            (ShapeError, {"x_val": 3.0}),
            (ShapeError, {"y": Y[:-1]}),
            (ShapeError, {"y": Y[:, None]}),
            (ShapeError, {"y_val": Y_VAL[:-1]}),
            (LabelRangeError, {"y_val": np.array(["spam", "ham", "spam", "tofu"])}),
            (SingleClassError, {"y": np.full(12, "spam")}),
            (EmptyValidationError, {"x_val": X_VAL[:0], "y_val": Y_VAL[:0]}),
            (EmptyValidationError, {"x_val": [], "y_val": []}),
            (EmptyValidationError, {"x_val": None}),
            (EmptyValidationError, {"y_val": None}),
            (InputError, {"y": np.array([1, "a", None] * 4, dtype=object)}),
        ],
    )
    def test_bad_data_has_a_code_and_a_hint(self, error: type[HetalError], changes: dict[str, object]) -> None:
        arguments: dict[str, object] = {"x": X, "y": Y, "x_val": X_VAL, "y_val": Y_VAL} | changes
        with pytest.raises(error) as caught:
            prepare(**arguments, standardize=True, seed=0)
        assert type(caught.value) is error
        assert caught.value.hint

    def test_the_place_of_a_missing_value_is_named(self) -> None:
        spoiled = X.copy()
        spoiled[5, 2] = np.nan
        with pytest.raises(NotFiniteError, match="row 5, column 2"):
            prepare(spoiled, Y, X_VAL, Y_VAL, standardize=True, seed=0)


def test_text_labels_with_and_without_a_header(tmp_path: Path) -> None:
    (tmp_path / "plain.csv").write_text("ill\nhealthy\nill\nhealthy\n")
    (tmp_path / "headed.csv").write_text("diagnosis\nill\nhealthy\nill\n")
    assert load_array(tmp_path / "plain.csv").tolist() == ["ill", "healthy", "ill", "healthy"]
    assert load_array(tmp_path / "headed.csv").tolist() == ["ill", "healthy", "ill"]
