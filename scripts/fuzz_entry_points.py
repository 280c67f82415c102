"""Feeds mutants to everything that the front process reads; prints a table of verdicts and, with --json, writes them.

    python scripts/fuzz_entry_points.py --runs 1000000 --seed 0 --processes 2

Each process has a server of its own. Its calls pass the real interceptors and handlers; before, a real training gives
it a finished job, and another one runs meanwhile. The same seed gives the same mutants, though not the same
interleaving. Exits with 1 where an entry point crashed or hung, a job that no mutant names was changed, the training
gave other losses than before, or the server did not answer at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "robustness"))
import entry_points
from entry_points import FAILURE, PURE, RPCS, StoredMetadata, calls, failures, garbage, http, train, witness

# Shares of all runs. A damaged database costs milliseconds, a frame microseconds.
SHARES = {
    "framing": 0.2,
    "manifest": 0.2,
    "snapshot": 0.1,
    "worker line": 0.08,
    "database": 0.01,
    "http": 0.025,
    "socket": 0.005,
    **dict.fromkeys(RPCS, 0.38 / len(RPCS)),
}
LOSS_TOLERANCE = 1e-3
BATCH = 200
# Not one: JOBS_KEPT jobs of each process queue for its single worker, which the training needs too.
WORKERS = 3

Found = dict[str, Counter[str]]


def run(task: tuple[int, int, bool]) -> tuple[Found, list[str], int]:
    """The share of one process: verdicts, what else went wrong, and its peak memory in bytes."""
    seed, runs, with_training = task
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="hetal-fuzz-") as name:
        return asyncio.run(_run(Path(name), seed, runs, with_training))


async def _run(folder: Path, seed: int, runs: int, with_training: bool) -> tuple[Found, list[str], int]:
    found: Found = {}
    wrong: list[str] = []
    counts = {name: max(1, round(share * runs)) for name, share in SHARES.items()}
    for name, read in PURE.items():
        rng = np.random.default_rng((seed, len(found)))
        found[name] = Counter(read(rng) for _ in range(counts[name]))
    database = StoredMetadata(folder)
    rng = np.random.default_rng((seed, len(found)))
    found["database"] = Counter(database(rng) for _ in range(counts["database"]))

    options = {"jobs_running": WORKERS, "http_address": "127.0.0.1:0"}
    async with calls(folder / "data", **options) as running:
        losses: list[float] = []
        if with_training:
            running.finished, losses, running.features = await train(running.server.port)
        looks = await witness(running)
        before = await looks()
        other = asyncio.ensure_future(train(running.server.port)) if with_training else None
        left = {name: counts[name] for name in (*RPCS, "http", "socket")}
        rngs = {name: np.random.default_rng((seed, 100 + index)) for index, name in enumerate(left)}
        while any(left.values()):
            for name in left:
                tally = found.setdefault(name, Counter())
                for _ in range(min(BATCH, left[name])):
                    if name == "socket":
                        tally[await garbage(rngs[name], running.server.port)] += 1
                    elif name == "http":
                        tally[await http(rngs[name], running.server.http_port or 0)] += 1
                    else:
                        tally[await running.fuzz(name, rngs[name])] += 1
                left[name] -= min(BATCH, left[name])
        if other is not None:
            _, again, _ = await asyncio.wait_for(other, 600)
            if len(again) != len(losses) or not np.allclose(again, losses, atol=LOSS_TOLERANCE):
                wrong.append(f"the training beside gave the losses {again} in place of {losses}")
        if await looks() != before:
            wrong.append("the witness job was changed")
        if await running.call("GetServerInfo", [b""]) != entry_points.ANSWERED:
            wrong.append("the server does not answer any more")
    return found, wrong, psutil.Process().memory_info().rss


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1_000_000, help="of all entry points together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--no-training", action="store_true", help="no real training before and beside")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    started = time.monotonic()
    share = -(-options.runs // options.processes)
    tasks = [(options.seed * 1000 + i, share, not options.no_training) for i in range(options.processes)]
    context = multiprocessing.get_context("spawn")
    found: Found = {}
    wrong: list[str] = []
    with ProcessPoolExecutor(options.processes, context) as pool:
        for tallies, more, _ in pool.map(run, tasks):
            wrong += more
            for name, tally in tallies.items():
                found.setdefault(name, Counter()).update(tally)

    print(f"{'entry point':<16}{'runs':>9}{'answered':>10}{'refused':>10}{'FAILED':>8}  most frequent refusals")
    for name, tally in found.items():
        total, bad, answered = sum(tally.values()), failures(tally), tally[entry_points.ANSWERED]
        refusals = [f"{code} {n}" for code, n in tally.most_common() if code != entry_points.ANSWERED][:3]
        print(f"{name:<16}{total:>9}{answered:>10}{total - bad - answered:>10}{bad:>8}  {', '.join(refusals)}")
        for outcome, number in tally.items():
            if outcome.startswith(FAILURE):
                print(f"    {number} x {outcome}")
    for text in wrong:
        print(f"WRONG: {text}")
    total, bad = sum(sum(tally.values()) for tally in found.values()), sum(map(failures, found.values()))
    seconds = time.monotonic() - started
    print(f"{total} runs, {bad} failures, {len(wrong)} other faults, {seconds:.0f} s, {options.processes} processes")
    if options.json:
        report = {
            "runs": total,
            "failures": bad,
            "other_faults": wrong,
            "seed": options.seed,
            "seconds": round(seconds, 1),
            "processes": options.processes,
            "verdicts": {name: dict(tally) for name, tally in found.items()},
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if bad or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
