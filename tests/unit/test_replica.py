"""The replica-packed layout: where numbers lie, that packing is undone, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hetal.errors import LayoutError, ShapeError
from hetal.kernels.replica import ReplicaLayout, layouts


@pytest.fixture
def layout() -> ReplicaLayout:
    return ReplicaLayout.fit(64, 8, 9, 3, replicas=4, split=2, diagonals=2)


def test_the_sizes_follow(layout: ReplicaLayout) -> None:
    """Blocks of 16 slots hold 4 runs of 4: 7 places for features and their shifted copies, so all 5 pairs."""
    assert (layout.block, layout.width, layout.groups, layout.lead) == (16, 4, 2, 0)
    assert (layout.pairs, layout.blocks, layout.features, layout.runs) == (5, 1, 5, 3)
    assert (layout.pieces, layout.packed, layout.compacts, layout.samples_max) == (2, 2, 1, 16)
    assert (layout.sections.stride, layout.sections.classes, layout.sections.groups) == (4, 3, 2)


def test_places_of_the_features(layout: ReplicaLayout) -> None:
    x = np.arange(1.0, 73.0).reshape(8, 9)
    for group, blocks in enumerate(layout.pack_features(x)):
        slots = blocks[0].reshape(4, 16)
        for i in range(4):
            row = x[group * 4 + i]
            pairs = row[:5] + 1j * np.append(row[5:], 0.0)
            assert np.array_equal(slots[i], np.append(np.repeat(pairs, 2), np.zeros(6)))


def test_places_of_the_weights(layout: ReplicaLayout) -> None:
    """Piece u holds, in feature f and class part k1, the conjugate weight of class (f + u) mod 2 * 2 + k1."""
    w = np.arange(1.0, 28.0).reshape(3, 9)
    padded = np.zeros((4, 10))
    padded[:3, :9] = w
    pairs = padded[:, :5] - 1j * padded[:, 5:]
    pieces = [[pairs[(f + u) % 2 * 2 + k1, f] for f in range(5) for k1 in range(2)] for u in range(2)]
    compact = layout.pack_weights(w)[0].reshape(4, 16)
    for i in range(4):
        for p in range(10):
            power = np.exp(2j * np.pi * pow(5, i * 16 + p, 256) / 128)
            assert compact[i, p] == pytest.approx(pieces[0][p] + power * pieces[1][p])
        assert not compact[i, 10:].any()


def test_runs_ahead_lie_in_the_tail_of_the_block_before() -> None:
    """5 runs make one section of 4, and one run ahead of it."""
    layout = ReplicaLayout.fit(64, 16, 9, 3, replicas=4, split=3, diagonals=1)
    assert (layout.block, layout.groups, layout.runs, layout.lead) == (16, 4, 5, 1)
    slots = layout.pack_features(np.ones((1, 9)))[0][0]
    assert np.flatnonzero(slots).tolist() == [*range(12), 61, 62, 63]


@pytest.mark.parametrize(
    ("slots", "columns", "classes", "replicas", "split", "diagonals"),
    [
        (64, 1, 1, 64, 1, 1),
        (64, 40, 5, 4, 2, 3),
        (256, 13, 64, 2, 8, 8),
        (1024, 769, 10, 8, 1, 10),
        (64, 9, 3, 4, 3, 1),
    ],
)
def test_packing_weights_is_undone(
    slots: int, columns: int, classes: int, replicas: int, split: int, diagonals: int
) -> None:
    layout = ReplicaLayout.fit(slots, 3, columns, classes, replicas=replicas, split=split, diagonals=diagonals)
    w = np.random.default_rng(1).normal(size=(classes, columns))
    compacts = layout.pack_weights(w)
    assert len(compacts) == layout.compacts
    assert np.abs(layout.unpack_weights(compacts) - w).max() < 1e-12


def test_weights_of_more_pieces_than_replicas_take_several_compacts() -> None:
    layout = ReplicaLayout.fit(1024, 64, 769, 10, replicas=64, split=10, diagonals=1)
    assert (layout.pieces, layout.packed, layout.compacts) == (385, 64, 7)


def test_batches_whose_logits_do_not_fit_are_cut_into_equal_chunks() -> None:
    for layout in layouts(1024, 512, 100, 10):
        chunks = -(-512 // layout.samples)
        assert layout.samples <= layout.samples_max < 1024 // 10 + 1
        assert (chunks - 1) * layout.samples < 512 <= chunks * layout.samples


def test_layouts_on_offer_differ_and_cover_the_class_splits() -> None:
    offered = list(layouts(1 << 15, 1024, 769, 10))
    assert len(set(offered)) == len(offered)
    assert {(each.split, each.diagonals) for each in offered} == {(10, 1), (5, 2), (4, 3), (3, 4), (2, 5), (1, 10)}
    assert {each.replicas for each in offered} == {1 << k for k in range(11)}


def test_one_group_never_needs_a_mask() -> None:
    single = [layout for n in (1, 30, 256) for layout in layouts(1 << 12, n, 385, 10) if layout.groups == 1]
    assert single
    assert all(layout.unmasked for layout in single)


def test_what_does_not_fit_is_refused(layout: ReplicaLayout) -> None:
    with pytest.raises(LayoutError, match="65 classes do not fit 64 slots"):
        list(layouts(64, 4, 9, 65))
    with pytest.raises(LayoutError, match="runs of 5 slots do not fit a block of 4"):
        ReplicaLayout.fit(64, 4, 9, 5, replicas=16, split=5, diagonals=1)
    with pytest.raises(LayoutError, match="at least one"):
        ReplicaLayout.fit(64, 4, 0, 5, replicas=4, split=5, diagonals=1)
    for wrong in (
        {"slots": 63},
        {"replicas": 3},
        {"samples": 9},
        {"samples": 0},
        {"classes": 5},
        {"groups": 5},
        {"lead": -1},
        {"replicas": 128},
    ):
        with pytest.raises(LayoutError):
            replace(layout, **wrong)
    with pytest.raises(LayoutError, match="whole sections"):
        replace(ReplicaLayout.fit(64, 16, 9, 3, replicas=4, split=3, diagonals=1), lead=0)


def test_operands_that_do_not_fit_are_refused(layout: ReplicaLayout) -> None:
    for call in (
        lambda: layout.pack_features(np.zeros((9, 9))),
        lambda: layout.pack_features(np.zeros((0, 9))),
        lambda: layout.pack_features(np.zeros((8, 8))),
        lambda: layout.pack_weights(np.zeros((4, 9))),
        lambda: layout.unpack_weights([]),
        lambda: layout.unpack_weights([np.zeros(32, dtype=complex)]),
    ):
        with pytest.raises(ShapeError):
            call()
