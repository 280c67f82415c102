"""The closed form of the products' costs against what is counted."""

from __future__ import annotations

from itertools import product

import pytest

from hetal.kernels.backends.counting import CountingEvaluator
from hetal.kernels.evaluator import LevelModel
from hetal.kernels.products import backward, expand, forward, spread
from hetal.kernels.products_work import Work, batch_work, feature_ciphertexts, ranked
from hetal.kernels.replica import ReplicaLayout, layouts


def counted(layout: ReplicaLayout, samples: int) -> Work:
    ev = CountingEvaluator(LevelModel(layout.slots, 5, 1, 5, 5))
    chunks = -(-samples // layout.samples)
    x = [[ev.encrypt() for _ in range(layout.blocks)] for _ in range(layout.groups)]
    pieces = expand(ev, [ev.encrypt()] * layout.compacts, layout)
    for _ in range(chunks):
        forward(ev, x, pieces, layout)
    backward(ev, [spread(ev, ev.encrypt(), layout) for _ in range(chunks)], [x] * chunks, layout)
    return Work(
        sum(ev.total(name) for name in ("rotate", "relin", "conjugate")),
        ev.total("rotate_hoisted"),
        ev.total("mul"),
        ev.total("mul_plain"),
    )


@pytest.mark.parametrize("classes", [1, 2, 3, 7, 10, 64])
def test_work_is_what_is_counted(classes: int) -> None:
    checked = 0
    for slots, samples, columns in product((64, 1024), (1, 17, 200), (2, 100)):
        for layout in layouts(slots, samples, columns, classes):
            if layout.groups * max(layout.pieces, layout.runs) <= 300:
                assert batch_work(layout, samples) == counted(layout, samples), layout
                checked += 1
    assert checked > 30


def test_layouts_are_ranked_by_weight_within_the_features_allowed() -> None:
    offered = list(layouts(1 << 15, 1024, 769, 10))
    every = ranked(offered, 1024)
    assert set(every) == set(offered)
    weights = [batch_work(layout, 1024).weight for layout in every]
    assert weights == sorted(weights)
    best = ranked(offered, 1024, features_max=64)[0]
    assert (best.split, best.replicas, feature_ciphertexts(best, 1024)) == (5, 128, 64)
    assert ranked(offered, 1024, features_max=1) == []


def test_features_of_a_short_chunk_are_fewer() -> None:
    layout = ReplicaLayout.fit(1024, 200, 100, 10, replicas=16, split=5, diagonals=2)
    assert (layout.samples, layout.groups, layout.blocks) == (80, 5, 5)
    assert feature_ciphertexts(layout, 200) == (5 + 5 + 3) * 5
