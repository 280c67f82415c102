"""The softmaxes on real keys, and how precise phases and bootstraps are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from hetal.ckks.framing import Kind, unframe
from hetal.ckks.presets import TEST_PRESET, preset
from hetal.client.keys import KeySet
from hetal.kernels.backends.counting import CountingEvaluator
from hetal.kernels.backends.native import NativeEvaluator
from hetal.kernels.clear import exact_softmax
from hetal.kernels.evaluator import Ciphertext, Evaluator, level_model
from hetal.kernels.normalise import normalise, schedule
from hetal.kernels.pairwise import pairwise
from hetal.kernels.sections import Sections
from hetal.kernels.sigmoid import sigmoid
from hetal.kernels.tables import normalise_spec, pairwise_table, sigmoid_table

Array = NDArray[np.float64]
Kernel = Callable[[Evaluator, Ciphertext], Ciphertext]

PARAMS = preset(TEST_PRESET)
ENTRY = PARAMS.bootstrap_input_level
RESULT = 4
GAIN = 1.0 / 300.0
FIVE = Sections(PARAMS.slots, 64, 3, 6, 5)
TEN = Sections(PARAMS.slots, 64, 3, 10, 10)
ONE = Sections(PARAMS.slots, 4, 1, 1, 1)


def five(ev: Evaluator, ct: Ciphertext) -> Ciphertext:
    return pairwise(ev, ct, FIVE, pairwise_table(5, 128), gain=GAIN, level=RESULT)


def ten(ev: Evaluator, ct: Ciphertext) -> Ciphertext:
    return pairwise(ev, ct, TEN, pairwise_table(10, 64), gain=GAIN, level=RESULT, output_gain=0.5)


def one(ev: Evaluator, ct: Ciphertext) -> Ciphertext:
    return sigmoid(ev, ct, ONE, sigmoid_table(128), gain=GAIN, level=RESULT)


def many(ev: Evaluator, ct: Ciphertext) -> Ciphertext:
    spec = normalise_spec(10, 128)
    ev.schedule = schedule(spec, ev.model, RESULT)
    return normalise(ev, ct, TEN, spec, gain=GAIN)


@dataclass
class Setup:
    keys: KeySet
    ev: NativeEvaluator

    def encrypt(self, vector: Array, level: int = ENTRY) -> Ciphertext:
        return self.ev.load(self.keys.encrypt(vector, level))

    def decrypt(self, ct: Ciphertext) -> Array:
        return self.keys.decrypt(self.ev.dump(ct))


@pytest.fixture(scope="module")
def setup() -> Iterator[Setup]:
    steps: set[int] = set()
    for kernel in (five, ten, one, many):
        counting = CountingEvaluator(level_model(PARAMS))
        kernel(counting, counting.encrypt(level=ENTRY + 1))
        steps |= set(counting.steps)
    keys = KeySet.generate(PARAMS)
    ev = NativeEvaluator(PARAMS, keys.key_tag)
    ev.load_key(Kind.MULT_KEY, bytes(unframe(keys.mult_key_blob(), Kind.MULT_KEY, PARAMS.digest)))
    for _, blob in keys.rotation_key_blobs(sorted(steps)):
        ev.load_key(Kind.ROTATION_KEYS, bytes(unframe(blob, Kind.ROTATION_KEYS, PARAMS.digest)))
    ev.finish_keys(sorted(steps))
    yield Setup(keys, ev)
    ev.close()


def noisy(sections: Sections, logits: Array) -> Array:
    """Packed, with something in every other slot."""
    rng = np.random.default_rng(0)
    used = sections.mask(np.ones(sections.classes))
    return GAIN * (sections.pack(logits) + (1 - used) * rng.uniform(-100, 100, sections.slots))


@pytest.mark.parametrize(("kernel", "sections", "reach", "output"), [(five, FIVE, 128.0, 1.0), (ten, TEN, 64.0, 0.5)])
def test_pairwise(setup: Setup, kernel: Kernel, sections: Sections, reach: float, output: float) -> None:
    rng = np.random.default_rng(1)
    logits = rng.uniform(-reach, reach, (sections.samples, sections.classes))
    logits[::2] = np.clip(logits[::2, :1] + rng.normal(0, 3, logits[::2].shape), -reach, reach)
    out = kernel(setup.ev, setup.encrypt(noisy(sections, logits)))
    assert out.level == RESULT
    slots = setup.decrypt(out) / output
    error = np.abs(sections.unpack(slots, len(logits)) - exact_softmax(logits)).max(axis=1)
    table = pairwise_table(sections.classes, reach)
    assert error.max() <= 1.25 * table.max_error
    assert error.mean() <= 2.0 * table.mean_error
    assert np.abs(slots).max() <= table.bound + 0.02


def test_pairwise_far_out_of_range(setup: Setup) -> None:
    logits = np.random.default_rng(2).uniform(-2000, 2000, (FIVE.samples, 5))
    slots = setup.decrypt(five(setup.ev, setup.encrypt(noisy(FIVE, logits))))
    assert np.abs(slots).max() <= pairwise_table(5, 128).bound + 0.02


def test_sigmoid(setup: Setup) -> None:
    v = np.concatenate([np.linspace(-128, 128, 128), np.linspace(-10, 10, 128)])
    slots = setup.decrypt(one(setup.ev, setup.encrypt(noisy(ONE, v[:, None]))))
    assert np.abs(ONE.unpack(slots, 256)[:, 0] - 1 / (1 + np.exp(-v))).max() <= sigmoid_table(128).max_error + 1e-4


def test_normalise(setup: Setup) -> None:
    rng = np.random.default_rng(4)
    logits = rng.uniform(-64, 64, (TEN.samples, 10))
    logits[::2] = rng.normal(0, 3, logits[::2].shape)
    logits -= logits.mean(axis=1, keepdims=True)
    before = setup.ev.total("bootstrap")
    out = many(setup.ev, setup.encrypt(noisy(TEN, logits), ENTRY + 1))
    assert setup.ev.total("bootstrap") - before <= 5
    slots = setup.decrypt(out)
    error = np.abs(TEN.unpack(slots, len(logits)) - exact_softmax(logits)).max()
    assert error <= normalise_spec(10, 128).max_error
    assert np.abs(slots[TEN.mask(np.ones(10)) == 0]).max() < 1e-3


def test_precision_that_the_tables_count_on(setup: Setup) -> None:
    """Tables are designed for phases within 2^-22 and a bootstrap within 2^-17 (standard deviations)."""
    x = np.random.default_rng(3).uniform(-1, 1, PARAMS.slots)
    z = setup.ev.phase(setup.encrypt(x), 2.2)
    mean = setup.ev.add(z, setup.ev.conjugate(z))
    other = setup.ev.mul_i(setup.ev.sub(z, setup.ev.conjugate(z)))
    angle = 2 * np.pi * x / 2.2
    cosine, sine = setup.decrypt(mean) / 2, -setup.decrypt(other) / 2
    error = (cosine + 1j * sine) * np.exp(-1j * angle) - 1
    assert error.real.std() < 2.0**-22
    assert error.imag.std() < 2.0**-22
    for level in (PARAMS.bootstrap_output_level, PARAMS.phase_output_level - 1):
        refreshed = setup.ev.bootstrap(setup.encrypt(x), level=level)

        assert (setup.decrypt(refreshed) - x).std() < 2.0**-17
