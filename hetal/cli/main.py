"""The ``hetal`` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

from hetal._version import __version__
from hetal.errors import HetalError, InputError

EXIT_ERROR: Final = 2
EXIT_INTERRUPTED: Final = 130
COMMANDS: Final = ("serve", "plan", "train", "predict", "demo", "jobs", "certs", "audit", "doctor", "bench")


def build_parser(commands: Sequence[str] = COMMANDS) -> argparse.ArgumentParser:
    """The command line of these commands, by default of all, without running anything."""
    parser = argparse.ArgumentParser(
        prog="hetal",
        description="Have a classifier trained on data that its trainer cannot read.",
        epilog="Exit status: 0 done, 1 a check of doctor or audit failed, 2 wrong input or a failed job (the error's "
        "code is printed), 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"hetal {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in commands:
        import_module(f"hetal.cli.{name}").add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; errors of the catalogue become two or three lines on standard error."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    # A server's front does without OpenFHE, which other commands' modules import.
    named = [name for name in COMMANDS if arguments[:1] == [name]]
    args = build_parser(named or COMMANDS).parse_args(arguments)
    try:
        if getattr(args, "call_log", None) is not None:
            import_module("hetal.client.log").configure(args.call_log)
        return int(args.run(args))
    except HetalError as error:
        return _told(error)
    except OSError as error:
        return _told(InputError(str(error), hint="Check that the named file or folder exists and may be used."))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _told(error: HetalError) -> int:
    request = f"\nrequest: {error.request_id}" if error.request_id else ""
    print(f"error [{error.code}]: {error.message}\nhint: {error.hint}{request}", file=sys.stderr)
    return EXIT_ERROR


if __name__ == "__main__":
    sys.exit(main())
