"""The encrypted products against NumPy's, at shapes and layouts that nobody chose."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hetal.kernels.backends.plain import PlainEvaluator
from hetal.kernels.evaluator import LevelModel
from hetal.kernels.layout import BlockLayout
from hetal.kernels.matmul import diag_abt, diag_atb


@st.composite
def cases(draw: st.DrawFn) -> tuple[BlockLayout, int, int, int, int, int]:
    """Layout, padded classes, true classes, samples, features, seed."""
    log2_period = draw(st.integers(1, 4))
    period = 1 << log2_period
    layout = BlockLayout(period << draw(st.integers(0, 2)), period << draw(st.integers(0, 2)))
    classes = draw(st.integers(period // 2 + 1, period))
    samples = draw(st.integers(1, 3 * layout.rows + 1))
    features = draw(st.integers(1, 3 * layout.cols + 1))
    return layout, period, classes, samples, features, draw(st.integers(0, 2**32 - 1))


@settings(max_examples=60, deadline=None)
@given(case=cases(), scale=st.floats(-4, 4), partial=st.booleans())
def test_products_are_numpys(case: tuple[BlockLayout, int, int, int, int, int], scale: float, partial: bool) -> None:
    layout, period, classes, samples, features, seed = case
    rng = np.random.default_rng(seed)
    ev = PlainEvaluator(LevelModel(layout.slots, 4, 1, 4, 4))
    x = rng.uniform(-1, 1, (samples, features))
    w = rng.uniform(-1, 1, (period, features)) * (np.arange(period) < classes)[:, None]
    p = rng.uniform(-1, 1, (samples, period))
    blocks = [[ev.encrypt(v) for v in row] for row in layout.pack(x)]

    logits = diag_abt(ev, blocks, [ev.encrypt(v) for v in layout.pack_tiled_rows(w)], layout, period, scale=scale)
    wanted = np.array(layout.pack_tiled_columns(scale * x @ w.T))
    assert np.abs(np.array([ev.decrypt(ct) for ct in logits]) - wanted).max() < 1e-12 * (1 + abs(scale)) * features

    gradient = diag_atb(
        ev,
        [ev.encrypt(v) for v in layout.pack_tiled_columns(p)],
        blocks,
        layout,
        period,
        scale=scale,
        valid_classes=classes,
        partial=partial,
    )
    product = scale * p.T @ x * (np.arange(period) < classes)[:, None]
    wanted = np.array(layout.pack_tiled_rows(product))
    assert np.abs(np.array([ev.decrypt(ct) for ct in gradient]) - wanted).max() < 1e-12 * (1 + abs(scale)) * samples


@settings(max_examples=60, deadline=None)
@given(case=cases())
def test_packing_is_undone(case: tuple[BlockLayout, int, int, int, int, int]) -> None:
    layout, period, _, samples, features, seed = case
    rng = np.random.default_rng(seed)
    x, w, a = (
        rng.normal(size=(samples, features)),
        rng.normal(size=(period, features)),
        rng.normal(size=(samples, period)),
    )
    assert np.array_equal(layout.unpack(layout.pack(x), x.shape), x)
    assert np.array_equal(layout.unpack_tiled_rows(layout.pack_tiled_rows(w), w.shape), w)
    assert np.array_equal(layout.unpack_tiled_columns(layout.pack_tiled_columns(a), a.shape), a)
