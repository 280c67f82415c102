"""Early stopping on the validation loss: the one bit an epoch that the client gives back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from hetal.errors import DivergedError, InputError, StateError
from hetal.protocol.job import RANGES

# Logits may grow by this within an epoch before they leave an adapted range.
RANGE_MARGIN: Final = 2.0


def adapted_range(largest: float, most: float) -> float:
    """The least of ``RANGES`` that holds logits of a magnitude of ``largest`` and leaves them room to grow.

    Args:
        most: range that the job started with; 0, for no change, where it is below all of ``RANGES``.
    """
    allowed = [value for value in RANGES if value <= most]
    return next((value for value in allowed if value >= RANGE_MARGIN * largest), allowed[-1] if allowed else 0.0)


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do after an epoch.

    Attributes:
        stop: train no further epoch.
        best: this epoch has the lowest loss so far.
        logits_max: range of the logits from here on; 0 where it stays.
        kept: mini-batches to go on with, in ascending order; empty where they stay.
    """

    stop: bool
    best: bool
    logits_max: float = 0.0
    kept: tuple[int, ...] = ()


class EarlyStopping:
    """Stop when the loss has not fallen for ``patience`` epochs, or after ``epochs_max`` epochs.

    Attributes:
        epoch: losses seen so far.
        best_epoch: from 1; 0 before the first loss.
        best_loss: infinity before the first loss.
    """

    def __init__(self, patience: int, epochs_max: int) -> None:
        if patience < 1 or epochs_max < 1:
            raise InputError(f"patience = {patience} and epochs_max = {epochs_max} must be at least 1")
        self.patience = patience
        self.epochs_max = epochs_max
        self.epoch = 0
        self.best_epoch = 0
        self.best_loss = math.inf
        self.stopped = False

    def give_up(self) -> Decision:
        """The answer to an epoch whose logits are of no use: stop, and keep the best so far."""
        self._open()
        self.epoch += 1
        self.stopped = True
        return Decision(stop=True, best=False)

    def _open(self) -> None:
        if self.stopped:
            raise StateError(f"training stopped after epoch {self.epoch}; there is no further loss to judge")

    def update(self, loss: float) -> Decision:
        """Take in the loss of the next epoch.

        Raises:
            DivergedError: the loss is not finite.
            StateError: an earlier update said stop.
        """
        self._open()
        if not math.isfinite(loss):
            raise DivergedError(f"the validation loss of epoch {self.epoch + 1} is {loss}")
        self.epoch += 1
        best = loss < self.best_loss
        if best:
            self.best_loss, self.best_epoch = loss, self.epoch
        self.stopped = self.epoch >= self.epochs_max or self.epoch - self.best_epoch >= self.patience
        return Decision(self.stopped, best)
