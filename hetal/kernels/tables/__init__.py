"""Tables of the softmaxes, made by ``scripts/design_softmax.py``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

from hetal.errors import SoftmaxUnavailableError
from hetal.kernels.series import Fourier, depth

# Levels of the products that make pairs of phases.
PAIR_LEVELS = 2


@dataclass(frozen=True, slots=True)
class PairwiseTable:
    """E and F of :func:`hetal.kernels.pairwise.pairwise`.

    Attributes:
        classes: most that it serves.
        logit_range: R; logits lie in [-R, R], or their differences in [-2 R, 2 R].
        exponential: E(v), v the difference of two logits.
        kappa, low: F is a polynomial in 2 ((kappa - D) / (kappa - low))^(2^squarings) - 1.
        inverse: its Chebyshev coefficients.
        max_error, mean_error: of a sample's worst class, the worst and on average over hard inputs, with noise of
            2^-17 in the angle of phases and in the bootstrap.
        bound: of the result's magnitude in any slot, whatever the input.
    """

    classes: int
    logit_range: float
    exponential: Fourier
    kappa: float
    low: float
    squarings: int
    inverse: tuple[float, ...]
    max_error: float
    mean_error: float
    bound: float

    @property
    def period(self) -> float:
        return self.exponential.period

    @property
    def levels_before(self) -> int:
        """Between the phase and the bootstrap."""
        return PAIR_LEVELS + depth(self.exponential.degree, masked=True) + self.squarings

    @property
    def levels_after(self) -> int:
        """From the bootstrap to the result."""
        return depth(len(self.inverse) - 1)


@dataclass(frozen=True, slots=True)
class SigmoidTable:
    """The series of :func:`hetal.kernels.sigmoid.sigmoid`.

    Attributes:
        difference_range: differences of two logits lie in [-R, R].
        max_error: in that range.
        bound: of the result's magnitude, whatever the input.
    """

    difference_range: float
    series: Fourier
    max_error: float
    bound: float

    @property
    def period(self) -> float:
        return self.series.period

    @property
    def levels(self) -> int:
        """From the phase to the result."""
        return depth(self.series.degree)


@dataclass(frozen=True, slots=True)
class NormaliseSpec:
    """Degrees of :func:`hetal.kernels.normalise.normalise`.

    Attributes:
        classes: most that it serves.
        logit_range: R; logits lie in [-R, R].
        exponential_degree: of exp(x / 2^k), k the number of steps.
        degrees: of the inverse in each step.
        max_error, mean_error: of a sample's worst class, the worst and on average over hard inputs, with noise of
            2^-20 on every bootstrap.
    """

    classes: int
    logit_range: float
    exponential_degree: int
    degrees: tuple[int, ...]
    max_error: float
    mean_error: float

    @property
    def levels(self) -> tuple[int, ...]:
        """Of the exponential, and of each step."""
        return (
            self.exponential_degree.bit_length(),
            *(degree.bit_length() + 2 for degree in self.degrees),
        )


def pairwise_tables(classes: int) -> tuple[PairwiseTable, ...]:
    """The closest table that serves this many classes of each range, by range.

    Raises:
        SoftmaxUnavailableError: no table does.
    """
    closest: dict[float, PairwiseTable] = {}
    for table in _pairwise():
        if table.classes >= classes >= 2:
            closest.setdefault(table.logit_range, table)
    if not closest:
        most = max(table.classes for table in _pairwise())
        raise SoftmaxUnavailableError(
            f"the pairwise softmax serves 2 to {most} classes, not {classes}", hint="Use the softmax 'normalise'."
        )
    return tuple(closest[reach] for reach in sorted(closest))


def pairwise_table(classes: int, logit_range: float) -> PairwiseTable:
    """The table of the smallest range that holds [-logit_range, logit_range].

    Raises:
        SoftmaxUnavailableError: none serves so many classes or so wide a range.
    """
    tables = pairwise_tables(classes)
    for table in tables:
        if table.logit_range >= logit_range:
            return table
    raise SoftmaxUnavailableError(
        f"the pairwise softmax of {classes} classes takes logits up to {tables[-1].logit_range:g}, not {logit_range:g}",
        hint="Lower the learning rate or scale the features down, or use the softmax 'normalise'.",
    )


def sigmoid_table(difference_range: float) -> SigmoidTable:
    """The table of the smallest range that holds [-difference_range, difference_range].

    Raises:
        SoftmaxUnavailableError: none is so wide.
    """
    for table in sigmoid_tables():
        if table.difference_range >= difference_range:
            return table
    raise SoftmaxUnavailableError(
        f"the sigmoid takes differences up to {sigmoid_tables()[-1].difference_range:g}, not {difference_range:g}",
        hint="Lower the learning rate or scale the features down.",
    )


def normalise_spec(classes: int, logit_range: float) -> NormaliseSpec:
    """The spec of the fewest classes and the smallest range that serves.

    Raises:
        SoftmaxUnavailableError: none serves so many classes or so wide a range.
    """
    for spec in _normalise():
        if spec.classes >= classes >= 2 and spec.logit_range >= logit_range:
            return spec
    most, widest = max(s.classes for s in _normalise()), max(s.logit_range for s in _normalise())
    raise SoftmaxUnavailableError(
        f"the normalising softmax serves 2 to {most} classes and logits up to {widest:g}, not {classes} classes and"
        f" {logit_range:g}",
        hint="Lower the learning rate or scale the features down.",
    )


@lru_cache(maxsize=1)
def _normalise() -> tuple[NormaliseSpec, ...]:
    return tuple(
        NormaliseSpec(
            classes=row["classes"],
            logit_range=row["range"],
            exponential_degree=row["exponential_degree"],
            degrees=tuple(row["degrees"]),
            max_error=row["max_error"],
            mean_error=row["mean_error"],
        )
        for row in sorted(_rows("normalise.json"), key=lambda row: (int(row["classes"]), float(row["range"])))
    )


@lru_cache(maxsize=1)
def sigmoid_tables() -> tuple[SigmoidTable, ...]:
    """All of them, by range."""
    return tuple(
        SigmoidTable(
            difference_range=row["range"],
            series=Fourier(row["period"], 0.5, (0.0,) * len(row["sines"]), tuple(row["sines"])),
            max_error=row["max_error"],
            bound=row["bound"],
        )
        for row in sorted(_rows("sigmoid.json"), key=lambda row: float(row["range"]))
    )


@lru_cache(maxsize=1)
def _pairwise() -> tuple[PairwiseTable, ...]:
    return tuple(
        PairwiseTable(
            classes=row["classes"],
            logit_range=row["range"],
            exponential=Fourier(row["period"], row["constant"], tuple(row["cosines"]), tuple(row["sines"])),
            kappa=row["kappa"],
            low=row["low"],
            squarings=row["squarings"],
            inverse=tuple(row["inverse"]),
            max_error=row["max_error"],
            mean_error=row["mean_error"],
            bound=row["bound"],
        )
        for row in sorted(_rows("pairwise.json"), key=lambda row: int(row["classes"]))
    )


def _rows(name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(files(__package__).joinpath(name).read_text())
    return rows
