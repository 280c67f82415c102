"""The replica-packed products against NumPy's, in layouts that nobody chose."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from hetal.kernels.backends.plain import PlainEvaluator
from hetal.kernels.evaluator import LevelModel
from hetal.kernels.products import backward, expand, forward, spread
from hetal.kernels.replica import ReplicaLayout


@st.composite
def fitted(draw: st.DrawFn) -> ReplicaLayout:
    log2_slots = draw(st.integers(4, 9))
    log2_replicas = draw(st.integers(0, log2_slots))
    split, diagonals = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    assume(split * diagonals <= 1 << (log2_slots - log2_replicas))
    return ReplicaLayout.fit(
        1 << log2_slots,
        draw(st.integers(1, 200)),
        draw(st.integers(1, 90)),
        draw(st.integers(1, split * diagonals)),
        replicas=1 << log2_replicas,
        split=split,
        diagonals=diagonals,
    )


@given(layout=fitted(), rows=st.lists(st.floats(0, 1), min_size=1, max_size=3), seed=st.integers(0, 2**32 - 1))
def test_products_are_numpys(layout: ReplicaLayout, rows: list[float], seed: int) -> None:
    """Chunks of all fillings, the logits of each and the gradient of all; garbage between the residuals."""
    rng = np.random.default_rng(seed)
    ev = PlainEvaluator(LevelModel(layout.slots, 4, 1, 4, 4))
    sections = layout.sections
    w = rng.uniform(-1, 1, (layout.classes, layout.columns))
    pieces = expand(ev, [ev.encrypt(v) for v in layout.pack_weights(w)], layout)
    gradient = np.zeros_like(w)
    spreads, features = [], []
    for share in rows:
        k = 1 + round(share * (layout.samples - 1))
        x, r = rng.uniform(-1, 1, (k, layout.columns)), rng.uniform(-1, 1, (k, layout.classes))
        features.append([[ev.encrypt(v) for v in row] for row in layout.pack_features(x)])
        logits = ev.decrypt(forward(ev, features[-1], pieces, layout))
        assert np.abs(sections.unpack(logits.real, k) / layout.forward_gain - x @ w.T).max() < 1e-10
        assert np.abs(logits.imag).max() < 1e-10 * layout.forward_gain
        garbage = rng.uniform(-9, 9, layout.slots) * (1 - sections.mask(np.ones(layout.classes)))
        residual = ev.encrypt(sections.pack(r) + garbage)
        spreads.append(spread(ev, residual, layout, groups=len(features[-1])))
        gradient += r.T @ x
    compacts = [ev.decrypt(ct) for ct in backward(ev, spreads, features, layout)]
    assert np.abs(layout.unpack_weights(compacts) / layout.backward_gain - gradient).max() < 1e-10


@given(layout=fitted(), seed=st.integers(0, 2**32 - 1))
def test_packing_is_undone(layout: ReplicaLayout, seed: int) -> None:
    w = np.random.default_rng(seed).normal(size=(layout.classes, layout.columns))
    assert np.abs(layout.unpack_weights(layout.pack_weights(w)) - w).max() < 1e-12


@given(layout=fitted(), share=st.floats(0, 1), seed=st.integers(0, 2**32 - 1))
def test_any_chunk_meets_the_same_weights(layout: ReplicaLayout, share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ev = PlainEvaluator(LevelModel(layout.slots, 4, 1, 4, 4))
    other = layout.with_samples(1 + round(share * (layout.samples_max - 1)))
    w, x = rng.uniform(-1, 1, (layout.classes, layout.columns)), rng.uniform(-1, 1, (other.samples, layout.columns))
    pieces = expand(ev, [ev.encrypt(v) for v in layout.pack_weights(w)], layout)
    features = [[ev.encrypt(v) for v in row] for row in other.pack_features(x)]
    logits = ev.decrypt(forward(ev, features, pieces, other)).real
    assert np.abs(other.sections.unpack(logits, other.samples) / other.forward_gain - x @ w.T).max() < 1e-10
