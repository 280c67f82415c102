"""The normalising softmax on the NumPy oracle: errors, bounds at every checkpoint, levels and counts."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from hetal.errors import InputError, LevelError, SoftmaxUnavailableError
from hetal.kernels.backends.counting import CountingEvaluator
from hetal.kernels.backends.plain import Noise, PlainEvaluator
from hetal.kernels.clear import exact_softmax
from hetal.kernels.evaluator import Ciphertext, LevelModel
from hetal.kernels.normalise import RESULT, checkpoints, inverse_polynomials, normalise, schedule, window
from hetal.kernels.sections import Sections
from hetal.kernels.tables import NormaliseSpec, normalise_spec

Array = NDArray[np.float64]
# The default preset's levels.
MODEL = {"top_level": 26, "bootstrap_input_level": 4, "bootstrap_output_level": 13, "phase_output_level": 15}
RESULT_LEVEL = 8
RANGES = [8, 32, 128, 256]


class Watching(PlainEvaluator):
    """Notes the largest slot at each checkpoint."""

    def __init__(self, model: LevelModel, noise: Noise) -> None:
        super().__init__(model, noise)
        self.largest: dict[str, float] = {}

    def checkpoint(self, a: Ciphertext, name: str, bound: float = 1.0) -> Ciphertext:
        self.largest[name] = float(np.abs(self.decrypt(a)).max())
        return super().checkpoint(a, name, bound)


def hard_logits(count: int, classes: int, reach: float, rng: np.random.Generator) -> Array:
    """Of mean 0: uniform, near ties, and ties at the ends of the range."""
    kinds = [
        rng.uniform(-reach, reach, (count, classes)),
        rng.normal(0, 3, (count, classes)),
        np.where(rng.random((count, classes)) < 0.5, reach, -reach) + rng.normal(0, 2, (count, classes)),
        np.where(np.arange(classes) < rng.integers(1, classes + 1, (count, 1)), reach, 0.0),
    ]
    x = np.vstack(kinds)
    x -= x.mean(axis=1, keepdims=True)
    x *= reach / np.maximum(reach, np.abs(x).max(axis=1, keepdims=True))
    return np.asarray(rng.permutation(x)[:count])


def run(
    sections: Sections,
    spec: NormaliseSpec,
    logits: Array,
    *,
    gain: float = 1.0,
    output: float = 1.0,
    noise: float = 0.0,
    garbage: float = 1.0,
) -> tuple[Array, Watching]:
    ev = Watching(LevelModel(sections.slots, **MODEL), Noise(per_operation=noise * 2**-12, per_bootstrap=noise))
    ev.schedule = schedule(spec, ev.model, RESULT_LEVEL)
    used = sections.mask(np.ones(sections.classes))
    rest = (1 - used) * np.random.default_rng(0).uniform(-garbage, garbage, sections.slots) * spec.logit_range
    out = normalise(
        ev, ev.encrypt(gain * (sections.pack(logits) + rest), 5), sections, spec, gain=gain, output_gain=output
    )
    assert out.level == RESULT_LEVEL
    return np.asarray(ev.decrypt(out).real), ev


def sections_of(classes: int, kind: str) -> Sections:
    if kind == "loose":
        return Sections(2048, 256, 3, classes + 2, classes)
    return Sections(2048, 1 << (classes - 1).bit_length(), 1, classes, classes)


@pytest.mark.parametrize("reach", RANGES)
@pytest.mark.parametrize("classes", [2, 3, 4, 5, 6, 7, 10, 16, 20, 40, 64])
def test_error_against_exact_softmax(classes: int, reach: float) -> None:
    spec = normalise_spec(classes, reach)
    for kind in ("loose", "tight"):
        sections = sections_of(classes, kind)
        logits = hard_logits(sections.samples, classes, reach, np.random.default_rng(classes))
        slots, ev = run(sections, spec, logits, noise=2.0**-20)
        error = np.abs(sections.unpack(slots, len(logits)) - exact_softmax(logits)).max(axis=1)
        assert error.max() <= 1.5 * spec.max_error
        # Slots outside hold the noise of the last product alone.
        assert np.abs(slots[sections.mask(np.ones(classes)) == 0]).max(initial=0.0) < 1e-3
        assert all(largest <= 1.01 for largest in ev.largest.values())
        assert set(ev.largest) - {RESULT} == set(checkpoints(spec))


def test_the_target() -> None:
    """Issue 4: 10 classes, [-128, 128], an error of 0.001 on at most five bootstraps of precision 2^-20."""
    spec = normalise_spec(10, 128)
    sections = Sections(1 << 15, 256, 8, 10, 10)
    logits = hard_logits(1024, 10, 128.0, np.random.default_rng(0))
    slots, ev = run(sections, spec, logits, noise=2.0**-20)
    assert np.abs(sections.unpack(slots, 1024) - exact_softmax(logits)).max() <= 0.001
    assert ev.total("bootstrap") <= 5
    assert sum(spec.levels) <= 36


@pytest.mark.parametrize("gain", [1e-9, 0.3, 1e9])
def test_gains(gain: float) -> None:
    sections = sections_of(5, "loose")
    spec = normalise_spec(5, 32)
    logits = hard_logits(24, 5, 32.0, np.random.default_rng(2))
    slots, ev = run(sections, spec, logits, gain=gain, output=-0.25)
    assert np.abs(-4.0 * sections.unpack(slots, 24) - exact_softmax(logits)).max() <= spec.max_error
    assert max(ev.largest.values()) <= 1.01


@pytest.mark.parametrize("classes", [2, 10, 64])
def test_a_little_out_of_range_is_no_worse(classes: int) -> None:
    """Not at all up to a fifth of the range, or where a mean is a tenth of the range too high or a little too low."""
    for reach in RANGES:
        sections = sections_of(classes, "tight")
        spec = normalise_spec(classes, reach)
        rng = np.random.default_rng(classes)
        for factor, drift in ((1.2, 0.0), (1.0, 0.1), (1.0, -0.03)):
            logits = factor * hard_logits(sections.samples, classes, reach, rng) + drift * reach
            slots, _ = run(sections, spec, logits, noise=2.0**-20)
            error = np.abs(sections.unpack(slots, len(logits)) - exact_softmax(logits)).max(axis=1)
            assert error.max() <= 2.0 * spec.max_error


def test_counts_and_levels() -> None:
    spec = normalise_spec(10, 128)
    sections = Sections(1 << 15, 256, 8, 10, 10)
    ev = CountingEvaluator(LevelModel(1 << 15, 64, 4, 64, 64))
    out = normalise(ev, ev.encrypt(level=64), sections, spec, gain=1.0)
    assert 64 - out.level == 1 + sum(spec.levels)
    # Window sums of 10: 4 rotations each way, in six steps.
    assert ev.total("rotate") == 48
    assert ev.total("mul_plain") <= 110
    assert ev.total("relin") <= 60


@pytest.mark.parametrize("level", range(1, 13))
def test_schedules_have_the_levels_they_need(level: int) -> None:
    """And a result at a lower level never takes more bootstraps."""
    model = LevelModel(64, **MODEL)
    previous = 0
    for classes in (2, 10, 64):
        for reach in RANGES:
            spec = normalise_spec(classes, reach)
            ev = CountingEvaluator(model)
            ev.schedule = schedule(spec, model, level)
            out = normalise(ev, ev.encrypt(level=5), Sections(64, 64, 1, 64, classes), spec, gain=1.0, output_gain=0.1)
            assert out.level == level
            assert ev.total("bootstrap") == sum(refresh.bootstrap for refresh in ev.schedule.values())
            lower = schedule(spec, model, level - 1).values()
            assert sum(refresh.bootstrap for refresh in lower) <= ev.total("bootstrap")
            assert previous <= ev.total("bootstrap") or reach == RANGES[0]
            previous = ev.total("bootstrap")
    with pytest.raises(LevelError):
        schedule(normalise_spec(10, 128), model, 13)
    with pytest.raises(LevelError):
        schedule(normalise_spec(10, 128), LevelModel(64, 26, 4, 8, 10), 2)


@pytest.mark.parametrize("count", range(1, 40))
def test_window(count: int) -> None:
    ev = PlainEvaluator(LevelModel(64, 1, 0, 0, 0))
    x = np.random.default_rng(count).normal(size=64)
    for step in (1, -1, 2):
        wanted = sum(np.roll(x, -step * i) for i in range(count))
        assert np.allclose(ev.decrypt(window(ev, ev.encrypt(x), count, step)), wanted)
    assert ev.total("rotate") == 3 * (count.bit_length() + f"{count:b}".count("1") - 2)


def test_inverses_are_within_their_errors() -> None:
    """The last is right on average; the others leave sums at 1 or below."""
    for classes in (2, 10, 64):
        spec = normalise_spec(classes, 128)
        for i, inverse in enumerate(inverse_polynomials(spec, classes)):
            s = (np.linspace(-1, 1, 5001) + inverse.shift) / inverse.stretch
            found = s * np.polynomial.chebyshev.chebval(inverse.stretch * s - inverse.shift, inverse.series)
            top = 1.0 + inverse.error if i + 1 == len(spec.degrees) else 1.0
            assert found.max() <= top + 1e-9
            assert found.min() >= (1.0 - inverse.error) / (1.0 + inverse.error) * top - 1e-9
            assert s[-1] >= 1.0 - 1e-12


def test_specs_are_found_by_classes_and_range() -> None:
    assert normalise_spec(6, 100).classes == 10
    assert normalise_spec(6, 100).logit_range == 128
    for classes, reach in ((65, 8.0), (2, 300.0), (1, 8.0)):
        with pytest.raises(SoftmaxUnavailableError):
            normalise_spec(classes, reach)
    sections = sections_of(7, "loose")
    ev = CountingEvaluator(LevelModel(sections.slots, 64, 4, 64, 64))
    with pytest.raises(InputError, match="cannot serve 7"):
        normalise(ev, ev.encrypt(), sections, normalise_spec(5, 8), gain=1.0)
