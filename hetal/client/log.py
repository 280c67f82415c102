"""The client's log: silent unless a program, or ``--log``, asks for it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from hetal.log import Log

LOG: Final = Log("hetal.client")
event = LOG.event


def configure(path: Path) -> None:
    """Append the client's log to a file, one JSON object a line."""
    LOG.send_to(logging.FileHandler(path, encoding="utf-8"), as_json=True)
