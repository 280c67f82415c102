"""The encrypted products: NumPy's result in every slot, the levels promised, the counts of the paper's table."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest

from hetal.cli import bench_matmul, bench_products
from hetal.cli.bench_matmul import Shape
from hetal.errors import LayoutError, LevelError, ShapeError
from hetal.kernels.backends.counting import CountingEvaluator
from hetal.kernels.backends.plain import PlainEvaluator
from hetal.kernels.baselines import column_major_abt, privgd_abt, privgd_atb, row_major_atb
from hetal.kernels.evaluator import Ciphertext, LevelModel
from hetal.kernels.layout import BlockLayout
from hetal.kernels.matmul import diag_abt, diag_atb

TOLERANCE = 1e-12

# (samples, features, classes, rows, cols): what is odd about each is its id.
CASES = [
    pytest.param(8, 8, 2, 8, 8, id="one block, two classes"),
    pytest.param(1, 5, 4, 8, 16, id="one sample"),
    pytest.param(5, 1, 4, 16, 8, id="one feature"),
    pytest.param(1, 1, 2, 2, 2, id="one of each, smallest block"),
    pytest.param(19, 37, 3, 8, 16, id="many blocks, classes not a power of two"),
    pytest.param(33, 9, 5, 32, 8, id="one row over, period fills the columns"),
    pytest.param(16, 33, 7, 8, 32, id="period fills the rows"),
    pytest.param(70, 20, 10, 16, 16, id="period fills both"),
]

# HETAL's corrected table T7: (a, b, c), then CMult, Mult, Rot of each product.
T7 = {
    Shape(128, 128, 4): "0/512/0 8/4/63 4/2/34 0/512/7680 8/4/63 4/2/18 4/2/18",
    Shape(256, 256, 8): "0/2048/0 24/16/191 8/8/64 0/2048/30720 24/16/191 12/8/72 15/8/75",
    Shape(512, 769, 4): "0/3076/0 56/52/495 4/26/50 0/3076/46140 56/52/495 28/26/238 40/26/250",
    Shape(1024, 769, 8): "0/6152/0 208/200/2047 8/100/140 0/6152/92280 208/200/2047 104/100/1008 176/100/1080",
    Shape(2048, 769, 16): "0/12304/0 800/784/8703 16/392/456 0/12304/184560 800/784/8703 400/392/4328 736/392/4664",
}
COLUMNS = ["privgd_abt", "column_major_abt", "diag_abt", "privgd_atb", "row_major_atb", "diag_atb", "diag_atb_protup"]
COUNTING = argparse.Namespace(backend="counting", device="cpu", predict=None, seconds=None, json=True)
LEVELS = dict(zip(COLUMNS, (1, 3, 3, 1, 3, 4, 3), strict=True))


def model(slots: int, top_level: int = 8) -> LevelModel:
    return LevelModel(slots, top_level, 1, top_level, top_level)


def padded(classes: int) -> int:
    return 1 << (classes - 1).bit_length()


class Setting:
    """Random operands of one case, encrypted in the layouts of HETAL's products."""

    def __init__(self, n: int, m: int, classes: int, rows: int, cols: int) -> None:
        rng = np.random.default_rng([n, m, classes])
        self.n, self.m, self.classes, self.period = n, m, classes, padded(classes)
        self.layout = BlockLayout(rows, cols)
        self.ev = PlainEvaluator(model(rows * cols))
        self.x = rng.uniform(-1, 1, (n, m))
        self.w = np.zeros((self.period, m))
        self.w[:classes] = rng.uniform(-1, 1, (classes, m))
        self.p = rng.uniform(-1, 1, (n, self.period))

    def enter(self, vectors: list[np.ndarray], level: int | None = None) -> list[Ciphertext]:
        return [self.ev.encrypt(v, level) for v in vectors]

    def blocks(self, level: int | None = None) -> list[list[Ciphertext]]:
        return [self.enter(row, level) for row in self.layout.pack(self.x)]

    def slots(self, cts: list[Ciphertext]) -> np.ndarray:
        return np.array([self.ev.decrypt(ct) for ct in cts])


@pytest.mark.parametrize(("n", "m", "classes", "rows", "cols"), CASES)
def test_diag_abt_fills_every_slot(n: int, m: int, classes: int, rows: int, cols: int) -> None:
    s = Setting(n, m, classes, rows, cols)
    out = diag_abt(s.ev, s.blocks(), s.enter(s.layout.pack_tiled_rows(s.w)), s.layout, s.period, scale=0.37)
    expected = np.array(s.layout.pack_tiled_columns(0.37 * s.x @ s.w.T))
    assert np.abs(s.slots(out) - expected).max() < TOLERANCE
    assert {ct.level for ct in out} == {8 - 3}


@pytest.mark.parametrize("partial", [True, False])
@pytest.mark.parametrize(("n", "m", "classes", "rows", "cols"), CASES)
def test_diag_atb_fills_every_slot(n: int, m: int, classes: int, rows: int, cols: int, partial: bool) -> None:
    s = Setting(n, m, classes, rows, cols)
    residuals = s.enter(s.layout.pack_tiled_columns(s.p))
    out = diag_atb(s.ev, residuals, s.blocks(), s.layout, s.period, scale=-2.5, valid_classes=classes, partial=partial)
    product = -2.5 * s.p.T @ s.x
    product[classes:] = 0.0
    assert np.abs(s.slots(out) - np.array(s.layout.pack_tiled_rows(product))).max() < TOLERANCE


def test_diag_atb_keeps_all_rows_by_default() -> None:
    s = Setting(9, 7, 3, 8, 8)
    out = diag_atb(s.ev, s.enter(s.layout.pack_tiled_columns(s.p)), s.blocks(), s.layout, 4)
    assert np.abs(s.slots(out) - np.array(s.layout.pack_tiled_rows(s.p.T @ s.x))).max() < TOLERANCE


@pytest.mark.parametrize(("partial", "a_levels", "b_levels"), [(True, 3, 3), (False, 4, 2)])
@pytest.mark.parametrize("classes", [4, 8])
def test_levels_that_diag_atb_takes_of_each_factor(classes: int, partial: bool, a_levels: int, b_levels: int) -> None:
    s = Setting(16, 16, classes, 16, 16)

    def run(a_level: int, b_level: int) -> int:
        residuals = s.enter(s.layout.pack_tiled_columns(s.p), a_level)
        out = diag_atb(s.ev, residuals, s.blocks(b_level), s.layout, classes, partial=partial)
        return min(ct.level for ct in out)

    assert run(a_levels, b_levels) == 0
    with pytest.raises(LevelError):
        run(a_levels - 1, 8)
    with pytest.raises(LevelError):
        run(8, b_levels - 1)


def test_levels_that_diag_abt_takes() -> None:
    s = Setting(16, 16, 4, 16, 16)
    weights = s.layout.pack_tiled_rows(s.w)
    assert diag_abt(s.ev, s.blocks(3), s.enter(weights, 3), s.layout, 4)[0].level == 0
    with pytest.raises(LevelError):
        diag_abt(s.ev, s.blocks(8), s.enter(weights, 2), s.layout, 4)


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("shape", T7, ids=str)
def test_counts_are_those_of_the_paper(shape: Shape, name: str) -> None:
    ev = CountingEvaluator(model(1 << 15))
    product = bench_matmul.multiply(ev, name, bench_matmul.operands(shape))
    counts = f"{ev.total('mul_plain')}/{ev.total('mul')}/{ev.total('rotate') + ev.total('rotate_hoisted')}"
    assert counts == T7[shape].split()[COLUMNS.index(name)]
    assert ev.total("mul_scalar") == ev.total("bootstrap") == 0
    assert {8 - ct.level for ct in product.outputs} == {LEVELS[name]}


def test_sums_of_products_are_relinearised_once() -> None:
    relins = {}
    for name in ("diag_abt", "diag_atb", "diag_atb_protup"):
        ev = CountingEvaluator(model(1 << 15))
        bench_matmul.multiply(ev, name, bench_matmul.operands(Shape(512, 769, 4)))
        relins[name] = ev.total("relin")
    assert relins == {"diag_abt": 2, "diag_atb": 2 * 13, "diag_atb_protup": 2 * 13}


def test_scale_and_valid_classes_cost_nothing() -> None:
    counts = []
    for options in ({}, {"scale": 0.1, "valid_classes": 3}):
        s = Setting(40, 40, 3, 16, 16)
        diag_atb(s.ev, s.enter(s.layout.pack_tiled_columns(s.p)), s.blocks(), s.layout, 4, **options)
        counts.append(s.ev.counts)
    assert counts[0] == counts[1]


def test_counting_and_plain_backends_count_the_same() -> None:
    counts = []
    for kind in (PlainEvaluator, CountingEvaluator):
        for name in COLUMNS:
            ev = kind(model(256))
            bench_matmul.multiply(ev, name, bench_matmul.operands(Shape(16, 21, 4)))
            counts.append(ev.counts)
    assert counts[: len(COLUMNS)] == counts[len(COLUMNS) :]


@pytest.mark.parametrize("name", COLUMNS)
def test_bench_reports_the_error_of_what_it_ran(name: str) -> None:
    data = bench_matmul.operands(Shape(16, 21, 4))
    ev = PlainEvaluator(model(64))
    product = bench_matmul.multiply(ev, name, data)
    assert bench_matmul._max_error(ev, name, product, data) < TOLERANCE
    spoilt = bench_matmul.Operands(data.x + 0.01, data.w, data.p)
    assert bench_matmul._max_error(ev, name, product, spoilt) > 1e-3


def test_bench_prints_json_that_matches_the_paper(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    bench_matmul.add_parser(parser.add_subparsers())
    args = parser.parse_args(["matmul", "--backend", "counting", "--json"])
    assert args.run(args) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["matches_paper"] is True
    assert [(s["a"], s["b"], s["c"]) for s in report["shapes"]] == [(s.a, s.b, s.c) for s in T7]
    assert {tuple(s["columns"]) for s in report["shapes"]} == {tuple(COLUMNS)}
    assert report["shapes"][4]["columns"]["diag_atb"] == {
        "cmult": 400,
        "mult": 392,
        "rot": 4328,
        "conj": 49,
        "relin": 392,
        "levels": 4,
        "max_error": None,
        "checked_slots": None,
        "paper": {"cmult": 400, "mult": 392, "rot": 4328},
        "matches_paper": True,
    }

    best = {row["split"]: row for row in report["shapes"][4]["replica"]}
    assert {split: (row["key_switches"], row["feature_ciphertexts"]) for split, row in best.items()} == {
        1: (588, 32),
        2: (375, 56),
        4: (279, 112),
        8: (206, 208),
        16: (156, 400),
    }
    assert report["within_design"] is True
    assert all(sum(row["levels"].values()) <= 4 for shape in report["shapes"] for row in shape["replica"])


@pytest.mark.parametrize("split", [1, 4])
def test_bench_reports_the_error_of_our_products(split: int) -> None:
    rows = bench_products.measure(*operands_of(128, 128, 4), model(1 << 15), "plain")
    row = next(row for row in rows if row["split"] == split)
    assert row["max_error"] < TOLERANCE


def operands_of(a: int, b: int, c: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    data = bench_matmul.operands(Shape(a, b, c))
    return data.x, data.w, data.p


def test_bench_times_products_under_encryption() -> None:
    report = bench_matmul.seconds("insecure-test", 1, [Shape(128, 128, 4)])
    shape = report["shapes"][0]
    assert (report["preset"], report["slots"]) == ("insecure-test", 1024)
    assert [row["split"] for row in shape["replica"]] == [1, 4]
    for row in shape["replica"]:
        assert row["max_error"] < 1e-6
        assert row["total"] > 0.0
    assert shape["paper"]["total"] > 0.0


def test_bench_fails_when_our_products_cost_more_than_designed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bench_matmul.command(COUNTING) == 0
    monkeypatch.setitem(bench_products.DESIGN, (128, 128, 4), {4: (22, 1)})
    assert bench_matmul.command(COUNTING) == 1


def test_bench_fails_when_a_count_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {Shape(16, 16, 4): dict.fromkeys(COLUMNS, (1, 1, 1))}
    monkeypatch.setattr(bench_matmul, "PAPER", wrong)
    assert bench_matmul.command(COUNTING) == 1


# -- Crockett and PrivGD ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "m", "classes", "rows", "cols"), [(1, 1, 1, 2, 2), (19, 37, 3, 8, 16), (40, 5, 8, 8, 8), (7, 9, 5, 32, 8)]
)
def test_crockett_products(n: int, m: int, classes: int, rows: int, cols: int) -> None:
    s = Setting(n, m, classes, rows, cols)
    w, p = s.w[:classes], s.p[:, :classes]
    abt = column_major_abt(s.ev, s.blocks(), s.enter(s.layout.pack(w)[0]), s.layout, classes)
    expected = np.array([row[0] for row in s.layout.pack(s.x @ w.T)])
    assert np.abs(s.slots(abt) - expected).max() < TOLERANCE
    atb = row_major_atb(s.ev, s.enter([row[0] for row in s.layout.pack(p)]), s.blocks(), s.layout, classes)
    assert np.abs(s.slots(atb) - np.array(s.layout.pack(p.T @ s.x)[0])).max() < TOLERANCE


@pytest.mark.parametrize(("n", "m", "classes"), [(1, 1, 1), (16, 3, 2), (37, 5, 3)])
def test_privgd_products(n: int, m: int, classes: int) -> None:
    ev = PlainEvaluator(model(16))
    rng = np.random.default_rng(n)
    x, w, p = rng.uniform(-1, 1, (n, m)), rng.uniform(-1, 1, (classes, m)), rng.uniform(-1, 1, (n, classes))

    def columns(matrix: np.ndarray) -> list[list[Ciphertext]]:
        return [[ev.encrypt(c[i : i + 16]) for i in range(0, n, 16)] for c in matrix.T]

    abt = privgd_abt(ev, columns(x), [[ev.encrypt(np.full(16, entry)) for entry in row] for row in w])
    for row, expected in zip(abt, (x @ w.T).T, strict=True):
        flat = np.concatenate([ev.decrypt(ct) for ct in row])
        assert np.abs(flat[:n] - expected).max() < TOLERANCE
    atb = privgd_atb(ev, columns(p), columns(x))
    for row, expected_row in zip(atb, p.T @ x, strict=True):
        for ct, entry in zip(row, expected_row, strict=True):
            assert np.abs(ev.decrypt(ct) - entry).max() < TOLERANCE


# -- Refusals ---------------------------------------------------------------------------------------------------------


def test_products_refuse_factors_that_do_not_match() -> None:
    s = Setting(20, 20, 4, 8, 8)
    x, w, p = s.blocks(), s.enter(s.layout.pack_tiled_rows(s.w)), s.enter(s.layout.pack_tiled_columns(s.p))
    for call in (
        lambda: diag_abt(s.ev, x, w[:-1], s.layout, 4),
        lambda: diag_abt(s.ev, [], w, s.layout, 4),
        lambda: diag_abt(s.ev, [x[0], x[1][:-1]], w, s.layout, 4),
        lambda: diag_atb(s.ev, p[:-1], x, s.layout, 4),
        lambda: diag_atb(s.ev, p, [x[0], x[1], x[2][:-1]], s.layout, 4),
        lambda: diag_atb(s.ev, [], [], s.layout, 4),
        lambda: column_major_abt(s.ev, x, w[:-1], s.layout, 4),
        lambda: row_major_atb(s.ev, p[:-1], x, s.layout, 4),
        lambda: privgd_abt(s.ev, x, [w[:1]]),
        lambda: privgd_atb(s.ev, [p[:1]], [w[:2]]),
    ):
        with pytest.raises(ShapeError):
            call()


def test_products_refuse_layouts_that_do_not_fit() -> None:
    s = Setting(8, 8, 4, 8, 8)
    x, w, p = s.blocks(), s.enter(s.layout.pack_tiled_rows(s.w)), s.enter(s.layout.pack_tiled_columns(s.p))
    for call in (
        lambda: diag_abt(s.ev, x, w, s.layout, 16),
        lambda: diag_abt(s.ev, x, w, s.layout, 3),
        lambda: diag_abt(s.ev, x, w, BlockLayout(8, 4), 4),
        lambda: diag_atb(s.ev, p, x, BlockLayout(4, 4), 4),
        lambda: column_major_abt(s.ev, x, w, s.layout, 9),
        lambda: row_major_atb(s.ev, p, x, s.layout, 0),
    ):
        with pytest.raises(LayoutError):
            call()
