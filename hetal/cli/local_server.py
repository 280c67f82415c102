"""A real server process on a free loopback port, for the demo and for ``hetal train`` without ``--server``."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from hetal import limits
from hetal.errors import ConnectionFailedError
from hetal.server.settings import options, variable

START_S: Final = 60
SERVER_VARIABLES: Final = frozenset(variable(option.name) for option in options())


@asynccontextmanager
async def local_server(
    *,
    allow_insecure: bool,
    backend: str | None = None,
    device: str | None = None,
    threads: int | None = None,
    log: Path | None = None,
) -> AsyncIterator[str]:
    """Yields the address of a ``hetal serve`` that ends, data and all, with the block."""
    with tempfile.TemporaryDirectory(prefix="hetal-serve-") as directory:
        log_path = log or Path(directory) / "serve.log"
        with log_path.open("wb") as log_file:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "hetal.cli.main", "serve", "--config", os.devnull),
                *("--listen", "127.0.0.1:0", "--data-dir", f"{directory}/data"),
                *(("--allow-insecure",) if allow_insecure else ()),
                *(("--backend", backend) if backend else ()),
                *(("--device", device) if device else ()),
                *(("--threads", str(threads)) if threads else ()),
                stdout=asyncio.subprocess.PIPE,
                stderr=log_file,
                # What configures a server of this machine is not meant for this one.
                env={key: value for key, value in os.environ.items() if key not in SERVER_VARIABLES},
            )
            try:
                yield await _address(process)
            finally:
                if process.returncode is None:
                    process.send_signal(signal.SIGTERM)
                    try:
                        await asyncio.wait_for(process.wait(), limits.SHUTDOWN_GRACE_S + 10)
                    except asyncio.TimeoutError:
                        process.kill()
                        await process.wait()


async def _address(process: asyncio.subprocess.Process) -> str:
    if process.stdout is None:
        raise ConnectionFailedError("the local server has no standard output")
    try:
        line = (await asyncio.wait_for(process.stdout.readline(), START_S)).decode()
    except asyncio.TimeoutError as error:
        raise ConnectionFailedError(f"the local server did not start within {START_S} s") from error
    if not line.startswith("listening on "):
        raise ConnectionFailedError("the local server ended at its start", hint="Run `hetal serve` to see why.")
    return line.split()[-1]
