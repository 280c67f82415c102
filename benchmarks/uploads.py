"""Many clients upload at once: the server's memory, the hashes of what arrived, the throughput beside the disk's own.

    python benchmarks/uploads.py --clients 32 --mib 1024 --out benchmarks/results/uploads.json

The disk's own throughput is that of one process which writes bytes in the same chunks to one file and syncs it, before
and after; a client's share of it is that over the number of clients.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final

import grpc
import psutil
from server_process import Running, server

from hetal import limits
from hetal._pb import hetal_pb2 as pb
from hetal._pb import hetal_pb2_grpc
from hetal.ckks.presets import preset
from hetal.cli.machine import machine_facts
from hetal.protocol.channel_options import client_options
from hetal.protocol.job import KEYS_MULT, PROTOCOL_VERSION, JobSpec
from hetal.protocol.wire import manifest_to_proto

RSS_GROWTH_BYTES_MAX: Final = 256 * limits.MIB
DISK_SHARE_MIN: Final = 0.6
SAMPLE_S: Final = 0.05
DISK_BYTES_MAX: Final = 4 * limits.GIB


def chunks(client: int, size_bytes: int) -> Iterator[bytes]:
    """Bytes of one client: random, and of no other chunk of any client."""
    block = bytearray(hashlib.shake_256(f"client {client}".encode()).digest(limits.CHUNK_BYTES))
    for offset in range(0, size_bytes, limits.CHUNK_BYTES):
        block[:8] = offset.to_bytes(8, "little")
        yield bytes(block[: min(limits.CHUNK_BYTES, size_bytes - offset)])


def digest(client: int, size_bytes: int) -> bytes:
    known = hashlib.sha256()
    for chunk in chunks(client, size_bytes):
        known.update(chunk)
    return known.digest()


async def upload(stub: Any, client: int, job_id: str, size_bytes: int, sha256: bytes) -> float:
    """Seconds until the server has acknowledged."""

    async def parts() -> Any:
        header = pb.UploadHeader(job_id=job_id, name=KEYS_MULT, bytes=size_bytes, sha256=sha256, offset=0)
        yield pb.UploadBlobRequest(header=header)
        offset = 0
        for chunk in chunks(client, size_bytes):
            yield pb.UploadBlobRequest(chunk=pb.UploadChunk(offset=offset, data=chunk))
            offset += len(chunk)

    began = time.monotonic()
    status = await stub.UploadBlob(parts())
    if not status.complete or status.sha256 != sha256:
        raise RuntimeError(f"client {client}: the server acknowledged something else")
    return time.monotonic() - began


def clients_of_one_process(
    address: str, jobs: dict[int, str], digests: dict[int, bytes], size_bytes: int
) -> list[float]:
    """Each client has a connection of its own."""

    async def all_at_once() -> list[float]:
        # Without an option of its own each, gRPC would give all clients of a process one connection.
        channels = [
            grpc.aio.insecure_channel(address, [*client_options(), ("grpc.use_local_subchannel_pool", 1)]) for _ in jobs
        ]
        try:
            stubs = [hetal_pb2_grpc.HetalStub(channel) for channel in channels]
            work = zip(stubs, jobs.items(), strict=True)
            return await asyncio.gather(
                *(upload(stub, client, job_id, size_bytes, digests[client]) for stub, (client, job_id) in work)
            )
        finally:
            for channel in channels:
                await channel.close(None)

    return asyncio.run(all_at_once())


def disk_throughput(folder: Path, total_bytes: int) -> float:
    """Bytes a second of one sequential writer, the sync included."""
    path = folder / "disk"
    began = time.monotonic()
    with path.open("wb", buffering=0) as file:
        for chunk in chunks(-1, total_bytes):
            file.write(chunk)
        os.fsync(file.fileno())
    seconds = time.monotonic() - began
    path.unlink()
    return total_bytes / seconds


async def peak_rss(pid: int) -> int:
    """Largest resident memory until cancelled."""
    process, peak = psutil.Process(pid), 0
    try:
        while True:
            peak = max(peak, process.memory_info().rss)
            await asyncio.sleep(SAMPLE_S)
    except asyncio.CancelledError:
        return peak


async def create_jobs(running: Running, count: int, size_bytes: int) -> dict[int, str]:
    spec = JobSpec(
        parameters=preset("default"),
        train_samples=8,
        validation_samples=4,
        features=3,
        classes=2,
        batch_size=8,
        epochs_max=1,
    )
    # The second blob never comes, so that no job starts to train.
    manifest = manifest_to_proto(spec, key_tag="benchmark", blobs={KEYS_MULT: size_bytes, "train/x/00000": 1})
    async with grpc.aio.insecure_channel(running.address, client_options()) as channel:
        stub: Any = hetal_pb2_grpc.HetalStub(channel)
        made = {}
        for client in range(count):
            request = pb.CreateJobRequest(
                idempotency_key=f"client {client}", manifest=manifest, protocol_version=PROTOCOL_VERSION
            )
            made[client] = (await stub.CreateJob(request)).id
        return made


def stored_hashes(data_dir: Path) -> set[bytes]:
    """Hashes of the files on disk, computed anew from their bytes."""
    found = set()
    for path in (data_dir / "objects").glob("??/*"):
        with path.open("rb") as file:
            known = hashlib.sha256()
            while data := file.read(limits.MIB):
                known.update(data)
        found.add(known.digest())
    return found


async def measure(folder: Path, clients: int, size_bytes: int, processes: int) -> dict[str, Any]:
    total = clients * size_bytes
    disk_before = disk_throughput(folder, min(total, DISK_BYTES_MAX))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        loop = asyncio.get_running_loop()
        known = await asyncio.gather(*(loop.run_in_executor(pool, digest, n, size_bytes) for n in range(clients)))
        digests = dict(enumerate(known))
        async with server(folder / "data") as running:
            jobs = await create_jobs(running, clients, size_bytes)
            before = psutil.Process(running.pid).memory_info().rss
            watching = asyncio.create_task(peak_rss(running.pid))
            began = time.monotonic()
            parts = [{n: jobs[n] for n in range(first, clients, processes)} for first in range(processes)]
            seconds = await asyncio.gather(
                *(
                    loop.run_in_executor(pool, clients_of_one_process, running.address, part, digests, size_bytes)
                    for part in parts
                    if part
                )
            )
            wall = time.monotonic() - began
            await asyncio.sleep(2 * SAMPLE_S)
            watching.cancel()
            peak = await watching
            cpu = psutil.Process(running.pid).cpu_times()
    right = await asyncio.to_thread(stored_hashes, folder / "data") == set(digests.values())
    shutil.rmtree(folder / "data")
    disk_after = disk_throughput(folder, min(total, DISK_BYTES_MAX))
    disk = 2 / (1 / disk_before + 1 / disk_after)
    each = sorted(second for part in seconds for second in part)
    return {
        "clients": clients,
        "mib_each": size_bytes / limits.MIB,
        "client_processes": processes,
        "seconds": round(wall, 2),
        "seconds_fastest_client": round(each[0], 2),
        "seconds_slowest_client": round(each[-1], 2),
        "mb_per_s": round(total / wall / 1e6, 1),
        "disk_mb_per_s_before": round(disk_before / 1e6, 1),
        "disk_mb_per_s_after": round(disk_after / 1e6, 1),
        "share_of_disk": round(total / wall / disk, 3),
        "rss_before_mib": round(before / limits.MIB, 1),
        "rss_peak_mib": round(peak / limits.MIB, 1),
        "rss_growth_mib": round((peak - before) / limits.MIB, 1),
        "server_cpu_s": round(cpu.user + cpu.system, 1),
        "hashes_right": right,
        "load_average": round(os.getloadavg()[0], 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clients", type=int, default=32, metavar="N")
    parser.add_argument("--mib", type=int, default=64, metavar="N", help="of each client (default 64)")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="that the clients share (default 2)")
    parser.add_argument("--dir", type=Path, metavar="DIR", help="on the disk to measure (default: temporary files)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the result there")
    args = parser.parse_args()
    size_bytes = args.mib * limits.MIB
    needed = args.clients * size_bytes + min(args.clients * size_bytes, DISK_BYTES_MAX) + limits.DISK_RESERVE_BYTES
    with tempfile.TemporaryDirectory(prefix="hetal-uploads-", dir=args.dir) as folder:
        free = shutil.disk_usage(folder).free
        if free < needed:
            print(f"{needed} bytes are needed below {folder}, {free} are free", file=sys.stderr)
            return 2
        found = asyncio.run(measure(Path(folder), args.clients, size_bytes, args.processes))
    result = {"machine": machine_facts(), **found}
    text = json.dumps(result, indent=1)
    print(text)
    if args.out is not None:
        args.out.write_text(text + "\n")
    return 0 if found["hashes_right"] and found["rss_growth_mib"] * limits.MIB <= RSS_GROWTH_BYTES_MAX else 1


if __name__ == "__main__":
    sys.exit(main())
