"""How matrices lie in slots: row-major blocks, and the two periodic tilings of HETAL (arXiv 2403.14111)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hetal.errors import LayoutError

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BlockLayout:
    """A ciphertext holds a block of ``rows`` x ``cols`` numbers, row-major: entry (i, l) in slot i * cols + l.

    Both are powers of two and their product is the slot count.
    """

    rows: int
    cols: int

    def __post_init__(self) -> None:
        for name, value in (("rows", self.rows), ("cols", self.cols)):
            if value < 1 or value & (value - 1):
                raise LayoutError(f"{name} = {value} of a block is not a power of two")

    @property
    def slots(self) -> int:
        return self.rows * self.cols

    def row_blocks(self, n: int) -> int:
        return math.ceil(n / self.rows)

    def column_blocks(self, b: int) -> int:
        return math.ceil(b / self.cols)

    def require_period(self, classes: int) -> None:
        """Raise :class:`LayoutError` unless ``classes``, padded, tiles the block both ways."""
        if classes < 2 or self.rows % classes or self.cols % classes:
            raise LayoutError(f"{classes} padded classes do not tile a block of {self.rows} x {self.cols}")

    def pack(self, matrix: Array) -> list[list[Array]]:
        """(n, b) -> [row block][column block] slot vectors, padded with zeros."""
        n, b = matrix.shape
        padded = np.zeros((self.row_blocks(n) * self.rows, self.column_blocks(b) * self.cols))
        padded[:n, :b] = matrix
        return [
            [
                np.ascontiguousarray(
                    padded[i * self.rows : (i + 1) * self.rows, j * self.cols : (j + 1) * self.cols]
                ).reshape(self.slots)
                for j in range(self.column_blocks(b))
            ]
            for i in range(self.row_blocks(n))
        ]

    def unpack(self, blocks: Sequence[Sequence[Array]], shape: tuple[int, int]) -> Array:
        """Inverse of :meth:`pack`."""
        full = np.block([[np.asarray(v).reshape(self.rows, self.cols) for v in row] for row in blocks])
        return np.asarray(full[: shape[0], : shape[1]])

    def pack_tiled_rows(self, w: Array) -> list[Array]:
        """(c', b) -> one vector per column block, row i holding w[i mod c']."""
        self.require_period(w.shape[0])
        return [row[0] for row in zip(*self.pack(np.tile(w, (self.rows // len(w), 1))), strict=True)]

    def unpack_tiled_rows(self, vectors: Sequence[Array], shape: tuple[int, int]) -> Array:
        """Inverse of :meth:`pack_tiled_rows`; reads the first period."""
        return self.unpack([list(vectors)], shape)

    def pack_tiled_columns(self, a: Array) -> list[Array]:
        """(n, c') -> one vector per row block, column l holding a[:, l mod c']."""
        self.require_period(a.shape[1])
        return [row[0] for row in self.pack(np.tile(a, (1, self.cols // a.shape[1])))]

    def unpack_tiled_columns(self, vectors: Sequence[Array], shape: tuple[int, int]) -> Array:
        """Inverse of :meth:`pack_tiled_columns`; reads the first period."""
        return self.unpack([[v] for v in vectors], shape)
