"""Data pruning on ciphertexts, by whole mini-batches: after HEPrune (NeurIPS 2024).

A sample's score is the sum over the classes of (probability - label)^2, of the residual that an iteration computes
anyway. A score is sent as a quarter of it, so that what two samples add up to within a window stays within 1.
"""

from __future__ import annotations

import math
from typing import Final

from hetal.kernels.evaluator import Ciphertext, Evaluator, Vector
from hetal.kernels.normalise import window

SCORE_SHARE: Final = 0.25


def scores(ev: Evaluator, residual: Ciphertext, mask: Vector, classes: int, gain: float) -> Ciphertext:
    """``SCORE_SHARE`` times the score of every sample, in the slot of its first class; at level 0.

    Args:
        residual: ``gain`` times probabilities less labels, classes in neighbouring slots, at level 2 at least.
        mask: the square root of a class's weight in its slots, 0 in all that are not to count.

    Two levels, a relinearisation and about log2(classes) rotations.
    """
    # A small gain is first taken back by an integer, which costs no precision.
    factor = max(1, round(1.0 / gain))
    lowered = ev.mul_integer(ev.drop(residual, 2), factor)
    weighted = ev.mul_plain(lowered, mask * (math.sqrt(SCORE_SHARE) / (gain * factor)))
    return window(ev, ev.square(weighted), classes, 1)
