"""A training over mutual TLS: the server comes up late, is killed on the way, and returns with renewed certificates."""

from __future__ import annotations

import asyncio
import shutil
import socket
import sys
from asyncio.subprocess import Process
from datetime import timedelta
from pathlib import Path

import numpy as np

from hetal.ckks.presets import TEST_PRESET
from hetal.cli.certs import make_certificates
from hetal.cli.demo import dataset
from hetal.client import Client, Progress, SoftmaxSpec, Tls

DATA = dataset("wine")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def serve(port: int, directory: Path, certs: Path) -> Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "hetal.cli.main", "serve", "--listen", f"0.0.0.0:{port}", "--data-dir", str(directory)),
        *("--tls-cert", str(certs / "server.pem"), "--tls-key", str(certs / "server-key.pem")),
        *("--tls-client-ca", str(certs / "ca.pem"), "--allow-insecure"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    assert (await process.stdout.readline()).startswith(b"listening")
    return process


async def test_training_and_prediction(tmp_path: Path) -> None:
    port, certs = free_port(), tmp_path / "certs"
    make_certificates(certs, [], ["alice"], timedelta(days=1))
    tls = Tls(ca=certs / "ca.pem", cert=certs / "client-alice.pem", key=certs / "client-alice-key.pem")
    servers: list[Process] = []
    struck: list[asyncio.Task[None]] = []

    async def begin() -> None:
        await asyncio.sleep(1)
        servers.append(await serve(port, tmp_path / "data", certs))

    async def strike() -> None:
        servers[-1].kill()
        await servers[-1].wait()
        for name in ("server.pem", "server-key.pem"):
            shutil.move(certs / name, tmp_path / name)
        make_certificates(certs, [], [], timedelta(days=1))
        await begin()

    def progress(step: Progress) -> None:
        if (step.phase, step.done) == ("training", 1) and not struck:
            struck.append(asyncio.get_running_loop().create_task(strike()))

    beginning = asyncio.ensure_future(begin())
    async with Client(f"127.0.0.1:{port}", tls) as client:
        job = await client.train(
            DATA.x_train[::3],
            DATA.y_train[::3],
            DATA.x_val,
            DATA.y_val,
            preset_name=TEST_PRESET,
            epochs=2,
            weight_bound=4.0,
            softmax=SoftmaxSpec(extensions=2),
            progress=progress,
        )
        await asyncio.gather(beginning, *struck)
        assert (len(servers), job.history.epochs) == (2, 2)
        assert (await client.get(job.id)).owner == "cn:alice"
        shares = await client.shares()
        assert shares.jobs == 1 and shares.bytes > 1_000_000 and shares.compute_minutes > 0
        logits = await client.predict_encrypted(job.id, job.model, job.keys, DATA.x_test)
        assert np.abs(logits - job.model.logits(DATA.x_test)).max() < 0.05
    servers[-1].terminate()
    assert await asyncio.wait_for(servers[-1].wait(), 40) == 0
