"""A whole training through a recording proxy: nothing secret is on the wire, either way, nor in the server's state.

The same search finds each secret where it is planted, so that it can fail.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from hetal._pb import hetal_pb2 as pb
from hetal.ckks.presets import TEST_PRESET
from hetal.cli.audit import EXIT_FOUND
from hetal.cli.demo import dataset
from hetal.cli.main import main
from hetal.client import Client, SoftmaxSpec
from hetal.client.encrypt import Encryptor
from hetal.client.journal import CLIENT, Journal
from hetal.client.windows import Windows
from hetal.server.app import Server
from hetal.server.config import ServerConfig

DATA = dataset("wine")
CLASS_NAMES = np.array(["barolo", "grignolino", "barbera"])
ROWS = slice(None, None, 3)


class RecordingProxy:
    """Passes TCP on and keeps every byte of both directions."""

    def __init__(self, port: int) -> None:
        self.port = 0
        self.wire = bytearray()
        self._target = port
        self._tasks: set[asyncio.Task[None]] = set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        await asyncio.gather(self._pass(reader, back), self._pass(there, writer))

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await source.read(1 << 16):
                self.wire += data
                target.write(data)
                await target.drain()
        target.close()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[RecordingProxy]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()


async def test_a_training_leaves_no_secret_in_the_clear(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG", "hetal")
    seen: list[np.ndarray] = []
    logits = Encryptor.logits

    def kept(self: Encryptor, blob: bytes, samples: int) -> np.ndarray:
        seen.append(logits(self, blob, samples))
        return seen[-1]

    monkeypatch.setattr(Encryptor, "logits", kept)
    x, y = DATA.x_train[ROWS], CLASS_NAMES[DATA.y_train[ROWS]]
    journal = Journal(tmp_path / "journal", tmp_path / "wire")
    server = await Server.start(ServerConfig(data_dir=tmp_path / "state", allow_insecure=True, threads=2))
    try:
        async with (
            RecordingProxy(server.port).running() as proxy,
            Client(f"127.0.0.1:{proxy.port}", journal=journal) as client,
        ):
            job = await client.train(
                *(x, y, DATA.x_val, CLASS_NAMES[DATA.y_val]),
                preset_name=TEST_PRESET,
                epochs=2,
                learning_rate=2.0,
                weight_bound=4.0,
                softmax=SoftmaxSpec(extensions=2),
                keep_keys=tmp_path / "keys",
            )
            await client.predict_encrypted(job.id, job.model, job.keys, DATA.x_test[:5])
            secrets = {
                "features": job.model.prepared(x),
                "raw features": x,
                "predicted features": job.model.prepared(DATA.x_test[:5]),
                "logits": np.concatenate(seen),
                "weights": job.model.weights,
            }
            windows = Windows()
            for name, values in secrets.items():
                windows.add_reals(name, values)
            windows.add_integers("labels", DATA.y_train[ROWS])
            for name in CLASS_NAMES:
                windows.add_text("class name", str(name))
            job.keys.add_secret_to(windows)
            assert len(seen) == 3
            assert len(windows) > 5_000

            assert job.bytes_sent < len(proxy.wire)
            assert windows.search(proxy.wire) == []
            assert windows.search_tree(tmp_path / "state") == {}
            assert "job created" in caplog.text
            assert windows.search(caplog.text.encode()) == []
            assert sum(path.stat().st_size for path in (tmp_path / "state").rglob("*")) > job.bytes_sent

            # The search can fail: one row, as the client must never send it, is found on the wire.
            before = len(proxy.wire)
            leak = pb.GetJobRequest(job_id="x" * 5)
            leak.MergeFromString(
                pb.UploadChunk(data=secrets["features"][4].astype(np.float32).tobytes()).SerializeToString()
            )
            with pytest.raises(Exception, match="JOB_NOT_FOUND"):
                await client._transport.call("GetJob", leak)
            assert {hit.secret for hit in windows.search(proxy.wire[before:])} == {"features"}
    finally:
        await server.stop()
    (tmp_path / "leak" / "deep").mkdir(parents=True)
    (tmp_path / "leak" / "deep" / "file").write_bytes(b"\0" * 99 + secrets["logits"][0:9].tobytes())
    assert list(windows.search_tree(tmp_path / "leak")) == [tmp_path / "leak" / "deep" / "file"]

    entries, searches = journal.read(job.id)
    assert {entry.rpc for entry in entries} == {
        *("CreateJob", "UploadBlob", "StatBlobs", "Train", "DownloadModel", "GetJob", "Predict"),
    }
    assert {entry.kind for entry in entries if entry.readers == CLIENT} == {
        *("encrypted features", "encrypted labels", "encrypted weights"),
    }
    assert sum(entry.kind == "continue or stop" for entry in entries) == job.history.epochs
    assert len(searches) == 1
    assert searches[0].found == ()
    assert searches[0].windows > 5_000
    assert searches[0].wire_bytes >= job.bytes_sent

    np.savez(tmp_path / "data.npz", X_train=x, y_train=y, X_val=DATA.x_val, y_val=CLASS_NAMES[DATA.y_val])
    job.model.save(tmp_path / "model.npz")
    arguments = ["audit", job.id, "--journal", str(tmp_path / "journal"), "--wire", str(tmp_path / "wire")]
    arguments += ["--features", str(tmp_path / "data.npz"), "--model", str(tmp_path / "model.npz")]
    arguments += ["--keys", str(tmp_path / "keys"), "--preset", TEST_PRESET]
    assert main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["messages"]) == len(entries) == told["wire_messages_recorded"]
    assert told["wire_messages_damaged"] == 0
    assert [search["found"] for search in told["searches"]] == [[], []]
    assert main(arguments[:4]) == 0
    assert "encrypted labels" in capsys.readouterr().out

    wire = journal.wire_file(job.id)
    assert wire is not None
    with wire.open("ab") as file:
        file.write(x[2].astype(">f8").tobytes())
    assert main([*arguments, "--messages"]) == EXIT_FOUND
    assert "in the clear: raw features as >f8" in capsys.readouterr().out
