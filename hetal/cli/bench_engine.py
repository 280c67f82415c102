"""``hetal bench engine``: the native engine against OpenFHE, on the same keys and ciphertexts, in one run."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from hetal import native
from hetal.ckks.presets import DEFAULT_PRESET, PRESETS, preset
from hetal.cli import bench_device
from hetal.cli.bench_engine_process import HOISTED, INPUTS, KEYS, RESULTS, precision
from hetal.cli.device_work import engine_report
from hetal.cli.machine import machine_facts
from hetal.cli.report import show
from hetal.client.keys import KeySet
from hetal.errors import BackendError
from hetal.protocol.job import KEYS_MULT
from hetal.server.config import BACKENDS

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Subparsers = Any

SEED: Final = 0

Report = dict[str, Any]


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "engine",
        help="the native engine against OpenFHE",
        description="Time kernels, operations and bootstraps of both backends on the same keys, each in a process of "
        "its own, and check what they computed.",
    )
    parser.add_argument("--preset", choices=sorted(PRESETS), default=DEFAULT_PRESET)
    bench_device.add_arguments(parser)
    parser.add_argument("--backends", choices=(*BACKENDS, "both"), default="both")
    parser.add_argument("--threads", type=int, action="append", metavar="N", help="default: 1 and all cores")
    parser.add_argument("--repeats", type=int, default=7, metavar="N", help="of each operation; medians are reported")
    parser.add_argument("--bootstraps", type=int, default=3, metavar="N", help="of each backend and thread count")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.set_defaults(run=command)


def command(args: argparse.Namespace) -> int:
    """Print the report."""
    device = bench_device.on_device(args)
    report = engine_report(bench_device.bench_of(args), args.bootstraps) if device else run(args)
    show(report, args.json, bench_device.print_engine if device else _print_tables)
    return 0


def run(args: argparse.Namespace) -> Report:
    """The report: machine facts, and per backend and thread count what its process measured, with errors checked here.

    Raises:
        BackendError: a measuring process failed.
    """
    params = preset(args.preset)
    backends = BACKENDS if args.backends == "both" else (args.backends,)
    if "native" in backends:
        native.load_engine()
    threads = args.threads or sorted({1, len(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory(prefix="hetal-bench-") as name:
        directory = Path(name)
        keys, values = _prepare(directory, args.preset)
        runs = []
        for count in threads:
            for backend in backends:
                measured = _measure(directory, args, backend, count, keys.key_tag)
                results = {
                    path.name: keys.decrypt(path.read_bytes()) for path in sorted((directory / RESULTS).iterdir())
                }
                measured["precision"] = precision(results, values)
                runs.append({"backend": backend, "threads": count, **measured})
    return {
        "machine": machine_facts(),
        "preset": params.name,
        "ring_dimension": params.ring_dimension,
        "limbs": params.top_level + 1,
        "digits": params.spec.digits,
        "runs": runs,
        "ratios": _ratios(runs),
    }


def _prepare(directory: Path, name: str) -> tuple[KeySet, Any]:
    """Keys and encrypted inputs as files; the key set and the inputs themselves stay here."""
    params = preset(name)
    keys = KeySet.generate(params)
    for folder in (KEYS, INPUTS, RESULTS):
        (directory / folder).mkdir()
    (directory / KEYS / KEYS_MULT.replace("/", "-")).write_bytes(keys.mult_key_blob())
    for blob, data in keys.rotation_key_blobs(HOISTED):
        (directory / KEYS / blob.replace("/", "-")).write_bytes(data)
    values = np.random.default_rng(SEED).uniform(-1, 1, (2, params.slots))
    for i, row in enumerate(values):
        (directory / INPUTS / str(i)).write_bytes(keys.encrypt(row, params.top_level))
    return keys, values


def _measure(directory: Path, args: argparse.Namespace, backend: str, threads: int, key_tag: str) -> Report:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "20000" if backend == "native" else "0",
    }
    options = ("--backend", backend, "--threads", str(threads), "--preset", args.preset, "--key-tag", key_tag)
    repeats = ("--repeats", str(args.repeats), "--bootstraps", str(args.bootstraps))
    done = subprocess.run(
        [sys.executable, "-m", "hetal.cli.bench_engine_process", str(directory), *options, *repeats],
        env=environment,
        stdout=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        raise BackendError(f"the measurement of {backend} with {threads} threads ended with status {done.returncode}")
    report: Report = json.loads(done.stdout)
    return report


def _ratios(runs: list[Report]) -> Report:
    """OpenFHE's seconds over the native engine's, per thread count, operation and level."""
    ratios: Report = {}
    by = {(run["backend"], run["threads"]): run for run in runs}
    for backend, threads in by:
        if backend != "native" or ("openfhe", threads) not in by:
            continue
        ours, theirs = by["native", threads], by["openfhe", threads]
        ratios[str(threads)] = {
            **{
                operation: {level: round(theirs["seconds"][operation][level] / s, 2) for level, s in seconds.items()}
                for operation, seconds in ours["seconds"].items()
            },
            "peak_bytes": round(ours["peak_bytes"] / theirs["peak_bytes"], 3),
        }
    return ratios


def _print_tables(report: Report) -> None:
    console = Console()
    for run in report["runs"]:
        table = Table(
            title=f"{run['backend']}, {run['threads']} threads, preset {report['preset']}",
            title_justify="left",
            box=box.SIMPLE,
            padding=0,
        )
        table.add_column("operation", no_wrap=True)
        levels = sorted({level for seconds in run["seconds"].values() for level in seconds}, key=int, reverse=True)
        for level in levels:
            table.add_column(f"level {level}", justify="right")
        ratios = report["ratios"].get(str(run["threads"]), {}) if run["backend"] == "native" else {}
        for operation, seconds in run["seconds"].items():
            cells = []
            for level in levels:
                if level not in seconds:
                    cells.append("")
                    continue
                ratio = f" ({ratios[operation][level]}x)" if operation in ratios else ""
                cells.append(f"{1e3 * seconds[level]:.1f} ms{ratio}")
            table.add_row(operation, *cells)
        console.print(table)
        lines = [f"{what}: max error {e['max']:.1e}, mean {e['mean']:.1e}" for what, e in run["precision"].items()]
        lines.append(", ".join(f"{what} in {run[f'{what}_s']:.1f} s" for what in ("load", "prepare")))
        lines.append(f"keys {run['key_bytes'] / 2**30:.2f} GiB, peak {run['peak_bytes'] / 2**30:.2f} GiB")
        for kernel, value in run.get("kernels", {}).items():
            lines.append(f"{kernel}: {value:.3g}")
        for operation, share in run.get("roofline", {}).items():
            lines.append(f"roofline of {operation}: {share}")
        console.print("\n".join(lines), highlight=False)
