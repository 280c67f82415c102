"""Where the numbers of a mini-batch, one per sample and class, lie in the slots between the matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hetal.errors import LayoutError, ShapeError

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sections:
    """Sample t * replicas + i, class k lies in slot i * block + t * stride + k; i < replicas, t < groups, k < classes.

    Rotations by multiples of ``block`` are cyclic in i. The slots of a block from ``groups * stride`` on, and those
    between ``classes`` and ``stride``, hold anything small.

    Attributes:
        slots: of a ciphertext, a power of two.
        block: slots of one i, a power of two.
        groups: samples of one block.
        stride: slots of one sample.
        classes: numbers of one sample.
    """

    slots: int
    block: int
    groups: int
    stride: int
    classes: int

    def __post_init__(self) -> None:
        for name, value in (("slots", self.slots), ("block", self.block)):
            if value < 1 or value & (value - 1):
                raise LayoutError(f"{name} = {value} of sections is not a power of two")
        if not (1 <= self.classes <= self.stride and self.groups >= 1 and self.groups * self.stride <= self.block):
            raise LayoutError(
                f"{self.groups} groups of {self.stride} slots for {self.classes} classes do not fit a block of "
                f"{self.block}"
            )
        if self.block > self.slots:
            raise LayoutError(f"a block of {self.block} does not fit {self.slots} slots")

    @property
    def replicas(self) -> int:
        return self.slots // self.block

    @property
    def samples(self) -> int:
        """Most samples that fit."""
        return self.replicas * self.groups

    def pack(self, matrix: Array) -> Array:
        """(n, classes), n at most ``samples``, to a slot vector; all other slots are 0."""
        n, classes = matrix.shape
        if n > self.samples or classes != self.classes:
            raise ShapeError(f"a matrix of shape {matrix.shape} does not fit sections of {self.samples, self.classes}")
        padded = np.zeros((self.groups * self.replicas, self.stride))
        padded[:n, :classes] = matrix
        slots = np.zeros((self.replicas, self.block))
        by_group = padded.reshape(self.groups, self.replicas, self.stride).transpose(1, 0, 2)
        slots[:, : self.groups * self.stride] = by_group.reshape(self.replicas, -1)
        return slots.reshape(self.slots)

    def unpack(self, vector: Array, samples: int) -> Array:
        """Inverse of :meth:`pack`: (samples, classes)."""
        used = np.asarray(vector).reshape(self.replicas, self.block)[:, : self.groups * self.stride]
        by_group = used.reshape(self.replicas, self.groups, self.stride).transpose(1, 0, 2)
        return np.ascontiguousarray(by_group.reshape(-1, self.stride)[:samples, : self.classes])

    def mask(self, per_class: Sequence[float] | Array) -> Array:
        """A slot vector that holds ``per_class`` for every sample, and 0 in all other slots."""
        return self.pack(np.tile(np.asarray(per_class, dtype=np.float64), (self.samples, 1)))
