"""``--log`` of the commands that call a server."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    Options = argparse._ActionsContainer
else:
    Options = Any


def add_log_option(options: Options) -> None:
    options.add_argument(
        "--log",
        dest="call_log",
        type=Path,
        metavar="FILE",
        help="append a line of JSON for every call to the server; its request id is in the server's log too",
    )
