"""The decrypted classifier, with all that its owner needs to use it: weights, standardisation, labels."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hetal.client.dataset import UNREADABLE, Array, LabelMap, Standardizer, check_features
from hetal.errors import InputError
from hetal.kernels.clear import exact_softmax, with_bias

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Model:
    """A softmax classifier on features.

    Attributes:
        weights: (classes, features + 1), bias last.
        info: what the training says of itself: preset, job id, history.
    """

    weights: Array
    standardizer: Standardizer
    labels: LabelMap
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def features(self) -> int:
        return int(self.weights.shape[1] - 1)

    def prepared(self, x: Any) -> Array:
        """Raw features (samples, features), checked and standardised as in training."""
        return self.standardizer(check_features(x, "features", self.features))

    def logits(self, x: Any) -> Array:
        """(samples, classes)."""
        return np.asarray(with_bias(self.prepared(x)) @ self.weights.T)

    def predict_proba(self, x: Any) -> Array:
        return exact_softmax(self.logits(x))

    def predict(self, x: Any) -> NDArray[Any]:
        """The user's own labels, one per row."""
        return self.labels.decode(self.logits(x).argmax(axis=1))

    def accuracy(self, x: Any, y: Any) -> float:
        """Share of rows whose label is predicted."""
        return float((self.predict(x) == np.asarray(y)).mean())

    def save(self, path: Path) -> None:
        """Write an ``.npz`` without pickles."""
        head = {"format": FORMAT, "labels": list(self.labels.values), "info": self.info}
        with Path(path).open("wb") as file:
            np.savez(
                file,
                weights=self.weights,
                mean=self.standardizer.mean,
                scale=self.standardizer.scale,
                head=np.array(json.dumps(head)),
            )

    @classmethod
    def load(cls, path: Path) -> Model:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: no model file.
        """
        try:
            with Path(path).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                head = json.loads(str(file["head"]))
                if head["format"] != FORMAT:
                    raise InputError(f"{path} has model format {head['format']}; this release reads {FORMAT}")
                return cls(
                    file["weights"],
                    Standardizer(file["mean"], file["scale"]),
                    LabelMap(tuple(head["labels"])),
                    head["info"],
                )
        except UNREADABLE as error:
            raise InputError(f"{path} is no model file: {error}") from error
