"""The replica-packed layout: samples along the outermost slot axis, weights as sums of monomial multiples.

Slot (i, p) is i * block + p; the sample index i < replicas is outermost, so rotations by multiples of ``block`` are
cyclic in i without masks. A vector that does not depend on i lies in the subring Z[X^replicas]; up to ``packed`` such
vectors w_u fit into one *compact* ciphertext as sum_u X^(e_u) w_u, and neither packing nor unpacking takes a mask or a
level (:mod:`hetal.kernels.products`). Two features share a slot as its real and imaginary part.

Inside a block, p = f * split + k1 for feature f and the class part k1: every feature value is repeated ``split``
times, and ``diagonals`` pieces of the weights, each shifted by one feature, cover width = split * diagonals >= classes
classes. A *run* is ``width`` consecutive slots: the partial logits of one sample, or its share of the residual.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hetal.errors import LayoutError, ShapeError
from hetal.kernels.backends.plain import galois_powers
from hetal.kernels.layout import Array
from hetal.kernels.sections import Sections

Slots = NDArray[np.complex128]


@dataclass(frozen=True, slots=True)
class ReplicaLayout:
    """Where the features, weights and logits of one chunk of a mini-batch lie. Use :meth:`fit` or :func:`layouts`.

    Attributes:
        slots: of a ciphertext, a power of two.
        samples: of a chunk: all of its logits share one ciphertext.
        columns: of the features, bias included.
        classes: 1 for the difference of two.
        replicas: samples of one group, a power of two.
        split: copies of each feature value.
        diagonals: pieces that the weights of a feature block have.
        features: complex features of one feature block.
        groups: of ``replicas`` samples that the sections hold; a chunk may have fewer.
        lead: runs that lie before slot 0 of a block, in the tail of the block before it, because the runs of a block
            do not make whole sections.
    """

    slots: int
    samples: int
    columns: int
    classes: int
    replicas: int
    split: int
    diagonals: int
    features: int
    groups: int
    lead: int

    def __post_init__(self) -> None:
        for name, value in (("slots", self.slots), ("replicas", self.replicas)):
            if value < 1 or value & (value - 1):
                raise LayoutError(f"{name} = {value} of a replica layout is not a power of two")
        smallest = min(self.samples, self.columns, self.classes, self.split, self.diagonals, self.features, self.groups)
        if smallest < 1 or self.lead < 0 or self.replicas > self.slots or self.width < self.classes:
            raise LayoutError(f"{self} is no layout")
        if self.groups * self.width > self.block or self.samples > self.groups * self.replicas:
            raise LayoutError(
                f"{self.samples} samples with {self.classes} classes do not fit blocks of {self.block} slots, "
                f"{self.replicas} of them"
            )
        if self.used > self.block:
            raise LayoutError(f"{self.features} features and their shifted copies do not fit a block of {self.block}")
        if self.runs - self.lead > self.groups * (self.block // (self.groups * self.width)):
            raise LayoutError(f"{self.runs} runs, {self.lead} of them ahead, do not make whole sections")

    @classmethod
    def fit(
        cls, slots: int, samples: int, columns: int, classes: int, *, replicas: int, split: int, diagonals: int
    ) -> ReplicaLayout:
        """The layout of at most ``samples`` samples, in as many equal chunks as their logits need.

        Raises:
            LayoutError: a run of ``split * diagonals`` slots does not fit a block, or does not hold the classes.
        """
        if min(samples, columns, classes, replicas, split, diagonals) < 1:
            raise LayoutError("a layout has at least one sample, column, class, replica, copy and diagonal")
        block, width = slots // replicas, split * diagonals
        if width > block:
            raise LayoutError(f"runs of {width} slots do not fit a block of {block}")
        wanted = math.ceil(samples / replicas)
        groups = math.ceil(wanted / math.ceil(wanted / (block // width)))
        # A last run that the block cuts short is free where masks bring the groups together.
        places = block // split if groups > 1 else block // width * diagonals
        pairs = (columns + 1) // 2
        features = math.ceil(pairs / math.ceil(pairs / (places - diagonals + 1)))
        runs = math.ceil((features + diagonals - 1) / diagonals)
        lead = max(0, runs - groups * (block // (groups * width)))
        chunk = min(samples, groups * replicas)
        return cls(slots, chunk, columns, classes, replicas, split, diagonals, features, groups, lead)

    def with_samples(self, samples: int) -> ReplicaLayout:
        """The layout of chunks of up to ``samples`` samples that are multiplied by the same pieces of the weights.

        Raises:
            LayoutError: the logits of so many samples do not fit one ciphertext; ``samples_max`` of them do.
        """
        if not 1 <= samples <= self.samples_max:
            raise LayoutError(f"a chunk has 1 to {self.samples_max} samples, not {samples}")
        most = self.block // self.width
        fits = (
            groups
            for groups in range(math.ceil(samples / self.replicas), most + 1)
            if self.runs - self.lead <= groups * (self.block // (groups * self.width))
        )
        return replace(self, samples=samples, groups=next(fits))

    # -- derived sizes ------------------------------------------------------------------------------------------------

    @property
    def block(self) -> int:
        """Slots of one i."""
        return self.slots // self.replicas

    @property
    def width(self) -> int:
        """Slots of a run."""
        return self.split * self.diagonals

    @property
    def samples_max(self) -> int:
        """Largest chunk that the weights of this layout can serve."""
        return self.replicas * (self.block // self.width)

    @property
    def pairs(self) -> int:
        """Complex features: columns two by two."""
        return (self.columns + 1) // 2

    @property
    def blocks(self) -> int:
        """Feature blocks: ciphertexts of one group's features."""
        return math.ceil(self.pairs / self.features)

    @property
    def used(self) -> int:
        """Slots of a block that hold features or their shifted copies."""
        return (self.features + self.diagonals - 1) * self.split

    @property
    def runs(self) -> int:
        """Runs of a block in use; the last may be short."""
        return math.ceil(self.used / self.width)

    @property
    def whole(self) -> bool:
        """No run is cut short by the block's end."""
        return self.runs * self.width <= self.block

    @property
    def folds(self) -> int:
        """Sections of a block in use."""
        return math.ceil((self.runs - self.lead) / self.groups)

    @property
    def unmasked(self) -> bool:
        """Logits need no mask, nor its level: one group, of whole runs."""
        return self.groups == 1 and self.whole

    @property
    def pieces(self) -> int:
        """Of the weights, one per feature block and diagonal; piece q * diagonals + u belongs to block q."""
        return self.blocks * self.diagonals

    @property
    def packed(self) -> int:
        """Pieces that a compact ciphertext has room for, a power of two."""
        return min(1 << (self.pieces - 1).bit_length(), self.replicas)

    @property
    def compacts(self) -> int:
        """Compact ciphertexts that hold all weights."""
        return math.ceil(self.pieces / self.packed)

    @property
    def forward_gain(self) -> float:
        """Logits come out of ``forward`` multiplied by this."""
        return 2.0 * self.packed

    @property
    def backward_gain(self) -> float:
        """The gradient comes out of ``backward`` multiplied by this."""
        return 1.0

    @property
    def sections(self) -> Sections:
        """Where logits, probabilities, labels and residuals lie."""
        return Sections(self.slots, self.block, self.groups, self.width, self.classes)

    # -- packing ------------------------------------------------------------------------------------------------------

    def pack_features(self, x: Array) -> list[list[Slots]]:
        """(k, columns), k <= samples, to [group][feature block] slot vectors; only groups with a row of x.

        Column j is the real part of complex feature j, or the imaginary part of feature j - pairs.
        """
        k, columns = x.shape
        if columns != self.columns or not 1 <= k <= self.samples:
            raise ShapeError(f"features of shape {x.shape} do not fit a chunk of {self.samples, self.columns}")
        groups = math.ceil(k / self.replicas)
        padded = np.zeros((groups * self.replicas, self.blocks * self.features), dtype=np.complex128)
        padded[:k, : self.pairs] = x[:, : self.pairs]
        padded[:k, : columns - self.pairs] += 1j * x[:, self.pairs :]
        by_block = padded.reshape(groups, self.replicas, self.blocks, self.features).transpose(0, 2, 1, 3)
        return [[self._spread_block(np.repeat(block, self.split, axis=1)) for block in group] for group in by_block]

    def pack_weights(self, w: Array) -> list[Slots]:
        """(classes, columns) to compact slot vectors. They hold conjugates: Re(w x) is the inner product."""
        if w.shape != (self.classes, self.columns):
            raise ShapeError(f"weights of shape {w.shape} are not {self.classes, self.columns}")
        padded = np.zeros((self.width, self.blocks * self.features), dtype=np.complex128)
        padded[: self.classes, : self.pairs] = w[:, : self.pairs]
        padded[: self.classes, : self.columns - self.pairs] -= 1j * w[:, self.pairs :]
        compacts: list[Slots] = [np.zeros(self.slots, dtype=np.complex128) for _ in range(self.compacts)]
        for piece in range(self.pieces):
            classes, features = self._places(piece)
            vector = self._spread_block(np.tile(padded[classes, features], (self.replicas, 1)))
            index, place = divmod(piece, self.packed)
            compacts[index] += _monomial(self.slots, self.exponent(place)) * vector
        return compacts

    def unpack_weights(self, compacts: Sequence[NDArray[np.complex128]]) -> Array:
        """Inverse of :meth:`pack_weights`; what noise lies outside of the pieces is averaged out."""
        if len(compacts) != self.compacts or any(np.shape(compact) != (self.slots,) for compact in compacts):
            raise ShapeError(f"the weights are in {self.compacts} vectors of {self.slots} slots")
        padded = np.zeros((self.width, self.blocks * self.features), dtype=np.complex128)
        for piece in range(self.pieces):
            classes, features = self._places(piece)
            index, place = divmod(piece, self.packed)
            vector = _monomial(self.slots, -self.exponent(place)) * compacts[index]
            block = np.roll(vector, self.lead * self.width).reshape(self.replicas, self.block).mean(axis=0)
            padded[classes, features] = block[: self.features * self.split]
        real, imaginary = padded.real[:, : self.pairs], -padded.imag[:, : self.columns - self.pairs]
        return np.concatenate([real, imaginary], axis=1)[: self.classes]

    def exponent(self, place: int) -> int:
        """e_u of the piece in this place of a compact: bit j of the place weighs replicas / 2^(j+1)."""
        return sum(self.replicas >> (j + 1) for j in range(place.bit_length()) if place >> j & 1)

    def _spread_block(self, rows: NDArray[np.complex128]) -> Slots:
        """(replicas, at most block) rows to the slots of the replicas, ``lead`` runs ahead."""
        slots = np.zeros((self.replicas, self.block), dtype=np.complex128)
        slots[:, : rows.shape[1]] = rows
        return np.roll(slots.reshape(self.slots), -self.lead * self.width)

    def _places(self, piece: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Class and complex feature of every slot of a block that the piece uses."""
        block, diagonal = divmod(piece, self.diagonals)
        feature, part = np.divmod(np.arange(self.features * self.split), self.split)
        return (feature + diagonal) % self.diagonals * self.split + part, block * self.features + feature


def layouts(slots: int, samples: int, columns: int, classes: int) -> Iterator[ReplicaLayout]:
    """Every layout worth its count for mini-batches of ``samples``: group size by class split.

    More copies of each value (``split``) make more ciphertexts of features and fewer key switches. Batches whose logits
    do not fit one ciphertext get several chunks.

    Raises:
        LayoutError: the classes of one sample do not fit the slots.
    """
    if classes > slots:
        raise LayoutError(f"{classes} classes do not fit {slots} slots")
    splits = {math.ceil(classes / split): split for split in range(classes, 0, -1)}
    replicas = 1
    while replicas <= slots and (replicas == 1 or replicas < 2 * samples):
        for diagonals, split in sorted(splits.items()):
            if split * diagonals <= slots // replicas:
                yield ReplicaLayout.fit(
                    slots, samples, columns, classes, replicas=replicas, split=split, diagonals=diagonals
                )
        replicas *= 2


@lru_cache(maxsize=64)
def _monomial(slots: int, exponent: int) -> Slots:
    """X^exponent in the slots."""
    angles = galois_powers(slots) * exponent % (4 * slots)
    vector: Slots = np.exp(1j * np.pi / (2 * slots) * angles)
    vector.setflags(write=False)
    return vector
