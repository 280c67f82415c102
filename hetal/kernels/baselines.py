"""The products that HETAL compares itself with: Crockett's ColMajor and RowMajor, and PrivGD's (arXiv 2403.14111).

They serve the benchmark alone. All sums of products are relinearised once, as in :mod:`hetal.kernels.matmul`, so that
a comparison of key switches shows the algorithms and not the laziness of one of them.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hetal.errors import LayoutError, ShapeError
from hetal.kernels.evaluator import Ciphertext, Evaluator
from hetal.kernels.layout import BlockLayout
from hetal.kernels.matmul import replicate_columns, sum_columns, sum_rows

Mask = NDArray[np.float64]
Blocks = list[list[Ciphertext]]


def column_major_abt(
    ev: Evaluator, a: Blocks, b: list[Ciphertext], layout: BlockLayout, classes: int
) -> list[Ciphertext]:
    """A B^T column by column (Crockett, eprint 2020/1483).

    Args:
        a: [row block][column block] of A (n x m).
        b: one ciphertext per column block of B (classes x m), which fits into one row block.

    Returns:
        One ciphertext per row block of the product (n x classes), the columns from ``classes`` on zero.

    Three levels: row mask of B, product, column mask. Raises :class:`LayoutError` when the classes exceed a block,
    :class:`ShapeError` when the blocks of A and B do not match.
    """
    _require_fit(layout, classes)
    if any(len(row) != len(b) for row in a):
        raise ShapeError(f"A has {[len(row) for row in a]} blocks per row, B {len(b)}")
    first_column = _column_mask(layout, 0)
    columns: list[list[Ciphertext]] = [[] for _ in a]
    for k in range(classes):
        rows = [sum_rows(ev, ev.mul_plain(block, _row_mask(layout, k)), layout) for block in b]
        for i, row in enumerate(a):
            total = ev.relinearize(ev.sum(ev.mul_no_relin(x, w) for x, w in zip(row, rows, strict=True)))
            column = ev.mul_plain(sum_columns(ev, total, layout), first_column)
            columns[i].append(ev.rotate(column, -k))
    return [ev.sum(terms) for terms in columns]


def row_major_atb(ev: Evaluator, a: list[Ciphertext], b: Blocks, layout: BlockLayout, classes: int) -> list[Ciphertext]:
    """A^T B row by row (Crockett, eprint 2020/1483).

    Args:
        a: one ciphertext per row block of A (n x classes), which fits into one column block.
        b: [row block][column block] of B (n x m).

    Returns:
        One ciphertext per column block of the product (classes x m), the rows from ``classes`` on zero.

    Three levels of A (column mask, product, row mask), two of B. Raises :class:`LayoutError` when the classes exceed
    a block, :class:`ShapeError` when the blocks of A and B do not match.
    """
    _require_fit(layout, classes)
    if len(a) != len(b) or len({len(row) for row in b}) != 1:
        raise ShapeError(f"A has {len(a)} row blocks, B {[len(row) for row in b]} blocks per row")
    rows: list[list[Ciphertext]] = [[] for _ in b[0]]
    for k in range(classes):
        columns = [
            replicate_columns(ev, ev.rotate(ev.mul_plain(block, _column_mask(layout, k)), k), layout) for block in a
        ]
        for j, column in enumerate(zip(*b, strict=True)):
            total = ev.relinearize(ev.sum(ev.mul_no_relin(p, x) for p, x in zip(columns, column, strict=True)))
            rows[j].append(ev.mul_plain(sum_rows(ev, total, layout), _row_mask(layout, k)))
    return [ev.sum(terms) for terms in rows]


def privgd_abt(ev: Evaluator, a: Blocks, b: Blocks) -> Blocks:
    """A B^T with one ciphertext per column of A and one per entry of B (Jin, Ragab, Aung; ProvSec 2020).

    Args:
        a: [column of A][sample block], the samples along the slots.
        b: [row of B][column of B], the entry in every slot.

    Returns:
        [row of B][sample block], the samples along the slots. One level. Raises :class:`ShapeError` when A and B do
        not have the same columns.
    """
    if not b or any(len(row) != len(a) for row in b):
        raise ShapeError(f"A has {len(a)} columns, the rows of B {sorted({len(row) for row in b})}")
    return [
        [
            ev.relinearize(ev.sum(ev.mul_no_relin(x, w) for x, w in zip(samples, row, strict=True)))
            for samples in zip(*a, strict=True)
        ]
        for row in b
    ]


def privgd_atb(ev: Evaluator, a: Blocks, b: Blocks) -> Blocks:
    """A^T B with one ciphertext per column of A and of B (Jin, Ragab, Aung; ProvSec 2020).

    Args:
        a: [column of A][sample block], the samples along the slots, zero where there is none.
        b: [column of B][sample block], likewise.

    Returns:
        [column of A][column of B], the entry in every slot. One level. Raises :class:`ShapeError` when A and B do not
        have the same sample blocks.
    """
    if len({len(column) for column in [*a, *b]}) != 1:
        raise ShapeError("the columns of A and B differ in their sample blocks")
    everything = BlockLayout(rows=ev.slots, cols=1)
    return [
        [
            sum_rows(
                ev,
                ev.relinearize(ev.sum(ev.mul_no_relin(p, x) for p, x in zip(left, right, strict=True))),
                everything,
            )
            for right in b
        ]
        for left in a
    ]


def _require_fit(layout: BlockLayout, classes: int) -> None:
    if not 1 <= classes <= min(layout.rows, layout.cols):
        raise LayoutError(f"{classes} classes do not fit into a block of {layout.rows} x {layout.cols}")


@lru_cache(maxsize=64)
def _row_mask(layout: BlockLayout, row: int) -> Mask:
    return _ones(layout, slice(row, row + 1), slice(None))


@lru_cache(maxsize=64)
def _column_mask(layout: BlockLayout, column: int) -> Mask:
    return _ones(layout, slice(None), slice(column, column + 1))


def _ones(layout: BlockLayout, rows: slice, columns: slice) -> Mask:
    mask = np.zeros((layout.rows, layout.cols))
    mask[rows, columns] = 1.0
    mask.setflags(write=False)
    return mask.reshape(layout.slots)
