"""``hetal bench matmul``: what each encrypted matrix product executes, beside the paper's table and our design's."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from hetal import native
from hetal.ckks.presets import DEFAULT_PRESET, PRESETS, preset
from hetal.cli import bench_device, bench_products
from hetal.cli.bench_products import EncryptingEvaluator, timed
from hetal.cli.device_work import matmul_report
from hetal.cli.machine import machine_facts
from hetal.cli.matmul_work import LABELS, OWN, PAPER, Operands, Product, Shape, multiply, operands, prepared
from hetal.cli.report import show
from hetal.kernels.backends.counting import CountingEvaluator
from hetal.kernels.backends.plain import PlainEvaluator
from hetal.kernels.evaluator import LevelModel, level_model

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Subparsers = Any

LOG2_SLOTS: Final = 15
TOP_LEVEL: Final = 6
# PrivGD needs a ciphertext per weight, gigabytes of plain slots at full size. Its counts are taken there without data,
# its result is checked with more ciphertexts of fewer slots.
PRIVGD_CHECK_SLOTS: Final = 256

Bench = PlainEvaluator | CountingEvaluator
Report = dict[str, Any]


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
        show(matmul_report(bench_device.bench_of(args), PAPER), args.json, _print_times)
        return 0
    report = run(args)
    show(report, args.json, _print_tables)
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
