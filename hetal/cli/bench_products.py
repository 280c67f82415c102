"""The part of ``hetal bench matmul`` on the replica-packed products: their counts, errors and seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import numpy as np

from hetal.ckks.framing import Kind, unframe
from hetal.ckks.parameters import Parameters
from hetal.client.keys import KeySet
from hetal.kernels.backends.counting import CountingEvaluator
from hetal.kernels.backends.native import NativeEvaluator
from hetal.kernels.backends.plain import PlainEvaluator
from hetal.kernels.evaluator import Ciphertext, LevelModel, Vector
from hetal.kernels.layout import Array
from hetal.kernels.products import backward, expand, forward, spread
from hetal.kernels.products_work import feature_ciphertexts, ranked
from hetal.kernels.replica import ReplicaLayout, layouts

# By samples, features and classes: copies of each feature value, and the key switches and feature ciphertexts that the
# design (kernels.md, section 3) allows them.
DESIGN: Final[dict[tuple[int, int, int], dict[int, tuple[int, int]]]] = {
    (128, 128, 4): {1: (37, 1), 4: (23, 1)},
    (256, 256, 8): {1: (90, 2), 2: (60, 3), 8: (36, 8)},
    (512, 769, 4): {1: (92, 8), 2: (76, 14), 4: (72, 26)},
    (1024, 769, 8): {1: (211, 16), 2: (155, 28), 4: (128, 52), 8: (107, 104)},
    (2048, 769, 16): {1: (588, 32), 2: (376, 56), 4: (280, 112), 8: (208, 208), 16: (159, 400)},
}
# The native engine is timed at the level of an iteration's matrix work.
LEVEL: Final = 6

Report = dict[str, Any]
T = TypeVar("T")


class EncryptingEvaluator(NativeEvaluator):
    """The native engine with its client's keys beside it."""

    def __init__(self, params: Parameters, steps: Sequence[int], threads: int) -> None:
        self.keys = KeySet.generate(params)
        super().__init__(params, self.keys.key_tag, threads)
        self.load_key(Kind.MULT_KEY, bytes(unframe(self.keys.mult_key_blob(), Kind.MULT_KEY, params.digest)))
        for _, blob in self.keys.rotation_key_blobs(steps):
            self.load_key(Kind.ROTATION_KEYS, bytes(unframe(blob, Kind.ROTATION_KEYS, params.digest)))
        self.finish_keys(steps)
        self._zero = self.load(self.keys.encrypt(np.zeros(1), LEVEL))

    def encrypt(self, vector: Vector) -> Ciphertext:
        """One encryption of zero serves all: nothing here is a secret, and the client's encryption is not timed."""
        return self.add_plain(self._zero, vector)

    def decrypt(self, ct: Ciphertext) -> Array:
        """Real slots."""
        return self.keys.decrypt(self.dump(ct))


Bench = PlainEvaluator | CountingEvaluator | EncryptingEvaluator


class Products:
    """One shape's operands in one layout, encrypted."""

    def __init__(self, ev: Bench, layout: ReplicaLayout, x: Array, w: Array, p: Array) -> None:
        self.ev, self.layout = ev, layout
        chunks = [slice(start, start + layout.samples) for start in range(0, len(x), layout.samples)]
        self.weights = [ev.encrypt(vector) for vector in layout.pack_weights(w)]
        self.features = [
            [[ev.encrypt(vector) for vector in row] for row in layout.pack_features(x[part])] for part in chunks
        ]
        self.residuals = [ev.encrypt(layout.sections.pack(p[part])) for part in chunks]

    def expand(self) -> list[Ciphertext]:
        return expand(self.ev, self.weights, self.layout)

    def forward(self, pieces: Sequence[Ciphertext]) -> list[Ciphertext]:
        return [forward(self.ev, x, pieces, self.layout) for x in self.features]

    def spread(self) -> list[list[list[Ciphertext]]]:
        return [
            spread(self.ev, residual, self.layout, len(x))
            for residual, x in zip(self.residuals, self.features, strict=True)
        ]

    def backward(self, spreads: Sequence[Sequence[Sequence[Ciphertext]]]) -> list[Ciphertext]:
        return backward(self.ev, spreads, self.features, self.layout)


def chosen(slots: int, shape: tuple[int, int, int], split: int, features_max: int | None = None) -> ReplicaLayout:
    """The cheapest layout with so many copies of each value."""
    offered = (layout for layout in layouts(slots, *shape) if layout.split == split)
    return ranked(offered, shape[0], features_max=features_max)[0]


def measure(x: Array, w: Array, p: Array, model: LevelModel, backend: str) -> list[Report]:
    """One row per class split of the design: both products with all that belongs to them, at its best layout.

    ``max_error`` is that of an entry of both products, None on the counting backend.
    """
    shape = (x.shape[0], x.shape[1], len(w))
    return [
        _row(x, w, p, model, backend, chosen(model.slots, shape, split, allowed[1]), allowed)
        for split, allowed in DESIGN.get(shape, {}).items()
    ]


def _row(
    x: Array, w: Array, p: Array, model: LevelModel, backend: str, layout: ReplicaLayout, allowed: tuple[int, int]
) -> Report:
    counting = CountingEvaluator(model)
    ev = PlainEvaluator(model) if backend == "plain" else counting
    products = Products(ev, layout, x, w, p)
    logits = products.forward(products.expand())
    gradient = products.backward(products.spread())
    error = _max_error(ev, layout, logits, gradient, x, w, p) if isinstance(ev, PlainEvaluator) else None
    rotations = ev.total("rotate") + ev.total("rotate_hoisted")
    switches, features = rotations + ev.total("conjugate") + ev.total("relin"), feature_ciphertexts(layout, len(x))
    return {
        **_named(layout),
        "feature_ciphertexts": features,
        "cmult": ev.total("mul_plain"),
        "mult": ev.total("mul"),
        "rot": rotations,
        "rot_hoisted": ev.total("rotate_hoisted"),
        "conj": ev.total("conjugate"),
        "relin": ev.total("relin"),
        "key_switches": switches,
        "levels": {"logits": model.top_level - logits[0].level, "gradient": model.top_level - gradient[0].level},
        "max_error": error,
        "design": {"key_switches": allowed[0], "feature_ciphertexts": allowed[1]},
        "within_design": switches <= allowed[0] and features <= allowed[1],
    }


def _max_error(
    ev: PlainEvaluator,
    layout: ReplicaLayout,
    logits: Sequence[Ciphertext],
    gradient: Sequence[Ciphertext],
    x: Array,
    w: Array,
    p: Array,
) -> float:
    read = _logits([ev.decrypt(ct).real for ct in logits], layout, len(x))
    unpacked = layout.unpack_weights([ev.decrypt(ct) for ct in gradient]) / layout.backward_gain
    return float(max(np.abs(read - x @ w.T).max(), np.abs(unpacked - p.T @ x).max()))


def _logits(vectors: Sequence[Array], layout: ReplicaLayout, samples: int) -> Array:
    read = np.concatenate([layout.sections.unpack(vector, layout.samples) for vector in vectors])
    return read[:samples] / layout.forward_gain


def _named(layout: ReplicaLayout) -> Report:
    return {"split": layout.split, "diagonals": layout.diagonals, "replicas": layout.replicas}


# -- seconds ----------------------------------------------------------------------------------------------------------


def rotation_steps(layout: ReplicaLayout, shape: tuple[int, int, int], model: LevelModel) -> set[int]:
    """Rotations that :func:`seconds` makes."""
    counting = CountingEvaluator(model)
    samples, columns, classes = shape
    x, w, p = np.zeros((samples, columns)), np.zeros((classes, columns)), np.zeros((samples, classes))
    products = Products(counting, layout, x, w, p)
    products.forward(products.expand())
    products.backward(products.spread())
    return set(counting.steps)


def seconds(ev: EncryptingEvaluator, layout: ReplicaLayout, x: Array, w: Array, p: Array) -> Report:
    """Of each step over a whole mini-batch, and the largest error of its logits."""
    products = Products(ev, layout, x, w, p)
    products.forward(products.expand())
    pieces, expanding = timed(products.expand)
    logits, forwards = timed(lambda: products.forward(pieces))
    spreads, spreading = timed(products.spread)
    backwards = timed(lambda: products.backward(spreads))[1]
    read = _logits([ev.decrypt(ct) for ct in logits], layout, len(x))
    parts = {"expand": expanding, "forward": forwards, "spread": spreading, "backward": backwards}
    return {
        **_named(layout),
        "chunks": len(products.features),
        **{name: round(value, 4) for name, value in parts.items()},
        "total": round(sum(parts.values()), 4),
        "max_error": float(np.abs(read - x @ w.T).max()),
    }


def timed(function: Callable[[], T]) -> tuple[T, float]:
    start = time.perf_counter()
    result = function()
    return result, time.perf_counter() - start
