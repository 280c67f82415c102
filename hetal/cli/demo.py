"""``hetal demo``: two processes on this machine train a classifier on encrypted, real data."""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hetal.ckks.presets import DEFAULT_PRESET, PRESETS, preset
from hetal.cli.local_server import local_server
from hetal.cli.machine import machine_facts
from hetal.cli.render import duration, progress_output
from hetal.cli.train import summary
from hetal.client.dataset import Array, Dataset, prepare, stratified
from hetal.client.session import Client, TrainedJob
from hetal.kernels.clear import ClearResult, train_clear, with_bias
from hetal.kernels.plan import plan
from hetal.kernels.simulate import simulate
from hetal.protocol.job import METHODS, SoftmaxSpec
from hetal.server.config import BACKENDS
from hetal.units import size

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Subparsers = Any

VALIDATION_FRACTION: Final = 0.1
TEST_FRACTION: Final = 0.2


@dataclass(frozen=True, slots=True)
class Recipe:
    """Hyper-parameters of one data set: one batch of all rows, few epochs, logits well inside the softmax's range.

    Attributes:
        extensions: domain extension steps of the softmax; logits may reach 4 * 2^extensions.
    """

    question: str
    learning_rate: float
    extensions: int
    epochs: int
    weight_bound: float = 4.0


RECIPES: Final = {
    "breast_cancer": Recipe("is a breast mass malignant? (569 biopsies, 30 features)", 4.0, 3, 5),
    "digits": Recipe("which digit was written? (1797 scans of 8 x 8 pixels)", 8.0, 3, 5),
    "wine": Recipe("which of three growers made the wine? (178 wines, 13 features)", 4.0, 2, 5),
}


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("demo", help="train on encrypted data against a server on this machine")
    parser.add_argument("--dataset", choices=sorted(RECIPES), default="breast_cancer")
    parser.add_argument("--preset", choices=sorted(PRESETS), default=DEFAULT_PRESET)
    parser.add_argument("--backend", choices=BACKENDS, help="of the server; default: native where it is built")
    parser.add_argument("--device", metavar="D", help="of the server: cpu, cuda:N or auto; default: cpu")
    parser.add_argument("--method", choices=METHODS, help="of the softmax; default: pairwise where the backend can")
    parser.add_argument("--epochs", type=int, metavar="N", help="instead of the recipe's")
    parser.add_argument("--out", type=Path, default=Path("hetal-demo"), metavar="DIR", help="plot, model, server log")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.set_defaults(run=run)


def dataset(name: str, seed: int = 0) -> Dataset:
    """One of scikit-learn's bundled sets, split 7:1:2 with equal shares of the classes."""
    from sklearn import datasets

    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    held = stratified(y, VALIDATION_FRACTION + TEST_FRACTION, seed)
    share = TEST_FRACTION / (VALIDATION_FRACTION + TEST_FRACTION)
    test = stratified(y[held], share, seed + 1)
    return Dataset(x[~held], y[~held], x[held][~test], y[held][~test], x[held][test], y[held][test])


def run(args: argparse.Namespace) -> int:
    recipe, data = RECIPES[args.dataset], dataset(args.dataset)
    args.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    job = asyncio.run(_train(args, recipe, data))
    seconds = time.monotonic() - began
    prepared = prepare(data.x_train, data.y_train, data.x_val, data.y_val, standardize=True, seed=0)
    arrays = (prepared.x_train, prepared.y_train, prepared.x_val, prepared.y_val)
    clear, plain = train_clear(job.spec, *arrays), simulate(job.spec, *arrays)
    result = _compare(job, data, clear, plain)
    result |= {"dataset": args.dataset, "seconds_total": round(seconds, 1), "machine": machine_facts()}
    job.model.save(args.out / "model.npz")
    _plot(args.out / "training.png", args.dataset, job, clear)
    if args.json:
        print(json.dumps(result))
    else:
        _tell(recipe, job, result, args.out)
    return 0


async def _train(args: argparse.Namespace, recipe: Recipe, data: Dataset) -> TrainedJob:
    insecure = not preset(args.preset).secure
    log = args.out / "server.log"
    options: dict[str, Any] = {"backend": args.backend, "device": args.device, "log": log}
    async with local_server(allow_insecure=insecure, **options) as address:
        with progress_output() as progress:
            async with Client(address) as client:
                return await client.train(
                    data.x_train,
                    data.y_train,
                    data.x_val,
                    data.y_val,
                    preset_name=args.preset,
                    epochs=args.epochs or recipe.epochs,
                    learning_rate=recipe.learning_rate,
                    method=args.method,
                    weight_bound=recipe.weight_bound,
                    softmax=SoftmaxSpec(extensions=recipe.extensions) if args.method == "hetal" else None,
                    name=f"demo {args.dataset}",
                    progress=progress,
                )


def _compare(job: TrainedJob, data: Dataset, clear: ClearResult, plain: ClearResult) -> dict[str, Any]:
    x = job.model.prepared(data.x_test)
    y = job.model.labels.encode(data.y_test, "test labels", len(x))

    def accuracy(weights: Array) -> float:
        return float(((with_bias(x) @ weights.T).argmax(axis=1) == y).mean())

    distance = np.linalg.norm(job.model.weights - plain.weights) / np.linalg.norm(plain.weights)
    return summary(job) | {
        "test_accuracy": accuracy(job.model.weights),
        "test_accuracy_clear": accuracy(clear.weights),
        "clear_validation_loss": clear.losses,
        "clear_validation_accuracy": clear.accuracies,
        "weights_distance_to_plain": float(distance),
        "largest_logit": clear.largest_logit,
        "bootstraps_per_iteration": plan(job.spec).bootstraps,
    }


def _tell(recipe: Recipe, job: TrainedJob, result: dict[str, Any], out: Path) -> None:
    parameters = job.spec.parameters
    print(f"\n{result['dataset']}: {recipe.question}")
    security = f"{parameters.security.bits}-bit secure" if parameters.secure else "INSECURE, for tests alone"
    print(f"preset {parameters.name}: N = 2^{parameters.spec.log2_ring_dimension}, {security}\n")
    print("epoch   loss encrypted   loss clear   accuracy encrypted   accuracy clear")
    rows = zip(
        result["validation_loss"],
        result["clear_validation_loss"],
        result["validation_accuracy"],
        result["clear_validation_accuracy"],
        strict=False,
    )
    for epoch, (loss, clear_loss, accuracy, clear_accuracy) in enumerate(rows, start=1):
        print(
            f"{epoch:5}   {loss:14.4f}   {clear_loss:10.4f}   {100 * accuracy:16.2f} %   {100 * clear_accuracy:12.2f} %"
        )
    print(
        f"\ntest accuracy: encrypted {100 * result['test_accuracy']:.2f} %, "
        f"clear {100 * result['test_accuracy_clear']:.2f} %"
    )
    print(f"weights differ from the unencrypted run of the same steps by {result['weights_distance_to_plain']:.1e}")
    print(f"sent {size(result['bytes_sent'])}, received {size(result['bytes_received'])}")
    print("time: " + ", ".join(f"{phase} {duration(s)}" for phase, s in result["seconds"].items()))
    print(f"written to {out}: training.png, model.npz, server.log")


def _plot(path: Path, name: str, job: TrainedJob, clear: ClearResult) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for axes, title, encrypted, plain in (
        (left, "validation loss", job.history.losses, clear.losses),
        (right, "validation accuracy", job.history.accuracies, clear.accuracies),
    ):
        axes.plot(range(1, len(encrypted) + 1), encrypted, "o-", label="encrypted")
        axes.plot(range(1, len(plain) + 1), plain, "x--", label="clear, same steps")
        axes.set(title=title, xlabel="epoch")
        axes.legend()
    figure.suptitle(f"{name}, preset {job.spec.parameters.name}")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
