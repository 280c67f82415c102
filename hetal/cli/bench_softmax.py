"""``hetal bench softmax``: errors of the softmaxes and their rivals, beside the published comparison."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from hetal.cli.machine import machine_facts
from hetal.cli.report import show
from hetal.errors import InputError
from hetal.kernels.backends.plain import Noise, PlainEvaluator
from hetal.kernels.clear import exact_softmax
from hetal.kernels.evaluator import Ciphertext, LevelModel
from hetal.kernels.layout import BlockLayout
from hetal.kernels.normalise import normalise, schedule
from hetal.kernels.pairwise import pairwise
from hetal.kernels.sections import Sections
from hetal.kernels.sigmoid import sigmoid
from hetal.kernels.softmax import padded_classes, softmax
from hetal.kernels.softmax_rivals import (
    NO_EXTENSION,
    gumbel_softmax,
    hong_softmax,
    precise_softmax,
    privgd_softmax,
    unextended_softmax,
)
from hetal.kernels.tables import normalise_spec, pairwise_table, sigmoid_table
from hetal.protocol.job import SoftmaxSpec

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Subparsers = Any

CLASSES: Final = (3, 5, 7, 10)
RANGES: Final = (4, 8, 32, 128)
SAMPLES: Final = 200_000
SAMPLES_MAX: Final = 100_000_000
TOP_LEVEL: Final = 400
# Small enough for a processor's cache; one softmax per row, so the row count only sets the speed.
LOG2_SLOTS: Final = 15
SEED: Final = 0
SPEC: Final = SoftmaxSpec()

# Ours run with the default preset's levels and with noise on their bootstraps: of the coarse one that the pairwise
# softmax makes, of a precise one, and of a phase, which ends before a bootstrap multiplies its noise.
MODEL: Final = LevelModel(1 << LOG2_SLOTS, 26, 4, 13, 15)
RESULT_LEVEL: Final = 8
COARSE_NOISE: Final = 2.0**-17
PRECISE_NOISE: Final = 2.0**-20
PHASE_NOISE: Final = 2.0**-22
BLOCK: Final = 256

Kernel = Callable[[PlainEvaluator, Ciphertext, BlockLayout, int], Ciphertext]
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Result:
    """Probabilities (n, c), the levels consumed, and the bootstraps made; None where none were placed."""

    probabilities: Array
    levels: int
    bootstraps: int | None = None


@dataclass(frozen=True, slots=True)
class Method:
    """One column of the table.

    Attributes:
        approximate: takes logits (n, c), at most ``rows(c)`` of them, and the range they lie in.
        ranges: at which it was compared.
    """

    label: str
    approximate: Callable[[Array, int], Result]
    ranges: tuple[int, ...] = RANGES
    classes: tuple[int, ...] = CLASSES


class NoisyPhases(PlainEvaluator):
    """Phases have a noise of their own."""

    def _phase(self, a: Ciphertext, period: float) -> NDArray[np.complex128]:
        return self._blur(np.exp(2j * np.pi * a.payload.real / period), PHASE_NOISE)


def rows(classes: int) -> int:
    """Samples of one ciphertext, for every method."""
    return min((1 << LOG2_SLOTS) // padded_classes(classes), _sections(classes).samples)


def _tiled(kernel: Kernel, logit_range: float, logits: Array, reach: int) -> Result:
    """The paper's layout: logits / (2 R) in tiled columns."""
    n, classes = logits.shape
    padded = padded_classes(classes)
    layout = BlockLayout((1 << LOG2_SLOTS) // padded, padded)
    ev = PlainEvaluator(LevelModel(layout.slots, TOP_LEVEL, 1, TOP_LEVEL, TOP_LEVEL))
    scaled = np.zeros((n, layout.cols))
    scaled[:, :classes] = logits / (2.0 * logit_range)
    out = kernel(ev, ev.encrypt(layout.pack_tiled_columns(scaled)[0]), layout, classes)
    slots = layout.unpack_tiled_columns([ev.decrypt(out).real], (n, layout.cols))
    return Result(slots[:, :classes], TOP_LEVEL - out.level)


def _sections(classes: int) -> Sections:
    return Sections(1 << LOG2_SLOTS, BLOCK, BLOCK // (3 * classes), classes, classes)


def _pairwise(logits: Array, reach: int) -> Result:
    sections, table = _sections(logits.shape[1]), pairwise_table(logits.shape[1], reach)
    ev = NoisyPhases(MODEL, Noise(per_bootstrap=COARSE_NOISE))
    ct = ev.encrypt(sections.pack(logits), MODEL.bootstrap_input_level)
    out = pairwise(ev, ct, sections, table, gain=1.0, level=RESULT_LEVEL)
    probabilities = sections.unpack(ev.decrypt(out).real, len(logits))
    return Result(probabilities, table.levels_before + table.levels_after, _bootstraps(ev))


def _normalise(logits: Array, reach: int) -> Result:
    """Of logits less their mean, which reach further."""
    centred = logits - logits.mean(axis=1, keepdims=True)
    sections, spec = _sections(logits.shape[1]), normalise_spec(logits.shape[1], float(np.abs(centred).max()))
    ev = PlainEvaluator(MODEL, Noise(per_bootstrap=PRECISE_NOISE))
    ev.schedule = schedule(spec, MODEL, MODEL.bootstrap_input_level)
    ct = ev.encrypt(sections.pack(centred), MODEL.bootstrap_input_level + 1)
    out = normalise(ev, ct, sections, spec, gain=1.0)
    return Result(sections.unpack(ev.decrypt(out).real, len(logits)), 1 + sum(spec.levels), _bootstraps(ev))


def _sigmoid(logits: Array, reach: int) -> Result:
    sections, table = _sections(1), sigmoid_table(2 * reach)
    ev = NoisyPhases(MODEL, Noise(per_bootstrap=PHASE_NOISE))
    ct = ev.encrypt(sections.pack(logits[:, 1:] - logits[:, :1]), MODEL.bootstrap_input_level)
    out = sigmoid(ev, ct, sections, table, gain=1.0, level=RESULT_LEVEL)
    second = sections.unpack(ev.decrypt(out).real, len(logits))
    return Result(np.hstack([1.0 - second, second]), table.levels, _bootstraps(ev))


def _bootstraps(ev: PlainEvaluator) -> int:
    return ev.total("bootstrap") + ev.total("phase")


METHODS: Final[dict[str, Method]] = {
    "pairwise": Method("pairwise", _pairwise),
    "normalise": Method("normalise", _normalise),
    "sigmoid": Method("sigmoid", _sigmoid, classes=(2,)),
    "hetal": Method("HETAL", partial(_tiled, lambda ev, x, lay, c: softmax(ev, x, lay, c, SPEC), SPEC.logit_range)),
    "precise": Method(
        "HETAL, precise", partial(_tiled, lambda ev, x, lay, c: precise_softmax(ev, x, lay, c, SPEC), SPEC.logit_range)
    ),
    "no_extension": Method("no extension", partial(_tiled, unextended_softmax, NO_EXTENSION.logit_range), (4,)),
    "gumbel": Method(
        "Lee et al. 2022", partial(_tiled, lambda ev, x, lay, c: gumbel_softmax(ev, x, lay, c, 32.0), 32.0), (4, 8, 32)
    ),
    "hong": Method(
        "Hong et al. 2022", partial(_tiled, lambda ev, x, lay, c: hong_softmax(ev, x, lay, c, 8.0), 8.0), (4, 8)
    ),
    "privgd": Method("PrivGD", partial(_tiled, lambda ev, x, lay, c: privgd_softmax(ev, x, lay, c, 4.0), 4.0), (4,)),
}

# (max, average) by method, classes and range, reproduced in NumPy at 10^6 samples per sub-range (papers.md 1.5). None
# where that table has no number. Two digits at most, one in the averages below 1e-3.
Pair = tuple[float | None, float | None]
REFERENCE: Final[dict[tuple[str, int, int], Pair]] = {
    ("hetal", 3, 4): (0.0037, 0.0015),
    ("hetal", 3, 8): (0.0037, None),
    ("hetal", 3, 32): (0.0037, None),
    ("hetal", 3, 128): (0.0037, None),
    ("hetal", 5, 4): (0.0071, 0.0028),
    ("hetal", 5, 128): (0.0079, 0.0023),
    ("hetal", 7, 4): (0.0065, 0.0031),
    ("hetal", 7, 128): (0.0086, 0.0029),
    ("hetal", 10, 4): (0.0151, 0.0046),
    ("hetal", 10, 8): (0.0152, 0.0040),
    ("hetal", 10, 32): (0.0152, 0.0040),
    ("hetal", 10, 128): (0.0202, 0.0039),
    ("precise", 3, 4): (0.0013, 0.0003),
    ("precise", 3, 8): (0.0013, 0.0004),
    ("precise", 3, 128): (0.0022, 0.0006),
    ("precise", 5, 4): (0.0026, 0.0004),
    ("precise", 5, 128): (0.0044, 0.0010),
    ("precise", 7, 4): (0.0025, 0.0004),
    ("precise", 7, 128): (0.0064, 0.0013),
    ("precise", 10, 4): (0.0038, 0.0006),
    ("precise", 10, 32): (0.0087, 0.0012),
    ("precise", 10, 128): (0.0089, 0.0016),
    ("no_extension", 3, 4): (2.7e-8, None),
    ("no_extension", 5, 4): (4.6e-8, None),
    ("no_extension", 7, 4): (5.9e-8, None),
    ("no_extension", 10, 4): (6.9e-8, None),
    ("gumbel", 3, 4): (0.92, 0.70),
    ("gumbel", 3, 8): (0.96, None),
    ("gumbel", 5, 4): (0.91, 0.58),
    ("gumbel", 7, 4): (0.90, 0.49),
    ("gumbel", 10, 4): (0.89, 0.40),
    ("gumbel", 10, 8): (0.93, None),
    ("gumbel", 10, 32): (0.995, None),
    ("hong", 3, 4): (0.075, 0.016),
    ("hong", 3, 8): (0.60, 0.020),
    ("hong", 5, 4): (0.090, 0.024),
    ("hong", 5, 8): (0.34, 0.031),
    ("hong", 7, 4): (0.096, 0.030),
    ("hong", 7, 8): (0.18, 0.042),
    ("hong", 10, 4): (0.088, 0.034),
    ("hong", 10, 8): (0.23, 0.052),
    ("privgd", 3, 4): (0.17, 0.091),
    ("privgd", 5, 4): (0.31, 0.115),
    ("privgd", 7, 4): (0.48, 0.13),
    ("privgd", 10, 4): (0.76, 0.15),
}


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "softmax",
        help="errors of the encrypted softmax and its rivals",
        description="Run our softmaxes (on noisy bootstraps), HETAL's and five other approximations on uniform logits,"
        " and compare with softmax.",
    )
    parser.add_argument(
        "--samples", type=int, default=SAMPLES, help=f"rows per sub-range (default {SAMPLES}; the table: 1000000)"
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="default: all")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.set_defaults(run=command)


def command(args: argparse.Namespace) -> int:
    """Print the report."""
    show(run(args), args.json, _print_table)
    return 0


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The report: machine facts, and per method, class count and range the errors, the levels and the reference.

    The error of a row is its largest over the classes. A range [-rho, rho] holds the samples of all sub-ranges up to
    it, an equal number uniform in each, as in the published comparison.
    """
    if not 1 <= args.samples <= SAMPLES_MAX:
        raise InputError(f"samples = {args.samples} is outside 1..{SAMPLES_MAX}")
    began = time.perf_counter()
    results = [
        row
        for name in args.methods
        for classes in METHODS[name].classes
        for row in measure(name, METHODS[name], classes, args)
    ]
    return {
        "machine": machine_facts(),
        "samples_per_subrange": args.samples,
        "seed": SEED,
        "seconds": round(time.perf_counter() - began, 1),
        "results": results,
    }


def measure(name: str, method: Method, classes: int, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row of the report per range; every method sees the same samples."""
    size = rows(classes)
    maximum, total, count = 0.0, 0.0, 0
    for rho in method.ranges:
        rng = np.random.default_rng((SEED, classes, rho))
        for start in range(0, args.samples, size):
            logits = rng.uniform(-rho, rho, (min(size, args.samples - start), classes))
            result = method.approximate(logits, rho)
            errors = np.abs(result.probabilities - exact_softmax(logits)).max(axis=1)
            maximum, total, count = max(maximum, float(errors.max())), total + float(errors.sum()), count + len(errors)
        reference = REFERENCE.get((name, classes, rho), (None, None))
        yield {
            "method": name,
            "classes": classes,
            "range": rho,
            "max_error": maximum,
            "average_error": total / count,
            "reference_max": reference[0],
            "reference_average": reference[1],
            "ratio_max": _ratio(maximum, reference[0]),
            "ratio_average": _ratio(total / count, reference[1]),
            "levels": result.levels,
            "bootstraps": result.bootstraps,
        }


def _ratio(value: float, reference: float | None) -> float | None:
    return None if reference is None else value / reference


def _print_table(report: dict[str, Any]) -> None:
    console = Console()
    table = Table(
        title=f"Largest error of a row, {report['samples_per_subrange']} rows per sub-range",
        title_justify="left",
        box=box.SIMPLE,
        pad_edge=False,
        caption="table: NumPy, 1000000 rows per sub-range; levels / bootstraps",
        caption_justify="left",
    )
    table.add_column("method", no_wrap=True)
    for heading in ("c", "range", "max", "table", "average", "table", "levels"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in report["results"]:
        errors = (row["max_error"], row["reference_max"], row["average_error"], row["reference_average"])
        table.add_row(
            METHODS[row["method"]].label,
            str(row["classes"]),
            f"±{row['range']}",
            *("" if value is None else f"{value:.2g}" for value in errors),
            str(row["levels"]) + ("" if row["bootstraps"] is None else f" / {row['bootstraps']}"),
        )
    console.print(table)
    machine = report["machine"]
    console.print(
        f"{machine['processor']}, {machine['cores']} cores, NumPy {machine['numpy']}; {report['seconds']} s",
        highlight=False,
    )
