"""``hetal bench matmul``: what each encrypted matrix product executes, beside the paper's table and our design's."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from hetal import native
from hetal.ckks.presets import DEFAULT_PRESET, PRESETS, preset
from hetal.cli import bench_device, bench_products
from hetal.cli.bench_products import EncryptingEvaluator, timed
from hetal.cli.device_work import RandomEvaluator, Work
from hetal.cli.machine import machine_facts
from hetal.kernels.backends.counting import CountingEvaluator
from hetal.kernels.backends.plain import PlainEvaluator
from hetal.kernels.baselines import column_major_abt, privgd_abt, privgd_atb, row_major_atb
from hetal.kernels.evaluator import Ciphertext, LevelModel, level_model
from hetal.kernels.layout import Array, BlockLayout
from hetal.kernels.matmul import diag_abt, diag_atb

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Subparsers = Any

LABELS: Final = {
    "privgd_abt": "PrivGD ABᵀ",
    "column_major_abt": "ColMajor ABᵀ",
    "diag_abt": "DiagABT",
    "privgd_atb": "PrivGD AᵀB",
    "row_major_atb": "RowMajor AᵀB",
    "diag_atb": "DiagATB",
    "diag_atb_protup": "DiagATB PRotUp",
}
LOG2_SLOTS: Final = 15
TOP_LEVEL: Final = 6
# PrivGD needs a ciphertext per weight, gigabytes of plain slots at full size. Its counts are taken there without data,
# its result is checked with more ciphertexts of fewer slots.
PRIVGD_CHECK_SLOTS: Final = 256
SEED: Final = 0
# The paper's own products, in the variant that saves a level.
OWN: Final = ("diag_abt", "diag_atb_protup")

Bench = PlainEvaluator | CountingEvaluator | EncryptingEvaluator | RandomEvaluator
Row = list[Ciphertext]
Report = dict[str, Any]
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


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "matmul",
        help="operation counts of the encrypted matrix products",
        description="Execute HETAL's matrix products, their rivals and ours at the paper's five shapes, and count.",
    )
    parser.add_argument(
        "--backend",
        choices=("plain", "counting"),
        default="plain",
        help="plain: on NumPy slots, with the error of every product; counting: without data",
    )
    parser.add_argument("--preset", choices=sorted(PRESETS), default=DEFAULT_PRESET, help="on a device")
    bench_device.add_arguments(parser)
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="of each product, on a device")
    parser.add_argument(
        "--seconds",
        choices=sorted(PRESETS),
        metavar="PRESET",
        help=f"also time the products, on the native engine under keys of {', '.join(sorted(PRESETS))}",
    )
    parser.add_argument(
        "--shapes",
        type=int,
        choices=range(1, len(PAPER) + 1),
        default=len(PAPER),
        metavar="N",
        help="with --seconds: the N smallest shapes only",
    )
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), metavar="N", help="with --seconds")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.set_defaults(run=command)


def command(args: argparse.Namespace) -> int:
    """Print the report. Exit status 1 when a count differs from the paper's or is beyond our design's."""
    if bench_device.on_device(args):
        report = run_on_device(args)
        if args.json:
            print(json.dumps(report, indent=2))
        else:
            _print_times(report)
        return 0
    report = run(args)
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        _print_tables(report)
    return 0 if report["matches_paper"] and report["within_design"] else 1


def run(args: argparse.Namespace) -> Report:
    """The report: machine facts, and per shape and product the counts, levels, error and what they should be."""
    shapes: list[Report] = [
        {
            "a": shape.a,
            "b": shape.b,
            "c": shape.c,
            "slots": 1 << LOG2_SLOTS,
            "columns": measure(shape, args.backend),
            "replica": _measure_replica(shape, args.backend),
        }
        for shape in PAPER
    ]
    report = {
        "machine": machine_facts(),
        "backend": args.backend,
        "matches_paper": all(column["matches_paper"] for shape in shapes for column in shape["columns"].values()),
        "within_design": all(row["within_design"] for shape in shapes for row in shape["replica"]),
        "shapes": shapes,
    }
    if args.seconds:
        report["seconds"] = seconds(args.seconds, args.threads, list(PAPER)[: args.shapes])
    return report


def _measure_replica(shape: Shape, backend: str) -> list[Report]:
    data = operands(shape)
    return bench_products.measure(data.x, data.w, data.p, _model(1 << LOG2_SLOTS), backend)


def seconds(name: str, threads: int, shapes: Sequence[Shape]) -> Report:
    """Seconds of both products of each shape: the paper's, and ours in the design's layouts."""
    native.load_engine()
    params = preset(name)
    model = level_model(params)
    chosen = {
        shape: [bench_products.chosen(params.slots, (shape.a, shape.b, shape.c), split) for split in splits]
        for shape, splits in ((shape, bench_products.DESIGN[shape.a, shape.b, shape.c]) for shape in shapes)
    }
    counting = CountingEvaluator(model)
    steps: set[int] = set()
    for shape, offered in chosen.items():
        for product in OWN:
            multiply(counting, product, operands(shape))
        for layout in offered:
            steps |= bench_products.rotation_steps(layout, (shape.a, shape.b, shape.c), model)
    ev = EncryptingEvaluator(params, sorted(steps | set(counting.steps)), threads)
    rows = []
    for shape, offered in chosen.items():
        data = operands(shape)
        paper = {product: round(timed(prepared(ev, product, data))[1], 4) for product in OWN}
        rows.append(
            {
                "a": shape.a,
                "b": shape.b,
                "c": shape.c,
                "paper": {**paper, "total": round(sum(paper.values()), 4)},
                "replica": [bench_products.seconds(ev, layout, data.x, data.w, data.p) for layout in offered],
            }
        )
    ev.close()
    return {"preset": params.name, "slots": params.slots, "threads": threads, "shapes": rows}


def measure(shape: Shape, backend: str) -> dict[str, dict[str, Any]]:
    """Execute the seven products of one shape, with s0 = a and s1 = slots / a as in the paper.

    ``max_error`` is the largest difference of an entry from NumPy's product, in ciphertexts of ``checked_slots``; both
    are None on the counting backend.
    """
    data = operands(shape)
    model = _model(1 << LOG2_SLOTS)
    report = {}
    for name, paper in PAPER[shape].items():
        checked: PlainEvaluator | None = None
        error: float | None = None
        if backend == "counting" or name.startswith("privgd"):
            ev: Bench = CountingEvaluator(model)
            product = multiply(ev, name, data)
            if backend == "plain":
                checked = PlainEvaluator(_model(min(shape.a, PRIVGD_CHECK_SLOTS)))
                error = _max_error(checked, name, multiply(checked, name, data), data)
        else:
            ev = checked = PlainEvaluator(model)
            product = multiply(ev, name, data)
            error = _max_error(checked, name, product, data)
        counts = (ev.total("mul_plain"), ev.total("mul"), ev.total("rotate") + ev.total("rotate_hoisted"))
        report[name] = {
            **dict(zip(("cmult", "mult", "rot"), counts, strict=True)),
            "conj": ev.total("conjugate"),
            "relin": ev.total("relin"),
            "levels": TOP_LEVEL - min(ct.level for ct in product.outputs),
            "max_error": error,
            "checked_slots": checked.slots if checked else None,
            "paper": dict(zip(("cmult", "mult", "rot"), paper, strict=True)),
            "matches_paper": counts == paper,
        }
    return report


def run_on_device(args: argparse.Namespace) -> dict[str, Any]:
    """Per shape and product the seconds at the paper's level, measured or predicted, beside the paper's on an A40.

    PrivGD's are its counts times the seconds of single operations, as the paper's are. Shapes that do not fit into the
    preset's slots are left out.
    """
    params = preset(args.preset)
    bench = bench_device.Bench(args, params)
    level = min(bench_device.PAPER_LEVEL, params.top_level)
    engine = bench.open()
    ev = RandomEvaluator(params, engine, level)
    x, vector = ev.encrypt(), np.ones(ev.slots)
    works: dict[str, Work] = {
        "mul_plain": lambda: ev.mul_plain(x, vector),
        "mul": lambda: ev.mul(x, x),
        "rotate": lambda: ev.rotate(x, 1),
    }
    units = {name: bench.time(ev, work)["seconds"] for name, work in works.items()}
    shapes = []
    for shape, paper in PAPER.items():
        if shape.a * shape.c > ev.slots:
            continue
        columns: dict[str, Any] = {}
        for name, counts in paper.items():
            seconds: dict[str, Any]
            if name.startswith("privgd"):
                total = sum(count * unit for count, unit in zip(counts, units.values(), strict=True))
                seconds = {"seconds": total, "by_counts": True}
            else:
                seconds = bench.time(ev, prepared(ev, name, operands(shape)))
            columns[name] = {**seconds, "paper_s": PAPER_SECONDS[shape].get(name)}
        shapes.append({"a": shape.a, "b": shape.b, "c": shape.c, "columns": columns})
    ev.close()
    return {**bench.head, "level": level, "units_s": units, "shapes": shapes}


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


def _model(slots: int) -> LevelModel:
    return LevelModel(slots, TOP_LEVEL, 1, TOP_LEVEL, TOP_LEVEL)


def _max_error(ev: PlainEvaluator, name: str, product: Product, data: Operands) -> float:
    vectors: Any = [ev.decrypt(ct) for ct in product.outputs]
    expected = data.p.T @ data.x if "atb" in name else data.x @ data.w.T
    return float(np.abs(product.read(vectors) - expected).max())


def _print_tables(report: dict[str, Any]) -> None:
    console = Console()
    for shape in report["shapes"]:
        table = Table(
            title=f"{shape['a']} samples, {shape['b']} features, {shape['c']} classes; {shape['slots']} slots",
            title_justify="left",
            box=box.SIMPLE,
            padding=0,
        )
        table.add_column("product", no_wrap=True)
        for heading in ("CMult", "Mult", "Rot", "paper", "Conj", "Relin", "levels", "error"):
            table.add_column(heading, justify="right", no_wrap=True)
        for name, column in shape["columns"].items():
            paper = "same" if column["matches_paper"] else "/".join(str(n) for n in column["paper"].values())
            error = "" if column["max_error"] is None else f"{column['max_error']:.1e}"
            numbers = [str(column[key]) for key in ("cmult", "mult", "rot")]
            rest = [str(column[key]) for key in ("conj", "relin", "levels")]
            table.add_row(LABELS[name], *numbers, paper, *rest, error)
        console.print(table)
        _print_replica(console, shape)
    if "seconds" in report:
        _print_seconds(console, report["seconds"])
    machine = report["machine"]
    console.print(f"{machine['processor']}, {machine['cores']} cores, NumPy {machine['numpy']}", highlight=False)


def _print_times(report: dict[str, Any]) -> None:
    console = Console()
    table = Table(title=bench_device.title(report), title_justify="left", box=box.SIMPLE, padding=0)
    table.add_column("product", no_wrap=True)
    for shape in report["shapes"]:
        table.add_column(f"({shape['a']}, {shape['b']}, {shape['c']})", justify="right")
    for name in LABELS:
        cells = []
        for shape in report["shapes"]:
            column = shape["columns"][name]
            paper = "" if column["paper_s"] is None else f" ({column['paper_s']:.2f})"
            cells.append(f"{column['seconds']:.4f} s{paper}")
        table.add_row(LABELS[name], *cells)
    console.print(table)
    console.print("In parentheses: the paper's, on one A40.", highlight=False)


def _print_replica(console: Console, shape: Report) -> None:
    columns = shape["columns"]
    switches = sum(columns[name][key] for name in OWN for key in ("rot", "conj", "relin"))
    table = Table(
        title=f"replica-packed, both products, expansion and packing (the paper's: {switches} key switches)",
        title_justify="left",
        box=box.SIMPLE,
        padding=0,
    )
    for heading in ("copies", "X", "key switches", "design", "hoisted", "CMult", "Mult", "levels", "error"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in shape["replica"]:
        table.add_row(
            f"{row['split']} x {row['diagonals']}",
            str(row["feature_ciphertexts"]),
            str(row["key_switches"]),
            str(row["design"]["key_switches"]),
            *(str(row[key]) for key in ("rot_hoisted", "cmult", "mult")),
            "+".join(str(levels) for levels in row["levels"].values()),
            "" if row["max_error"] is None else f"{row['max_error']:.1e}",
        )
    console.print(table)


def _print_seconds(console: Console, report: Report) -> None:
    table = Table(
        title=f"seconds of both products, preset {report['preset']}, {report['slots']} slots, "
        f"{report['threads']} threads",
        title_justify="left",
        box=box.SIMPLE,
        padding=0,
    )
    for heading in ("shape", "paper", "copies", "expand", "forward", "spread", "backward", "ours", "error"):
        table.add_column(heading, justify="right", no_wrap=True)
    for shape in report["shapes"]:
        for row in shape["replica"]:
            table.add_row(
                f"{shape['a']}, {shape['b']}, {shape['c']}",
                f"{shape['paper']['total']:.2f}",
                f"{row['split']} x {row['diagonals']}",
                *(f"{row[key]:.3f}" for key in ("expand", "forward", "spread", "backward", "total")),
                f"{row['max_error']:.1e}",
            )
    console.print(table)
