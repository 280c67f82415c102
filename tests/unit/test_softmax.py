"""HETAL's softmax on exact slots: accuracy, bounds everywhere, levels."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from hetal.kernels.backends.plain import PlainEvaluator
from hetal.kernels.clear import exact_softmax
from hetal.kernels.evaluator import Ciphertext, LevelModel
from hetal.kernels.layout import BlockLayout
from hetal.kernels.polynomial import depth, evaluate
from hetal.kernels.softmax import SIGN_F, SIGN_G, softmax
from hetal.protocol.job import SoftmaxSpec

LEVELS = 200
# A bootstrap takes slots up to this much above a checkpoint's bound of 1 (softmax.py).
SLACK = 1.25


class Watching(PlainEvaluator):
    """Records the largest slot at every checkpoint, and the levels between consecutive ones."""

    def __init__(self, slots: int) -> None:
        super().__init__(LevelModel(slots, LEVELS, 3, 11))
        self.seen: dict[str, tuple[float, float]] = {}

    def checkpoint(self, a: Ciphertext, name: str, bound: float = 1.0) -> Ciphertext:
        assert name not in self.seen
        self.seen[name] = (float(np.abs(a.payload).max()), bound)
        assert np.abs(a.payload.imag).max() == 0.0
        return a


def run(logits: np.ndarray, layout: BlockLayout, spec: SoftmaxSpec) -> tuple[np.ndarray, Watching, int]:
    classes = logits.shape[1]
    padded = 1 << max(1, (classes - 1).bit_length())
    ev = Watching(layout.slots)
    tiled = np.zeros((layout.rows, padded))
    tiled[: len(logits), :classes] = logits / (2 * spec.logit_range)
    result = softmax(ev, ev.encrypt(layout.pack_tiled_columns(tiled)[0]), layout, classes, spec)
    values = layout.unpack([[ev.decrypt(result).real]], (layout.rows, layout.cols))
    return values, ev, LEVELS - result.level


@pytest.mark.parametrize(("classes", "limit"), [(2, 0.003), (3, 0.005), (5, 0.009), (7, 0.010), (10, 0.021)])
@pytest.mark.parametrize("reach", [4.0, 32.0, 100.0])
def test_error_and_bounds(classes: int, limit: float, reach: float) -> None:
    rng = np.random.default_rng(classes)
    layout = BlockLayout(2048, 32)
    logits = rng.uniform(-reach, reach, (2000, classes))
    values, ev, _ = run(logits, layout, SoftmaxSpec())
    exact = exact_softmax(logits)
    padded = 1 << max(1, (classes - 1).bit_length())
    for period in range(0, layout.cols, padded):
        assert np.abs(values[:2000, period : period + classes] - exact).max() < limit
    for name, (largest, bound) in ev.seen.items():
        assert largest <= bound * SLACK, name


@pytest.mark.parametrize("extensions", [0, 2, 5])
def test_adversarial_rows_stay_bounded(extensions: int) -> None:
    spec = SoftmaxSpec(extensions=extensions)
    reach = spec.logit_range
    rows = [
        [reach, -reach, -reach, -reach, -reach],
        [-reach] * 5,
        [reach] * 5,
        [0.0] * 5,
        [reach, reach, -reach, 0.0, 0.0],
        [0.01 * reach, 0.0, -0.01 * reach, 0.005 * reach, 0.0],
        list(np.linspace(-reach, reach, 5)),
    ]
    layout = BlockLayout(8, 8)
    values, ev, _ = run(np.array(rows), layout, spec)
    assert np.isfinite(values).all()
    for name, (largest, bound) in ev.seen.items():
        assert largest <= bound * SLACK, name
    # The padded classes are as unlikely as logits of -R, which rows of nothing but -R share.
    assert np.abs(values[[0, 2, 3, 4], :5] - exact_softmax(np.array(rows))[[0, 2, 3, 4]]).max() < 0.02


@pytest.mark.parametrize("classes", [2, 3, 5, 10])
@pytest.mark.parametrize("extensions", [0, 3, 5])
def test_levels(classes: int, extensions: int) -> None:
    spec = dataclasses.replace(SoftmaxSpec(), extensions=extensions)
    padded = 1 << max(1, (classes - 1).bit_length())
    _, _, levels = run(np.zeros((4, classes)), BlockLayout(16, 16), spec)
    rounds = int(math.log2(padded))
    assert levels == rounds * 10 + 1 + 2 * extensions + 7 + 1 + 16 + 1


def test_ten_classes_cost_what_the_paper_counts() -> None:
    """76 with the scaling of the logits, which the product does for free here; the mask of the maximum is ours."""
    _, _, levels = run(np.zeros((4, 10)), BlockLayout(16, 16), SoftmaxSpec())
    assert levels == 76


@pytest.mark.parametrize(
    "coefficients", [SIGN_F, SIGN_G, (1.0, 2.0), (0.0, 0.0, 1.0), tuple(range(1, 10)), (0.5, 0.0, 0.0, 0.0, 0.0, 2.0)]
)
def test_polynomials_are_exact_in_the_least_depth(coefficients: tuple[float, ...]) -> None:
    ev = PlainEvaluator(LevelModel(16, 10, 3, 8))
    x = np.linspace(-1, 1, 16)
    ct = evaluate(ev, ev.encrypt(x), coefficients)
    assert np.abs(ev.decrypt(ct) - np.polynomial.polynomial.polyval(x, coefficients)).max() < 1e-12
    assert ct.parts == 2
    assert 10 - ct.level == depth(len(coefficients) - 1)


def test_zero_coefficients_cost_nothing() -> None:
    ev = PlainEvaluator(LevelModel(16, 10, 3, 8))
    evaluate(ev, ev.encrypt(np.ones(16)), SIGN_F)
    assert ev.total("mul") == 5
    assert ev.total("mul_scalar") == 4
