"""Probabilities of two classes from the difference of their logits, in one bootstrap."""

from __future__ import annotations

from hetal.errors import InputError
from hetal.kernels.evaluator import Ciphertext, Evaluator
from hetal.kernels.sections import Sections
from hetal.kernels.series import FourierSum
from hetal.kernels.tables import SigmoidTable


def sigmoid(
    ev: Evaluator,
    logits: Ciphertext,
    sections: Sections,
    table: SigmoidTable,
    *,
    gain: float,
    level: int,
    output_gain: float = 1.0,
) -> Ciphertext:
    """``output_gain`` / (1 + e^-v): the probability of class 1 where v = x_1 - x_0.

    A bootstrap hands out the phase of v, and the sigmoid is a Fourier series of it: bounded for every input.

    Args:
        logits: real slots ``gain`` * v in ``sections`` of one class, v within the table's range, at the bootstrap's
            input level or above.
        level: of the result.

    Levels: ``table.levels`` after the phase. Key switches: 16 relinearisations and a conjugation at degree 95.

    Raises:
        InputError: the sections are not those of a difference.
        LevelError: the evaluator has too few levels.
    """
    if sections.classes != 1:
        raise InputError(f"a sigmoid takes one difference a sample, not {sections.classes} logits")
    phase = ev.drop(ev.phase(logits, table.period * gain), level + table.levels)
    half = FourierSum(ev, phase, table.series.scaled(output_gain)).at()
    return ev.add(half, ev.conjugate(half))
