"""``kill -9`` of the server in the middle of a training: it starts anew, the client attaches again, nothing changes."""

from __future__ import annotations

import asyncio
import socket
import sys
from asyncio.subprocess import Process
from pathlib import Path

import numpy as np

from hetal.ckks.presets import TEST_PRESET
from hetal.cli.demo import dataset
from hetal.client import Client, Progress
from hetal.client.dataset import prepare
from hetal.kernels.simulate import simulate

DATA = dataset("wine")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def serve(port: int, directory: Path) -> Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "hetal.cli.main", "serve", "--listen", f"127.0.0.1:{port}", "--data-dir", str(directory)),
        "--allow-insecure",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    assert (await process.stdout.readline()).startswith(b"listening")
    return process


async def test_training_and_upload_survive(tmp_path: Path) -> None:
    port = free_port()
    servers = [await serve(port, tmp_path / "data")]
    restarts: list[asyncio.Task[None]] = []
    struck: set[str] = set()

    async def strike() -> None:
        servers[-1].kill()
        await servers[-1].wait()
        servers.append(await serve(port, tmp_path / "data"))

    def progress(step: Progress) -> None:
        moment = {("keys and data", 5): "upload", ("training", 1): "training"}.get((step.phase, step.done))
        if moment is not None and moment not in struck:
            struck.add(moment)
            restarts.append(asyncio.get_running_loop().create_task(strike()))

    async with Client(f"127.0.0.1:{port}") as client:
        job = await client.train(
            DATA.x_train[::3],
            DATA.y_train[::3],
            DATA.x_val,
            DATA.y_val,
            preset_name=TEST_PRESET,
            epochs=2,
            logits_max=32.0,
            progress=progress,
        )
        await asyncio.gather(*restarts)
        assert struck == {"upload", "training"}
        assert len(servers) == 3
        prepared = prepare(DATA.x_train[::3], DATA.y_train[::3], DATA.x_val, DATA.y_val, standardize=True, seed=0)
        plain = simulate(job.spec, prepared.x_train, prepared.y_train, prepared.x_val, prepared.y_val)
        assert np.linalg.norm(job.model.weights - plain.weights) < 1e-2 * np.linalg.norm(plain.weights)
    servers[-1].terminate()
    assert await asyncio.wait_for(servers[-1].wait(), 40) == 0
