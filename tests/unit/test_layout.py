"""Packing: every entry in the slot that the layout says, and back."""

from __future__ import annotations

import numpy as np
import pytest

from hetal.errors import LayoutError
from hetal.kernels.layout import BlockLayout

LAYOUT = BlockLayout(rows=8, cols=4)


def matrix(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(rows * 100 + columns).uniform(-1, 1, (rows, columns))


@pytest.mark.parametrize("shape", [(1, 1), (8, 4), (9, 5), (16, 8), (3, 13), (23, 1)])
def test_pack_puts_entries_row_major_into_padded_blocks(shape: tuple[int, int]) -> None:
    m = matrix(*shape)
    blocks = LAYOUT.pack(m)
    assert len(blocks) == LAYOUT.row_blocks(shape[0]) == -(-shape[0] // 8)
    assert {len(row) for row in blocks} == {LAYOUT.column_blocks(shape[1])} == {-(-shape[1] // 4)}
    for i in range(len(blocks) * 8):
        for j in range(len(blocks[0]) * 4):
            expected = m[i, j] if i < shape[0] and j < shape[1] else 0.0
            assert blocks[i // 8][j // 4][(i % 8) * 4 + j % 4] == expected
    assert np.array_equal(LAYOUT.unpack(blocks, shape), m)


def test_tiled_rows_repeat_down_every_block() -> None:
    w = matrix(2, 6)
    vectors = LAYOUT.pack_tiled_rows(w)
    assert len(vectors) == 2
    for j, vector in enumerate(vectors):
        for i in range(8):
            for column in range(4):
                expected = w[i % 2, j * 4 + column] if j * 4 + column < 6 else 0.0
                assert vector[i * 4 + column] == expected
    assert np.array_equal(LAYOUT.unpack_tiled_rows(vectors, (2, 6)), w)


def test_tiled_columns_repeat_along_every_row() -> None:
    a = matrix(11, 2)
    vectors = LAYOUT.pack_tiled_columns(a)
    assert len(vectors) == 2
    for i in range(16):
        for column in range(4):
            expected = a[i, column % 2] if i < 11 else 0.0
            assert vectors[i // 8][(i % 8) * 4 + column] == expected
    assert np.array_equal(LAYOUT.unpack_tiled_columns(vectors, (11, 2)), a)


@pytest.mark.parametrize(("rows", "cols"), [(0, 4), (3, 4), (4, 6), (-4, 4)])
def test_blocks_are_powers_of_two(rows: int, cols: int) -> None:
    with pytest.raises(LayoutError):
        BlockLayout(rows, cols)


@pytest.mark.parametrize("classes", [1, 3, 8, 16])
def test_classes_must_tile_rows_and_columns(classes: int) -> None:
    with pytest.raises(LayoutError):
        LAYOUT.require_period(classes)
    with pytest.raises(LayoutError):
        LAYOUT.pack_tiled_rows(matrix(classes, 4))
    with pytest.raises(LayoutError):
        LAYOUT.pack_tiled_columns(matrix(4, classes))


def test_the_largest_period_is_the_shorter_side() -> None:
    LAYOUT.require_period(4)
    assert np.array_equal(LAYOUT.unpack_tiled_rows(LAYOUT.pack_tiled_rows(matrix(4, 5)), (4, 5)), matrix(4, 5))
