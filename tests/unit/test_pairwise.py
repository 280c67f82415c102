"""The pairwise softmax and the sigmoid on the NumPy oracle: errors, bounds of every slot, levels and counts."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from hetal.errors import InputError, LevelError, SoftmaxUnavailableError
from hetal.kernels.backends.counting import CountingEvaluator
from hetal.kernels.backends.plain import Noise, PlainEvaluator
from hetal.kernels.clear import exact_softmax
from hetal.kernels.evaluator import Ciphertext, LevelModel
from hetal.kernels.pairwise import groups, pairwise
from hetal.kernels.sections import Sections
from hetal.kernels.sigmoid import sigmoid
from hetal.kernels.tables import PairwiseTable, pairwise_table, pairwise_tables, sigmoid_table, sigmoid_tables

Array = NDArray[np.float64]
# The default preset's levels.
LEVELS = {"top_level": 26, "bootstrap_input_level": 4, "bootstrap_output_level": 13, "phase_output_level": 15}
RESULT = 8
CLASSES = [2, 3, 5, 7, 10, 16]
# As long as whatever lies outside of the sections has a phase: its magnitude is of no consequence.
GARBAGE = 1000.0


# Noise of a bootstrap, and of a phase, which ends before a bootstrap multiplies its noise; test_native_softmax.py
# measures less.
COARSE = 2.0**-17
PHASE = 2.0**-22


class Watching(PlainEvaluator):
    """Notes the largest slot that enters a bootstrap; phases have a noise of their own."""

    largest = 0.0

    def _bootstrap(self, a: Ciphertext, level: int) -> NDArray[np.complex128]:
        assert np.abs(a.payload.imag).max() < 1e-6
        self.largest = max(self.largest, float(np.abs(a.payload).max()))
        return super()._bootstrap(a, level)

    def _phase(self, a: Ciphertext, period: float) -> NDArray[np.complex128]:
        return self._blur(np.exp(2j * np.pi * a.payload.real / period), self.noise.per_bootstrap * PHASE / COARSE)


def hard_logits(count: int, classes: int, reach: float, rng: np.random.Generator) -> Array:
    """Uniform, near ties, ties at the top, and values between which an approximation bends."""
    shift = rng.uniform(-reach, reach, (count, 1))
    kinds = [
        rng.uniform(-reach, reach, (count, classes)),
        shift + rng.normal(0, 3, (count, classes)),
        np.where(rng.random((count, classes)) < 0.5, reach, reach - rng.exponential(3, (count, classes))),
        rng.choice([-reach, reach, 0.0, 3.0, 5.0], size=(count, classes)) + rng.normal(0, 0.3, (count, classes)),
    ]
    return np.clip(np.vstack(kinds)[:: len(kinds)], -reach, reach)


def slots_of(sections: Sections, logits: Array, rng: np.random.Generator) -> Array:
    """Packed logits; noise in all slots that hold none."""
    used = sections.mask(np.ones(sections.classes))
    return sections.pack(logits) + (1 - used) * rng.uniform(-GARBAGE, GARBAGE, sections.slots)


def sections_of(classes: int, kind: str) -> Sections:
    """``roomy``: all pairs of a sample fit; ``full``: blocks without a free slot where the classes allow it."""
    if kind == "roomy":
        return Sections(1024, 256, 2, classes + 1, classes)
    stride = 1 << (classes - 1).bit_length()
    if kind == "full":
        return Sections(1024, 4 * stride, 2, stride, classes)
    if kind == "tight":
        return Sections(1024, 8 * stride, 2, stride, classes)
    return Sections(1024, stride, 1, stride, classes)


def run(
    sections: Sections, table: PairwiseTable, logits: Array, *, gain: float = 1.0, output: float = 1.0, noise: float = 0
) -> tuple[Array, Watching]:
    rng = np.random.default_rng(len(logits))
    ev = Watching(LevelModel(sections.slots, **LEVELS), Noise(per_operation=noise * 2**-14, per_bootstrap=noise))
    ct = ev.encrypt(gain * slots_of(sections, logits, rng), level=4)
    out = pairwise(ev, ct, sections, table, gain=gain, output_gain=output, level=RESULT)
    assert out.level == RESULT
    return np.asarray(ev.decrypt(out).real), ev


@pytest.mark.parametrize("kind", ["roomy", "full", "tight", "single"])
@pytest.mark.parametrize("classes", CLASSES)
def test_error_against_exact_softmax(classes: int, kind: str) -> None:
    sections = sections_of(classes, kind)
    for table in pairwise_tables(classes):
        rng = np.random.default_rng(classes)
        logits = hard_logits(sections.samples, classes, table.logit_range, rng)[: sections.samples]
        for noise in (0.0, COARSE):
            slots, ev = run(sections, table, logits, noise=noise)
            error = np.abs(sections.unpack(slots, len(logits)) - exact_softmax(logits)).max(axis=1)
            assert error.max() <= 1.25 * table.max_error
            assert error.mean() <= 2.0 * table.mean_error
            assert ev.largest <= 1.0 + 1e-4
            assert np.abs(slots).max() <= table.bound + 0.01


def test_the_target() -> None:
    """Issue 4: 10 classes, [-128, 128], two bootstraps."""
    table = pairwise_table(10, 128)
    assert table.max_error <= 0.015
    sections = Sections(1 << 15, 256, 8, 10, 10)
    logits = np.random.default_rng(0).uniform(-128, 128, (1024, 10))
    slots, ev = run(sections, table, logits, noise=COARSE)
    assert np.abs(sections.unpack(slots, 1024) - exact_softmax(logits)).max() <= 0.015
    assert (ev.total("phase"), ev.total("bootstrap")) == (1, 1)


@pytest.mark.parametrize("gain", [1e-9, 1.0, 1e9])
def test_gains(gain: float) -> None:
    sections = sections_of(5, "tight")
    table = pairwise_table(5, 32)
    logits = np.random.default_rng(2).uniform(-32, 32, (20, 5))
    reference, _ = run(sections, table, logits)
    scaled, _ = run(sections, table, logits, gain=gain, output=-0.25)
    assert np.abs(scaled + 0.25 * reference).max() < 1e-5


def test_a_common_offset_changes_nothing() -> None:
    sections = sections_of(3, "tight")
    table = pairwise_table(3, 64)
    rng = np.random.default_rng(2)
    logits = rng.uniform(-32, 32, (30, 3))
    reference, _ = run(sections, table, logits)
    moved, _ = run(sections, table, logits + rng.uniform(-5000, 5000, (30, 1)))
    assert np.abs(sections.unpack(moved - reference, 30)).max() < 1e-6


@pytest.mark.parametrize("classes", CLASSES)
def test_out_of_range_degrades_and_never_explodes(classes: int) -> None:
    """Any input, and every slot: the result stays within the table's bound."""
    for kind in ("roomy", "full", "tight"):
        sections = sections_of(classes, kind)
        for table in pairwise_tables(classes):
            for factor in (1.05, 1.1, 1.3, 10.0, 1e6):
                rng = np.random.default_rng(int(1000 * factor))
                reach = factor * table.logit_range
                logits = np.vstack(
                    [
                        rng.uniform(-reach, reach, (sections.samples // 2, classes)),
                        rng.choice([-reach, reach], (sections.samples - sections.samples // 2, classes)),
                    ]
                )
                slots, ev = run(sections, table, logits, noise=COARSE)
                assert np.isfinite(slots).all()
                assert np.abs(slots).max() <= table.bound + 0.01
                assert ev.largest <= 1.0 + 1e-3


def test_every_difference_of_two_classes() -> None:
    """A sweep over one whole period, which is all that a pair can be."""
    for table in pairwise_tables(2):
        sections = Sections(4096, 2, 1, 2, 2)
        v = np.linspace(0, table.period, sections.samples)
        slots, _ = run(sections, table, np.stack([np.zeros_like(v), v], axis=1))
        assert np.abs(slots).max() <= table.bound + 0.01
        assert slots.min() >= -0.05


@pytest.mark.parametrize("classes", range(2, 33))
def test_each_pair_counts_once_for_each_of_its_classes(classes: int) -> None:
    for block, count in ((64, 1), (64, 2), (256, 3), (256, 8), (1024, 1)):
        if count * classes > block:
            continue
        for stride in {classes, block // count}:
            sections = Sections(4096, block, count, stride, classes)
            seen = np.zeros((classes, classes), dtype=int)
            for batch in groups(sections):
                assert (batch[-1].place + 1) * count * stride <= block
                for group in batch:
                    own = np.arange(classes)
                    other = (own + group.shift) % classes
                    seen[own, other] += 1
                    if group.both:
                        seen[other, own] += 1
            assert (seen == 1 - np.eye(classes, dtype=int)).all()


def test_counts_of_the_design() -> None:
    """kernels-full.md 6: 1024 samples of 10 classes in blocks of 256."""
    sections = Sections(1 << 15, 256, 8, 10, 10)
    ev = CountingEvaluator(LevelModel(1 << 15, **LEVELS))
    table = pairwise_table(10, 128)
    pairwise(ev, ev.encrypt(level=4), sections, table, gain=1.0, level=RESULT)
    assert len(groups(sections)) == 2
    assert ev.counts["bootstrap", RESULT + table.levels_after] == 1
    # Pairs 2, E 2 (14 + 6), squarings, F 12; conjugations of the pairs and of the sum.
    assert ev.total("relin") == 2 + 40 + table.squarings + 12
    assert ev.total("conjugate") == 3
    assert ev.total("rotate") == 0
    assert ev.total("rotate_hoisted") <= 26


def test_no_level_is_left_over_or_missing() -> None:
    for classes in CLASSES:
        for table in pairwise_tables(classes):
            assert table.levels_before <= LEVELS["phase_output_level"] - LEVELS["bootstrap_input_level"]
            assert RESULT + table.levels_after < LEVELS["phase_output_level"]


def test_too_few_levels_are_refused() -> None:
    sections = sections_of(3, "tight")
    ev = CountingEvaluator(LevelModel(sections.slots, 26, 4, 10, 12))
    with pytest.raises(LevelError):
        pairwise(ev, ev.encrypt(level=4), sections, pairwise_table(3, 128), gain=1.0, level=2)


def test_tables_are_found_by_classes_and_range() -> None:
    assert pairwise_table(2, 1).logit_range == 16
    assert pairwise_table(9, 33).logit_range == 64
    assert pairwise_table(9, 100).classes >= 9
    widest = pairwise_tables(3)[-1].logit_range
    with pytest.raises(SoftmaxUnavailableError, match=f"takes logits up to {widest:g}"):
        pairwise_table(3, 1.01 * widest)
    for classes in (1, 65, 1000):
        with pytest.raises(SoftmaxUnavailableError, match="classes"):
            pairwise_tables(classes)
    with pytest.raises(SoftmaxUnavailableError, match="differences up to 512"):
        sigmoid_table(600)
    sections = Sections(64, 8, 1, 8, 7)
    ev = CountingEvaluator(LevelModel(64, **LEVELS))
    with pytest.raises(InputError, match="cannot serve 7"):
        pairwise(ev, ev.encrypt(level=4), sections, pairwise_table(3, 16), gain=1.0, level=8)
    with pytest.raises(InputError, match="not 7 logits"):
        sigmoid(ev, ev.encrypt(level=4), sections, sigmoid_table(32), gain=1.0, level=8)


@pytest.mark.parametrize("gain", [1e-9, 1.0, 1e9])
def test_sigmoid(gain: float) -> None:
    sections = Sections(4096, 4, 1, 1, 1)
    for table in sigmoid_tables():
        reach = table.difference_range
        v = np.concatenate([np.linspace(-reach, reach, 512), np.linspace(-12, 12, 512)])
        ev = PlainEvaluator(LevelModel(sections.slots, **LEVELS), Noise(per_bootstrap=2.0**-20))
        rng = np.random.default_rng(0)
        out = sigmoid(
            ev,
            ev.encrypt(gain * slots_of(sections, v[:, None], rng), level=4),
            sections,
            table,
            gain=gain,
            output_gain=3.0,
            level=RESULT,
        )
        assert out.level == RESULT
        slots = ev.decrypt(out).real / 3.0
        wanted = 1 / (1 + np.exp(-v))
        assert np.abs(sections.unpack(slots, 1024)[:, 0] - wanted).max() <= table.max_error + 2e-4
        assert np.abs(slots).max() <= table.bound + 0.01
        assert (ev.total("phase"), ev.total("bootstrap"), ev.total("conjugate")) == (1, 0, 1)
