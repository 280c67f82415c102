"""Blocking calls from the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

# Uploads that wait for the disk take all threads of the loop's own pool.
_READERS: Final = ThreadPoolExecutor(2, thread_name_prefix="hetal-read")


async def in_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Like ``asyncio.to_thread``, but a cancelled caller waits for the thread before it goes on.

    Else a file could be written behind the back of the next owner.
    """
    task = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


async def read_in_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """For short reads that others wait for, and that wait for no write."""
    return await asyncio.get_running_loop().run_in_executor(_READERS, partial(function, *args, **kwargs))
