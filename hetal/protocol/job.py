"""What a job computes: the public description that both sides derive everything else from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from hetal import limits
from hetal.ckks.parameters import Parameters
from hetal.errors import EmptyValidationError, InputError, LayoutError, QuotaError, SingleClassError

PROTOCOL_VERSION = 1
INVERSE_RANGE_MAX = 1e4
# Softmax from phases of pairs; by squaring and normalising; HETAL's own.
METHODS = ("pairwise", "normalise", "hetal")
LOGITS_MAX = 128.0
# Ranges that an answer may name, where a job's range adapts: coarse, so that an answer tells little.
RANGES = (16.0, 32.0, 64.0, 128.0)

KEYS_MULT = "keys/mult"
INITIAL_WEIGHTS = "initial/weights"
VALIDATION_X = "validation/x"
MODEL = "model"


def rotation_keys_blob(index: int) -> str:
    return f"keys/rotation/{index:03d}"


def batch_x_blob(batch: int) -> str:
    return f"train/x/{batch:05d}"


def batch_y_blob(batch: int) -> str:
    return f"train/y/{batch:05d}"


def logits_blob(epoch: int) -> str:
    return f"logits/{epoch:05d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftmaxSpec:
    """Parameters of HETAL's softmax (papers.md 1.5; ICML 2023, section 3.3).

    Attributes:
        comparison_g, comparison_f: compositions of g, then f, in one comparison of the approximate maximum.
        extensions: domain extension steps n.
        base_range: r; the exponential is approximated on [-r, r].
        extension_factor: L; one step widens the domain by it. Logits may lie in [-R, R], R = (r/2) L^n.
        squarings: k; exp(x) = (exp(x / 2^k))^(2^k), with 2^k = r for the published coefficients.
        inverse_range: sums lie in (0, inverse_range).
        inverse_iterations: Goldschmidt iterations.
    """

    comparison_g: int = 2
    comparison_f: int = 1
    extensions: int = 5
    base_range: float = 8.0
    extension_factor: float = 2.0
    squarings: int = 3
    inverse_range: float = 100.0
    inverse_iterations: int = 16

    @property
    def logit_range(self) -> float:
        """R: logits must stay in [-R, R]."""
        return self.base_range / 2 * self.extension_factor**self.extensions

    def check(self) -> None:
        ranges = (
            ("comparison_g", self.comparison_g, 0, 10),
            ("comparison_f", self.comparison_f, 0, 10),
            ("extensions", self.extensions, 0, 12),
            ("base_range", self.base_range, 1.0, 64.0),
            # From about 2.2 on the extension folds far logits back towards 0.
            ("extension_factor", self.extension_factor, 1.1, 2.0),
            ("squarings", self.squarings, 0, 8),
            ("inverse_range", self.inverse_range, 2.0, INVERSE_RANGE_MAX),
            ("inverse_iterations", self.inverse_iterations, 1, 30),
        )
        for name, value, low, high in ranges:
            if not (math.isfinite(value) and low <= value <= high):
                raise InputError(f"softmax {name} = {value} is outside {low}..{high}")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """Shapes and hyper-parameters of one training. Public to the server. :meth:`check` before use.

    Attributes:
        features: of a sample, without the bias column that the client appends.
        method: one of ``METHODS``: how logits become probabilities, and with it the whole circuit.
        logits_max: logits may lie in [-logits_max, logits_max]; HETAL's method has a range of its own in ``softmax``.
        adaptive_range: the client's answers may name one of ``RANGES`` up to ``logits_max`` for what follows.
        weight_bound: of HETAL's method: largest magnitude a weight may reach; weights are scaled by it where they are
            bootstrapped.
        softmax: of HETAL's method.
        prune_keep: share of the mini-batches that training goes on with after epoch ``prune_after``; 1 for all, without
            any scores.
    """

    parameters: Parameters
    train_samples: int
    validation_samples: int
    features: int
    classes: int
    batch_size: int
    epochs_max: int
    patience: int = 3
    learning_rate: float = 1.0
    nesterov: bool = True
    method: str = "pairwise"
    logits_max: float = LOGITS_MAX
    adaptive_range: bool = False
    weight_bound: float = 16.0
    softmax: SoftmaxSpec = field(default_factory=SoftmaxSpec)
    prune_keep: float = 1.0
    prune_after: int = 1

    @property
    def logit_range(self) -> float:
        """R: logits must stay in [-R, R]."""
        return self.softmax.logit_range if self.method == "hetal" else self.logits_max

    @property
    def columns(self) -> int:
        """Features and bias."""
        return self.features + 1

    @property
    def padded_classes(self) -> int:
        """c': the class count padded to a power of two, at least 2."""
        return 1 << max(1, (self.classes - 1).bit_length())

    @property
    def batches(self) -> int:
        """Mini-batches of one epoch; the last may hold fewer samples."""
        return math.ceil(self.train_samples / self.batch_size)

    def batch_rows(self, batch: int) -> int:
        """Samples of mini-batch ``batch``."""
        return min(self.batch_size, self.train_samples - batch * self.batch_size)

    @property
    def prunes(self) -> bool:
        return self.prune_keep < 1.0

    @property
    def batches_kept(self) -> int:
        """Mini-batches of an epoch after ``prune_after``."""
        return max(1, round(self.prune_keep * self.batches))

    @property
    def iterations_max(self) -> int:
        """Of the whole training, should it last all epochs."""
        if not self.prunes:
            return self.batches * self.epochs_max
        return self.batches * self.prune_after + self.batches_kept * (self.epochs_max - self.prune_after)

    def check_kept(self, epoch: int, kept: Sequence[int]) -> None:
        """Raise an :class:`InputError` where the answer to an epoch may not, or must, name these mini-batches."""
        due = self.batches_kept if self.prunes and epoch == self.prune_after else 0
        if len(kept) != due:
            raise InputError(f"the answer to epoch {epoch} keeps {len(kept)} mini-batches; {due} are due")
        if any(a >= b for a, b in pairwise(kept)) or any(not 0 <= b < self.batches for b in kept):
            raise InputError(f"mini-batches to keep are in ascending order, of 0..{self.batches - 1}")

    def check_range(self, answered: float) -> None:
        """Raise an :class:`InputError` where an answer may not name this range; 0 names none."""
        if answered and not (self.adaptive_range and answered in RANGES and answered <= self.logits_max):
            raise InputError(f"an answer names the range {answered}, which this job does not allow")

    def check(self) -> None:
        """Raise an :class:`InputError` when a field is out of its range."""
        if self.validation_samples < 1:
            raise EmptyValidationError("there are no validation samples")
        if self.classes < 2:
            raise SingleClassError(f"there is {self.classes} class; at least 2 are needed")
        counts = (
            ("train_samples", self.train_samples, limits.SAMPLES_MAX),
            ("validation_samples", self.validation_samples, limits.SAMPLES_MAX),
            ("features", self.features, limits.FEATURES_MAX),
            ("classes", self.classes, limits.CLASSES_MAX),
            ("batch_size", self.batch_size, limits.SAMPLES_MAX),
            ("epochs_max", self.epochs_max, limits.EPOCHS_MAX),
            ("patience", self.patience, limits.EPOCHS_MAX),
        )
        for name, value, high in counts:
            if not 1 <= value <= high:
                raise InputError(f"{name} = {value} is outside 1..{high}")
        if self.method not in METHODS:
            raise InputError(f"no method {self.method!r}; there are {', '.join(METHODS)}")
        if self.adaptive_range and self.method != "pairwise":
            raise InputError(f"the range of method {self.method!r} is fixed; 'pairwise' has an adaptive one")
        numbers = (
            ("learning_rate", self.learning_rate, 1e3),
            ("logits_max", self.logits_max, 1e4),
            ("weight_bound", self.weight_bound, 1e4),
        )
        for name, number, top in numbers:
            if not (math.isfinite(number) and 0 < number <= top):
                raise InputError(f"{name} = {number} is outside (0, {top}]")
        if self.batches > limits.BLOBS_PER_JOB_MAX // 4:
            raise QuotaError(
                f"{self.batches} mini-batches; at most {limits.BLOBS_PER_JOB_MAX // 4}: raise the batch size"
            )
        if not 0.0 < self.prune_keep <= 1.0:
            raise InputError(f"prune_keep = {self.prune_keep} is outside (0, 1]")
        if self.prunes and self.batches_kept == self.batches:
            raise InputError(
                f"of {self.batches} mini-batches a share of {self.prune_keep} is all",
                hint="Pruning leaves out whole mini-batches: choose a smaller batch size or share.",
            )
        if self.prunes and not 1 <= self.prune_after < self.epochs_max:
            raise InputError(f"prune_after = {self.prune_after} is outside 1..{self.epochs_max - 1}")
        if self.padded_classes * 2 > self.parameters.slots:
            raise LayoutError(f"{self.classes} classes do not fit the {self.parameters.slots} slots of the preset")
        self.softmax.check()
