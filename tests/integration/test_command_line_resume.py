"""What kept keys are for: ``train --resume`` after the client process was killed, and ``predict --encrypted``."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from hetal.ckks.presets import TEST_PRESET
from hetal.cli.demo import dataset
from hetal.cli.local_server import local_server
from hetal.client import Client, Model
from hetal.client.dataset import prepare
from hetal.kernels.simulate import simulate
from hetal.protocol.wire import manifest_from_proto

DATA = dataset("wine")


async def test_a_killed_client_resumes(tmp_path: Path) -> None:
    x, y = DATA.x_train[::3], DATA.y_train[::3]
    np.savez(tmp_path / "data.npz", X_train=x, y_train=y, X_val=DATA.x_val, y_val=DATA.y_val)
    common = ["train", "--features", str(tmp_path / "data.npz"), "--preset", TEST_PRESET, "--json"]
    common += ["--model-out", str(tmp_path / "model.npz")]
    async with local_server(allow_insecure=True) as address:
        command = [*common, "--server", address, "--keep-keys", str(tmp_path / "key"), "--epochs", "2"]
        first = await hetal(*command, "--softmax-extensions", "2", "--weight-bound", "4")
        assert first.stderr is not None
        async for line in first.stderr:
            if line.startswith(b"training"):
                break
        first.kill()
        await first.wait()

        async with Client(address) as client:
            (job,) = await client.jobs()
            manifest = (await client.get(job.id)).manifest
        resumed = await hetal(*common, "--server", address, "--resume", job.id, "--keys", str(tmp_path / "key"))
        out, err = await resumed.communicate()
        assert resumed.returncode == 0, err.decode()

        np.save(tmp_path / "x.npy", DATA.x_test)
        model = ["predict", "--model", str(tmp_path / "model.npz"), "--features", str(tmp_path / "x.npy"), "--json"]
        there = ["--encrypted", "--server", address, "--keys", str(tmp_path / "key")]
        answers = [(await (await hetal(*model, *way)).communicate())[0] for way in ([], there)]
        assert json.loads(answers[0])["labels"] == json.loads(answers[1])["labels"]
    result = json.loads(out)
    assert (result["job"], result["epochs"]) == (job.id, 2)

    prepared = prepare(x, y, DATA.x_val, DATA.y_val, standardize=True, seed=0)
    spec = manifest_from_proto(manifest, allow_insecure=True).job
    plain = simulate(spec, prepared.x_train, prepared.y_train, prepared.x_val, prepared.y_val)
    weights = Model.load(tmp_path / "model.npz").weights
    assert np.linalg.norm(weights - plain.weights) < 1e-2 * np.linalg.norm(plain.weights)


async def hetal(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hetal.cli.main", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
