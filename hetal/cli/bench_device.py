"""Options and tables of ``hetal bench`` on a device."""

from __future__ import annotations

import argparse

from rich import box
from rich.console import Console
from rich.table import Table

from hetal.ckks.presets import preset
from hetal.cli.device_work import Bench, Report
from hetal.native.cuda.predict import MACHINES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--device",
        default="cpu",
        metavar="D",
        help="cuda:N: time the native engine there, on random keys and ciphertexts",
    )
    group.add_argument(
        "--predict",
        choices=sorted(MACHINES),
        help="predict the times on a device that is not here, from its data sheet and the launches counted",
    )


def on_device(args: argparse.Namespace) -> bool:
    """Whether the report is one of this module's."""
    return args.predict is not None or args.device != "cpu"


def bench_of(args: argparse.Namespace) -> Bench:
    """What the options say."""
    return Bench(preset(args.preset), args.device, args.predict, args.repeats)


def print_engine(report: Report) -> None:
    console = Console()
    table = Table(title=title(report), title_justify="left", box=box.SIMPLE, padding=0)
    table.add_column("operation", no_wrap=True)
    for level in report["levels"]:
        table.add_column(f"level {level}", justify="right")
    names = next(iter(report["levels"].values()))
    for name in names:
        cells = [f"{1e3 * timings[name]['seconds']:.3f} ms" for timings in report["levels"].values()]
        table.add_row(name, *cells)
    console.print(table)
    console.print(f"bootstrap: {1e3 * report['bootstrap']['seconds']:.2f} ms", highlight=False)
    console.print(f"memory held: {report['memory_bytes'] / 2**30:.2f} GiB", highlight=False)


def title(report: Report) -> str:
    """Of a table, which says whether its figures are predictions."""
    what = "PREDICTED from the data sheet of" if report["predicted"] else "measured on"
    return f"preset {report['preset']}, {what} {report['device']['name']}"
