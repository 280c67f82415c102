"""``hetal train``: train a classifier on encrypted features."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hetal.ckks.presets import DEFAULT_PRESET, PRESETS, preset
from hetal.cli.call_log import add_log_option
from hetal.cli.connection import add_connection_options, connect, journal
from hetal.cli.local_server import local_server
from hetal.cli.render import duration, progress_output
from hetal.client.dataset import Dataset, load, load_array
from hetal.client.features import encode
from hetal.client.keys import KeySet
from hetal.client.session import Client, TrainedJob
from hetal.errors import InputError
from hetal.kernels.plan import SOFTMAX_ERROR
from hetal.protocol.job import LOGITS_MAX, METHODS, SoftmaxSpec
from hetal.server.config import BACKENDS
from hetal.units import size

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Subparsers = Any


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("train", help="train a classifier on encrypted features")
    data = parser.add_argument_group("data (one of --features, --texts, --images)")
    data.add_argument("--features", type=Path, metavar="FILE", help=".npz, .npy or .csv")
    data.add_argument("--texts", type=Path, metavar="FILE", help="one text a line; needs --encoder and --labels")
    data.add_argument("--images", type=Path, metavar="DIR", help="image files, sorted; needs --encoder and --labels")
    data.add_argument(
        "--encoder", metavar="NAME_OR_PATH", help="transformers model that turns texts or images to features"
    )
    data.add_argument("--labels", type=Path, metavar="FILE", help=".npy or .csv with one label a row")
    data.add_argument("--label-column", metavar="NAME", help="column of a .csv that holds the labels (default: label)")
    data.add_argument("--validation-fraction", type=float, default=0.1, metavar="F", help="where the file has none")
    data.add_argument("--limit-rows", type=int, metavar="N", help="train on a random sample of N rows")
    data.add_argument("--no-standardize", action="store_true", help="encrypt the features as they are")
    add_training_options(parser)
    out = parser.add_argument_group("output")
    out.add_argument("--server", metavar="HOST:PORT", help="without it a server is started on this machine")
    out.add_argument("--backend", choices=BACKENDS, help="of a server started here; default: native where it is built")
    out.add_argument("--device", metavar="D", help="of a server started here: cpu, cuda:N or auto; default: cpu")
    out.add_argument("--model-out", type=Path, default=Path("model.npz"), metavar="FILE")
    out.add_argument("--keep-keys", type=Path, metavar="FILE", help="save the secret key there (mode 0600)")
    out.add_argument(
        "--resume", metavar="JOB", help="take up a job whose client ended; same data and preset, needs --keys"
    )
    out.add_argument("--keys", type=Path, metavar="FILE", help="with --resume: what --keep-keys wrote")
    out.add_argument("--passphrase-file", type=Path, metavar="FILE", help="encrypts the saved key")
    out.add_argument("--json", action="store_true", help="one JSON object on standard output")
    add_log_option(out)
    add_connection_options(parser)
    parser.set_defaults(run=run)


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """Options of the computation itself."""
    group = parser.add_argument_group("training")
    group.add_argument("--preset", default=DEFAULT_PRESET, choices=sorted(PRESETS))
    group.add_argument("--epochs", type=int, default=10, metavar="N", help="at most (default 10)")
    group.add_argument("--batch-size", type=int, metavar="N", help="default: all rows in one batch")
    group.add_argument("--learning-rate", type=float, default=1.0, metavar="F")
    group.add_argument("--patience", type=int, default=3, metavar="N", help="epochs without a lower loss (default 3)")
    group.add_argument("--no-momentum", action="store_true", help="plain gradient descent")
    group.add_argument("--method", choices=METHODS, help="of the softmax; default: pairwise where the server can")
    group.add_argument(
        "--softmax-error", type=float, default=SOFTMAX_ERROR, metavar="F", help="that a chosen method may have (0.02)"
    )
    group.add_argument("--logits-max", type=float, default=LOGITS_MAX, metavar="F", help="range (default 128)")
    group.add_argument(
        "--adaptive-range", action="store_true", help="tell the server the logits' range, in four steps, each epoch"
    )
    group.add_argument("--weight-bound", type=float, default=16.0, metavar="F", help="with hetal (default 16)")
    group.add_argument(
        "--softmax-extensions", type=int, metavar="N", help="method hetal: logits may reach 4 * 2^N (default 5: 128)"
    )
    group.add_argument(
        "--prune-keep", type=float, default=1.0, metavar="F", help="go on with this share of the mini-batches (all: 1)"
    )
    group.add_argument("--prune-after", type=int, default=1, metavar="N", help="epochs on all of them (default 1)")
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of the split and the batch order")


def training_options(args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of :meth:`Client.train` from the options above."""
    return {
        "preset_name": args.preset,
        "epochs": args.epochs,
        "batch_size": args.batch_size,
        "learning_rate": args.learning_rate,
        "patience": args.patience,
        "nesterov": not args.no_momentum,
        "method": args.method,
        "softmax_error": args.softmax_error,
        "logits_max": args.logits_max,
        "adaptive_range": args.adaptive_range,
        "weight_bound": args.weight_bound,
        "softmax": None if args.softmax_extensions is None else SoftmaxSpec(extensions=args.softmax_extensions),
        "prune_keep": args.prune_keep,
        "prune_after": args.prune_after,
        "seed": args.seed,
    }


def run(args: argparse.Namespace) -> int:
    # A training takes hours; its result must not be lost to a mistyped path.
    for path in (args.model_out, args.keep_keys):
        if path is not None:
            check_writable(path)
    data = read_data(args).limited(args.limit_rows, args.seed).with_validation(args.validation_fraction, args.seed)
    job = asyncio.run(_train(args, data))
    job.model.save(args.model_out)
    result = summary(job)
    result["model"] = str(args.model_out)
    if data.x_test is not None and data.y_test is not None:
        result["test_accuracy"] = job.model.accuracy(data.x_test, data.y_test)
    if args.json:
        print(json.dumps(result))
    else:
        _tell(result)
    return 0


def read_data(args: argparse.Namespace) -> Dataset:
    """The data set that the options name.

    Raises:
        InputError: none or several sources, or an unreadable one.
    """
    sources = [s for s in (args.features, args.texts, args.images) if s is not None]
    if len(sources) != 1:
        raise InputError("pass one of --features, --texts and --images")
    if args.features is not None:
        return load(args.features, args.labels, args.label_column)
    if args.encoder is None or args.labels is None:
        raise InputError("--texts and --images need --encoder and --labels")
    features = encode(args.encoder, texts=args.texts, images=args.images)
    return Dataset(features, load_array(args.labels).reshape(-1))


def check_writable(path: Path) -> None:
    """Raise an :class:`InputError` where no file of this name can be made."""
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(f"cannot write {path}")


def passphrase(args: argparse.Namespace) -> str | None:
    """The first line of ``--passphrase-file``."""
    if args.passphrase_file is None:
        return None
    try:
        lines = args.passphrase_file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"cannot read {args.passphrase_file}: {error}") from error
    if not lines or not lines[0]:
        raise InputError(f"{args.passphrase_file} holds no passphrase in its first line")
    return str(lines[0])


async def _train(args: argparse.Namespace, data: Dataset) -> TrainedJob:
    if args.resume is not None:
        return await _resume(args, data)
    if args.server is not None:
        if args.backend is not None:
            raise InputError("--backend is of a server started here; one at --server has chosen its own")
        return await _train_at(connect(args), args, data)
    print("no --server: starting one on this machine for this training", file=sys.stderr)
    insecure = not preset(args.preset).secure
    async with local_server(allow_insecure=insecure, backend=args.backend, device=args.device) as address:
        return await _train_at(Client(address, journal=journal(args)), args, data)


async def _train_at(server: Client, args: argparse.Namespace, data: Dataset) -> TrainedJob:
    with progress_output() as progress:
        async with server as client:
            return await client.train(
                data.x_train,
                data.y_train,
                data.x_val,
                data.y_val,
                standardize=not args.no_standardize,
                keep_keys=args.keep_keys,
                passphrase=passphrase(args),
                progress=progress,
                **training_options(args),
            )


async def _resume(args: argparse.Namespace, data: Dataset) -> TrainedJob:
    if args.server is None or args.keys is None:
        raise InputError("--resume needs --server and --keys")
    keys = await asyncio.to_thread(KeySet.load, args.keys, preset(args.preset), passphrase(args))
    with progress_output() as progress:
        async with connect(args) as client:
            return await client.resume(
                args.resume,
                keys,
                data.x_train,
                data.y_train,
                data.x_val,
                data.y_val,
                standardize=not args.no_standardize,
                seed=args.seed,
                progress=progress,
            )


def summary(job: TrainedJob) -> dict[str, Any]:
    """What a machine may want to know of a finished training."""
    return {
        "job": job.id,
        "preset": job.spec.parameters.name,
        "method": job.spec.method,
        "epochs": job.history.epochs,
        "best_epoch": job.history.best_epoch,
        "validation_loss": job.history.losses,
        "validation_accuracy": job.history.accuracies,
        "bytes_sent": job.bytes_sent,
        "bytes_received": job.bytes_received,
        "seconds": {phase: round(value, 3) for phase, value in job.seconds.items()},
        "largest_weight": float(np.abs(job.model.weights).max()),
    }


def _tell(result: dict[str, Any]) -> None:
    best = result["best_epoch"] - 1
    print(f"job {result['job']}: {result['epochs']} epochs, best {result['best_epoch']}")
    print(
        f"validation loss {result['validation_loss'][best]:.4f}, "
        f"accuracy {100 * result['validation_accuracy'][best]:.2f} %"
    )
    if "test_accuracy" in result:
        print(f"test accuracy {100 * result['test_accuracy']:.2f} %")
    print(f"sent {size(result['bytes_sent'])}, received {size(result['bytes_received'])}")
    print("time: " + ", ".join(f"{phase} {duration(s)}" for phase, s in result["seconds"].items()))
    print(f"model written to {result['model']}")
