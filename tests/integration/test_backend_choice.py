"""``--backend``: which library a server's processes load, and that a job may change it between two starts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil
import pytest

from hetal.ckks.presets import TEST_PRESET, preset
from hetal.cli.demo import dataset
from hetal.cli.local_server import local_server
from hetal.cli.main import main
from hetal.client import Client, KeySet, Progress, SoftmaxSpec
from hetal.client.dataset import prepare
from hetal.errors import BackendError, InputError
from hetal.kernels.simulate import simulate
from hetal.native import available
from hetal.native.cuda.emulated import compiler
from hetal.server.app import Server
from hetal.server.config import BACKENDS, ServerConfig

WINE = dataset("wine")
DATA = (WINE.x_train[::3], WINE.y_train[::3], WINE.x_val, WINE.y_val)
OPTIONS = {"preset_name": TEST_PRESET, "weight_bound": 4.0, "softmax": SoftmaxSpec(extensions=2)}
needs_engine = pytest.mark.skipif(not available(), reason="the engine is not built")


def libraries(process: psutil.Process) -> set[str]:
    """Which of the two libraries a process has in its memory."""
    files = " ".join(Path(region.path).name for region in process.memory_maps())
    return {name for name, mark in (("native", "_engine."), ("openfhe", "openfhe")) if mark in files.lower()}


@needs_engine
@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_server_computes_with_the_chosen_library_alone(backend: str) -> None:
    loaded: dict[str, set[str]] = {}

    def look(step: Progress) -> None:
        if step.phase == "training" and step.done == 1:
            for process in psutil.Process().children(recursive=True):
                command = " ".join(process.cmdline())
                role = "worker" if "hetal.server.worker" in command else "front" if " serve " in command else "other"
                loaded[role] = libraries(process)

    async with local_server(allow_insecure=True, backend=backend) as address, Client(address) as client:
        job = await client.train(*DATA, epochs=2, progress=look, **OPTIONS)
    # The front may hold the engine, for it looks whether there is one.
    assert loaded["worker"] == {backend}
    assert "openfhe" not in loaded["front"]
    prepared = prepare(*DATA, standardize=True, seed=0)
    plain = simulate(job.spec, prepared.x_train, prepared.y_train, prepared.x_val, prepared.y_val)
    assert job.history.losses == pytest.approx(plain.losses, abs=1e-3)
    assert np.linalg.norm(job.model.weights - plain.weights) < 1e-2 * np.linalg.norm(plain.weights)


@pytest.mark.full
@pytest.mark.skipif(compiler() is None, reason="needs a C++ compiler")
async def test_a_server_computes_on_a_device(tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with local_server(allow_insecure=True, device="emulated:0", log=log) as address, Client(address) as client:
        job = await client.train(*DATA, epochs=1, **OPTIONS)
    assert "device=emulated:0" in log.read_text()
    prepared = prepare(*DATA, standardize=True, seed=0)
    plain = simulate(job.spec, prepared.x_train, prepared.y_train, prepared.x_val, prepared.y_val)
    assert job.history.losses == pytest.approx(plain.losses, abs=1e-3)


class ClientDiesError(Exception):
    """Stands for the end of the client's process."""


@needs_engine
@pytest.mark.parametrize(("first", "second"), [BACKENDS, BACKENDS[::-1]])
async def test_a_training_goes_on_under_the_other_backend(first: str, second: str, tmp_path: Path) -> None:
    def die_in_an_epoch(step: Progress) -> None:
        if step.phase == "epoch":
            raise ClientDiesError

    server = await Server.start(ServerConfig(data_dir=tmp_path / "data", allow_insecure=True, backend=first))
    try:
        async with Client(f"127.0.0.1:{server.port}") as client:
            with pytest.raises(ClientDiesError):
                await client.train(*DATA, epochs=2, keep_keys=tmp_path / "key", progress=die_in_an_epoch, **OPTIONS)
            (listed,) = await client.jobs()
    finally:
        await server.stop(grace_s=1)

    keys = KeySet.load(tmp_path / "key", preset(TEST_PRESET))
    server = await Server.start(ServerConfig(data_dir=tmp_path / "data", allow_insecure=True, backend=second))
    try:
        async with Client(f"127.0.0.1:{server.port}") as client:
            job = await client.resume(listed.id, keys, *DATA)
            logits = await client.predict_encrypted(job.id, job.model, keys, WINE.x_test[:5])
    finally:
        await server.stop(grace_s=1)
    assert job.history.epochs == 2
    assert np.abs(logits - job.model.logits(WINE.x_test[:5])).max() < 1e-3
    prepared = prepare(*DATA, standardize=True, seed=0)
    plain = simulate(job.spec, prepared.x_train, prepared.y_train, prepared.x_val, prepared.y_val)
    assert np.linalg.norm(job.model.weights - plain.weights) < 1e-2 * np.linalg.norm(plain.weights)


def test_without_the_engine_openfhe_serves_unless_the_engine_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_engine(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("hetal.native.importlib.import_module", no_engine)
    assert ServerConfig(data_dir=tmp_path).chosen_backend() == "openfhe"
    assert ServerConfig(data_dir=tmp_path, backend="openfhe").chosen_backend() == "openfhe"
    with pytest.raises(BackendError) as caught:
        ServerConfig(data_dir=tmp_path, backend="native").chosen_backend()
    assert "compiler" in caught.value.hint


@needs_engine
def test_the_engine_is_the_default(tmp_path: Path) -> None:
    assert ServerConfig(data_dir=tmp_path).chosen_backend() == "native"


def test_wrong_backends_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="abacus"):
        ServerConfig(data_dir=tmp_path, backend="abacus").check()
    np.savez(tmp_path / "data.npz", X_train=DATA[0], y_train=DATA[1], X_val=DATA[2], y_val=DATA[3])
    model = str(tmp_path / "model.npz")
    arguments = ["train", "--features", str(tmp_path / "data.npz"), "--model-out", model, "--preset", TEST_PRESET]
    assert main([*arguments, "--server", "127.0.0.1:9", "--backend", "native"]) == 2
    assert "--backend" in capsys.readouterr().err
