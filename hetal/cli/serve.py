"""``hetal serve``: run a compute server."""

from __future__ import annotations

import argparse
import asyncio
import logging
from dataclasses import Field
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args, get_origin

from hetal.server.app import serve
from hetal.server.config import BACKENDS, parse_address
from hetal.server.log import configure, event
from hetal.server.settings import DEFAULT_FILE, Settings, load, option_types, options, to_toml

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Subparsers = Any

LISTEN = ("host", "port")
METAVARS = {"data_dir": "DIR", "client_wait_s": "S", "worker_memory_gib": "G"}


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "serve",
        help="run a compute server",
        description="Run a compute server. Every option but --config and --print-config is also a key of the "
        "configuration file and a variable HETAL_NAME; flags go first, then variables, then the file.",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"TOML (default {DEFAULT_FILE} where it exists)")
    parser.add_argument("--print-config", action="store_true", help="print the options with their origins, and end")
    parser.add_argument("--listen", metavar="HOST:PORT", help="port 0 takes a free one (default 127.0.0.1:7443)")
    kinds = option_types()
    for option in options():
        if option.name not in LISTEN:
            _add_flag(parser, option, kinds[option.name])
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM. Prints ``listening on HOST:PORT`` when ready."""
    settings = settings_of(args)
    if args.print_config:
        print(to_toml(settings), end="")
        return 0
    config = settings.config
    configure(as_json=config.log_json)
    for text in settings.strangers:
        event(text, level=logging.WARNING)
    asyncio.run(serve(config, lambda bound: print(f"listening on {config.host}:{bound}", flush=True)))
    return 0


def settings_of(args: argparse.Namespace) -> Settings:
    """The options of a parsed command line, over those of the environment and the file."""
    flags = {option.name: getattr(args, option.name) for option in options() if hasattr(args, option.name)}
    if args.listen is not None:
        flags["host"], flags["port"] = parse_address(args.listen)
    return load(flags, file=args.config)


def _add_flag(parser: argparse.ArgumentParser, option: Field[Any], kind: Any) -> None:
    """A flag that is absent from the parsed arguments unless it was given."""
    name, about = "--" + option.name.replace("_", "-"), option.metadata["meaning"].replace("%", "%%")
    kind = next((part for part in get_args(kind) if part is not NoneType), kind) if NoneType in get_args(kind) else kind
    settings: dict[str, Any] = {"default": argparse.SUPPRESS, "help": about}
    if kind is bool:
        parser.add_argument(name, action=argparse.BooleanOptionalAction, **settings)
        return
    if get_origin(kind) is tuple:
        settings["nargs"], kind = "*", get_args(kind)[0]
    if option.name == "backend":
        settings["choices"] = BACKENDS
    else:
        settings["metavar"] = METAVARS.get(option.name, "N" if kind is int else option.name.upper())
    parser.add_argument(name, type=kind, **settings)
