"""Reads any number of mutants of OpenFHE's objects; prints a table of verdicts and, with --json, writes them.

    python scripts/fuzz_objects.py --mutants 1000000 --seed 0 --processes 4

The same seed gives the same mutants. Exits with 1 where a mutant was accepted that changes more than residues and free
fields, or raised anything but an error of hetal, or killed a process.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "robustness"))
from mutants import FAILURE, FREE, MUTATIONS, RESIDUES, Specimen, specimens, verdicts

# One object is some ten times as long as the others, so it gets fewer mutants.
LONG_BYTES = 1_000_000
LONG_SHARE = 0.25
CHUNK = 500

_made: list[Specimen] = []


def _begin(made: list[Specimen]) -> None:
    _made.extend(made)


def _run(task: tuple[int, str, int, int]) -> tuple[Counter[str], int]:
    which, mutation, seed, count = task
    found = verdicts(_made[which], mutation, seed, count)
    return found, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    made = specimens(options.seed)
    shares = [LONG_SHARE if len(specimen.data) > LONG_BYTES else 1.0 for specimen in made]
    tasks = []
    for which, share in enumerate(shares):
        left = -(-options.mutants // len(MUTATIONS)) * share / sum(shares)
        chunks = max(1, round(left / CHUNK + 0.5))
        for mutation in MUTATIONS:
            size = min(CHUNK, max(1, -(-int(left + 1) // chunks)))
            tasks += [(which, mutation, options.seed * 1_000_003 + chunk, size) for chunk in range(chunks)]

    started = time.monotonic()
    found: dict[tuple[str, str], Counter[str]] = {}
    peak = 0
    # Started afresh: a process that has OpenFHE's threads does not fork well.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.processes, context, initializer=_begin, initargs=(made,)) as pool:
        for (which, mutation, _, _), (counts, memory) in zip(tasks, pool.map(_run, tasks, chunksize=4), strict=True):
            found.setdefault((made[which].name, mutation), Counter()).update(counts)
            peak = max(peak, memory)

    total = sum(sum(counts.values()) for counts in found.values())
    print(f"{'object':<30}{'mutation':<32}{'mutants':>9}{'refused':>9}{'residues':>10}{'free':>7}{'FAILED':>8}")
    failed = 0
    for (name, mutation), counts in found.items():
        failures = sum(n for outcome, n in counts.items() if outcome.startswith(FAILURE))
        failed += failures
        size = sum(counts.values())
        refused = size - counts[RESIDUES] - counts[FREE] - failures
        print(f"{name:<30}{mutation:<32}{size:>9}{refused:>9}{counts[RESIDUES]:>10}{counts[FREE]:>7}{failures:>8}")
        for outcome in counts:
            if outcome.startswith(FAILURE):
                print(f"    {outcome}")
    seconds = time.monotonic() - started
    print(f"{total} mutants, {failed} failures, {seconds:.0f} s, {options.processes} processes, {peak >> 10} MiB each")
    if options.json:
        report = {
            "mutants": total,
            "failures": failed,
            "seed": options.seed,
            "seconds": round(seconds, 1),
            "processes": options.processes,
            "peak_mib_of_a_process": peak >> 10,
            "verdicts": [
                {"object": name, "mutation": mutation, "counts": dict(counts)}
                for (name, mutation), counts in found.items()
            ],
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
