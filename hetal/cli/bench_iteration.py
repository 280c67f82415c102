"""``hetal bench iteration``: one training iteration by stage, HETAL's schedule against ours."""

from __future__ import annotations

import argparse
import gc
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from hetal.ckks.framing import Kind, unframe
from hetal.ckks.parameters import Parameters
from hetal.ckks.presets import DEFAULT_PRESET, PRESETS, preset
from hetal.cli.machine import machine_facts
from hetal.cli.plan import layout, layout_text, stage
from hetal.cli.report import show
from hetal.client.keys import KeySet
from hetal.errors import InputError
from hetal.kernels import cost, cost_store
from hetal.kernels.backends.native import NativeEvaluator
from hetal.kernels.backends.plain import PlainEvaluator
from hetal.kernels.clear import Array, Labels, with_bias
from hetal.kernels.cost import CostTable
from hetal.kernels.evaluator import Ciphertext, Vector, level_model
from hetal.kernels.forecast import READING, forecast, staged
from hetal.kernels.layout import BlockLayout
from hetal.kernels.plan import Plan, hetal_circuit, plan, plan_of
from hetal.kernels.softmax import fitted
from hetal.protocol.job import METHODS, JobSpec, SoftmaxSpec

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Subparsers = Any

Report = dict[str, Any]

BACKENDS: Final = ("counting", "native")
SEED: Final = 0
# Over which the making of the features is shared out when layouts are compared.
EPOCHS: Final = 10
PAPER: Final = "hetal"
PAPER_BEST: Final = "hetal, best blocks"


@dataclass(frozen=True, slots=True)
class Shape:
    """Samples of a mini-batch, columns with the bias, classes."""

    samples: int
    columns: int
    classes: int


# Mini-batches of the paper's data sets.
SHAPES: Final = {
    "facemask": Shape(512, 769, 3),
    "snips": Shape(1024, 769, 7),
    "derma": Shape(1024, 769, 7),
    "mnist": Shape(1024, 769, 10),
    "cifar10": Shape(2048, 769, 10),
}

# Seconds on OpenFHE with four cores, by which designs are compared whatever engine there is: a key switch at 26, 10 and
# 3.5 limbs, of hoisted ones 0.4; products of ciphertexts, plain products, additions; a bootstrap.
_KEY_SWITCH: Final = {25.0: 0.150, 9.0: 0.050, 2.5: 0.025}
_PLAIN: Final = {25.0: 0.005, 9.0: 0.002, 2.5: 0.001}
DESIGN: Final = CostTable(
    "OpenFHE's weights",
    {
        **dict.fromkeys(("relin", "rotate", "conjugate"), _KEY_SWITCH),
        "rotate_hoisted": {level: 0.4 * value for level, value in _KEY_SWITCH.items()},
        "mul": {25.0: 0.007, 9.0: 0.003, 2.5: 0.002},
        **dict.fromkeys(("mul_plain", "mul_scalar"), _PLAIN),
        "add": {25.0: 0.004, 9.0: 0.002, 2.5: 0.001},
        "bootstrap": {9.0: 12.0},
        "phase": {9.0: 12.0},
        "load": {9.0: 0.0},
    },
)


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "iteration",
        help="one training iteration by stage: HETAL's schedule against ours",
        description="Operations of one iteration, by stage, at the mini-batches of the paper's five data sets; with "
        "--backend native also its seconds under keys made here.",
    )
    parser.add_argument(
        "--shape",
        action="append",
        metavar="NAME",
        help=f"one of {', '.join(SHAPES)}, or SAMPLES,COLUMNS,CLASSES; may be repeated; default: all five",
    )
    parser.add_argument("--preset", choices=sorted(PRESETS), default=DEFAULT_PRESET)
    parser.add_argument("--backend", choices=BACKENDS, default=BACKENDS[0], help="native: also run it, and take time")
    parser.add_argument("--method", choices=METHODS, default=METHODS[0], help="of ours")
    parser.add_argument("--ours-only", action="store_true", help="leave HETAL's schedule out")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="with --backend native (default 1)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="with --backend native; the fastest counts")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.set_defaults(run=command)


def command(args: argparse.Namespace) -> int:
    """Print the report."""
    show(run(args), args.json, partial(_tell, Console()))
    return 0


def run(args: argparse.Namespace) -> Report:
    """The report: per shape and schedule the counts by stage, weighted cost, predicted seconds and measured ones."""
    shapes = {name: _shape(name) for name in args.shape or SHAPES}
    params = preset(args.preset)
    table = cost_store.load(params, args.threads) or cost.model(params)
    rows = []
    for name, shape in shapes.items():
        plans = _plans(params, shape, args.method, ours_only=args.ours_only)
        schedules = {label: _described(chosen, table) for label, chosen in plans.items()}
        if args.backend == "native":
            for label, chosen in plans.items():
                schedules[label]["measured"] = measured(chosen, args.threads, max(1, args.repeats))
        ours = schedules[args.method]["weighted_s"]
        rows.append(
            {
                "name": name,
                "samples": shape.samples,
                "columns": shape.columns,
                "classes": shape.classes,
                "schedules": schedules,
                "ratios": {label: round(row["weighted_s"] / ours, 2) for label, row in schedules.items()},
            }
        )
    return {
        "machine": machine_facts(),
        "preset": params.name,
        "slots": params.slots,
        "backend": args.backend,
        "threads": args.threads if args.backend == "native" else None,
        "method": args.method,
        "costs": table.source,
        "shapes": rows,
    }


def _shape(text: str) -> Shape:
    if text in SHAPES:
        return SHAPES[text]
    try:
        samples, columns, classes = map(int, text.split(","))
    except ValueError as error:
        raise InputError(f"no shape {text!r}", hint=f"Give one of {', '.join(SHAPES)}, or three numbers.") from error
    return Shape(samples, columns, classes)


def job_of(params: Parameters, shape: Shape, method: str) -> JobSpec:
    """The checked job of one mini-batch."""
    job = JobSpec(
        parameters=params,
        train_samples=shape.samples,
        validation_samples=shape.samples,
        features=shape.columns - 1,
        classes=shape.classes,
        batch_size=shape.samples,
        epochs_max=EPOCHS,
        method=method,
        softmax=fitted(SoftmaxSpec(), shape.classes) if shape.classes > 1 else SoftmaxSpec(),
    )
    job.check()
    return job


def _plans(params: Parameters, shape: Shape, method: str, *, ours_only: bool) -> dict[str, Plan]:
    """By schedule: HETAL's with blocks as high as the batch, as in the paper; with the cheapest blocks; ours."""
    ours = {method: plan(job_of(params, shape, method))}
    if ours_only:
        return ours
    job = job_of(params, shape, "hetal")
    rows = min(1 << (shape.samples - 1).bit_length(), params.slots // job.padded_classes)
    rows = max(rows, job.padded_classes)
    paper = plan_of(hetal_circuit(job, BlockLayout(rows, params.slots // rows)))
    return {PAPER: paper, PAPER_BEST: plan(job)} | ours


def _described(chosen: Plan, table: CostTable) -> Report:
    circuit, expected = chosen.circuit, forecast(chosen, table)
    rows = circuit.job.batch_rows(0)
    stages = {
        name: {**stage(counts), "weighted_s": round(DESIGN.seconds(counts), 3), "predicted_s": expected.stages[name]}
        for name, counts in staged(chosen).items()
    }
    return {
        "layout": layout(circuit),
        "layout_text": layout_text(circuit),
        "feature_ciphertexts": circuit.features_count(rows),
        "bootstraps": chosen.bootstraps,
        "key_switches": chosen.key_switches,
        "rotation_keys": len(chosen.rotations),
        "weighted_s": round(DESIGN.seconds(chosen.counts), 3),
        "predicted_s": expected.iteration_s,
        "reading_s": expected.stages[READING],
        "stages": stages,
    }


# -- on the native engine ---------------------------------------------------------------------------------------------


def measured(chosen: Plan, threads: int, repeats: int) -> Report:
    """Seconds of the fastest iteration by stage, under fresh keys and on encrypted random data, and how far the weights
    are from those on NumPy slots, relative to the largest."""
    circuit = chosen.circuit
    job, params = circuit.job, circuit.job.parameters
    keys = KeySet.generate(params)
    ev = NativeEvaluator(params, keys.key_tag, threads)
    ev.load_key(Kind.MULT_KEY, unframe(keys.mult_key_blob(), Kind.MULT_KEY, params.digest))
    for _, blob in keys.rotation_key_blobs(chosen.rotations):
        ev.load_key(Kind.ROTATION_KEYS, unframe(blob, Kind.ROTATION_KEYS, params.digest), chosen.rotation_levels)
    ev.finish_keys(chosen.rotations)
    plain = PlainEvaluator(level_model(params))
    x, y = _data(job)
    levels, samples = circuit.levels, job.train_samples
    weights = np.zeros((job.classes, job.columns))
    packed = {
        levels.features: circuit.pack_features(x),
        levels.labels: circuit.pack_labels(y),
    }
    blobs = {level: [keys.encrypt(vector, level) for vector in vectors] for level, vectors in packed.items()}

    def loaded(level: int) -> list[Ciphertext]:
        return [ev.load(blob) for blob in blobs[level]]

    def simulated(vectors: list[Vector], level: int) -> list[Ciphertext]:
        return [plain.encrypt(vector, level) for vector in vectors]

    initial = circuit.pack_weights(weights)
    state = circuit.begin(ev, [ev.load(keys.encrypt(vector, levels.weights)) for vector in initial])
    twin = circuit.begin(plain, simulated(initial, levels.weights))
    steps = 1 + repeats
    runs: list[tuple[float, dict[str, float]]] = []
    for step in range(steps):
        ev.stages.clear()
        gc.collect()
        began = time.perf_counter()
        features, labels = loaded(levels.features), loaded(levels.labels)
        read_s = time.perf_counter() - began
        state = circuit.iterate(ev, state, features, labels, step=step, rows=samples)
        seconds = time.perf_counter() - began
        runs.append((seconds, {READING: read_s} | {name: part.seconds for name, part in ev.stages.items()}))
        features, labels = (simulated(packed[level], level) for level in (levels.features, levels.labels))
        twin = circuit.iterate(plain, twin, features, labels, step=step, rows=samples)
    # The first iteration encodes what all later ones find encoded.
    seconds, stages = min(runs[1:], key=lambda run: run[0])
    opened = [keys.decrypt(ev.dump(ct)) for ct in circuit.classifier(ev, state, steps)]
    found = circuit.unpack_classifier(opened)
    due = circuit.unpack_classifier([plain.decrypt(ct).real for ct in circuit.classifier(plain, twin, steps)])
    ev.close()
    return {
        "seconds": seconds,
        "stages": stages,
        "weights_error": float(np.abs(found - due).max() / np.abs(due).max()),
    }


def _data(job: JobSpec) -> tuple[Array, Labels]:
    rng = np.random.default_rng(SEED)
    labels = np.arange(job.train_samples) % job.classes
    centres = rng.normal(size=(job.classes, job.features))
    features = 0.25 * (centres[labels] + rng.normal(size=(job.train_samples, job.features)))
    return with_bias(features), labels


# -- for people -------------------------------------------------------------------------------------------------------


def _tell(console: Console, report: Report) -> None:
    for row in report["shapes"]:
        table = Table(
            title=f"{row['name']}: {row['samples']}, {row['columns']}, {row['classes']}; preset {report['preset']}",
            title_justify="left",
            box=box.SIMPLE,
            padding=0,
        )
        table.add_column("schedule", no_wrap=True)
        for heading in ("X", "bootstraps", "key switches", "weighted", "ratio", "predicted", "measured"):
            table.add_column(heading, justify="right", no_wrap=True)
        for label, schedule in row["schedules"].items():
            table.add_row(
                label,
                *(str(schedule[key]) for key in ("feature_ciphertexts", "bootstraps", "key_switches")),
                f"{schedule['weighted_s']:.1f} s",
                f"{row['ratios'][label]:.1f}",
                f"{schedule['predicted_s']:.2f} s",
                f"{schedule['measured']['seconds']:.2f} s" if "measured" in schedule else "",
            )
            for name, part in schedule["stages"].items():
                taken = schedule["measured"]["stages"].get(name) if "measured" in schedule else None
                table.add_row(
                    f"  {name}",
                    "",
                    *(str(part[key]) if part[key] else "" for key in ("bootstraps", "key_switches")),
                    f"{part['weighted_s']:.1f} s",
                    "",
                    f"{part['predicted_s']:.2f} s",
                    "" if taken is None else f"{taken:.2f} s",
                )
        console.print(table)
    console.print(f"weighted: by {DESIGN.source}; predicted: {report['costs']}", highlight=False)
