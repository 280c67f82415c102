"""A ``hetal serve`` of its own for a benchmark."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Running:
    address: str
    pid: int


@asynccontextmanager
async def server(data_dir: Path, options: Sequence[str] = ()) -> AsyncIterator[Running]:
    """Yields a listening server, which ends with the block; its log is beside its data."""
    with data_dir.with_suffix(".log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "hetal.cli.main", "serve", "--listen", "127.0.0.1:0"),
            *("--data-dir", str(data_dir), *options),
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )
        try:
            if process.stdout is None:
                raise RuntimeError("the server has no standard output")
            line = (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
            if not line.startswith("listening on "):
                raise RuntimeError(f"the server did not start: {data_dir.with_suffix('.log').read_text()[-2000:]}")
            yield Running(line.split()[-1], process.pid)
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
                try:
                    await asyncio.wait_for(process.wait(), 60)
                except asyncio.TimeoutError:
                    process.kill()
                    await process.wait()
