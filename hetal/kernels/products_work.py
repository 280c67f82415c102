"""What the replica-packed products of one mini-batch cost, in closed form: to choose among layouts without a trace."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from hetal.kernels.products import HOISTED_COST, MASK_COST, copies_are_doubled, fold_rotations
from hetal.kernels.replica import ReplicaLayout

# A product of two ciphertexts without relinearisation, in key switches.
PRODUCT_COST: Final = 0.06


@dataclass(frozen=True, slots=True)
class Work:
    """Operations: key switches made alone and hoisted, products of ciphertexts, products with masks."""

    key_switches: int
    hoisted: int
    products: int
    masks: int

    @property
    def weight(self) -> float:
        """In key switches at one level."""
        return self.key_switches + HOISTED_COST * self.hoisted + PRODUCT_COST * self.products + MASK_COST * self.masks


def batch_work(layout: ReplicaLayout, samples: int) -> Work:
    """Of expansion, logits, spreading and gradient for ``samples``, in full chunks."""
    chunks = math.ceil(samples / layout.samples)
    groups, diagonals, runs, lead = layout.groups, layout.diagonals, layout.runs, layout.lead
    expanded = layout.pieces - layout.compacts

    logits = groups * diagonals + groups * (diagonals - 1) + 1
    if layout.unmasked:
        masks = 0
        folded, fold_hoisted = fold_rotations(runs, layout.width, layout.block)
        logits += 1 if lead else 0
    else:
        places = min(groups, runs - lead)
        masks = groups * (places + lead)
        folded, fold_hoisted = fold_rotations(layout.folds, groups * layout.width, layout.block)
        logits += places - 1 + lead + groups - 1
    logits += folded

    hoisted = fold_hoisted + groups * (diagonals - 1)
    if copies_are_doubled(layout, groups):
        doubled, doubled_hoisted = fold_rotations(runs, layout.width, layout.block)
        spread = groups * (1 + doubled) - (0 if lead else 1)
        hoisted += groups * doubled_hoisted
        masks += groups
    else:
        spread = 0
        hoisted += runs + groups - 2
        masks += groups * runs

    packed = sum(_packing(min(layout.packed, layout.pieces - start), layout) for start in _starts(layout))
    return Work(
        key_switches=expanded + chunks * (logits + spread) + layout.pieces + packed,
        hoisted=chunks * hoisted,
        products=2 * chunks * groups * layout.pieces,
        masks=chunks * masks,
    )


def ranked(offered: Iterable[ReplicaLayout], samples: int, *, features_max: int | None = None) -> list[ReplicaLayout]:
    """Layouts by the weight of their work, those of at most ``features_max`` ciphertexts of features per mini-batch."""
    kept = [
        layout for layout in offered if features_max is None or feature_ciphertexts(layout, samples) <= features_max
    ]
    return sorted(kept, key=lambda layout: batch_work(layout, samples).weight)


def feature_ciphertexts(layout: ReplicaLayout, samples: int) -> int:
    """Of a mini-batch of ``samples``: a chunk has only the groups that it fills."""
    chunks, rest = divmod(samples, layout.samples)
    groups = chunks * math.ceil(layout.samples / layout.replicas) + math.ceil(rest / layout.replicas)
    return groups * layout.blocks


def _starts(layout: ReplicaLayout) -> range:
    return range(0, layout.pieces, layout.packed)


def _packing(count: int, layout: ReplicaLayout) -> int:
    """Rotations and the conjugation that put ``count`` pieces into one compact."""
    bits = layout.packed.bit_length() - 1
    merges = sum(math.ceil(count / (2 << bit)) for bit in range(bits))
    return merges + layout.replicas.bit_length() - 1 - bits + 1
