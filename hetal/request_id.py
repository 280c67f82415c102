"""The name of one request: made by the client, sent with every call, and in the logs of both sides."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from hetal import limits

REQUEST_ID_KEY: Final = "hetal-request-id"
_VALID: Final = re.compile(rf"[A-Za-z0-9_-]{{1,{limits.REQUEST_ID_CHARS_MAX}}}")

# What runs on behalf of a request finds its name here; empty outside of any.
current: ContextVar[str] = ContextVar("hetal_request_id", default="")


def new() -> str:
    """128 random bits: two clients never choose the same."""
    return uuid.uuid4().hex


def adopted(sent: object) -> str:
    """What the other side sent where it is fit for a log, else a new one."""
    return sent if isinstance(sent, str) and _VALID.fullmatch(sent) else new()


@contextmanager
def request() -> Iterator[str]:
    """A new request that lasts as long as the block."""
    name = new()
    token = current.set(name)
    try:
        yield name
    finally:
        current.reset(token)
