"""Softmax from the differences of logits, in two bootstraps: p_k = F(1 + sum over l != k of E(x_l - x_k)).

A bootstrap hands out phases z = exp(2 pi i x / period) (:meth:`Evaluator.phase`), and a pair of classes is a product of
two of them, unaffected by what all logits of a sample have in common. E is a Fourier series of the phase of a pair that
follows e^v where it matters and saturates elsewhere; F a polynomial that follows 1/D and bends to 0 at the saturation.
Both come from linear programs (``scripts/design_softmax.py``, :mod:`hetal.kernels.tables`) and are bounded for every
input: logits out of range give wrong probabilities, never large ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hetal.errors import InputError
from hetal.kernels.evaluator import Ciphertext, Evaluator
from hetal.kernels.sections import Sections
from hetal.kernels.series import FourierSum, chebyshev
from hetal.kernels.tables import PairwiseTable

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Group:
    """Pairs (k, k + shift mod c) of all k, in section ``place`` of a ciphertext of pairs.

    Attributes:
        both: the pair counts for both of its classes; else for k alone.
    """

    place: int
    shift: int
    both: bool


def pairwise(
    ev: Evaluator,
    logits: Ciphertext,
    sections: Sections,
    table: PairwiseTable,
    *,
    gain: float,
    level: int,
    output_gain: float = 1.0,
) -> Ciphertext:
    """``output_gain`` times the softmax of every sample.

    Args:
        logits: real slots ``gain`` * x in ``sections``, x within the table's range, at the bootstrap's input level or
            above. What lies outside of the sections is of no consequence.
        level: of the result; ``level + table.levels_after`` must not be above what a bootstrap can leave.

    Levels: ``table.levels_before`` after the phase, ``table.levels_after`` after the bootstrap. Key switches: per
    ciphertext of pairs 16 relinearisations (20 where pairs count for both classes), up to 3 hoisted rotations a group
    before E and as many after it; 12 relinearisations for F.

    Raises:
        InputError: the table does not serve this many classes.
        LevelError: the evaluator has too few levels.
    """
    if not 2 <= sections.classes <= table.classes:
        raise InputError(f"a table for up to {table.classes} classes cannot serve {sections.classes}")
    start = ev.model.bootstrap_input_level + table.levels_before
    phase = ev.drop(ev.phase(logits, table.period * gain), start)
    value = _distance(ev, phase, sections, table)
    for _ in range(table.squarings):
        value = ev.square(value)
    # All of [-1, 1], which a bootstrap takes, is used.
    value = ev.add_scalar(ev.mul_integer(value, 2), -1.0)
    refreshed = refresh(ev, value, level + table.levels_after)
    return chebyshev(ev, refreshed, [output_gain * c for c in table.inverse])


def refresh(ev: Evaluator, a: Ciphertext, level: int) -> Ciphertext:
    """A bootstrap to exactly ``level``: the most precise that leaves there."""
    usual = ev.model.bootstrap_output_level
    return ev.drop(ev.bootstrap(a), level) if level <= usual else ev.bootstrap(a, level)


@lru_cache(maxsize=64)
def groups(sections: Sections) -> tuple[tuple[Group, ...], ...]:
    """All pairs, by ciphertext of pairs: as many sections fit as a block has room for.

    Pairs that count for both classes halve the groups, and need masks and two more sums each. Moved to section 0, those
    of the first and the last place bring slots of the neighbouring blocks along where blocks are full: then the first
    place holds a group that counts once, which has no such slots and separates the blocks.
    """
    classes, span = sections.classes, sections.groups * sections.stride
    room = sections.block // span
    tight = room > 1 and sections.block - room * span < classes
    best: tuple[int, int] | None = None
    # The widest shift of an even class count meets each pair twice: there k alone counts.
    for once in range(1 - classes % 2, classes, 2):
        total = once + (classes - 1 - once) // 2
        if not tight or total // room <= once:
            cost = -(-total // room) * (16 if total == once else 20)
            best = min(best or (cost, once), (cost, once))
    if best is None:
        raise InputError("a softmax needs at least two classes")
    return _batches(classes, room, best[1])


def _batches(classes: int, room: int, once: int) -> tuple[tuple[Group, ...], ...]:
    """``once`` groups that count once, and the others, whose shifts must not ascend within a ciphertext."""
    middle = classes // 2
    lone = [middle] * (1 - classes % 2) + [s for s in range((classes - 1) // 2, 0, -1) for s in (s, classes - s)]
    single, double = lone[:once], sorted((s for s in lone[once:] if 2 * s < classes), reverse=True)
    batches: list[tuple[Group, ...]] = []
    while single or double:
        shifts = [(single.pop(0), False)] if single else []
        while len(shifts) < room and (single or double):
            shifts.append((double.pop(0), True) if double else (single.pop(0), False))
        batches.append(tuple(Group(place, shift, both) for place, (shift, both) in enumerate(shifts)))
    return tuple(batches)


def _distance(ev: Evaluator, phase: Ciphertext, sections: Sections, table: PairwiseTable) -> Ciphertext:
    """(kappa - D) / (kappa - low) in the sections, D = 1 + sum of E over the other classes; bounded elsewhere."""
    span = sections.groups * sections.stride
    scale = 1.0 / (table.kappa - table.low)
    series = table.exponential.scaled(-scale)
    own: Ciphertext | None = None
    terms: list[Ciphertext] = []
    for batch in groups(sections):
        halves = FourierSum(ev, _pairs(ev, phase, sections, batch), series)
        half = halves.at()
        own = half if own is None else ev.add(own, half)
        shared = [group for group in batch if group.both]
        if shared:
            near = halves.at_negative(_marks(sections, batch, wrapped=False))
            far = halves.at_negative(_marks(sections, batch, wrapped=True))
            steps = [group.place * span - group.shift for group in shared]
            terms += ev.rotate_many(near, steps)
            terms += ev.rotate_many(far, [step + sections.classes for step in steps])
    places = max(len(batch) for batch in groups(sections))
    if own is None:
        raise InputError("a softmax needs at least two classes")
    total = ev.sum([*terms, *ev.rotate_many(own, [place * span for place in range(places)])])
    # Places that a batch leaves empty hold z = 0, where a half is its constant: they count in ``own`` alone.
    empty = sum(places - len(batch) for batch in groups(sections))
    value = ev.add(total, ev.conjugate(total))
    return ev.add_scalar(value, (table.kappa - 1.0) * scale - empty * series.constant)


def _pairs(ev: Evaluator, phase: Ciphertext, sections: Sections, batch: tuple[Group, ...]) -> Ciphertext:
    """exp(2 pi i (x_l - x_k) / period), l = k + shift mod c, in slot k of a group's section; 0 elsewhere. 2 levels."""
    span, classes = sections.groups * sections.stride, sections.classes
    steps: list[int] = []
    masks: list[Array] = []
    for group in batch:
        steps += [group.shift - group.place * span, group.shift - classes - group.place * span]
        masks += [
            _mark(sections, group.place, 0, classes - group.shift),
            _mark(sections, group.place, classes - group.shift, classes),
        ]
    first = [-group.place * span for group in batch]
    rotated = ev.rotate_many(phase, first + steps)
    ones = [_mark(sections, group.place, 0, classes) for group in batch]
    own = ev.combine(rotated[: len(first)], ones)
    partner = ev.combine(rotated[len(first) :], masks)
    return ev.mul(ev.conjugate(own), partner)


@lru_cache(maxsize=256)
def _mark(sections: Sections, place: int, first: int, last: int) -> Array:
    """1 in the slots of classes first <= k < last of one section, 0 elsewhere."""
    run = np.zeros(sections.stride)
    run[first:last] = 1.0
    span = sections.groups * sections.stride
    block = np.zeros(sections.block)
    block[place * span : (place + 1) * span] = np.tile(run, sections.groups)
    mask = np.tile(block, sections.replicas)
    mask.setflags(write=False)
    return mask


@lru_cache(maxsize=64)
def _marks(sections: Sections, batch: tuple[Group, ...], wrapped: bool) -> Array:
    """1 where a pair counts for its second class, and that class is k + shift or, ``wrapped``, k + shift - c."""
    classes = sections.classes
    mask: Array = np.zeros(sections.slots)
    for group in batch:
        if group.both:
            edge = classes - group.shift
            mask = mask + _mark(sections, group.place, *((edge, classes) if wrapped else (0, edge)))
    mask.setflags(write=False)
    return mask
