"""Reports of the native engine on a device: measured there, or predicted from the launches that it would get."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table

from hetal.ckks.parameters import Parameters
from hetal.cli.device_work import RandomEvaluator, Work, launches_of, measure, operations
from hetal.native.cuda.device import Device
from hetal.native.cuda.dry import DryDriver
from hetal.native.cuda.engine import Engine, open_engine
from hetal.native.cuda.predict import MACHINES, predicted

# Of the paper's products (Lee et al. 2023, table 1), and of the training iterations.
PAPER_LEVEL: Final = 12

Report = dict[str, Any]
Timing = Callable[[RandomEvaluator, Work], Report]


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


class Bench:
    """One device, there or pretended.

    Args:
        args: of the command: ``device``, ``predict``, ``repeats``.

    Attributes:
        head: of every report.
    """

    def __init__(self, args: argparse.Namespace, params: Parameters) -> None:
        self.params = params
        self._repeats = args.repeats
        self._machine = MACHINES[args.predict] if args.predict else None
        if self._machine is None:
            self._name = args.device
        else:
            self._name = self._machine.name
        engine = self.open()
        device = engine.device
        self.head: Report = {
            "preset": params.name,
            "ring_dimension": params.ring_dimension,
            "limbs": params.top_level + 1,
            "digits": params.spec.digits,
            "predicted": self._machine is not None,
            "device": asdict(self._machine or device.driver.facts) | {"integers": device.integers},
        }
        engine.close()

    def open(self) -> Engine:
        if self._machine is None:
            return open_engine(self._name)
        return Engine(Device(self._name, DryDriver(self._machine.architecture)))

    def time(self, ev: RandomEvaluator, work: Work, repeats: int | None = None) -> Report:
        """Seconds of the work, measured or predicted; ``host_s`` of a prediction is what Python took on this machine to
        give the launches, without the driver's share."""
        if self._machine is not None:
            launches, host_s = launches_of(ev, work)
            return {**predicted(launches, self._machine), "host_s": host_s}
        return measure(ev, work, repeats or self._repeats)


def engine_report(args: argparse.Namespace, params: Parameters) -> Report:
    """Operations at the top level and at the paper's, and a bootstrap."""
    bench = Bench(args, params)
    levels: Report = {}
    for level in sorted({params.top_level, min(PAPER_LEVEL, params.top_level)}, reverse=True):
        engine = bench.open()
        ev = RandomEvaluator(params, engine, level)
        levels[str(level)] = {name: bench.time(ev, work) for name, work in operations(ev)}
        ev.close()
    engine = bench.open()
    ev = RandomEvaluator(params, engine, params.top_level)
    ev.prepare_bootstrap()
    entered = ev.drop(ev.encrypt(), params.bootstrap_input_level)
    bootstrap = bench.time(ev, lambda: ev.bootstrap(entered), args.bootstraps)
    held, counts = engine.device.pool.held_bytes, dict(engine.device.counts)
    ev.close()
    return {**bench.head, "levels": levels, "bootstrap": bootstrap, "memory_bytes": held, "counts": counts}


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
