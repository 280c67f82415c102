"""The matrix products of HETAL and its rivals at the paper's five shapes, ready to be executed on any evaluator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hetal.kernels.baselines import column_major_abt, privgd_abt, privgd_atb, row_major_atb
from hetal.kernels.evaluator import Ciphertext
from hetal.kernels.layout import Array, BlockLayout
from hetal.kernels.matmul import diag_abt, diag_atb

LABELS: Final = {
    "privgd_abt": "PrivGD ABᵀ",
    "column_major_abt": "ColMajor ABᵀ",
    "diag_abt": "DiagABT",
    "privgd_atb": "PrivGD AᵀB",
    "row_major_atb": "RowMajor AᵀB",
    "diag_atb": "DiagATB",
    "diag_atb_protup": "DiagATB PRotUp",
}
SEED: Final = 0
# The paper's own products, in the variant that saves a level.
OWN: Final = ("diag_abt", "diag_atb_protup")

# An evaluator with a way in, which under encryption is its client's.
Bench = Any
Row = list[Ciphertext]
Counts = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Shape:
    """Samples a, features b, classes c: A B^T is (a x b)(b x c), A^T B is (c x a)(a x b)."""

    a: int
    b: int
    c: int


@dataclass(frozen=True, slots=True)
class Operands:
    """X: (a, b) features. W: (c, b) weights. P: (a, c) residuals."""

    x: Array
    w: Array
    p: Array


# HETAL's table of operation counts (CMult, Mult, Rot) in the version its authors corrected (arXiv 2403.14111, T7).
# Per shape, in the order of LABELS.
_PAPER_ROWS: Final[dict[tuple[int, int, int], tuple[Counts, ...]]] = {
    (128, 128, 4): ((0, 512, 0), (8, 4, 63), (4, 2, 34), (0, 512, 7680), (8, 4, 63), (4, 2, 18), (4, 2, 18)),
    (256, 256, 8): ((0, 2048, 0), (24, 16, 191), (8, 8, 64), (0, 2048, 30720), (24, 16, 191), (12, 8, 72), (15, 8, 75)),
    (512, 769, 4): (
        (0, 3076, 0),
        (56, 52, 495),
        (4, 26, 50),
        (0, 3076, 46140),
        (56, 52, 495),
        (28, 26, 238),
        (40, 26, 250),
    ),
    (1024, 769, 8): (
        (0, 6152, 0),
        (208, 200, 2047),
        (8, 100, 140),
        (0, 6152, 92280),
        (208, 200, 2047),
        (104, 100, 1008),
        (176, 100, 1080),
    ),
    (2048, 769, 16): (
        (0, 12304, 0),
        (800, 784, 8703),
        (16, 392, 456),
        (0, 12304, 184560),
        (800, 784, 8703),
        (400, 392, 4328),
        (736, 392, 4664),
    ),
}
PAPER: Final = {Shape(*sizes): dict(zip(LABELS, rows, strict=True)) for sizes, rows in _PAPER_ROWS.items()}


# Seconds of the same table (Lee et al. 2023, table 1): one A40, at level 12. PrivGD's are products of its counts and
# single operations' times.
_TIMED: Final = ("privgd_abt", "column_major_abt", "diag_abt", "privgd_atb", "row_major_atb", "diag_atb")
_PAPER_SECONDS: Final[dict[tuple[int, int, int], tuple[float, ...]]] = {
    (128, 128, 4): (0.8192, 0.1104, 0.0601, 10.0352, 0.1171, 0.0415),
    (256, 256, 8): (3.2768, 0.3203, 0.1211, 40.1408, 0.3167, 0.1239),
    (512, 769, 4): (4.9216, 0.7609, 0.1223, 60.2896, 0.7176, 0.3343),
    (1024, 769, 8): (9.8432, 3.0428, 0.3710, 120.5792, 2.8546, 1.2558),
    (2048, 769, 16): (19.6864, 12.6251, 1.2376, 241.1584, 11.8220, 4.9970),
}
PAPER_SECONDS: Final = {
    Shape(*sizes): dict(zip(_TIMED, seconds, strict=True)) for sizes, seconds in _PAPER_SECONDS.items()
}


@dataclass(frozen=True, slots=True)
class Product:
    """Result of one kernel: its ciphertexts, and how to read the matrix from their slots."""

    outputs: Row
    read: Callable[[Sequence[Array]], Array]


def operands(shape: Shape) -> Operands:
    """Uniform in [-1, 1), the same in every run."""
    rng = np.random.default_rng(SEED)
    return Operands(
        *(rng.uniform(-1, 1, size) for size in ((shape.a, shape.b), (shape.c, shape.b), (shape.a, shape.c)))
    )


def multiply(ev: Bench, name: str, data: Operands) -> Product:
    """Pack the operands as the product ``name`` wants them, encrypt them and execute it."""
    return prepared(ev, name, data)()


def prepared(ev: Bench, name: str, data: Operands) -> Callable[[], Product]:
    """The product ``name`` of operands packed and encrypted.

    The blocks of all but PrivGD have as many rows as there are samples, a power of two, or as many as leave room for
    the classes.
    """
    (a, b), c = data.x.shape, len(data.w)

    def enter(vectors: Sequence[NDArray[np.float64]]) -> Row:
        return [ev.encrypt(vector) for vector in vectors]

    if name.startswith("privgd"):
        samples = [slice(start, start + ev.slots) for start in range(0, a, ev.slots)]
        x = [enter([column[part] for part in samples]) for column in data.x.T]
        if name == "privgd_abt":
            w = [enter([np.broadcast_to(entry, ev.slots) for entry in row]) for row in data.w]
            return lambda: Product(_flat(privgd_abt(ev, x, w)), lambda v: np.reshape(np.stack(v), (c, -1)).T[:a])
        p = [enter([column[part] for part in samples]) for column in data.p.T]
        return lambda: Product(_flat(privgd_atb(ev, p, x)), lambda v: np.reshape([slots[0] for slots in v], (c, b)))

    rows = min(a, ev.slots // c)
    layout = BlockLayout(rows=rows, cols=ev.slots // rows)
    blocks = [enter(row) for row in layout.pack(data.x)]
    if name == "diag_abt":
        weights = enter(layout.pack_tiled_rows(data.w))
        return lambda: Product(
            diag_abt(ev, blocks, weights, layout, c), lambda v: layout.unpack_tiled_columns(v, (a, c))
        )
    if name == "column_major_abt":
        weights = enter(layout.pack(data.w)[0])
        return lambda: Product(
            column_major_abt(ev, blocks, weights, layout, c), lambda v: layout.unpack_tiled_columns(v, (a, c))
        )
    if name == "row_major_atb":
        residuals = enter([row[0] for row in layout.pack(data.p)])
        return lambda: Product(
            row_major_atb(ev, residuals, blocks, layout, c), lambda v: layout.unpack_tiled_rows(v, (c, b))
        )
    residuals = enter(layout.pack_tiled_columns(data.p))
    partial = name == "diag_atb_protup"
    return lambda: Product(
        diag_atb(ev, residuals, blocks, layout, c, partial=partial), lambda v: layout.unpack_tiled_rows(v, (c, b))
    )


def _flat(rows: Sequence[Row]) -> Row:
    return [ct for row in rows for ct in row]
