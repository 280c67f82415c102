"""``hetal serve``: run a compute server."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hetal import limits
from hetal.server.app import serve
from hetal.server.config import BACKENDS, ServerConfig, parse_address
from hetal.server.log import configure

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Subparsers = Any


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("serve", help="run a compute server", description="Run a compute server.")
    parser.add_argument("--listen", default="127.0.0.1:7443", metavar="HOST:PORT", help="port 0 takes a free one")
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=Path("hetal-data"),
        metavar="DIR",
        help="jobs, keys and ciphertexts (default hetal-data)",
    )
    parser.add_argument("--allow-insecure", action="store_true", help="accept parameter sets below 128 bits")
    parser.add_argument("--jobs-running", type=int, default=limits.JOBS_RUNNING_MAX, metavar="N")
    parser.add_argument("--worker-memory-gib", type=float, metavar="G", help="address space of one worker")
    parser.add_argument("--threads", type=int, metavar="N", help="of one worker; one per core when left out")
    parser.add_argument("--backend", choices=BACKENDS, help="default: the native engine where it is built")
    parser.add_argument("--client-wait-s", type=float, default=limits.CLIENT_WAIT_S, metavar="S")
    parser.add_argument("--log-json", action="store_true", help="log lines as JSON objects")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM. Prints ``listening on HOST:PORT`` when ready."""
    host, port = parse_address(args.listen)
    config = ServerConfig(
        data_dir=args.data_dir,
        host=host,
        port=port,
        allow_insecure=args.allow_insecure,
        jobs_running=args.jobs_running,
        worker_memory_gib=args.worker_memory_gib,
        threads=args.threads,
        backend=args.backend,
        client_wait_s=args.client_wait_s,
        log_json=args.log_json,
    )
    configure(as_json=config.log_json)
    asyncio.run(serve(config, lambda bound: print(f"listening on {host}:{bound}", flush=True)))
    return 0
