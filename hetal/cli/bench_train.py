"""``hetal bench train``: whole trainings, encrypted against a server process or simulated, beside the clear run."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from hetal.ckks.presets import DEFAULT_PRESET, PRESETS, preset
from hetal.cli.local_server import local_server
from hetal.cli.machine import machine_facts
from hetal.cli.render import duration
from hetal.cli.report import show
from hetal.client.dataset import Array, Dataset, Labels, Prepared, check_features, load, prepare
from hetal.client.session import Client, Progress, TrainedJob, job_spec
from hetal.kernels import cost, cost_store
from hetal.kernels.backends.plain import Noise
from hetal.kernels.clear import train_clear, with_bias
from hetal.kernels.forecast import forecast
from hetal.kernels.plan import plan
from hetal.kernels.simulate import simulate
from hetal.processor import core_count
from hetal.protocol.job import LOGITS_MAX, METHODS, JobSpec
from hetal.units import size

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Subparsers = Any

Report = dict[str, Any]

# Standard deviations of a slot under the native engine at 128 bits, from the errors in benchmarks/results/engine.json.
NOISE: Final = Noise(per_operation=5e-9, per_bootstrap=3e-7)
SEED: Final = 0


@dataclass(frozen=True, slots=True)
class PaperRow:
    """What HETAL reports of a data set (Lee et al. 2023, table 2), on one A40. Accuracies in per cent."""

    seconds: float
    seconds_per_iteration: float
    encrypted_accuracy: float
    clear_accuracy: float


@dataclass(frozen=True, slots=True)
class Recipe:
    """HETAL's hyper-parameters of a data set; ``epochs`` is a cap, and early stopping ends before it."""

    learning_rate: float
    batch_size: int
    epochs: int
    paper: PaperRow | None = None


# The chest X-rays are none of the paper's sets and borrow DermaMNIST's numbers.
RECIPES: Final = {
    "mnist": Recipe(2.0, 1024, 30, PaperRow(3442.29, 9.46, 96.73, 97.24)),
    "cifar10": Recipe(1.0, 2048, 30, PaperRow(3114.30, 15.72, 96.57, 96.62)),
    "facemask": Recipe(0.5, 512, 30, PaperRow(566.72, 4.29, 95.46, 95.46)),
    "derma": Recipe(0.3, 1024, 30, PaperRow(1136.99, 7.06, 76.06, 76.01)),
    "snips": Recipe(1.0, 1024, 30, PaperRow(1264.27, 6.95, 95.00, 94.43)),
    "pneumoniamnist": Recipe(0.3, 1024, 40),
}


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "train",
        help="whole trainings: encrypted, clear, and the paper's",
        description="Train on a data file against a server process of this machine, and in the clear with the same "
        "steps. The name of the file or of its folder chooses the paper's hyper-parameters and row.",
    )
    parser.add_argument("--data", type=Path, required=True, metavar="FILE", help=".npz with X_train, y_train, ...")
    parser.add_argument("--set", choices=sorted(RECIPES), help="default: by the name of the file or of its folder")
    parser.add_argument("--preset", choices=sorted(PRESETS), default=DEFAULT_PRESET)
    parser.add_argument("--method", choices=METHODS, default=METHODS[0])
    parser.add_argument("--logits-max", type=float, default=LOGITS_MAX, metavar="F", help="range (default 128)")
    parser.add_argument("--plain", action="store_true", help="simulate on NumPy slots with the engine's noise")
    parser.add_argument("--limit-rows", type=int, metavar="N", help="train on a random sample of N rows")
    parser.add_argument("--epochs", type=int, metavar="N", help="at most; default: the set's, else 30")
    parser.add_argument("--batch-size", type=int, metavar="N", help="default: the set's, else all rows")
    parser.add_argument("--learning-rate", type=float, metavar="F", help="default: the set's, else 1")
    parser.add_argument("--no-standardize", action="store_true", help="train on the features as they are")
    parser.add_argument("--threads", type=int, metavar="N", help="of the server's worker")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.set_defaults(run=command)


def command(args: argparse.Namespace) -> int:
    """Print the report."""
    show(run(args), args.json, partial(_tell, Console()))
    return 0


def run(args: argparse.Namespace) -> Report:
    """The report: machine facts, the job, the encrypted (or simulated) run, the clear one, the paper's row.

    Raises:
        InputError: the file or an option is wrong.
    """
    name, recipe = _recipe(args)
    whole = load(args.data)
    raw = whole.limited(args.limit_rows, SEED).with_validation(0.1, SEED)
    data = prepare(raw.x_train, raw.y_train, raw.x_val, raw.y_val, standardize=not args.no_standardize, seed=SEED)
    options = {
        "preset_name": args.preset,
        "epochs": args.epochs or recipe.epochs,
        "batch_size": args.batch_size or recipe.batch_size,
        "learning_rate": args.learning_rate or recipe.learning_rate,
        "method": args.method,
        "logits_max": args.logits_max,
    }
    job = job_spec(data, **options)
    arrays = (data.x_train, data.y_train, data.x_val, data.y_val)
    clear = train_clear(job, *arrays)
    scorer = _Scorer(data, raw)
    report: Report = {
        "machine": machine_facts(),
        "data": {
            "set": name,
            "rows": job.train_samples,
            "rows_of_the_set": len(whole.x_train),
            "validation_rows": job.validation_samples,
            "features": job.features,
            "classes": job.classes,
            "standardized": not args.no_standardize,
        },
        "job": {key: getattr(job, key) for key in ("batch_size", "learning_rate", "epochs_max", "method", "logits_max")}
        | {"preset": args.preset, "bootstraps_per_iteration": plan(job).bootstraps},
        "clear": _outcome(clear.losses, clear.accuracies, clear.best_epoch, scorer, clear.weights)
        | {"largest_logit": clear.largest_logit},
        "paper": asdict(recipe.paper) if recipe.paper else None,
    }
    if args.plain:
        began = time.monotonic()
        result = simulate(job, *arrays, noise=NOISE)
        trained = _outcome(result.losses, result.accuracies, result.best_epoch, scorer, result.weights)
        report |= {"kind": "simulated", "noise": asdict(NOISE), "trained": trained}
        seconds, weights = time.monotonic() - began, result.weights
        trained["seconds"] = {"training": round(seconds, 3)}
    else:
        watch = _Watch(quiet=args.json)
        trained_job = asyncio.run(_encrypted(args, raw, options, watch))
        weights = trained_job.model.weights
        report |= {
            "kind": "encrypted",
            "trained": _of_job(trained_job, job, scorer, watch, args.threads or core_count()),
        }
    report["weights_distance"] = float(np.linalg.norm(weights - clear.weights) / np.linalg.norm(clear.weights))
    for what in ("test_accuracy", "best_validation_accuracy"):
        if what in report["clear"]:
            report[f"{what}_difference"] = round(report["trained"][what] - report["clear"][what], 6)
    return report


def _recipe(args: argparse.Namespace) -> tuple[str, Recipe]:
    named = [args.set] if args.set else [args.data.stem, args.data.resolve().parent.name]
    for name in named:
        if name in RECIPES:
            return name, RECIPES[name]
    return args.data.stem, Recipe(1.0, sys.maxsize, 30)


class _Scorer:
    """Accuracy on the test rows, where there are any."""

    def __init__(self, data: Prepared, raw: Dataset) -> None:
        self.x: Array | None = None
        if raw.x_test is not None and raw.y_test is not None:
            x = check_features(raw.x_test, "test features", data.x_train.shape[1])
            self.x = data.standardizer(x)
            self.y: Labels = data.labels.encode(raw.y_test, "test labels", len(x))

    def test_accuracy(self, weights: Array) -> float | None:
        if self.x is None:
            return None
        return float(((with_bias(self.x) @ weights.T).argmax(axis=1) == self.y).mean())


def _outcome(losses: list[float], accuracies: list[float], best: int, scorer: _Scorer, weights: Array) -> Report:
    outcome = {
        "epochs": len(losses),
        "best_epoch": best,
        "losses": losses,
        "validation_accuracies": accuracies,
        "best_validation_accuracy": accuracies[best - 1],
    }
    accuracy = scorer.test_accuracy(weights)
    return outcome if accuracy is None else outcome | {"test_accuracy": accuracy}


# -- against a server -------------------------------------------------------------------------------------------------


class _Watch:
    """Hears a training's progress: seconds of single iterations, and when the server's phases begin."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self.iterations: list[float] = []
        self.seconds: dict[str, float] = {}
        self._last: tuple[str, float] | None = None

    def __call__(self, step: Progress) -> None:
        now = time.monotonic()
        if self._last is not None:
            self.seconds[self._last[0]] = self.seconds.get(self._last[0], 0.0) + now - self._last[1]
        self._last = (step.phase, now)
        if step.phase == "training" and step.remaining_s and step.total > step.done:
            self.iterations.append(step.remaining_s / (step.total - step.done))
        if step.phase == "epoch":
            print(f"epoch {step.done}: {step.text}", file=sys.stderr, flush=True)
        elif not self.quiet and step.phase == "training":
            print(f"iteration {step.done} of at most {step.total}", file=sys.stderr, flush=True)


async def _encrypted(args: argparse.Namespace, raw: Dataset, options: dict[str, Any], watch: _Watch) -> TrainedJob:
    insecure = not preset(args.preset).secure
    async with local_server(allow_insecure=insecure, threads=args.threads) as address, Client(address) as client:
        return await client.train(
            raw.x_train,
            raw.y_train,
            raw.x_val,
            raw.y_val,
            standardize=not args.no_standardize,
            seed=SEED,
            progress=watch,
            **options,
        )


def _of_job(trained: TrainedJob, job: JobSpec, scorer: _Scorer, watch: _Watch, threads: int) -> Report:
    history = trained.history
    iterations = history.epochs * job.batches
    table = cost_store.load(job.parameters, threads) or cost.model(job.parameters)
    outcome = _outcome(history.losses, history.accuracies, history.best_epoch, scorer, trained.model.weights)
    return outcome | {
        "seconds": {phase: round(value, 3) for phase, value in trained.seconds.items()},
        "server_seconds": {phase: round(value, 3) for phase, value in watch.seconds.items()},
        "seconds_total": round(sum(trained.seconds.values()), 3),
        # As the paper's: with the validations.
        "seconds_per_iteration": round(trained.seconds["training"] / iterations, 4),
        "seconds_of_an_iteration": round(median(watch.iterations), 4) if watch.iterations else None,
        "predicted_seconds_of_an_iteration": round(forecast(plan(job), table).iteration_s, 4),
        "costs": table.source,
        "bytes_sent": trained.bytes_sent,
        "bytes_received": trained.bytes_received,
        "warning": history.warning,
    }


# -- for people -------------------------------------------------------------------------------------------------------


def _tell(console: Console, report: Report) -> None:
    data, job, trained, clear = report["data"], report["job"], report["trained"], report["clear"]
    table = Table(
        title=f"{data['set']}: {data['rows']} of {data['rows_of_the_set']} rows, {data['features']} features, "
        f"{data['classes']} classes; preset {job['preset']}, method {job['method']}",
        title_justify="left",
        box=box.SIMPLE,
        padding=0,
    )
    table.add_column("", no_wrap=True)
    for heading in (report["kind"], "clear", "paper, encrypted", "paper, clear"):
        table.add_column(heading, justify="right", no_wrap=True)
    paper = report["paper"]
    if "test_accuracy" in trained:
        published = [f"{paper[f'{kind}_accuracy']:.2f} %" for kind in ("encrypted", "clear")] if paper else ["", ""]
        table.add_row("test accuracy", *(f"{100 * run['test_accuracy']:.2f} %" for run in (trained, clear)), *published)
    table.add_row(
        "validation accuracy", *(f"{100 * run['best_validation_accuracy']:.2f} %" for run in (trained, clear)), "", ""
    )
    table.add_row("epochs (best)", *(f"{run['epochs']} ({run['best_epoch']})" for run in (trained, clear)), "", "")
    if report["kind"] == "encrypted":
        times = [f"{paper['seconds_per_iteration']:.2f} s" if paper else "", ""]
        table.add_row("time an iteration, with validations", f"{trained['seconds_per_iteration']:.2f} s", "", *times)
        total = [f"{paper['seconds']:.0f} s" if paper else "", ""]
        table.add_row("time in all", f"{trained['seconds_total']:.0f} s", "", *total)
    console.print(table)
    phases = ", ".join(f"{phase} {duration(value)}" for phase, value in trained["seconds"].items())
    console.print(f"time: {phases}", highlight=False)
    if report["kind"] == "encrypted":
        sent, received = size(trained["bytes_sent"]), size(trained["bytes_received"])
        console.print(f"sent {sent}, received {received}", highlight=False)
    console.print(f"weights differ from the clear run's by {report['weights_distance']:.1e}", highlight=False)
