"""Kill -9 of server and worker at every failpoint, many times: prints how often, and fails at any loss.

    python scripts/crash_storm.py --rounds 20

Each round takes every point once, in another order, at its first or second passage. Exits with 1 where a classifier is
not bit for bit that of the undisturbed run; bytes that were acknowledged and are lost end it with their blob's name.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "robustness"))

from crash import TRAINING, UPLOADING, pairs, record_training, record_upload, storm, undisturbed

from hetal.server.failpoints import POINTS, WORKER

EPOCHS = 4
# A worker passes these once in its life.
ONCE = ("train.begin", "train.loaded", "train.restored")


def later(points: tuple[str, ...], rng: random.Random) -> list[str]:
    """The points in another order, each to strike at its first or its second passage."""
    shuffled = rng.sample(points, len(points))
    return [point if point in ONCE else f"{point}=kill@{rng.choice((1, 2))}" for point in shuffled]


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="strikes at each point")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began, rng = time.monotonic(), random.Random(arguments.seed)
    training, upload = record_training(EPOCHS, batch_size=24), record_upload()
    struck: Counter[str] = Counter()
    deaths = 0
    with tempfile.TemporaryDirectory(prefix="hetal-crash-") as folder:
        root = Path(folder)
        model = await undisturbed(training, root / "undisturbed")
        for number in range(arguments.rounds):
            uploads = [[point] for point in later(UPLOADING, rng)]
            trainings = pairs(later(TRAINING, rng), later(tuple(WORKER), rng))
            storms = await asyncio.gather(
                storm(upload, uploads, root / f"uploads-{number}"),
                storm(training, trainings, root / f"trainings-{number}"),
            )
            if set(storms[1].models) != {model}:
                print("a classifier is not that of the undisturbed run", file=sys.stderr)
                return 1
            deaths += sum(done.deaths for done in storms)
            struck.update(point for done in storms for point in done.struck)
            print(f"round {number + 1}: the server died {deaths} times", file=sys.stderr)
    least = min(struck[point] for point in POINTS)
    result = {
        "points": len(POINTS),
        "strikes_each": least,
        "strikes": sum(struck.values()),
        "server_deaths": deaths,
        "acknowledged_bytes_lost": 0,
        "classifiers_equal": True,
        "seconds": round(time.monotonic() - began),
    }
    print(json.dumps(result, indent=1))
    return 0 if least >= arguments.rounds else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
