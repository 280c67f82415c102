"""Features and labels: loading, checking, and what the client does to them before encryption."""

from __future__ import annotations

import csv
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hetal.errors import (
    EmptyValidationError,
    InputError,
    LabelRangeError,
    NotFiniteError,
    ShapeError,
    SingleClassError,
)

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

# Standardised features are halved: logits then stay small at the learning rates of HETAL's data sets.
STANDARD_DEVIATION: Final = 0.5

# What NumPy, csv and json raise at files that are missing, cut short, or something else than their name says.
UNREADABLE: Final = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    csv.Error,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True, slots=True)
class Dataset:
    """Raw arrays as the user gave them; ``None`` where a part is missing."""

    x_train: Array
    y_train: NDArray[Any]
    x_val: Array | None = None
    y_val: NDArray[Any] | None = None
    x_test: Array | None = None
    y_test: NDArray[Any] | None = None

    def limited(self, rows: int | None, seed: int) -> Dataset:
        """A random sample of training rows, and as large a share of the validation rows. Test rows stay."""
        if rows is None or rows >= len(self.x_train):
            return self
        rng, share = np.random.default_rng(seed), rows / len(self.x_train)
        train = rng.permutation(len(self.x_train))[:rows]
        if self.x_val is None or self.y_val is None:
            return replace(self, x_train=self.x_train[train], y_train=self.y_train[train])
        val = rng.permutation(len(self.x_val))[: max(1, round(len(self.x_val) * share))]
        return replace(
            self,
            x_train=self.x_train[train],
            y_train=self.y_train[train],
            x_val=self.x_val[val],
            y_val=self.y_val[val],
        )

    def with_validation(self, fraction: float, seed: int) -> Dataset:
        """This set, with a stratified share of the training rows set apart where there are no validation rows."""
        if self.x_val is not None:
            return self
        if not 0.0 < fraction < 1.0:
            raise EmptyValidationError(f"a validation fraction of {fraction} leaves no validation or no training rows")
        chosen = stratified(self.y_train, fraction, seed)
        return Dataset(
            self.x_train[~chosen],
            self.y_train[~chosen],
            self.x_train[chosen],
            self.y_train[chosen],
            self.x_test,
            self.y_test,
        )


def stratified(labels: NDArray[Any], fraction: float, seed: int) -> NDArray[np.bool_]:
    """A mask that chooses about ``fraction`` of the rows of every class, at least one, and never the only one."""
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), dtype=bool)
    for value in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == value))
        chosen[rows[: min(max(1, round(len(rows) * fraction)), len(rows) - 1)]] = True
    return chosen


def check_features(x: Any, what: str, columns: int | None = None) -> Array:
    """A finite (samples, features) array in float64.

    Raises:
        ShapeError, NotFiniteError.
    """
    try:
        array = np.asarray(x, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ShapeError(f"{what} are not numbers: {error}") from error
    if array.ndim != 2 or array.shape[1] < 1:
        raise ShapeError(f"{what} have shape {array.shape}")
    if columns is not None and array.shape[1] != columns:
        raise ShapeError(f"{what} have {array.shape[1]} columns where {columns} are due")
    bad = ~np.isfinite(array)
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        raise NotFiniteError(
            f"{what}: {int(bad.sum())} values are NaN or infinite, the first in row {row}, column {column}"
        )
    return array


@dataclass(frozen=True, slots=True)
class LabelMap:
    """The user's labels in the order of the classes 0..c-1."""

    values: tuple[Any, ...]

    @classmethod
    def fit(cls, labels: NDArray[Any]) -> LabelMap:
        try:
            values = np.unique(labels)
        except TypeError as error:
            raise InputError("the labels are of types that do not compare, such as numbers and texts") from error
        if len(values) < 2:
            raise SingleClassError(f"the training set has {len(values)} class")
        return cls(tuple(values.tolist()))

    def encode(self, labels: Any, what: str, rows: int) -> Labels:
        """Class indices.

        Raises:
            ShapeError: not one label per row.
            LabelRangeError: a label that the training set does not have.
        """
        array = np.asarray(labels)
        if array.shape != (rows,):
            raise ShapeError(f"{what} have shape {array.shape}; {rows} rows need ({rows},)")
        index = {value: i for i, value in enumerate(self.values)}
        unknown = sorted({str(v) for v in array.tolist() if v not in index})
        if unknown:
            raise LabelRangeError(f"{what} hold labels that the training set lacks: {', '.join(unknown[:5])}")
        return np.array([index[v] for v in array.tolist()], dtype=np.int64)

    def decode(self, classes: Labels) -> NDArray[Any]:
        return np.array(self.values)[classes]


@dataclass(frozen=True, slots=True)
class Standardizer:
    """x -> (x - mean) / scale, with statistics of the training rows alone. Constant columns become 0."""

    mean: Array
    scale: Array

    @classmethod
    def fit(cls, x: Array) -> Standardizer:
        mean, deviation = x.mean(axis=0), x.std(axis=0)
        # Rounding leaves a constant column a tiny deviation, which must not blow it up.
        constant = deviation <= 1e-9 * np.maximum(np.abs(mean), 1.0)
        return cls(mean, np.where(constant, np.inf, deviation / STANDARD_DEVIATION))

    @classmethod
    def identity(cls, columns: int) -> Standardizer:
        return cls(np.zeros(columns), np.ones(columns))

    def __call__(self, x: Array) -> Array:
        return np.asarray((x - self.mean) / self.scale)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is encrypted: preprocessed features without the bias column, and class indices."""

    x_train: Array
    y_train: Labels
    x_val: Array
    y_val: Labels
    labels: LabelMap
    standardizer: Standardizer


def prepare(x: Any, y: Any, x_val: Any, y_val: Any, *, standardize: bool, seed: int) -> Prepared:
    """Check everything, map labels, standardise, and shuffle the training rows once into their fixed batch order."""
    train = check_features(x, "training features")
    if x_val is None or y_val is None or np.shape(x_val)[:1] == (0,):
        raise EmptyValidationError("there are no validation rows")
    validation = check_features(x_val, "validation features", train.shape[1])
    if np.asarray(y).shape != (len(train),):
        raise ShapeError(f"training labels have shape {np.asarray(y).shape}; {len(train)} rows need ({len(train)},)")
    labels = LabelMap.fit(np.asarray(y))
    classes = labels.encode(y, "training labels", len(train))
    standardizer = Standardizer.fit(train) if standardize else Standardizer.identity(train.shape[1])
    order = np.random.default_rng(seed).permutation(len(train))
    return Prepared(
        standardizer(train)[order],
        classes[order],
        standardizer(validation),
        labels.encode(y_val, "validation labels", len(validation)),
        labels,
        standardizer,
    )


def load(path: Path, labels: Path | None = None, label_column: str | None = None) -> Dataset:
    """Read ``.npz`` (X_train, y_train, ... or X, y), ``.npy`` or ``.csv`` features, with labels apart where needed.

    Raises:
        InputError: the file cannot be read or lacks what is needed.
    """
    try:
        if path.suffix == ".npz":
            return _from_npz(path)
        if path.suffix == ".csv":
            return _from_csv(path, label_column, labels)
        return Dataset(load_array(path), _labels_beside(path, labels))
    except UNREADABLE as error:
        raise InputError(f"cannot read {path}: {error}") from error


def load_array(path: Path) -> NDArray[Any]:
    """One array: a ``.npy``, the X or X_test of an ``.npz``, or a ``.csv`` of numbers or of one column of text.

    A ``.csv`` may have a header line.
    """
    try:
        if path.suffix == ".npz":
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                for name in ("X", "X_test", "y", "y_test"):
                    if name in file:
                        return np.asarray(file[name])
                raise InputError(f"{path} holds none of X, X_test, y, y_test")
        if path.suffix == ".csv":
            rows = _csv_rows(path)
            # A first line of text is a header, unless it is a label: one that occurs again.
            body = rows if _is_number(rows[0][0]) or rows[0] in rows[1:] else rows[1:]
            values = np.array(body)
            return values[:, 0] if values.shape[1] == 1 and not _is_number(body[0][0]) else values.astype(np.float64)
        with path.open("rb") as raw:
            array = np.load(raw, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise InputError(f"{path} holds several arrays", hint="Give such a file the suffix .npz.")
        return array
    except UNREADABLE as error:
        raise InputError(f"cannot read {path}: {error}") from error


def _from_npz(path: Path) -> Dataset:
    # NumPy leaves a file open that it opened itself and found damaged.
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        names = set(file.files)
        if {"X_train", "y_train"} <= names:
            parts = [np.asarray(file[n]) if n in names else None for n in ("X_val", "y_val", "X_test", "y_test")]
            return Dataset(file["X_train"], file["y_train"], *parts)
        if {"X", "y"} <= names:
            return Dataset(file["X"], file["y"])
    raise InputError(f"{path} holds neither X_train and y_train nor X and y")


def _from_csv(path: Path, label_column: str | None, labels: Path | None) -> Dataset:
    rows = _csv_rows(path)
    head, body = rows[0], rows[1:]
    if labels is not None and label_column is None:
        start = 0 if _is_number(head[0]) else 1
        return Dataset(np.array(rows[start:], dtype=np.float64), _labels_beside(path, labels))
    column = label_column or "label"
    if column not in head:
        raise InputError(f"{path} has no column {column!r}", hint="Name the column of labels with --label-column.")
    at = head.index(column)
    x = np.array([[v for i, v in enumerate(row) if i != at] for row in body], dtype=np.float64)
    return Dataset(x, _numbers_if_possible([row[at] for row in body]))


def _csv_rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if row]
    if not rows or len({len(row) for row in rows}) != 1:
        raise InputError(f"{path} is empty or has lines of different lengths")
    return rows


def _labels_beside(path: Path, labels: Path | None) -> NDArray[Any]:
    if labels is None:
        raise InputError(f"{path} holds features alone", hint="Pass the labels' file with --labels.")
    return load_array(labels).reshape(-1)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers_if_possible(texts: Sequence[str]) -> NDArray[Any]:
    if all(t.lstrip("-").isdigit() for t in texts):
        return np.array([int(t) for t in texts])
    return np.array(texts)
