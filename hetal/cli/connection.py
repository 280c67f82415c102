"""The options of every command that talks to a server."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from hetal.errors import InputError

if TYPE_CHECKING:
    from hetal.client.journal import Journal
    from hetal.client.session import Client


def add_connection_options(parser: argparse.ArgumentParser) -> None:
    """--server is each command's own: some do without one."""
    group = parser.add_argument_group("connection", "A server on another machine asks for the first three.")
    group.add_argument("--ca", type=Path, metavar="FILE", help="authority that signed the server's certificate, PEM")
    group.add_argument("--cert", type=Path, metavar="FILE", help="your certificate, PEM; its name owns your jobs")
    group.add_argument("--key", type=Path, metavar="FILE", help="the key of --cert, PEM, unencrypted")
    group.add_argument(
        "--journal", type=Path, metavar="DIR", help="of what leaves this machine: a line for every message, by job"
    )
    group.add_argument(
        "--record-wire", type=Path, metavar="DIR", help="also keep every byte sent, and search it for secrets"
    )
    group.add_argument(
        "--allow-plaintext", action="store_true", help="talk to a server on another machine without certificates"
    )


def connect(args: argparse.Namespace) -> Client:
    """A client of ``--server`` as the options say.

    Raises:
        InputError: some of the three files are not given.
    """
    # The client loads OpenFHE, and `hetal doctor` must be able to tell that this fails.
    from hetal.client.session import Client
    from hetal.client.tls import Tls

    files = {"--ca": args.ca, "--cert": args.cert, "--key": args.key}
    missing = [name for name, path in files.items() if path is None]
    if len(missing) == len(files):
        return Client(args.server, allow_plaintext=args.allow_plaintext, journal=journal(args))
    if missing:
        raise InputError(f"TLS lacks {' and '.join(missing)}", hint="Give all three files, or none.")
    return Client(args.server, Tls(ca=args.ca, cert=args.cert, key=args.key), journal=journal(args))


def journal(args: argparse.Namespace) -> Journal:
    """The journal that the options name."""
    from hetal.client.journal import Journal

    return Journal(args.journal, args.record_wire)
