"""DiagABT and DiagATB, HETAL's two encrypted matrix products (arXiv 2403.14111, algorithms 2 to 5).

Blocks are s0 x s1. ``classes`` is the padded class count c', a power of two that divides s0 and s1; h = c'/2. Sums of
products over blocks are relinearised once. All constants fold into the last mask.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hetal.errors import LayoutError, ShapeError
from hetal.kernels.evaluator import Ciphertext, Evaluator
from hetal.kernels.layout import BlockLayout

Mask = NDArray[np.complex128]


def diag_abt(
    ev: Evaluator,
    a: list[list[Ciphertext]],
    b: list[Ciphertext],
    layout: BlockLayout,
    classes: int,
    *,
    scale: float = 1.0,
) -> list[Ciphertext]:
    """scale * A B^T.

    Args:
        a: [row block][column block] of A (n x m).
        b: one ciphertext per column block of B (c' x m), in tiled rows.

    Returns:
        One ciphertext per row block of the product (n x c'), in tiled columns.

    Raises:
        LayoutError: ``classes`` does not tile the layout, or the layout does not fill the slots.
        ShapeError: the blocks of A and B do not match.

    Three levels: product, column mask, diagonal mask. Per row block h products' relinearisations and 2 h log2(s1)
    rotations; besides h rotations and one complexifying rotation per column block, and one conjugation per row block.
    """
    _require_match(ev, a, layout, classes, columns=len(b))
    half = classes // 2
    complexified = [ev.add(block, ev.mul_i(ev.rotate(block, half * layout.cols))) for block in b]
    shifted = [ev.rotate_many(block, [k * layout.cols for k in range(half)]) for block in complexified]
    first_column = _first_columns_mask(layout, 1)

    def product(row: list[Ciphertext]) -> Ciphertext:
        terms = []
        for k in range(half):
            total = ev.relinearize(ev.sum(ev.mul_no_relin(x, w[k]) for x, w in zip(row, shifted, strict=True)))
            spread = replicate_columns(ev, ev.mul_plain(sum_columns(ev, total, layout), first_column), layout)
            terms.append(ev.mul_plain(spread, _diagonal_mask(layout, classes, k, scale, columns=True)))
        combined = ev.sum(terms)
        return ev.add(combined, ev.conjugate(combined))

    return ev.map(product, a)


def diag_atb(
    ev: Evaluator,
    a: list[Ciphertext],
    b: list[list[Ciphertext]],
    layout: BlockLayout,
    classes: int,
    *,
    scale: float = 1.0,
    valid_classes: int | None = None,
    partial: bool = True,
) -> list[Ciphertext]:
    """scale * A^T B.

    Args:
        a: one ciphertext per row block of A (n x c'), in tiled columns.
        b: [row block][column block] of B (n x m).
        valid_classes: rows of the product from here on are zero.
        partial: rotate A without a mask and mend B instead (PRotUp): one level less of A, one more of B.

    Returns:
        One ciphertext per column block of the product (c' x m), in tiled rows.

    Raises:
        LayoutError: ``classes`` does not tile the layout, or the layout does not fill the slots.
        ShapeError: the blocks of A and B do not match.

    Levels: of A 3 (first rotation's mask, product, diagonal mask) with ``partial``, else 4; of B 3, else 2.
    """
    _require_match(ev, b, layout, classes, rows=len(a))
    half = classes // 2
    complexified = [ev.add(block, ev.mul_i(rotate_columns(ev, block, half, layout))) for block in a]
    totals: list[list[Ciphertext]] = []
    for k in range(half):
        if k == 0:
            left, right = complexified, b
        elif partial:
            left = [ev.rotate(block, k) for block in complexified]
            right = [[_rotate_up_last_columns(ev, block, k, layout) for block in row] for row in b]
        else:
            left, right = [rotate_columns(ev, block, k, layout) for block in complexified], b
        totals.append(
            [
                ev.relinearize(ev.sum(ev.mul_no_relin(p, x) for p, x in zip(left, column, strict=True)))
                for column in zip(*right, strict=True)
            ]
        )
    limit = classes if valid_classes is None else valid_classes

    def reduce(column: tuple[Ciphertext, ...]) -> Ciphertext:
        combined = ev.sum(
            ev.mul_plain(
                sum_rows(ev, total, layout), _diagonal_mask(layout, classes, k, scale, columns=False, limit=limit)
            )
            for k, total in enumerate(column)
        )
        return ev.add(combined, ev.conjugate(combined))

    return ev.map(reduce, list(zip(*totals, strict=True)))


def sum_columns(ev: Evaluator, ct: Ciphertext, layout: BlockLayout) -> Ciphertext:
    """Column 0 of every row becomes the sum of the row; the other columns hold garbage. log2(s1) rotations."""
    step = 1
    while step < layout.cols:
        ct = ev.add(ct, ev.rotate(ct, step))
        step *= 2
    return ct


def replicate_columns(ev: Evaluator, ct: Ciphertext, layout: BlockLayout) -> Ciphertext:
    """Copies column 0 to all columns, where the others are zero. log2(s1) rotations."""
    step = 1
    while step < layout.cols:
        ct = ev.add(ct, ev.rotate(ct, -step))
        step *= 2
    return ct


def sum_rows(ev: Evaluator, ct: Ciphertext, layout: BlockLayout) -> Ciphertext:
    """Every row becomes the sum of all rows: cyclic in the whole block, so no mask. log2(s0) rotations."""
    step = layout.cols
    while step < layout.slots:
        ct = ev.add(ct, ev.rotate(ct, step))
        step *= 2
    return ct


def rotate_columns(ev: Evaluator, ct: Ciphertext, steps: int, layout: BlockLayout) -> Ciphertext:
    """RotLeft: every row rotated cyclically to the left. One level, two rotations, one mask.

    The masked part wraps around inside its row; what is left of the row moves without a mask of its own.
    """
    wrapping = ev.mul_plain(ct, _first_columns_mask(layout, steps))
    return ev.add(ev.rotate(ev.sub(ct, wrapping), steps), ev.rotate(wrapping, steps - layout.cols))


def _rotate_up_last_columns(ev: Evaluator, ct: Ciphertext, steps: int, layout: BlockLayout) -> Ciphertext:
    """PRotUp: the last ``steps`` columns move up by one row. One level, one rotation, one mask.

    A block of A rotated by ``steps`` slots without a mask brings, in its last columns, values of the next row; after
    this they meet their own row of B again, and the sum over rows is what it was.
    """
    last = ev.mul_plain(ct, _last_columns_mask(layout, steps))
    return ev.add(ev.sub(ct, last), ev.rotate(last, layout.cols))


def _require_match(
    ev: Evaluator,
    blocks: list[list[Ciphertext]],
    layout: BlockLayout,
    classes: int,
    *,
    rows: int | None = None,
    columns: int | None = None,
) -> None:
    """Check the layout, and that ``blocks`` is a rectangle of ``rows`` x ``columns`` where these are given."""
    layout.require_period(classes)
    if layout.slots != ev.slots:
        raise LayoutError(f"a block of {layout.rows} x {layout.cols} does not fill {ev.slots} slots")
    wanted = len(blocks[0]) if columns is None and blocks else columns
    if not blocks or not wanted or any(len(row) != wanted for row in blocks) or rows not in (None, len(blocks)):
        raise ShapeError(f"{[len(row) for row in blocks]} blocks per row do not match the other factor's")


# Masks are cached because a backend's cache of encodings is keyed by their content: equal content every iteration, and
# none of it computed twice. At 2^15 slots a mask is 512 KiB, so each cache holds at most 64 MiB.
@lru_cache(maxsize=128)
def _first_columns_mask(layout: BlockLayout, count: int) -> Mask:
    mask = np.zeros((layout.rows, layout.cols), dtype=np.complex128)
    mask[:, :count] = 1.0
    return _frozen(mask, layout)


@lru_cache(maxsize=128)
def _last_columns_mask(layout: BlockLayout, count: int) -> Mask:
    mask = np.zeros((layout.rows, layout.cols), dtype=np.complex128)
    mask[:, layout.cols - count :] = 1.0
    return _frozen(mask, layout)


@lru_cache(maxsize=128)
def _diagonal_mask(
    layout: BlockLayout, classes: int, k: int, scale: float, *, columns: bool, limit: int | None = None
) -> Mask:
    """1/2 where the real part belongs, -i/2 where the imaginary part does, times ``scale``.

    With ``columns`` the class index is the column and must be i + k (or i + k + h) mod c'; else it is the row and the
    column index plays the part of i. Class rows from ``limit`` on are zero.
    """
    row, col = np.meshgrid(np.arange(layout.rows), np.arange(layout.cols), indexing="ij")
    offset = (col - row - k) % classes if columns else (row - col - k) % classes
    mask = 0.5 * scale * ((offset == 0) - 1j * (offset == classes // 2))
    if limit is not None:
        mask = mask * ((row % classes) < limit)
    return _frozen(mask, layout)


def _frozen(mask: Mask, layout: BlockLayout) -> Mask:
    vector = np.ascontiguousarray(mask.reshape(layout.slots))
    vector.setflags(write=False)
    return vector
