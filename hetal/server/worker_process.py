"""A worker process as the front sees it: commands in, events out, and an end that leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from hetal import limits
from hetal.errors import WorkerDiedError
from hetal.server.config import ServerConfig

Record = dict[str, Any]


class WorkerProcess:
    """One ``python -m hetal.server.worker``. Its output is not trusted: it parses what clients sent."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, config: ServerConfig, job_id: str, device: str) -> WorkerProcess:
        """``job_id``: what its log names. ``device``: that it computes on."""
        threads = config.threads if config.threads is not None else (os.cpu_count() or 1)
        backend = config.chosen_backend()
        arguments = ["--parent", str(os.getpid()), "--job", job_id, "--threads", str(threads), "--backend", backend]
        arguments += ["--device", device]
        if config.worker_memory_gib is not None:
            arguments += ["--memory-bytes", str(int(config.worker_memory_gib * limits.GIB))]
        if config.log_json:
            arguments.append("--log-json")
        environment = {
            **os.environ,
            # Spinning threads beside other processes cost threefold (docs/parameters.md). The engine's parallel parts
            # follow each other within microseconds: a wait as short as that is worth spinning.
            "OMP_WAIT_POLICY": "PASSIVE",
            "GOMP_SPINCOUNT": "20000" if backend == "native" else "0",
            # Devices have the numbers that the front knows them by.
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "hetal.server.worker",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=limits.WORKER_LINE_BYTES_MAX,
            env=environment,
        )
        return cls(process)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def send(self, command: Record) -> None:
        """Best effort: a dead worker shows itself by the end of its events."""
        stdin = self._process.stdin
        if stdin is None:
            return
        try:
            stdin.write(json.dumps(command).encode() + b"\n")
            await stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            return

    async def events(self) -> AsyncIterator[Record]:
        """Events until the process ends.

        Raises:
            WorkerDiedError: a line is no event.
        """
        stdout = self._process.stdout
        if stdout is None:
            return
        while True:
            try:
                line = await stdout.readline()
                if not line:
                    return
                record = json.loads(line)
            except ValueError as error:
                raise WorkerDiedError("the compute process wrote something that is no event") from error
            if not isinstance(record, dict):
                raise WorkerDiedError("the compute process wrote something that is no event")
            yield record

    async def drain(self, limit_s: float) -> None:
        """Ask it to end, and wait for that as long as the limit says."""
        with suppress(ProcessLookupError):
            self._process.terminate()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._process.wait(), limit_s)

    async def stop(self) -> int:
        """Kill it if it runs. Its exit status, negative for a signal."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()
        return await self.wait()

    async def wait(self) -> int:
        status = await self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        return status
