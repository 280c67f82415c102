"""``hetal predict``: use a trained classifier, in the clear or on the server's encrypted copy."""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hetal.ckks.presets import preset
from hetal.cli.call_log import add_log_option
from hetal.cli.connection import add_connection_options, connect
from hetal.cli.train import passphrase
from hetal.client.dataset import load_array
from hetal.client.features import encode
from hetal.client.keys import KeySet
from hetal.client.model import Model
from hetal.errors import InputError

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Subparsers = Any


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("predict", help="predict with a trained model")
    parser.add_argument("--model", type=Path, required=True, metavar="FILE")
    parser.add_argument("--features", type=Path, metavar="FILE", help=".npy, .csv or .npz (X or X_test)")
    parser.add_argument("--texts", type=Path, metavar="FILE", help="one text a line; needs --encoder")
    parser.add_argument("--images", type=Path, metavar="DIR", help="image files, sorted; needs --encoder")
    parser.add_argument("--encoder", metavar="NAME_OR_PATH")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="true labels, to report the accuracy")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write labels and probabilities as .csv")
    parser.add_argument("--encrypted", action="store_true", help="let the server compute on encrypted features")
    parser.add_argument("--server", metavar="HOST:PORT", help="with --encrypted")
    parser.add_argument("--keys", type=Path, metavar="FILE", help="with --encrypted: what train --keep-keys wrote")
    parser.add_argument("--passphrase-file", type=Path, metavar="FILE")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    add_log_option(parser)
    add_connection_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    model = Model.load(args.model)
    x = _features(args)
    logits = asyncio.run(_encrypted(args, model, x)) if args.encrypted else model.logits(x)
    labels = model.labels.decode(logits.argmax(axis=1))
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    accuracy = None
    if args.labels is not None:
        truth = load_array(args.labels).reshape(-1)
        if len(truth) != len(labels):
            raise InputError(f"{args.labels} holds {len(truth)} labels for {len(labels)} rows")
        accuracy = float((labels == truth).mean())
    if args.out is not None:
        _write(args.out, model, labels, probabilities)
    if args.json:
        print(json.dumps({"labels": labels.tolist(), "accuracy": accuracy, "encrypted": args.encrypted}))
    else:
        if args.out is None:
            print("\n".join(str(label) for label in labels.tolist()))
        if accuracy is not None:
            print(f"accuracy {100 * accuracy:.2f} %")
    return 0


def _features(args: argparse.Namespace) -> NDArray[Any]:
    sources = [s for s in (args.features, args.texts, args.images) if s is not None]
    if len(sources) != 1:
        raise InputError("pass one of --features, --texts and --images")
    if args.features is not None:
        return load_array(args.features)
    if args.encoder is None:
        raise InputError("--texts and --images need --encoder")
    return encode(args.encoder, texts=args.texts, images=args.images)


async def _encrypted(args: argparse.Namespace, model: Model, x: NDArray[Any]) -> NDArray[np.float64]:
    if args.server is None or args.keys is None:
        raise InputError("--encrypted needs --server and --keys")
    keys = KeySet.load(args.keys, preset(model.info["preset"]), passphrase(args))
    async with connect(args) as client:
        return await client.predict_encrypted(model.info["job"], model, keys, x)


def _write(path: Path, model: Model, labels: NDArray[Any], probabilities: NDArray[np.float64]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["label", *(f"p_{value}" for value in model.labels.values)])
        for label, row in zip(labels.tolist(), probabilities, strict=True):
            writer.writerow([label, *(f"{p:.6f}" for p in row)])
