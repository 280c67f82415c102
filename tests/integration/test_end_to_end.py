"""The whole road: a server process, a client, real keys, real bootstraps, real data (at the insecure test preset)."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest

from hetal._pb import hetal_pb2 as pb
from hetal._pb.hetal_pb2_grpc import HetalStub
from hetal.ckks.presets import TEST_PRESET, preset
from hetal.cli.demo import dataset
from hetal.cli.local_server import local_server
from hetal.client import Client, KeySet, Model, Progress
from hetal.client.dataset import prepare
from hetal.errors import (
    ConnectionFailedError,
    DivergedError,
    EmptyValidationError,
    InsecureParametersError,
    JobNotFoundError,
    NotFiniteError,
    ShapeError,
    StateError,
)
from hetal.kernels.clear import train_clear
from hetal.kernels.simulate import simulate

DATA = dataset("wine")
OPTIONS = {"preset_name": TEST_PRESET, "logits_max": 32.0}


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


async def test_the_range_follows_the_logits_where_the_owner_allows_it(address: str) -> None:
    async with Client(address) as client:
        job = await client.train(
            DATA.x_train[::2],
            DATA.y_train[::2],
            DATA.x_val,
            DATA.y_val,
            epochs=3,
            learning_rate=2.0,
            preset_name=TEST_PRESET,
            adaptive_range=True,
        )
        prepared = prepare(DATA.x_train[::2], DATA.y_train[::2], DATA.x_val, DATA.y_val, standardize=True, seed=0)
        arrays = (prepared.x_train, prepared.y_train, prepared.x_val, prepared.y_val)
        adapted, fixed, clear = (
            run(replace(job.spec, adaptive_range=adaptive), *arrays).weights
            for run, adaptive in ((simulate, True), (simulate, False), (train_clear, False))
        )
        distance = np.linalg.norm(job.model.weights - adapted)
        assert distance < 1e-4 * np.linalg.norm(adapted)
        assert distance < 0.1 * np.linalg.norm(job.model.weights - fixed)
        assert np.linalg.norm(job.model.weights - clear) < np.linalg.norm(fixed - clear)


class KillWorker:
    """Takes progress, and kills the worker once, when ``at`` iterations are done."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.killed: list[int] = []

    def __call__(self, step: Progress) -> None:
        if step.phase == "training" and step.done == self.at and not self.killed:
            for process in psutil.Process().children(recursive=True):
                if "hetal.server.worker" in " ".join(process.cmdline()):
                    process.kill()
                    self.killed.append(process.pid)


async def test_a_worker_killed_in_the_middle_changes_nothing(address: str) -> None:
    strike = KillWorker(at=1)
    async with Client(address) as client:
        job = await client.train(
            DATA.x_train[::3],
            DATA.y_train[::3],
            DATA.x_val,
            DATA.y_val,
            epochs=2,
            progress=strike,
            **OPTIONS,
        )
        assert strike.killed
        prepared = prepare(DATA.x_train[::3], DATA.y_train[::3], DATA.x_val, DATA.y_val, standardize=True, seed=0)
        plain = simulate(job.spec, prepared.x_train, prepared.y_train, prepared.x_val, prepared.y_val)
        assert np.linalg.norm(job.model.weights - plain.weights) < 1e-2 * np.linalg.norm(plain.weights)


@pytest.mark.parametrize("killed_at", [2, 5], ids=["among scores", "after pruning"])
async def test_a_pruned_training_goes_on_with_the_hardest_batches_also_when_its_worker_dies(
    address: str, killed_at: int
) -> None:
    strike = KillWorker(at=killed_at)
    async with Client(address) as client:
        job = await client.train(
            DATA.x_train,
            DATA.y_train,
            DATA.x_val,
            DATA.y_val,
            epochs=3,
            batch_size=32,
            learning_rate=0.5,
            prune_keep=0.5,
            progress=strike,
            **OPTIONS,
        )
    assert strike.killed
    prepared = prepare(DATA.x_train, DATA.y_train, DATA.x_val, DATA.y_val, standardize=True, seed=0)
    arrays = (prepared.x_train, prepared.y_train, prepared.x_val, prepared.y_val)
    plain, whole = simulate(job.spec, *arrays), simulate(replace(job.spec, prune_keep=1.0), *arrays)
    assert job.history.kept == plain.kept
    assert len(plain.kept) == 2 < job.spec.batches == 4
    distance = np.linalg.norm(job.model.weights - plain.weights)
    assert distance < 1e-2 * np.linalg.norm(plain.weights)
    assert distance < 0.1 * np.linalg.norm(job.model.weights - whole.weights)


class ClientDiesError(Exception):
    """Stands for the end of the client's process."""


async def test_another_client_takes_up_a_job_from_the_saved_keys(address: str, tmp_path: Path) -> None:
    """The first client ends in the upload, the second while it judges an epoch, the third one finishes."""
    data = (DATA.x_train[::3], DATA.y_train[::3], DATA.x_val, DATA.y_val)
    uploaded = []

    def die_in_the_upload(step: Progress) -> None:
        if step.done == 3:
            raise ClientDiesError

    def die_in_an_epoch(step: Progress) -> None:
        if step.phase == "keys and data":
            uploaded.append(step.text)
        if step.phase == "epoch":
            raise ClientDiesError

    async with Client(address) as client:
        with pytest.raises(ClientDiesError):
            await client.train(*data, epochs=2, keep_keys=tmp_path / "key", progress=die_in_the_upload, **OPTIONS)
    keys = KeySet.load(tmp_path / "key", preset(TEST_PRESET))
    async with Client(address) as client:
        (listed,) = await client.jobs()
        with pytest.raises(ShapeError, match="training rows"):
            await client.resume(listed.id, keys, DATA.x_train, DATA.y_train, DATA.x_val, DATA.y_val)
        with pytest.raises(StateError):
            await client.resume(listed.id, KeySet.generate(preset(TEST_PRESET)), *data)
        with pytest.raises(ClientDiesError):
            await client.resume(listed.id, keys, *data, progress=die_in_an_epoch)
        assert uploaded
        assert "keys/mult" not in uploaded
    async with Client(address) as client:
        job = await client.resume(listed.id, keys, *data)
        again = await client.resume(listed.id, keys, *data)
    assert job.history.epochs == 2
    assert again.history.best_epoch == job.history.best_epoch
    # Decryption is randomised: the same bytes give slots that differ by about 1e-11.
    assert again.history.losses == pytest.approx(job.history.losses, abs=1e-6)
    assert np.abs(again.model.weights - job.model.weights).max() < 1e-5
    prepared = prepare(*data, standardize=True, seed=0)
    plain = simulate(job.spec, prepared.x_train, prepared.y_train, prepared.x_val, prepared.y_val)
    assert job.history.losses == pytest.approx(plain.losses, abs=1e-3)
    assert np.linalg.norm(job.model.weights - plain.weights) < 1e-2 * np.linalg.norm(plain.weights)


async def test_a_client_waits_until_the_server_notices_its_dead_stream(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a network failure the server holds the old stream for attached until its keepalive runs out."""
    data = (DATA.x_train[::3], DATA.y_train[::3], DATA.x_val, DATA.y_val)

    def die_in_an_epoch(step: Progress) -> None:
        if step.phase == "epoch":
            raise ClientDiesError

    async with Client(address) as client:
        with pytest.raises(ClientDiesError):
            await client.train(*data, epochs=1, keep_keys=tmp_path / "key", progress=die_in_an_epoch, **OPTIONS)
        (listed,) = await client.jobs()
    keys = KeySet.load(tmp_path / "key", preset(TEST_PRESET))
    refused: list[int] = []
    async with grpc.aio.insecure_channel(address) as channel, Client(address) as client:
        stale = HetalStub(channel).Train()
        request = pb.TrainRequest(job_id=listed.id)
        request.attach.SetInParent()
        await stale.write(request)
        await stale.read()

        def notice(failures: int) -> float:
            refused.append(failures)
            if failures == 2:
                stale.cancel()
            return 0.2

        monkeypatch.setattr("hetal.client.transport.backoff_s", notice)
        job = await client.resume(listed.id, keys, *data)
    assert refused[:2] == [1, 2]
    assert job.history.epochs == 1


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
