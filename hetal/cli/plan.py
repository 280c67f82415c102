"""``hetal plan``: what a training will take, before anything is encrypted or sent."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from hetal import limits
from hetal.ckks.parameters import Parameters
from hetal.ckks.presets import DEFAULT_PRESET, PRESETS, preset
from hetal.cli.connection import add_connection_options, connect
from hetal.cli.measure_costs import measure_costs
from hetal.cli.render import duration
from hetal.client.dataset import load
from hetal.client.encrypt import blob_sizes
from hetal.errors import InputError
from hetal.kernels import cost, cost_store
from hetal.kernels.circuit import Circuit
from hetal.kernels.cost import CostTable
from hetal.kernels.forecast import KEY_SWITCHES, READING, forecast, key_count, staged
from hetal.kernels.hetal_circuit import HetalCircuit
from hetal.kernels.plan import method_for, plan
from hetal.kernels.replica_circuit import ReplicaCircuit
from hetal.kernels.softmax import fitted
from hetal.processor import core_count
from hetal.protocol.job import KEYS_MULT, LOGITS_MAX, METHODS, JobSpec, SoftmaxSpec, rotation_keys_blob
from hetal.protocol.wire import CheckedManifest
from hetal.server.admission import PROCESS_BYTES, memory_bytes
from hetal.units import size

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Subparsers = Any

Report = dict[str, Any]

# A client holds one blob and makes the next; keys that are being made are in memory as objects and as bytes.
CLIENT_BLOBS: Final = 4
# Of a result's ciphertexts, besides their residues.
RESULT_LEVEL: Final = 0
SHAPES: Final = ("samples", "validation_samples", "features", "classes")


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "plan",
        help="what a training will take, before anything is sent",
        description="Print layout, keys, operations, time, memory and bytes of a training, from its shapes or a data "
        "file. Nothing is encrypted; a server, where one is named, is asked for its costs and told nothing.",
    )
    add_job_options(parser)
    costs = parser.add_argument_group("costs")
    costs.add_argument("--measure", action="store_true", help="measure this machine (again), and keep that")
    costs.add_argument("--threads", type=int, metavar="N", help="of a worker on this machine; default: one per core")
    costs.add_argument("--server", metavar="HOST:PORT", help="predict for this server, by what was measured there")
    add_connection_options(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.set_defaults(run=run)


def add_job_options(parser: argparse.ArgumentParser) -> None:
    """Options that describe a job."""
    data = parser.add_argument_group("shapes (or --data)")
    data.add_argument("--data", type=Path, metavar="FILE", help=".npz, .npy or .csv, as hetal train reads it")
    data.add_argument("--labels", type=Path, metavar="FILE", help="with --data: .npy or .csv with one label a row")
    data.add_argument("--label-column", metavar="NAME", help="with --data: column of a .csv (default: label)")
    data.add_argument("--samples", type=int, metavar="N", help="training rows")
    data.add_argument("--validation-samples", type=int, metavar="N", help="default: a tenth of --samples")
    data.add_argument("--features", type=int, metavar="N", help="columns, without the bias")
    data.add_argument("--classes", type=int, metavar="N")
    job = parser.add_argument_group("training")
    job.add_argument("--preset", default=DEFAULT_PRESET, choices=sorted(PRESETS))
    job.add_argument("--batch-size", type=int, metavar="N", help="default: all rows in one batch")
    job.add_argument("--epochs", type=int, default=10, metavar="N", help="at most (default 10)")
    job.add_argument("--prune-keep", type=float, default=1.0, metavar="F", help="as of hetal train (default 1: all)")
    job.add_argument("--prune-after", type=int, default=1, metavar="N", help="epochs on all mini-batches (default 1)")
    job.add_argument("--no-momentum", action="store_true", help="plain gradient descent")
    job.add_argument("--method", choices=METHODS, help="of the softmax; default: as a training on the native engine")
    job.add_argument("--logits-max", type=float, default=LOGITS_MAX, metavar="F", help="range (default 128)")


def run(args: argparse.Namespace) -> int:
    job = job_of(args)
    result = report(job, costs_of(args, job.parameters))
    if args.json:
        print(json.dumps(result))
    else:
        _tell(Console(), result)
    return 0


def costs_of(args: argparse.Namespace, params: Parameters) -> CostTable:
    """The server's table, or this machine's, or the built-in model.

    Raises:
        InputError: options exclude each other, or the server's table is malformed.
    """
    threads = args.threads if args.threads is not None else core_count()
    if not 1 <= threads <= limits.THREADS_MAX:
        raise InputError(f"threads = {threads} is outside 1..{limits.THREADS_MAX}")
    if args.server is not None:
        if args.measure or args.threads is not None:
            raise InputError("--server has its own costs; leave out --measure and --threads")
        return asyncio.run(_server_costs(args, params)) or cost.model(params)
    if args.measure:
        table = measure_costs(params, threads)
        cost_store.save(params, threads, table)
        return table
    return cost_store.load(params, threads) or cost.model(params)


async def _server_costs(args: argparse.Namespace, params: Parameters) -> CostTable | None:
    async with connect(args) as client:
        return cost_store.from_proto((await client.info()).costs, params)


def job_of(args: argparse.Namespace) -> JobSpec:
    """The checked job that the options describe.

    Raises:
        InputError: shapes are missing, or given beside a file; or the file or a shape is wrong.
    """
    given = [name for name in SHAPES if getattr(args, name) is not None]
    if args.data is not None:
        if given:
            raise InputError(f"--data and --{given[0].replace('_', '-')} exclude each other")
        data = load(args.data, args.labels, args.label_column).with_validation(0.1, 0)
        validation = len(data.x_train) if data.x_val is None else len(data.x_val)
        features = np.shape(data.x_train)[1] if np.ndim(data.x_train) == 2 else 0
        shapes = (len(data.x_train), validation, features, len(np.unique(data.y_train)))
    else:
        missing = [name for name in SHAPES if name not in given and name != "validation_samples"]
        if missing:
            raise InputError(f"the job lacks --{' and --'.join(missing)}", hint="Or name a file with --data.")
        validation = args.validation_samples if args.validation_samples is not None else max(1, args.samples // 10)
        shapes = (args.samples, validation, args.features, args.classes)
    samples, validation, features, classes = shapes
    job = JobSpec(
        parameters=preset(args.preset),
        train_samples=samples,
        validation_samples=validation,
        features=features,
        classes=classes,
        batch_size=samples if args.batch_size is None else min(args.batch_size, samples),
        epochs_max=args.epochs,
        nesterov=not args.no_momentum,
        method=args.method or _method(classes, args.logits_max),
        logits_max=args.logits_max,
        softmax=fitted(SoftmaxSpec(), classes) if classes > 1 else SoftmaxSpec(),
        prune_keep=args.prune_keep,
        prune_after=args.prune_after,
    )
    job.check()
    return job


def _method(classes: int, logits_max: float) -> str:
    """What a training on the native engine would take; any for a job that is wrong, whose check says why."""
    return method_for(classes, logits_max, phases=True) if classes > 1 else METHODS[0]


def report(job: JobSpec, table: CostTable) -> Report:
    """All that the plan of a checked job tells; sizes in bytes, times in seconds."""
    chosen = plan(job)
    circuit, params = chosen.circuit, job.parameters
    expected, keys = forecast(chosen, table), key_count(chosen)
    sizes = blob_sizes(job, chosen)
    checked = CheckedManifest(job=job, key_tag="plan", name="", blobs=sizes | _key_blobs(keys, job))
    data, key_bytes = sum(sizes.values()), keys * params.key_bytes()
    logits = circuit.logits_count(job.validation_samples) * params.ciphertext_bytes(RESULT_LEVEL)
    labels = sum(circuit.labels_count(job.batch_rows(batch)) for batch in range(job.batches))
    scores = labels * params.ciphertext_bytes(RESULT_LEVEL) if job.prunes else 0
    model = circuit.classifier_count * params.ciphertext_bytes(circuit.levels.validation)
    rows = job.batch_rows(0)
    return {
        "preset": params.name,
        "secure": params.secure,
        "method": job.method,
        "samples": job.train_samples,
        "validation_samples": job.validation_samples,
        "features": job.features,
        "classes": job.classes,
        "batch_size": job.batch_size,
        "batches": job.batches,
        "epochs": job.epochs_max,
        "layout": layout(circuit),
        "layout_text": layout_text(circuit),
        "ciphertexts": {
            "features": circuit.features_count(rows),
            "labels": circuit.labels_count(rows),
            "weights": circuit.weights_count,
            "state": circuit.state_count,
            "validation": circuit.validation_count(job.validation_samples),
            "logits": circuit.logits_count(job.validation_samples),
        },
        "levels": {name: getattr(circuit.levels, name) for name in ("features", "labels", "weights", "validation")},
        "keys": {"count": keys, "bytes": key_bytes, "rotations": list(chosen.rotations)},
        "iteration": {
            "bootstraps": chosen.bootstraps,
            "key_switches": chosen.key_switches,
            "operations": by_level(chosen.counts),
            "stages": {
                name: {**stage(counts), "seconds": expected.stages[name]} for name, counts in staged(chosen).items()
            },
            "reading_s": expected.stages[READING],
            "seconds": expected.iteration_s,
        },
        "validation": {"operations": by_level(chosen.validation_counts), "seconds": expected.validation_s},
        "seconds": {"training": expected.training_s, "encrypting": cost.sending(circuit, job, params)},
        "costs": table.source,
        "memory_bytes": {"server": memory_bytes(checked), "client": _client_bytes(checked.blobs)},
        "wire_bytes": {
            "keys": key_bytes,
            "data": data,
            "sent": key_bytes + data,
            "received": logits * job.epochs_max + scores + model,
        },
    }


def _key_blobs(keys: int, job: JobSpec) -> dict[str, int]:
    """Names and sizes of the blobs of keys. The relinearisation key has its own, that of encapsulation too."""
    each = job.parameters.key_bytes()
    rotations = -(-(keys - 1) // limits.ROTATION_KEYS_PER_BLOB)
    blobs = {rotation_keys_blob(i): limits.ROTATION_KEYS_PER_BLOB * each for i in range(rotations)}
    return {KEYS_MULT: each} | blobs


def _client_bytes(blobs: Mapping[str, int]) -> int:
    return PROCESS_BYTES + CLIENT_BLOBS * max(blobs.values())


def by_level(counts: Mapping[tuple[str, int], int]) -> dict[str, dict[str, int]]:
    """Operation to level of the result to count."""
    nested: dict[str, dict[str, int]] = {}
    for (name, level), count in sorted(counts.items(), key=lambda item: (item[0][0], -item[0][1])):
        if count:
            nested.setdefault(name, {})[str(level)] = count
    return nested


def stage(counts: Counter[tuple[str, int]]) -> Report:
    """Of one stage: its operations, and between which levels it works."""
    levels = [level for (_, level), count in counts.items() if count]
    return {
        "key_switches": sum(count for (name, _), count in counts.items() if name in KEY_SWITCHES),
        "bootstraps": sum(count for (name, _), count in counts.items() if name in ("bootstrap", "phase")),
        "operations": by_level(counts),
        "levels": [max(levels), min(levels)] if levels else [],
    }


def layout(circuit: Circuit) -> Report:
    """The numbers of a layout."""
    rows = circuit.job.batch_rows(0)
    if isinstance(circuit, ReplicaCircuit):
        chosen = circuit.layout
        return {
            "kind": "replica-packed",
            "chunks": circuit.labels_count(rows),
            "samples": chosen.samples,
            "groups": chosen.groups,
            "replicas": chosen.replicas,
            "split": chosen.split,
            "diagonals": chosen.diagonals,
            "blocks": chosen.blocks,
            "pieces": chosen.pieces,
        }
    if isinstance(circuit, HetalCircuit):
        return {
            "kind": "row-major blocks",
            "rows": circuit.layout.rows,
            "columns": circuit.layout.cols,
            "row_blocks": circuit.layout.row_blocks(rows),
            "column_blocks": circuit.layout.column_blocks(circuit.job.columns),
        }
    raise InputError(f"no description of {type(circuit).__name__}")


def layout_text(circuit: Circuit) -> str:
    """A layout in words."""
    numbers = layout(circuit)
    if numbers["kind"] == "row-major blocks":
        return (
            f"HETAL's blocks of {numbers['rows']} x {numbers['columns']} numbers: {numbers['row_blocks']} down, "
            f"{numbers['column_blocks']} across"
        )
    return (
        f"replica-packed: {_plural(numbers['chunks'], 'chunk')} of up to {numbers['samples']} samples, "
        f"{_plural(numbers['groups'], 'group')} of {numbers['replicas']} replicas each; "
        f"{_plural(numbers['split'], 'copy', 'copies')} of a value and {_plural(numbers['diagonals'], 'diagonal')} "
        f"cover the classes, {_plural(numbers['blocks'], 'block')} the features"
    )


def _plural(count: int, noun: str, plural: str = "") -> str:
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def _tell(console: Console, result: Report) -> None:
    def line(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    secure = "" if result["secure"] else ", INSECURE, for tests alone"
    line(
        f"{result['samples']} samples in {_plural(result['batches'], 'batch', 'batches')}, {result['features']} "
        f"features, {result['classes']} classes; method {result['method']}, preset {result['preset']}{secure}"
    )
    line(f"layout: {result['layout_text']}")
    counts, levels = result["ciphertexts"], result["levels"]
    line(
        "ciphertexts: "
        + ", ".join(f"{counts[name]} of {name} at level {levels[name]}" for name in ("features", "labels"))
        + f" in a batch; {counts['state']} between iterations; {counts['validation']} to validate with"
    )
    keys, wire, memory = result["keys"], result["wire_bytes"], result["memory_bytes"]
    line(f"keys: {keys['count']}, {size(keys['bytes'])}, {len(keys['rotations'])} of them for the layout's rotations")
    _print_stages(console, result)
    iteration, seconds = result["iteration"], result["seconds"]
    operations = {name: sum(by.values()) for name, by in iteration["operations"].items()}
    line("an iteration: " + ", ".join(f"{count} {name}" for name, count in operations.items()))
    line(
        f"time: {_short(iteration['seconds'])} an iteration, {_short(result['validation']['seconds'])} a validation, "
        f"{duration(seconds['training'])} for all {result['epochs']} epochs; to encrypt "
        f"{duration(seconds['encrypting'])} (costs: {result['costs']})"
    )
    line(f"memory: server's worker {size(memory['server'])}, client {size(memory['client'])}")
    line(f"wire: sent {size(wire['sent'])} ({size(wire['keys'])} of it keys), received {size(wire['received'])}")


def _print_stages(console: Console, result: Report) -> None:
    table = Table(box=box.SIMPLE, padding=0)
    table.add_column("stage", no_wrap=True)
    for heading in ("levels", "key switches", "bootstraps", "products", "plain", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    iteration = result["iteration"]
    table.add_row(READING, "", "", "", "", "", _short(iteration["reading_s"]))
    for name, row in iteration["stages"].items():
        operations = {operation: sum(by.values()) for operation, by in row["operations"].items()}
        plain = operations.get("mul_plain", 0) + operations.get("mul_scalar", 0)
        levels = " to ".join(str(level) for level in dict.fromkeys(row["levels"]))
        numbers = (row["key_switches"], row["bootstraps"], operations.get("mul", 0), plain)
        table.add_row(name, levels, *(str(number) if number else "" for number in numbers), _short(row["seconds"]))
    totals = (iteration["key_switches"], iteration["bootstraps"])
    table.add_row("all", "", *(str(number) for number in totals), "", "", _short(iteration["seconds"]))
    console.print(table)


def _short(seconds: float) -> str:
    if seconds >= 60:
        return duration(seconds)
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"
