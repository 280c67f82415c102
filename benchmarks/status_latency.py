"""How long GetJob takes while jobs train.

    python benchmarks/status_latency.py --jobs 4 --out benchmarks/results/status_latency.json

The jobs train at the insecure test preset, one thread each. A process of its own asks for their states, one call after
the other, from the moment when all of them train until the first has ended.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
from server_process import server

from hetal._pb import hetal_pb2 as pb
from hetal._pb import hetal_pb2_grpc
from hetal.ckks.presets import TEST_PRESET
from hetal.cli.demo import dataset
from hetal.cli.machine import machine_facts
from hetal.client import Client, SoftmaxSpec
from hetal.protocol.channel_options import client_options

P99_MS_MAX: Final = 50.0
BUSY: Final = (pb.JOB_STATE_TRAINING, pb.JOB_STATE_AWAITING_CLIENT)
START_S: Final = 300


def ask(address: str, jobs: int, interval_s: float) -> tuple[list[float], list[float]]:
    """Seconds of each GetJob while all jobs train, and of as many GetServerInfo, which reads nothing."""

    async def run() -> tuple[list[float], list[float]]:
        async with grpc.aio.insecure_channel(address, client_options()) as channel:
            stub: Any = hetal_pb2_grpc.HetalStub(channel)
            end = time.monotonic() + START_S
            while True:
                found = (await stub.ListJobs(pb.ListJobsRequest())).jobs
                if len(found) == jobs and all(job.state in BUSY for job in found):
                    break
                if time.monotonic() > end:
                    raise TimeoutError(f"the jobs did not all train within {START_S} s")
                await asyncio.sleep(0.05)
            seconds: list[float] = []
            idle: list[float] = []
            while True:
                for job in found:
                    began = time.perf_counter()
                    now = await stub.GetJob(pb.GetJobRequest(job_id=job.id))
                    seconds.append(time.perf_counter() - began)
                    if now.state not in BUSY:
                        return seconds, idle
                    await asyncio.sleep(interval_s)
                    began = time.perf_counter()
                    await stub.GetServerInfo(pb.GetServerInfoRequest())
                    idle.append(time.perf_counter() - began)
                    await asyncio.sleep(interval_s)

    return asyncio.run(run())


async def measure(folder: Path, jobs: int, epochs: int, interval_s: float) -> dict[str, Any]:
    data = dataset("breast_cancer")
    options = ("--allow-insecure", "--threads", "1", "--jobs-running", str(jobs))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        async with server(folder / "data", options) as running, Client(running.address) as client:
            asking = asyncio.get_running_loop().run_in_executor(pool, ask, running.address, jobs, interval_s)
            trained = await asyncio.gather(
                *(
                    client.train(
                        *(data.x_train, data.y_train, data.x_val, data.y_val),
                        preset_name=TEST_PRESET,
                        epochs=epochs,
                        patience=epochs,
                        learning_rate=0.1,
                        weight_bound=4.0,
                        softmax=SoftmaxSpec(extensions=3),
                    )
                    for _ in range(jobs)
                )
            )
            seconds, idle = await asking
    return {
        "jobs": jobs,
        "epochs": [job.history.epochs for job in trained],
        "calls": len(seconds),
        **quantiles(seconds, ""),
        # What a call takes on this machine that does nothing: the rest is GetJob's own.
        **quantiles(idle, "server_info_"),
        "load_average": round(os.getloadavg()[0], 1),
    }


def quantiles(seconds: list[float], prefix: str) -> dict[str, float]:
    values = {"p50": np.quantile(seconds, 0.5), "p90": np.quantile(seconds, 0.9), "p99": np.quantile(seconds, 0.99)}
    return {
        f"{prefix}{name}_ms": round(float(value) * 1e3, 2) for name, value in {**values, "max": max(seconds)}.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--jobs", type=int, default=4, metavar="N")
    parser.add_argument("--epochs", type=int, default=20, metavar="N", help="of each job (default 20)")
    parser.add_argument("--interval-ms", type=float, default=10.0, metavar="MS", help="between two calls (default 10)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the result there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hetal-latency-") as folder:
        found = asyncio.run(measure(Path(folder), args.jobs, args.epochs, args.interval_ms / 1000))
    result = {"machine": machine_facts(), **found}
    text = json.dumps(result, indent=1)
    print(text)
    if args.out is not None:
        args.out.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
