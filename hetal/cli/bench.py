"""``hetal bench``: measurements, one subcommand per module ``bench_*``."""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Subparsers = Any

BENCHMARKS: Final = ("engine", "iteration", "matmul", "softmax", "train")


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("bench", help="measure kernels on this machine")
    benchmarks = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    for name in BENCHMARKS:
        import_module(f"hetal.cli.bench_{name}").add_parser(benchmarks)
