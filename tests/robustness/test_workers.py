"""Workers that die, drain, run out of disk or find a damaged checkpoint: the classifier is the undisturbed run's."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import psutil
import pytest
from crash import Driver, Keeper, Ledger, Recording, record_training, undisturbed

from hetal._pb import hetal_pb2 as pb
from hetal.protocol.wire import manifest_from_proto
from hetal.server.admission import memory_bytes
from hetal.server.checkpoint import LAST, PREVIOUS

EPOCHS = 3


@pytest.fixture(scope="module")
def recording() -> Recording:
    return record_training(EPOCHS)


@pytest.fixture(scope="module")
def model(recording: Recording, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return asyncio.run(undisturbed(recording, tmp_path_factory.mktemp("undisturbed")))


async def job_of(driver: Driver, recording: Recording) -> str:
    """A job with all its blobs."""
    job_id = await driver._create(recording)
    for name, data in recording.blobs.items():
        await driver._upload(job_id, name, data, Ledger())
    return job_id


async def state(driver: Driver, job_id: str) -> pb.Job:
    return await driver.stub.GetJob(pb.GetJobRequest(job_id=job_id))


async def finish(driver: Driver, job_id: str, recording: Recording) -> bytes:
    finished = await driver._retried(lambda: driver._train(job_id, recording, Ledger()))
    return await driver._download(job_id, finished.blob)


async def epochs(driver: Driver, job_id: str, recording: Recording, count: int) -> None:
    """Answer that many epochs and leave; the job then waits for the answer to the next one."""
    stream = driver.stub.Train()
    await stream.write(pb.TrainRequest(job_id=job_id, attach=pb.Attach(session=job_id)))
    async for event in stream:
        if event.WhichOneof("event") == "validation":
            epoch = event.validation.epoch
            if epoch > count:
                break
            await stream.write(pb.TrainRequest(**{"continue": {"epoch": epoch, "best": True}}))
    stream.cancel()


def peak_bytes(process: psutil.Process) -> int:
    """Largest resident memory so far."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


@pytest.mark.parametrize("both", [False, True])
async def test_damaged_checkpoints(tmp_path: Path, recording: Recording, model: bytes, both: bool) -> None:
    async with Keeper(tmp_path) as keeper, Driver(keeper) as driver:
        job_id = await job_of(driver, recording)
        await epochs(driver, job_id, recording, 1)
        (worker,) = psutil.Process(keeper.process.pid).children()
        need = memory_bytes(manifest_from_proto(recording.manifest, allow_insecure=True))
        assert need / 4 < peak_bytes(worker) < need, "the estimate that admits jobs is an upper bound, and no wild one"
        # Of a server that is not there.
        keeper.process.kill()
        for name in (LAST, PREVIOUS) if both else (LAST,):
            path = keeper.data / "jobs" / job_id / "results" / name
            damaged = bytearray(path.read_bytes())
            damaged[len(damaged) // 2] ^= 1
            path.write_bytes(damaged)
        if not both:
            assert await finish(driver, job_id, recording) == model
            return
        with pytest.raises(AssertionError, match="CHECKPOINT_DAMAGED"):
            await finish(driver, job_id, recording)


async def test_sigterm_drains_and_the_job_goes_on(tmp_path: Path, recording: Recording, model: bytes) -> None:
    async with Keeper(tmp_path) as keeper, Driver(keeper) as driver:
        job_id = await job_of(driver, recording)
        await epochs(driver, job_id, recording, 0)
        stream = driver.stub.Train()
        await stream.write(pb.TrainRequest(job_id=job_id, attach=pb.Attach(session=job_id)))
        await stream.write(pb.TrainRequest(**{"continue": {"epoch": 1, "best": True}}))

        async for event in stream:
            if event.progress.phase == "training" and event.progress.iteration == 1:
                break
        checkpoint = keeper.data / "jobs" / job_id / "results" / LAST
        before = checkpoint.stat().st_ino
        began = time.monotonic()
        keeper.expected.add(0)
        keeper.process.terminate()
        assert await keeper.process.wait() == 0
        assert time.monotonic() - began < 30
        assert checkpoint.stat().st_ino != before, "the iteration that ran was not lost"
        assert await finish(driver, job_id, recording) == model


async def test_a_worker_that_keeps_dying_gives_up_after_the_configured_number(
    tmp_path: Path, recording: Recording, model: bytes
) -> None:
    options = ("--worker-restarts", "1")
    async with Keeper(tmp_path, [["iteration.after"]], options, latched=False) as keeper, Driver(keeper) as driver:
        job_id = await job_of(driver, recording)
        with pytest.raises(AssertionError, match=r"(?s)WORKER_DIED.*2 times"):
            await finish(driver, job_id, recording)
        keeper.process.kill()
        assert await finish(driver, job_id, recording) == model, "attaching to the next server resumed it"


async def test_a_full_disk_in_a_worker(tmp_path: Path, recording: Recording, model: bytes) -> None:
    async with Keeper(tmp_path, [["checkpoint.kept=full"]]) as keeper, Driver(keeper) as driver:
        job_id = await job_of(driver, recording)
        with pytest.raises(AssertionError, match="DISK_FULL"):
            await finish(driver, job_id, recording)
        assert (await state(driver, job_id)).failure.code == "DISK_FULL"
        assert await finish(driver, job_id, recording) == model, "attaching resumed it"
