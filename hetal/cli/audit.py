"""``hetal audit``: what of a job left this machine, and who can read it."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hetal.ckks.presets import DEFAULT_PRESET, PRESETS, preset
from hetal.cli.train import passphrase
from hetal.client.dataset import load, load_array, prepare
from hetal.client.journal import UNKNOWN, Entry, Journal, Search, wire_messages
from hetal.client.keys import KeySet
from hetal.client.model import Model
from hetal.client.windows import Windows, add_data
from hetal.errors import InputError
from hetal.units import size

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Subparsers = Any

EXIT_FOUND: Final = 1


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "audit",
        help="tell what of a job left this machine",
        description="Tell every message of a job that left this machine, from the journal that the client kept. With "
        "--wire, search the recorded bytes for the secrets that the other options name. Exit status 1 where something "
        "is found in the clear, or a message is of no known kind.",
    )
    parser.add_argument("job", metavar="JOB")
    parser.add_argument("--journal", type=Path, metavar="DIR", help="where the client kept it")
    parser.add_argument("--wire", type=Path, metavar="DIR", help="what --record-wire named")
    parser.add_argument("--messages", action="store_true", help="one line a message in place of one a kind")
    secret = parser.add_argument_group("secrets to search for, with --wire")
    secret.add_argument("--features", type=Path, metavar="FILE", help="the data: .npz, .npy or .csv")
    secret.add_argument("--labels", type=Path, metavar="FILE", help="where --features has none")
    secret.add_argument("--model", type=Path, metavar="FILE", help="the trained classifier, and its logits on the data")
    secret.add_argument("--keys", type=Path, metavar="FILE", help="what train --keep-keys wrote")
    secret.add_argument("--passphrase-file", type=Path, metavar="FILE", help="of --keys")
    secret.add_argument("--preset", default=DEFAULT_PRESET, choices=sorted(PRESETS), help="of --keys")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    journal = Journal(args.journal, args.wire)
    entries, searches = journal.read(args.job)
    wire = journal.wire_file(args.job)
    damaged: list[Entry] = []
    if wire is not None:
        if not wire.is_file():
            raise InputError(f"there is no {wire}", hint="Train with --record-wire, and name the same folder here.")
        damaged = [entry for entry, whole in wire_messages(wire, entries) if not whole]
        search = _searched(args, wire)
        if search is not None:
            searches.append(search)
    unknown = [entry for entry in entries if entry.kind == UNKNOWN]
    found = [hit for search in searches for hit in search.found]
    recorded = sum(entry.wire_offset is not None for entry in entries)
    if args.json:
        messages = [asdict(entry) | {"readers": entry.readers} for entry in entries]
        print(
            json.dumps(
                {
                    "job": args.job,
                    "messages": messages,
                    "searches": [asdict(search) for search in searches],
                    "wire_messages_recorded": recorded,
                    "wire_messages_damaged": len(damaged),
                }
            )
        )
    else:
        _tell(entries, by_message=args.messages)
        for search in searches:
            _tell_search(search)
        if wire is not None:
            print(
                f"recorded wire: {recorded} of {len(entries)} messages, {len(damaged)} of them not as the journal says"
            )
        for entry in unknown:
            print(f"of no known kind: {entry.rpc} {entry.name} {entry.sha256}")
    return EXIT_FOUND if found or unknown or damaged else 0


def _searched(args: argparse.Namespace, wire: Path) -> Search | None:
    """A search for what the options name; None where they name nothing."""
    windows = Windows()
    x: Any = None
    if args.features is not None:
        x = _add_features(args, windows)
    if args.model is not None:
        model = Model.load(args.model)
        windows.add_reals("weights", model.weights)
        if x is not None:
            windows.add_reals("logits", model.logits(x))
    if args.keys is not None:
        KeySet.load(args.keys, preset(args.preset), passphrase(args)).add_secret_to(windows)
    if not len(windows):
        return None
    return Search(time.time(), len(windows), wire.stat().st_size, tuple(map(str, windows.search_file(wire))))


def _add_features(args: argparse.Namespace, windows: Windows) -> Any:
    """Add the data set's windows; its features."""
    if args.features.suffix == ".npy" and args.labels is None:
        x = load_array(args.features)
        windows.add_reals("raw features", x)
        return x
    data = load(args.features, args.labels)
    validation = (data.x_train[:1], data.y_train[:1]) if data.x_val is None else (data.x_val, data.y_val)
    add_data(windows, prepare(data.x_train, data.y_train, *validation, standardize=True, seed=0), (data.x_train,))
    if data.x_val is not None:
        windows.add_reals("raw features", data.x_val)
    return data.x_train


def _tell(entries: list[Entry], *, by_message: bool) -> None:
    if by_message:
        for entry in entries:
            at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(entry.at_unix_s))
            what = f"{entry.kind} {entry.name}".strip()
            print(f"{at}  {entry.rpc:13} {entry.size_bytes:9}  {entry.sha256}  {what}  [{entry.readers}]")
    else:
        print(f"{'call':14} {'what':20} {'messages':>8} {'bytes':>10}  readable by")
        for (rpc, kind), group in _grouped(entries):
            total = sum(entry.size_bytes for entry in group)
            print(f"{rpc:14} {kind:20} {len(group):8} {size(total):>10}  {group[0].readers}")
    print(f"{len(entries)} messages, {size(sum(entry.size_bytes for entry in entries))}")


def _grouped(entries: Iterable[Entry]) -> list[tuple[tuple[str, str], list[Entry]]]:
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.rpc, entry.kind), []).append(entry)
    return sorted(groups.items())


def _tell_search(search: Search) -> None:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(search.at_unix_s))
    where = f"{search.windows} windows of secrets in {size(search.wire_bytes)} sent"
    print(f"search of {at}: {where}: {len(search.found)} found")
    for hit in search.found:
        print(f"  in the clear: {hit}")
