"""Early stopping on the validation loss: the one bit an epoch that the client gives back."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hetal.errors import DivergedError, InputError, StateError


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do after an epoch.

    Attributes:
        stop: train no further epoch.
        best: this epoch has the lowest loss so far.
    """

    stop: bool
    best: bool


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
