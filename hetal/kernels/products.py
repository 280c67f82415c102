"""Encrypted logits and gradients in the replica-packed layout (:mod:`hetal.kernels.replica`).

``expand`` takes compact weights apart, ``forward`` makes logits of the pieces, ``spread`` lays a residual out over the
features, ``backward`` makes the gradient in the weights' own compact form. No mask carries a number of the iteration,
so a backend encodes each of them once per level; public factors stay in the results (``layout.forward_gain``).

A packed sum is taken apart by X -> X^(5^(block 2^j)), which turns X^(replicas / 2^(j+1)) into its negative and leaves
its even powers alone; the sum over samples, the trace over i, applies the same rotations: packing is a part of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Final

import numpy as np

from hetal.errors import LayoutError, ShapeError
from hetal.kernels.evaluator import Ciphertext, Evaluator, Vector
from hetal.kernels.layout import Array
from hetal.kernels.replica import ReplicaLayout

Rows = Sequence[Sequence[Ciphertext]]

# A hoisted rotation in full ones (kernels.md, section 1), and a masked addition.
HOISTED_COST: Final = 0.4
MASK_COST: Final = 0.05
# Sums of so many rotations are hoisted; sums of more are doubled, and take keys for fewer steps.
HOISTED_TERMS: Final = 4
# Packing is done in so many independent parts: work for threads that does not hold all pieces at once.
PACKING_PARTS: Final = 8


def expand(ev: Evaluator, compacts: Sequence[Ciphertext], layout: ReplicaLayout) -> list[Ciphertext]:
    """The pieces of compact weights, each the same for every sample, multiplied by ``layout.packed``.

    No level; one rotation per piece but the first of every compact.

    Raises:
        LayoutError: the layout does not fill the slots.
        ShapeError: not ``layout.compacts`` ciphertexts.
    """
    _require(ev, layout)
    if len(compacts) != layout.compacts:
        raise ShapeError(f"{len(compacts)} compact ciphertexts where the layout has {layout.compacts}")
    return [
        piece
        for index, compact in enumerate(compacts)
        for piece in _take_apart(ev, compact, layout, min(layout.packed, layout.pieces - index * layout.packed))
    ]


def forward(ev: Evaluator, x: Rows, pieces: Sequence[Ciphertext], layout: ReplicaLayout) -> Ciphertext:
    """The logits X W^T of one chunk in ``layout.sections``, real, multiplied by ``layout.forward_gain``.

    Args:
        x: [group][feature block], up to ``layout.groups`` groups.
        pieces: of :func:`expand`.

    Slots outside of the sections hold sums over a part of the features.

    Two levels, a product and a mask; one where there is one group, of whole runs. With T = groups * diagonals: T
    relinearisations; T - groups rotations; 2 (groups - 1) + lead to bring the groups together; those that add the
    sections of a block; one conjugation. Rotations by multiples of one step reuse its key.

    Raises:
        LayoutError: the layout does not fill the slots.
        ShapeError: the blocks do not match the layout.
    """
    _require(ev, layout, x)
    if len(pieces) != layout.pieces:
        raise ShapeError(f"{len(pieces)} pieces of the weights where the layout has {layout.pieces}")

    def partial_logits(row: Sequence[Ciphertext]) -> Ciphertext:
        return _horner(ev, [_sum_of_products(ev, row, pieces[u :: layout.diagonals]) for u in diagonals], -layout.split)

    diagonals = range(layout.diagonals)
    rows = ev.map(partial_logits, x)
    if layout.unmasked:
        logits = _fold(ev, ev.rotate(rows[0], -layout.lead * layout.width), layout.runs, layout.width, layout.block)
    else:
        merged = _merge_groups(ev, rows, layout)
        logits = _fold(ev, merged, layout.folds, layout.groups * layout.width, layout.block)
    return ev.add(logits, ev.conjugate(logits))


def spread(
    ev: Evaluator, residual: Ciphertext, layout: ReplicaLayout, groups: int | None = None
) -> list[list[Ciphertext]]:
    """[group][diagonal]: the residual of each group of samples, copied to all runs and shifted to each diagonal.

    Args:
        residual: in ``layout.sections``; nothing else of it counts.
        groups: of samples that the chunk has, ``layout.groups`` by default.

    One level, for masks. Either runs + groups - 2 hoisted rotations of the residual, or about log2(runs) per group,
    whatever is less; and groups * (diagonals - 1) hoisted ones.
    """
    _require(ev, layout)
    present = layout.groups if groups is None else groups
    if not 1 <= present <= layout.groups:
        raise ShapeError(f"{present} groups of samples where the layout has {layout.groups}")
    copies = _copies_by_doubling if copies_are_doubled(layout, present) else _copies_by_hoisting
    diagonals = range(layout.diagonals)
    return ev.map(lambda copied: _rotations(ev, copied, diagonals, layout.split), copies(ev, residual, layout, present))


def backward(ev: Evaluator, spreads: Sequence[Rows], xs: Sequence[Rows], layout: ReplicaLayout) -> list[Ciphertext]:
    """The gradient R^T X, summed over all samples of all chunks, in the weights' compact form.

    Args:
        spreads: one result of :func:`spread` per chunk.
        xs: the chunks' features, [group][feature block] each.

    Multiplied by ``layout.backward_gain``. One level. A relinearisation and a rotation per piece; log2(replicas /
    packed) rotations and a conjugation per compact.

    Raises:
        LayoutError: the layout does not fill the slots.
        ShapeError: the blocks do not match the layout or each other.
    """
    if not xs or len(spreads) != len(xs):
        raise ShapeError(f"{len(spreads)} residuals for {len(xs)} chunks of features")
    for residual, x in zip(spreads, xs, strict=True):
        _require(ev, layout, x)
        if len(residual) != len(x) or any(len(row) != layout.diagonals for row in residual):
            raise ShapeError(f"a residual of {[len(row) for row in residual]} diagonals does not match its features")

    def piece(index: int) -> Ciphertext:
        block, diagonal = divmod(index, layout.diagonals)
        return _sum_of_products(
            ev,
            [row[diagonal] for residual in spreads for row in residual],
            [row[block] for x in xs for row in x],
        )

    starts = range(0, layout.pieces, layout.packed)
    return [_put_together(ev, layout, piece, start, min(start + layout.packed, layout.pieces)) for start in starts]


# -- compact form -----------------------------------------------------------------------------------------------------


def _take_apart(ev: Evaluator, compact: Ciphertext, layout: ReplicaLayout, count: int) -> list[Ciphertext]:
    """The first ``count`` pieces, the highest bit of their places first."""
    parts = {0: compact}
    for bit in reversed(range(layout.packed.bit_length() - 1)):

        def split(item: tuple[int, Ciphertext], bit: int = bit) -> list[tuple[int, Ciphertext]]:
            place, ct = item
            if place + (1 << bit) >= count:
                return [(place, ev.mul_integer(ct, 2))]
            turned = ev.rotate(ct, layout.block << bit)
            odd = ev.mul_monomial(ev.sub(ct, turned), -(layout.replicas >> (bit + 1)))
            return [(place, ev.add(ct, turned)), (place + (1 << bit), odd)]

        parts = dict(part for both in ev.map(split, list(parts.items())) for part in both)
    return [parts[place] for place in range(count)]


def _put_together(
    ev: Evaluator, layout: ReplicaLayout, piece: Callable[[int], Ciphertext], start: int, stop: int
) -> Ciphertext:
    """Pieces start..stop-1, summed over the samples, in one compact; made when they are needed."""
    bits = layout.packed.bit_length() - 1

    def merge(bit: int, low: Ciphertext, high: Ciphertext | None) -> Ciphertext:
        if high is None:
            return ev.add(low, ev.rotate(low, layout.block << bit))
        high = ev.mul_monomial(high, -(layout.replicas >> (bit + 1)))
        return ev.add(ev.add(low, high), ev.rotate(ev.sub(low, high), layout.block << bit))

    def subtree(first: int, size: int) -> Ciphertext:
        """Places of ``size`` pieces from ``first`` on."""
        if size == 1:
            return piece(first)
        half = size // 2
        low = subtree(first, half)
        high = subtree(first + half, half) if first + half < stop else None
        return merge(half.bit_length() - 1, low, high)

    size = max(1, layout.packed // PACKING_PARTS)
    parts = ev.map(partial(subtree, size=size), list(range(start, stop, size)))
    for bit in range(size.bit_length() - 1, bits):
        pairs = [parts[i : i + 2] for i in range(0, len(parts), 2)]
        parts = [merge(bit, pair[0], pair[1] if len(pair) == 2 else None) for pair in pairs]
    total = parts[0]
    for bit in range(bits, layout.replicas.bit_length() - 1):
        total = ev.add(total, ev.rotate(total, layout.block << bit))
    return ev.conjugate(total)


# -- logits and residuals ---------------------------------------------------------------------------------------------


def _merge_groups(ev: Evaluator, rows: Sequence[Ciphertext], layout: ReplicaLayout) -> Ciphertext:
    """Run e of group t moves to run t of its section, for all e and t.

    The run's place in its section, y, is e mod groups, or e itself for those ahead; the step y - t is the same for
    many pairs, whose sum is rotated once.
    """
    behind = layout.runs - layout.lead
    places = range(-layout.lead, min(layout.groups, behind))
    masks = {y: _mask(layout, range(y, behind, layout.groups) if y >= 0 else (y,)) for y in places}

    def moved_by(step: int) -> Ciphertext:
        moving = [y for y in places if 0 <= y - step < len(rows)]
        return ev.combine([rows[y - step] for y in moving], [masks[y] for y in moving])

    right = [moved_by(step) for step in range(places.stop)]
    left = [moved_by(step) for step in range(-1, places.start - len(rows), -1)]
    total = _horner(ev, right, layout.width)
    if left:
        total = ev.add(total, ev.rotate(_horner(ev, left, -layout.width), -layout.width))
    return total


def copies_are_doubled(layout: ReplicaLayout, groups: int) -> bool:
    """Whether :func:`spread` doubles, one group after the other, or masks hoisted rotations of all."""
    full, hoisted = fold_rotations(layout.runs, layout.width, layout.block)
    doubling = groups * (full + HOISTED_COST * hoisted + 0.5)
    return layout.whole and doubling < HOISTED_COST * (layout.runs + groups - 1) + MASK_COST * groups * layout.runs


def _copies_by_doubling(ev: Evaluator, residual: Ciphertext, layout: ReplicaLayout, groups: int) -> list[Ciphertext]:
    def copy(group: int) -> Ciphertext:
        run = ev.rotate(ev.mul_plain(residual, _mask(layout, (group,))), (group + layout.lead) * layout.width)
        return _fold(ev, run, layout.runs, -layout.width, layout.block)

    return ev.map(copy, list(range(groups)))


def _copies_by_hoisting(ev: Evaluator, residual: Ciphertext, layout: ReplicaLayout, groups: int) -> list[Ciphertext]:
    runs = range(-layout.lead, layout.runs - layout.lead)
    steps = range(1 - runs.stop, groups + layout.lead)
    turned = dict(zip(steps, _rotations(ev, residual, steps, layout.width), strict=True))

    def copy(group: int) -> Ciphertext:
        return ev.combine([turned[group - run] for run in runs], [_mask(layout, (run,)) for run in runs])

    return ev.map(copy, list(range(groups)))


def _sum_of_products(ev: Evaluator, a: Sequence[Ciphertext], b: Sequence[Ciphertext]) -> Ciphertext:
    return ev.relinearize(ev.inner_product(a, b))


def _horner(ev: Evaluator, terms: Sequence[Ciphertext], step: int) -> Ciphertext:
    """sum_k rotate(terms[k], k * step), with the key of one step."""
    total = terms[-1]
    for term in reversed(terms[:-1]):
        total = ev.add(term, ev.rotate(total, step))
    return total


def _rotations(ev: Evaluator, ct: Ciphertext, multiples: range, step: int) -> list[Ciphertext]:
    """``ct`` rotated by every multiple of ``step``, hoisted.

    In two stages, so that n rotations take about 2 sqrt(n) keys; a decomposition per giant step is all that adds.
    """
    baby = math.isqrt(len(multiples) - 1) + 1 if len(multiples) > HOISTED_TERMS else len(multiples)
    giants = [k for k in multiples if k % baby == 0 or k == multiples.start]
    turned = []
    for giant, start in zip(giants, ev.rotate_many(ct, [giant * step for giant in giants]), strict=True):
        wanted = [k for k in range(giant, giant // baby * baby + baby) if k in multiples]
        turned += ev.rotate_many(start, [(k - giant) * step for k in wanted])
    return turned


def _fold(ev: Evaluator, ct: Ciphertext, count: int, step: int, block: int) -> Ciphertext:
    """sum_{k < count} rotate(ct, k * step), or of more terms of the same block, which are zero or do no harm."""
    if count <= HOISTED_TERMS:
        return ev.sum(ev.rotate_many(ct, [k * step for k in range(count)]))
    if _room_to_double(count, step, block):
        for k in range((count - 1).bit_length()):
            ct = ev.add(ct, ev.rotate(ct, step << k))
        return ct
    total, terms = ct, 1
    for bit in reversed(range(count.bit_length() - 1)):
        total, terms = ev.add(total, ev.rotate(total, terms * step)), 2 * terms
        if count >> bit & 1:
            total, terms = ev.add(total, ev.rotate(ct, terms * step)), terms + 1
    return total


def fold_rotations(count: int, step: int, block: int) -> tuple[int, int]:
    """Full and hoisted rotations of a sum of ``count`` terms, ``step`` slots apart in blocks of ``block``."""
    if count <= HOISTED_TERMS:
        return 0, count - 1
    if _room_to_double(count, step, block):
        return (count - 1).bit_length(), 0
    return count.bit_length() - 2 + count.bit_count(), 0


def _room_to_double(count: int, step: int, block: int) -> bool:
    return abs(step) << (count - 1).bit_length() <= block


def _mask(layout: ReplicaLayout, runs: Sequence[int]) -> Vector:
    """The classes of these runs, up to the last slot in use."""
    spans = tuple(
        (run * layout.width, min(run * layout.width + layout.classes, layout.used - layout.lead * layout.width))
        for run in runs
    )
    return _span_mask(layout.slots, layout.block, spans)


# Masks are cached because a backend's cache of encodings is keyed by their content: equal content every iteration, and
# none of it computed twice. At 2^15 slots a mask is 256 KiB, so the cache holds at most 128 MiB.
@lru_cache(maxsize=512)
def _span_mask(slots: int, block: int, spans: tuple[tuple[int, int], ...]) -> Array:
    """Ones in these slots of every block; those before 0 lie in the tail of the block before."""
    mask = np.zeros(block)
    for start, stop in spans:
        mask[np.arange(start, stop) % block] = 1.0
    vector = np.tile(mask, slots // block)
    vector.setflags(write=False)
    return vector


def _require(ev: Evaluator, layout: ReplicaLayout, x: Rows | None = None) -> None:
    if layout.slots != ev.slots:
        raise LayoutError(f"a layout of {layout.slots} slots does not fill {ev.slots}")
    if x is not None and (not 1 <= len(x) <= layout.groups or any(len(row) != layout.blocks for row in x)):
        raise ShapeError(
            f"{[len(row) for row in x]} feature blocks per group do not match {layout.groups} groups of {layout.blocks}"
        )
