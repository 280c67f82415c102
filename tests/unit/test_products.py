"""The replica-packed products: NumPy's result in the sections, the levels promised, the counts of the design."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from hetal.errors import LayoutError, LevelError, ShapeError
from hetal.kernels.backends.counting import CountingEvaluator
from hetal.kernels.backends.plain import Noise, PlainEvaluator
from hetal.kernels.evaluator import Ciphertext, LevelModel
from hetal.kernels.products import backward, expand, forward, spread
from hetal.kernels.replica import ReplicaLayout, layouts

TOLERANCE = 1e-10
TOP = 5

# slots, samples, columns, classes, replicas, split, diagonals: what is odd about each is its id.
CASES = [
    pytest.param(64, 1, 1, 1, 1, 1, 1, id="one of each"),
    pytest.param(64, 1, 13, 3, 1, 3, 1, id="one sample"),
    pytest.param(64, 20, 1, 2, 16, 1, 2, id="one feature"),
    pytest.param(64, 64, 2, 1, 64, 1, 1, id="blocks of one slot"),
    pytest.param(64, 7, 40, 5, 4, 2, 3, id="run wider than the classes, several compacts"),
    pytest.param(64, 4, 13, 16, 2, 16, 1, id="many classes"),
    pytest.param(256, 3, 50, 64, 2, 8, 8, id="64 classes"),
    pytest.param(256, 40, 13, 2, 32, 2, 1, id="two classes"),
    pytest.param(1024, 50, 100, 10, 16, 5, 2, id="runs ahead of the block"),
    pytest.param(1024, 60, 110, 10, 16, 1, 10, id="a last run cut short, over the lead"),
    pytest.param(1024, 33, 385, 7, 16, 7, 1, id="samples not a multiple of the group"),
    pytest.param(1024, 100, 769, 10, 8, 1, 10, id="several compacts of a wide matrix"),
    pytest.param(1024, 60, 769, 10, 64, 10, 1, id="many compacts"),
    pytest.param(1 << 15, 512, 769, 3, 256, 3, 1, id="face masks"),
    pytest.param(1 << 15, 1024, 769, 10, 128, 5, 2, id="MNIST"),
    pytest.param(1 << 15, 1024, 769, 1, 1024, 1, 1, id="two classes as one, one group"),
    pytest.param(1 << 15, 300, 769, 64, 32, 64, 1, id="64 classes at full size"),
]
shapes = pytest.mark.parametrize(("slots", "samples", "columns", "classes", "replicas", "split", "diagonals"), CASES)


def model(slots: int) -> LevelModel:
    return LevelModel(slots, TOP, bootstrap_input_level=1, bootstrap_output_level=TOP, phase_output_level=TOP)


@dataclass
class Setting:
    """Random operands in a layout, encrypted."""

    layout: ReplicaLayout
    ev: PlainEvaluator
    rng: np.random.Generator

    @staticmethod
    def make(layout: ReplicaLayout, noise: Noise | None = None, seed: int = 0) -> Setting:
        return Setting(layout, PlainEvaluator(model(layout.slots), noise), np.random.default_rng(seed))

    def uniform(self, *shape: int) -> NDArray[np.float64]:
        return self.rng.uniform(-1, 1, shape)

    def weights(self, w: NDArray[np.float64], level: int = TOP) -> list[Ciphertext]:
        return [self.ev.encrypt(v, level) for v in self.layout.pack_weights(w)]

    def features(self, x: NDArray[np.float64], level: int = TOP) -> list[list[Ciphertext]]:
        return [[self.ev.encrypt(v, level) for v in row] for row in self.layout.pack_features(x)]

    def residual(self, r: NDArray[np.float64], level: int = TOP) -> Ciphertext:
        """With garbage in every slot outside of the sections."""
        sections = self.layout.sections
        garbage = 1e3 * self.uniform(self.layout.slots) * (1 - sections.mask(np.ones(sections.classes)))
        return self.ev.encrypt(sections.pack(r) + garbage, level)

    def logits(self, x: NDArray[np.float64], w: NDArray[np.float64]) -> NDArray[np.float64]:
        out = forward(self.ev, self.features(x), expand(self.ev, self.weights(w), self.layout), self.layout)
        return self.layout.sections.unpack(self.ev.decrypt(out).real, len(x)) / self.layout.forward_gain

    def gradient(self, rs: Sequence[NDArray[np.float64]], xs: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        features = [self.features(x) for x in xs]
        spreads = [
            spread(self.ev, self.residual(r), self.layout, groups=len(x)) for r, x in zip(rs, features, strict=True)
        ]
        compacts = backward(self.ev, spreads, features, self.layout)
        return self.layout.unpack_weights([self.ev.decrypt(ct) for ct in compacts]) / self.layout.backward_gain


@shapes
def test_products_are_numpys(
    slots: int, samples: int, columns: int, classes: int, replicas: int, split: int, diagonals: int
) -> None:
    """Of a full chunk, of one with a row less, and the gradient over both."""
    layout = ReplicaLayout.fit(slots, samples, columns, classes, replicas=replicas, split=split, diagonals=diagonals)
    s = Setting.make(layout)
    w = s.uniform(classes, columns)
    xs = [s.uniform(k, columns) for k in (layout.samples, max(1, layout.samples - 1))]
    for x in xs:
        assert np.abs(s.logits(x, w) - x @ w.T).max() < TOLERANCE
    rs = [s.uniform(len(x), classes) for x in xs]
    expected = sum(r.T @ x for r, x in zip(rs, xs, strict=True))
    assert np.abs(s.gradient(rs, xs) - expected).max() < TOLERANCE


@pytest.mark.parametrize("classes", [1, 2, 3, 5, 7, 10, 16, 64])
@pytest.mark.parametrize("columns", [1, 2, 13, 96])
def test_every_layout_on_offer_is_sound(classes: int, columns: int) -> None:
    offered = list(layouts(256, 21, columns, classes))
    assert offered
    for layout in offered[:: max(1, len(offered) // 6)]:
        s = Setting.make(layout)
        w, x, r = (s.uniform(classes, columns), s.uniform(layout.samples, columns), s.uniform(layout.samples, classes))
        assert np.abs(s.logits(x, w) - x @ w.T).max() < TOLERANCE
        assert np.abs(s.gradient([r], [x]) - r.T @ x).max() < TOLERANCE


def test_the_gradient_is_added_to_the_weights_as_it_is() -> None:
    """A step of gradient descent in compact form, and the logits after it."""
    layout = ReplicaLayout.fit(1024, 40, 57, 5, replicas=16, split=3, diagonals=2)
    s = Setting.make(layout)
    w, x, r = s.uniform(5, 57), s.uniform(40, 57), s.uniform(40, 5)
    features = s.features(x)
    gradient = backward(s.ev, [spread(s.ev, s.residual(r), layout)], [features], layout)
    stepped = [s.ev.add(a, b) for a, b in zip(s.weights(w), gradient, strict=True)]
    out = forward(s.ev, features, expand(s.ev, stepped, layout), layout)
    logits = layout.sections.unpack(s.ev.decrypt(out).real, 40) / layout.forward_gain
    assert np.abs(logits - x @ (w + r.T @ x).T).max() < TOLERANCE


@pytest.mark.parametrize(("replicas", "split", "diagonals"), [(16, 5, 2), (64, 2, 5), (8, 10, 1), (64, 1, 10)])
def test_validation_packs_more_groups_with_the_same_pieces(replicas: int, split: int, diagonals: int) -> None:
    layout = ReplicaLayout.fit(4096, 30, 57, 10, replicas=replicas, split=split, diagonals=diagonals)
    s = Setting.make(layout)
    w = s.uniform(10, 57)
    pieces = expand(s.ev, s.weights(w), layout)
    for samples in {1, 31, layout.samples_max // 2, layout.samples_max}:
        wide = layout.with_samples(samples)
        x = s.uniform(samples, 57)
        out = forward(s.ev, replace(s, layout=wide).features(x), pieces, wide)
        logits = wide.sections.unpack(s.ev.decrypt(out).real, samples) / wide.forward_gain
        assert np.abs(logits - x @ w.T).max() < TOLERANCE
    with pytest.raises(LayoutError, match=f"1 to {layout.samples_max} samples"):
        layout.with_samples(layout.samples_max + 1)


def test_a_run_cut_short_meets_none_of_the_run_ahead_of_it() -> None:
    """With a single group there are no masks that tell them apart, unless the layout asks for them."""
    layout = ReplicaLayout.fit(1024, 8, 494, 10, replicas=4, split=1, diagonals=10)
    assert (layout.groups, layout.lead, layout.whole) == (2, 2, False)
    s = Setting.make(layout)
    w, x, r = s.uniform(10, 494), s.uniform(3, 494), s.uniform(3, 10)
    one = layout.with_samples(3)
    assert (one.groups, one.lead) == (1, 2)
    single = replace(s, layout=one)
    assert np.abs(single.logits(x, w) - x @ w.T).max() < TOLERANCE
    for setting in (s, single):
        assert np.abs(setting.gradient([r], [x]) - r.T @ x).max() < TOLERANCE


def test_garbage_between_the_classes_never_reaches_the_weights() -> None:
    """Runs of 12 slots for 10 classes: what the softmax leaves in the other two would feed on itself."""
    layout = ReplicaLayout.fit(1024, 40, 57, 10, replicas=16, split=4, diagonals=3)
    s = Setting.make(layout)
    x, r = s.uniform(40, 57), s.uniform(40, 10)
    spreads = spread(s.ev, s.residual(r), layout)
    compacts = [s.ev.decrypt(ct) for ct in backward(s.ev, [spreads], [s.features(x)], layout)]
    whole = replace(layout, classes=12).unpack_weights(compacts)
    assert np.abs(whole[:10] - r.T @ x).max() < TOLERANCE
    assert np.abs(whole[10:]).max() < TOLERANCE


def test_groups_that_are_absent_cost_nothing() -> None:
    layout = ReplicaLayout.fit(1024, 64, 57, 10, replicas=16, split=5, diagonals=2)
    products = []
    for samples in (17, 64):
        s = Setting.make(layout)
        s.logits(s.uniform(samples, 57), s.uniform(10, 57))
        products.append(s.ev.total("mul"))
    assert products[0] * 2 == products[1]


@pytest.mark.parametrize(("samples", "levels"), [(16, 1), (17, 2)])
def test_levels_that_forward_takes(samples: int, levels: int) -> None:
    """One where the chunk is one group."""
    layout = ReplicaLayout.fit(1024, samples, 57, 10, replicas=16, split=5, diagonals=2)
    s = Setting.make(layout)
    x, w = s.uniform(samples, 57), s.uniform(10, 57)
    for x_level, w_level in ((TOP, levels), (levels, TOP)):
        pieces = expand(s.ev, s.weights(w, w_level), layout)
        assert forward(s.ev, s.features(x, x_level), pieces, layout).level == 0
    with pytest.raises(LevelError):
        forward(s.ev, s.features(x, levels - 1), expand(s.ev, s.weights(w), layout), layout)


def test_levels_of_the_way_back() -> None:
    layout = ReplicaLayout.fit(1024, 40, 57, 10, replicas=16, split=5, diagonals=2)
    s = Setting.make(layout)
    x, r = s.uniform(40, 57), s.uniform(40, 10)
    rows = spread(s.ev, s.residual(r, 3), layout)
    assert {ct.level for row in rows for ct in row} == {2}
    assert {ct.level for ct in backward(s.ev, [rows], [s.features(x)], layout)} == {1}
    assert {ct.level for ct in expand(s.ev, s.weights(s.uniform(10, 57), 0), layout)} == {0}


@dataclass(frozen=True)
class Counts:
    """Of an iteration's matrix work: key switches in all, hoisted ones included, and what else is to know."""

    key_switches: int
    features: int
    layout: ReplicaLayout
    ev: CountingEvaluator


def count(layout: ReplicaLayout) -> Counts:
    ev = CountingEvaluator(model(layout.slots))
    x = [[ev.encrypt() for _ in range(layout.blocks)] for _ in range(layout.groups)]
    pieces = expand(ev, [ev.encrypt()] * layout.compacts, layout)
    forward(ev, x, pieces, layout)
    backward(ev, [spread(ev, ev.encrypt(), layout)], [x], layout)
    switches = sum(ev.total(name) for name in ("rotate", "rotate_hoisted", "relin", "conjugate"))
    return Counts(switches, layout.groups * layout.blocks, layout, ev)


@pytest.mark.parametrize(
    ("samples", "columns", "classes", "split", "key_switches", "features"),
    [
        (128, 128, 4, 1, 37, 1),
        (128, 128, 4, 4, 23, 1),
        (256, 256, 8, 1, 90, 2),
        (256, 256, 8, 2, 60, 3),
        (256, 256, 8, 8, 36, 8),
        (512, 769, 4, 1, 92, 8),
        (512, 769, 4, 2, 76, 14),
        (512, 769, 4, 4, 72, 26),
        (1024, 769, 10, 1, 259, 16),
        (1024, 769, 10, 2, 189, 28),
        (1024, 769, 10, 5, 131, 64),
        (1024, 769, 10, 10, 107, 128),
        (2048, 769, 10, 1, 350, 28),
        (2048, 769, 10, 2, 255, 56),
        (2048, 769, 10, 5, 180, 136),
        (2048, 769, 16, 1, 588, 32),
        (2048, 769, 16, 2, 376, 56),
        (2048, 769, 16, 4, 280, 112),
        (2048, 769, 16, 8, 208, 208),
        (2048, 769, 16, 16, 159, 400),
    ],
)
def test_counts_are_within_the_design(
    samples: int, columns: int, classes: int, split: int, key_switches: int, features: int
) -> None:
    """The table of the design: for these copies of each value, so many key switches and ciphertexts of features."""
    offered = [
        count(layout)
        for layout in layouts(1 << 15, samples, columns, classes)
        if layout.split == split and layout.replicas in (128, 256, 512)
    ]
    assert any(c.key_switches <= key_switches and c.features <= features for c in offered)


def test_few_keys_serve_all_rotations() -> None:
    """131 key switches, 51 rotations of them by different multiples of a run, with 22 rotation keys."""
    c = count(ReplicaLayout.fit(1 << 15, 1024, 769, 10, replicas=128, split=5, diagonals=2))
    assert (c.key_switches, len(c.ev.steps)) == (131, 22)


def test_counting_and_plain_backends_count_the_same() -> None:
    layout = ReplicaLayout.fit(1024, 40, 57, 10, replicas=16, split=5, diagonals=2)
    s = Setting.make(layout)
    x = s.features(s.uniform(40, 57))
    forward(s.ev, x, expand(s.ev, s.weights(s.uniform(10, 57)), layout), layout)
    backward(s.ev, [spread(s.ev, s.residual(s.uniform(40, 10)), layout)], [x], layout)
    assert s.ev.counts == count(layout).ev.counts


class Watching(PlainEvaluator):
    """Counts the relinearised products that are held at once."""

    def __init__(self, layout: ReplicaLayout) -> None:
        super().__init__(model(layout.slots))
        self.held, self.most = 0, 0

    def _relinearize(self, a: Ciphertext) -> NDArray[np.complex128]:
        slots = np.array(a.payload)
        self.held += 1
        self.most = max(self.most, self.held)
        weakref.finalize(slots, self._let_go)
        return slots

    def _let_go(self) -> None:
        self.held -= 1


def test_a_gradient_never_holds_all_of_its_pieces() -> None:
    layout = ReplicaLayout.fit(4096, 64, 769, 10, replicas=64, split=1, diagonals=10)
    s = replace(Setting.make(layout), ev=(ev := Watching(layout)))
    x, r = s.uniform(64, 769), s.uniform(64, 10)
    assert np.abs(s.gradient([r], [x]) - r.T @ x).max() < TOLERANCE
    assert layout.pieces > 64
    assert ev.most < 8


def test_noise_stays_noise() -> None:
    """No step magnifies errors: those of the results are those of the operations, times the gains and a few sums."""
    layout = ReplicaLayout.fit(1024, 64, 57, 10, replicas=16, split=5, diagonals=2)
    s = Setting.make(layout, Noise(per_operation=1e-9))
    x, w, r = s.uniform(64, 57), s.uniform(10, 57), s.uniform(64, 10)
    assert np.abs(s.logits(x, w) - x @ w.T).max() < 1e-6
    assert np.abs(s.gradient([r], [x]) - r.T @ x).max() < 1e-6


def test_operands_that_do_not_match_are_refused() -> None:
    layout = ReplicaLayout.fit(1024, 64, 57, 10, replicas=16, split=5, diagonals=2)
    s = Setting.make(layout)
    compacts, x = s.weights(s.uniform(10, 57)), s.features(s.uniform(64, 57))
    pieces, rows = expand(s.ev, compacts, layout), spread(s.ev, s.residual(s.uniform(64, 10)), layout)
    calls: list[Callable[[], object]] = [
        lambda: expand(s.ev, compacts * 2, layout),
        lambda: forward(s.ev, x, pieces[:-1], layout),
        lambda: forward(s.ev, [*x, x[0]], pieces, layout),
        lambda: forward(s.ev, [], pieces, layout),
        lambda: forward(s.ev, [x[0][:-1]], pieces, layout),
        lambda: spread(s.ev, compacts[0], layout, groups=5),
        lambda: backward(s.ev, [rows], [], layout),
        lambda: backward(s.ev, [rows, rows], [x], layout),
        lambda: backward(s.ev, [rows[:-1]], [x], layout),
        lambda: backward(s.ev, [[row[:-1] for row in rows]], [x], layout),
        lambda: backward(s.ev, [rows], [[row[:-1] for row in x]], layout),
    ]
    for call in calls:
        with pytest.raises(ShapeError):
            call()
    other = PlainEvaluator(model(512))
    for call in (
        lambda: expand(other, compacts, layout),
        lambda: forward(other, x, pieces, layout),
        lambda: spread(other, compacts[0], layout),
        lambda: backward(other, [rows], [x], layout),
    ):
        with pytest.raises(LayoutError, match="does not fill 512"):
            call()
