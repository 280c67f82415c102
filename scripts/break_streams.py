"""Thousands of cancelled, reset and abandoned streams: prints by how much the server's front has grown, in MiB.

    python scripts/break_streams.py --streams 10000

Exits with 1 where it has grown by more than 10 MiB after the warm-up.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "robustness"))
from streams import MIB, growth_bytes

GROWTH_MIB_MAX = 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--warm-up", type=int, default=2_000)
    arguments = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hetal-streams-") as folder:
        growth, after = asyncio.run(growth_bytes(Path(folder), arguments.warm_up, arguments.streams))
    result = {
        "streams": arguments.streams,
        "growth_mib": round(growth / MIB, 1),
        "resident_mib": round(after / MIB, 1),
        "seconds": round(time.monotonic() - began),
    }
    print(json.dumps(result, indent=1))
    return 0 if growth <= GROWTH_MIB_MAX * MIB else 1


if __name__ == "__main__":
    sys.exit(main())
