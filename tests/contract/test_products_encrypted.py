"""The replica-packed products under encryption, with a client's keys of the test preset, on both engines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from hetal.ckks.framing import Kind, unframe
from hetal.ckks.presets import TEST_PRESET, preset
from hetal.client.keys import KeySet
from hetal.kernels.backends.counting import CountingEvaluator
from hetal.kernels.backends.native import NativeEvaluator
from hetal.kernels.backends.openfhe import OpenFheEvaluator
from hetal.kernels.evaluator import Ciphertext, Evaluator, level_model
from hetal.kernels.products import backward, expand, forward, spread
from hetal.kernels.replica import ReplicaLayout

PARAMS = preset(TEST_PRESET)
# A short last run, runs ahead of the block, more classes in a run than there are, and a full and a partial chunk; and
# weights in several compact ciphertexts, of chunks in one group.
LAYOUTS = {
    "runs ahead": ReplicaLayout.fit(PARAMS.slots, 60, 110, 10, replicas=16, split=4, diagonals=3),
    "several compacts": ReplicaLayout.fit(PARAMS.slots, 16, 300, 7, replicas=16, split=2, diagonals=4),
}
WEIGHTS_LEVEL, LEVEL = 4, 5
PRECISION = 1e-5

Real = NDArray[np.float64]


class Client:
    """Keys, and complex slots in and out as real and imaginary parts."""

    def __init__(self, backend: type[NativeEvaluator | OpenFheEvaluator]) -> None:
        self.keys = KeySet.generate(PARAMS)
        self.ev = backend(PARAMS, self.keys.key_tag, threads=2)
        self.ev.load_key(Kind.MULT_KEY, bytes(unframe(self.keys.mult_key_blob(), Kind.MULT_KEY, PARAMS.digest)))
        steps = sorted({step for layout in LAYOUTS.values() for step in rotations(layout)})
        for _, blob in self.keys.rotation_key_blobs(steps):
            self.ev.load_key(Kind.ROTATION_KEYS, bytes(unframe(blob, Kind.ROTATION_KEYS, PARAMS.digest)))
        self.ev.finish_keys(steps)

    def encrypt(self, vector: NDArray[np.complex128], level: int = LEVEL) -> Ciphertext:
        real, imaginary = (self.ev.load(self.keys.encrypt(part, level)) for part in (vector.real, vector.imag))
        return self.ev.add(real, self.ev.mul_i(imaginary))

    def decrypt(self, ct: Ciphertext) -> NDArray[np.complex128]:
        """OpenFHE decrypts real slots alone, and takes what else it finds for noise."""
        ev = self.ev
        real, turned = (self.keys.decrypt(ev.dump(ev.add(each, ev.conjugate(each)))) for each in (ct, ev.mul_i(ct)))
        return (real - 1j * turned) / 2


def rotations(layout: ReplicaLayout) -> Iterator[int]:
    ev = CountingEvaluator(level_model(PARAMS))
    iterate(ev, layout, [ev.encrypt()] * layout.compacts, [blocks(ev, layout)], [ev.encrypt()])
    yield from ev.steps


def blocks(ev: CountingEvaluator, layout: ReplicaLayout) -> list[list[Ciphertext]]:
    return [[ev.encrypt() for _ in range(layout.blocks)] for _ in range(layout.groups)]


def iterate(
    ev: Evaluator,
    layout: ReplicaLayout,
    weights: Sequence[Ciphertext],
    xs: Sequence[Sequence[Sequence[Ciphertext]]],
    residuals: Sequence[Ciphertext],
) -> tuple[list[Ciphertext], list[Ciphertext]]:
    """The logits of every chunk, and the gradient."""
    pieces = expand(ev, weights, layout)
    logits = [forward(ev, x, pieces, layout) for x in xs]
    spreads = [spread(ev, residual, layout, len(x)) for residual, x in zip(residuals, xs, strict=True)]
    return logits, backward(ev, spreads, xs, layout)


@pytest.fixture(scope="module", params=[NativeEvaluator, OpenFheEvaluator], ids=["native", "openfhe"])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    made = Client(request.param)
    yield made
    made.ev.close()


@pytest.mark.parametrize("name", LAYOUTS)
def test_products_are_numpys(client: Client, name: str) -> None:
    layout, rng = LAYOUTS[name], np.random.default_rng(7)
    w = rng.uniform(-1, 1, (layout.classes, layout.columns))
    xs = [rng.uniform(-1, 1, (k, layout.columns)) for k in (layout.samples, layout.samples // 3)]
    rs = [rng.uniform(-1, 1, (len(x), layout.classes)) for x in xs]
    garbage = rng.uniform(-5, 5, layout.slots) * (1 - layout.sections.mask(np.ones(layout.classes)))
    logits, gradient = iterate(
        client.ev,
        layout,
        [client.encrypt(v, WEIGHTS_LEVEL) for v in layout.pack_weights(w)],
        [[[client.encrypt(v) for v in row] for row in layout.pack_features(x)] for x in xs],
        [client.encrypt(layout.sections.pack(r) + garbage + 0j, LEVEL + 1) for r in rs],
    )
    for x, ct in zip(xs, logits, strict=True):
        assert ct.level == WEIGHTS_LEVEL - (1 if layout.groups == 1 else 2)
        got = layout.sections.unpack(client.decrypt(ct).real, len(x)) / layout.forward_gain
        assert np.abs(got - x @ w.T).max() < PRECISION
    assert {ct.level for ct in gradient} == {WEIGHTS_LEVEL}
    got = layout.unpack_weights([client.decrypt(ct) for ct in gradient]) / layout.backward_gain
    assert np.abs(got - sum(r.T @ x for r, x in zip(rs, xs, strict=True))).max() < PRECISION
