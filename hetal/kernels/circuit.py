"""One way to train: which numbers lie where, and what is computed on them. Both sides of a job share its circuit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hetal.kernels.clear import Labels
from hetal.kernels.evaluator import Ciphertext, Evaluator, Vector
from hetal.protocol.job import JobSpec

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class InputLevels:
    """Levels at which the client encrypts."""

    features: int
    labels: int
    weights: int
    validation: int


class Circuit(ABC):
    """What the client packs and unpacks, and what the server computes between.

    A state is the list of ciphertexts that live from one iteration to the next. A classifier is what the client gets at
    the end and what predictions are made with. Rows of features have their bias column.

    Attributes:
        job: checked.
        levels: at which the client encrypts.
    """

    job: JobSpec
    levels: InputLevels

    # -- the client's side --------------------------------------------------------------------------------------------

    @abstractmethod
    def pack_features(self, x: Array) -> list[Vector]:
        """One mini-batch (rows, columns)."""

    @abstractmethod
    def pack_labels(self, labels: Labels) -> list[Vector]:
        """One mini-batch (rows,)."""

    @abstractmethod
    def pack_weights(self, weights: Array) -> list[Vector]:
        """Initial weights (classes, columns)."""

    @abstractmethod
    def pack_validation(self, x: Array) -> list[Vector]:
        """Rows to be classified (samples, columns)."""

    @abstractmethod
    def unpack_logits(self, vectors: Sequence[Array], samples: int) -> Array:
        """(samples, classes) from what :meth:`evaluate` returned; logits of a sample up to what they have in common."""

    @abstractmethod
    def unpack_classifier(self, vectors: Sequence[Array]) -> Array:
        """Weights (classes, columns), up to what those of all classes have in common."""

    # -- numbers of ciphertexts ---------------------------------------------------------------------------------------

    @abstractmethod
    def features_count(self, rows: int) -> int: ...

    @abstractmethod
    def labels_count(self, rows: int) -> int: ...

    @abstractmethod
    def validation_count(self, samples: int) -> int: ...

    @abstractmethod
    def logits_count(self, samples: int) -> int: ...

    @property
    @abstractmethod
    def weights_count(self) -> int: ...

    @property
    @abstractmethod
    def state_count(self) -> int: ...

    @property
    @abstractmethod
    def classifier_count(self) -> int: ...

    # -- the server's side --------------------------------------------------------------------------------------------

    @abstractmethod
    def begin(self, ev: Evaluator, weights: Sequence[Ciphertext]) -> list[Ciphertext]:
        """The state before the first iteration."""

    @abstractmethod
    def unpack_scores(self, vectors: Sequence[Array], rows: int) -> Array:
        """(rows,) from the scores of :meth:`advance`."""

    def iterate(
        self,
        ev: Evaluator,
        state: Sequence[Ciphertext],
        x: Sequence[Ciphertext],
        y: Sequence[Ciphertext],
        *,
        step: int,
        rows: int,
        logits_max: float | None = None,
    ) -> list[Ciphertext]:
        """The state after one Nesterov step on one mini-batch.

        Args:
            x, y: as packed.
            step: iterations done before this one, over the whole training.
            rows: samples in the batch.
            logits_max: range of the logits in this iteration, within the job's; where it can be chosen.
        """
        return self.advance(ev, state, x, y, step=step, rows=rows, logits_max=logits_max, scored=False)[0]

    @abstractmethod
    def advance(
        self,
        ev: Evaluator,
        state: Sequence[Ciphertext],
        x: Sequence[Ciphertext],
        y: Sequence[Ciphertext],
        *,
        step: int,
        rows: int,
        logits_max: float | None = None,
        scored: bool,
    ) -> tuple[list[Ciphertext], list[Ciphertext]]:
        """What :meth:`iterate` gives, and where ``scored`` the samples' scores, one ciphertext per one of labels."""

    @abstractmethod
    def classifier(self, ev: Evaluator, state: Sequence[Ciphertext], steps: int) -> list[Ciphertext]:
        """The classifier after ``steps`` iterations, at the level of the validation features."""

    @abstractmethod
    def evaluate(
        self, ev: Evaluator, classifier: Sequence[Ciphertext], x: Sequence[Ciphertext], samples: int
    ) -> list[Ciphertext]:
        """Logits of packed rows, scaled so that those within the softmax's range are in [-1, 1]."""
