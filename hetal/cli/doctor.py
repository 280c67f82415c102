"""``hetal doctor``: what of this machine is ready, and what to do about the rest."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hetal._version import __version__
from hetal.cli import checks
from hetal.cli.checks import Finding, Verdict
from hetal.cli.connection import add_connection_options, connect
from hetal.errors import HetalError
from hetal.protocol.job import PROTOCOL_VERSION
from hetal.server.settings import load

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Subparsers = Any

EXIT_FAILED: Final = 1


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "doctor",
        help="check this machine, and a server",
        description="Check this machine, the configuration of its server, and with --server whether one answers. "
        "Exit status 1 where a check fails.",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="of the server to be run here")
    parser.add_argument("--server", metavar="HOST:PORT", help="ask this server too")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    add_connection_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    findings: list[Finding] = []
    for finding in _findings(args):
        findings.append(finding)
        if not args.json:
            print(f"{finding.verdict.value:4}  {finding.subject:14} {finding.text}")
            if finding.remedy:
                print(f"      {'':14} -> {finding.remedy}")
    failed = any(finding.verdict is Verdict.FAIL for finding in findings)
    if args.json:
        print(json.dumps({"hetal": __version__, "ok": not failed, "checks": [asdict(f) for f in findings]}))
    return EXIT_FAILED if failed else 0


def _findings(args: argparse.Namespace) -> Iterator[Finding]:
    yield Finding.ok("hetal", __version__)
    yield from checks.of_machine()
    try:
        settings = load({}, file=args.config)
    except HetalError as error:
        yield Finding.fail("configuration", error.message, error.hint)
    else:
        origins = sorted({origin for origin in settings.origins.values() if origin != "default"})
        text = ", ".join(origins) or "defaults"
        if settings.strangers:
            remedy = "Correct the variable's name, unless another program reads it."
            yield Finding.warn("configuration", f"{text}; {'; '.join(settings.strangers)}", remedy)
        else:
            yield Finding.ok("configuration", text)
        yield from checks.of_server(settings.config)
    if args.server is not None:
        yield asyncio.run(server(args))


async def server(args: argparse.Namespace) -> Finding:
    """Whether the server answers, and speaks this release's protocol."""
    address = args.server
    try:
        async with connect(args) as client:
            info = await asyncio.wait_for(client.info(), checks.SERVER_TIMEOUT_S)
    except asyncio.TimeoutError:
        return Finding.fail(
            "server",
            f"{address} does not answer within {checks.SERVER_TIMEOUT_S} s",
            "Check the address, the firewall, and that `hetal serve` runs there.",
        )
    except HetalError as error:
        return Finding.fail("server", error.message, error.hint)
    text = f"{address} answers: hetal {info.version}, presets {', '.join(info.presets)}"
    if info.protocol_version != PROTOCOL_VERSION:
        return Finding.fail(
            "server",
            f"{text}, protocol {info.protocol_version} in place of {PROTOCOL_VERSION}",
            "Install the same release of hetal on both sides.",
        )
    return Finding.ok("server", text)
