"""The whole road: a server process, a client, real keys, real bootstraps, real data (at the insecure test preset)."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from hetal.ckks.presets import TEST_PRESET
from hetal.cli.demo import dataset
from hetal.cli.local_server import local_server
from hetal.client import Client, KeySet, Model, Progress, SoftmaxSpec
from hetal.client.dataset import prepare
from hetal.errors import (
    ConnectionFailedError,
    DivergedError,
    EmptyValidationError,
    InsecureParametersError,
    JobNotFoundError,
    NotFiniteError,
    StateError,
)
from hetal.kernels.clear import train_clear
from hetal.kernels.simulate import simulate

DATA = dataset("wine")
OPTIONS = {"preset_name": TEST_PRESET, "weight_bound": 4.0, "softmax": SoftmaxSpec(extensions=2)}


@pytest.fixture
async def address() -> AsyncIterator[str]:
    async with local_server(allow_insecure=True) as listening:
        yield listening


async def test_encrypted_training_equals_the_unencrypted_run_of_the_same_steps(address: str, tmp_path: Path) -> None:
    async with Client(address) as client:
        job = await client.train(
            DATA.x_train,
            DATA.y_train,
            DATA.x_val,
            DATA.y_val,
            epochs=2,
            learning_rate=2.0,
            batch_size=64,
            keep_keys=tmp_path / "key",
            passphrase="correct horse",
            **OPTIONS,
        )
        assert job.spec.batches == 2
        prepared = prepare(DATA.x_train, DATA.y_train, DATA.x_val, DATA.y_val, standardize=True, seed=0)
        arrays = (prepared.x_train, prepared.y_train, prepared.x_val, prepared.y_val)
        clear, plain = train_clear(job.spec, *arrays), simulate(job.spec, *arrays)

        assert np.linalg.norm(job.model.weights - plain.weights) < 1e-2 * np.linalg.norm(plain.weights)
        assert job.history.losses == pytest.approx(plain.losses, abs=1e-3)
        encrypted = job.model.accuracy(DATA.x_test, DATA.y_test)
        in_the_clear = Model(clear.weights, job.model.standardizer, job.model.labels).accuracy(DATA.x_test, DATA.y_test)
        assert abs(encrypted - in_the_clear) <= 0.005
        assert encrypted > 0.9

        keys = KeySet.load(tmp_path / "key", job.spec.parameters, "correct horse")
        logits = await client.predict_encrypted(job.id, job.model, keys, DATA.x_test[:5])
        assert np.abs(logits - job.model.logits(DATA.x_test[:5])).max() < 1e-3
        with pytest.raises(StateError):
            await client.predict_encrypted(job.id, job.model, KeySet.generate(job.spec.parameters), DATA.x_test[:5])

        assert [j.id for j in await client.jobs()] == [job.id]
        assert await client.delete(job.id) > 1_000_000
        with pytest.raises(JobNotFoundError):
            await client.get(job.id)


async def test_a_worker_killed_in_the_middle_changes_nothing(address: str) -> None:
    killed = []

    def kill_once(step: Progress) -> None:
        if step.phase == "training" and step.done == 1 and not killed:
            for process in psutil.Process().children(recursive=True):
                if "hetal.server.worker" in " ".join(process.cmdline()):
                    process.kill()
                    killed.append(process.pid)

    async with Client(address) as client:
        job = await client.train(
            DATA.x_train[::3],
            DATA.y_train[::3],
            DATA.x_val,
            DATA.y_val,
            epochs=2,
            progress=kill_once,
            **OPTIONS,
        )
        assert killed
        prepared = prepare(DATA.x_train[::3], DATA.y_train[::3], DATA.x_val, DATA.y_val, standardize=True, seed=0)
        plain = simulate(job.spec, prepared.x_train, prepared.y_train, prepared.x_val, prepared.y_val)
        assert np.linalg.norm(job.model.weights - plain.weights) < 1e-2 * np.linalg.norm(plain.weights)


async def test_a_diverging_training_ends_with_advice_and_the_server_goes_on(address: str) -> None:
    async with Client(address) as client:
        with pytest.raises(DivergedError) as caught:
            await client.train(
                DATA.x_train[::3] * 100,
                DATA.y_train[::3],
                DATA.x_val * 100,
                DATA.y_val,
                epochs=1,
                learning_rate=900.0,
                **OPTIONS,
            )
        assert "learning rate" in caught.value.hint
        states = [job.state for job in await client.jobs()]
        assert len(states) == 1
        assert (await client.info()).insecure_allowed


async def test_bad_data_is_refused_before_anything_is_sent(address: str) -> None:
    spoiled = DATA.x_train.copy()
    spoiled[3, 4] = np.nan
    async with Client(address) as client:
        with pytest.raises(NotFiniteError, match="row 3, column 4"):
            await client.train(spoiled, DATA.y_train, DATA.x_val, DATA.y_val, **OPTIONS)
        with pytest.raises(EmptyValidationError):
            await client.train(DATA.x_train, DATA.y_train, DATA.x_val[:0], DATA.y_val[:0], **OPTIONS)
        assert await client.jobs() == []


async def test_a_server_refuses_insecure_parameters_by_default() -> None:
    async with local_server(allow_insecure=False) as listening, Client(listening) as client:
        with pytest.raises(InsecureParametersError) as caught:
            await client.train(DATA.x_train, DATA.y_train, DATA.x_val, DATA.y_val, **OPTIONS)
        assert "--allow-insecure" in caught.value.hint


async def test_no_server_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hetal.limits.RECONNECT_ATTEMPTS_MAX", 1)
    async with Client("127.0.0.1:9") as client:
        with pytest.raises(ConnectionFailedError, match=r"127\.0\.0\.1:9"):
            await client.jobs()


async def test_command_line_trains_and_predicts(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "data.npz",
        X_train=DATA.x_train[::2].astype(np.float16),
        y_train=DATA.y_train[::2],
        X_val=DATA.x_val,
        y_val=DATA.y_val,
        X_test=DATA.x_test,
        y_test=DATA.y_test,
    )
    model = tmp_path / "model.npz"
    options = ["--preset", TEST_PRESET, "--epochs", "1", "--softmax-extensions", "2", "--json"]
    trained = await hetal("train", "--features", str(tmp_path / "data.npz"), "--model-out", str(model), *options)
    result = json.loads(trained)
    assert result["epochs"] == 1
    assert model.exists()
    np.save(tmp_path / "labels.npy", DATA.y_test)
    predicted = json.loads(
        await hetal(
            "predict",
            "--model",
            str(model),
            "--features",
            str(tmp_path / "data.npz"),
            "--labels",
            str(tmp_path / "labels.npy"),
            "--out",
            str(tmp_path / "out.csv"),
            "--json",
        )
    )
    assert predicted["accuracy"] == pytest.approx(result["test_accuracy"], abs=0.03)
    assert (tmp_path / "out.csv").read_text().count("\n") == len(DATA.y_test) + 1


async def hetal(*arguments: str) -> str:
    """Standard output of a successful command."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hetal.cli.main", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()
