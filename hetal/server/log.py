"""The server's log."""

from __future__ import annotations

import logging
from typing import Final

from hetal.log import Log

LOG: Final = Log("hetal.server")
event = LOG.event


def configure(*, as_json: bool) -> None:
    """Send the server's log to standard error."""
    LOG.send_to(logging.StreamHandler(), as_json=as_json)
