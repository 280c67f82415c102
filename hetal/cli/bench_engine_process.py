"""The measuring process of ``hetal bench engine``: one backend, one thread count, keys and inputs from files."""

from __future__ import annotations

import argparse
import json
import math
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hetal.ckks.chain import engine_primes
from hetal.ckks.framing import Kind, unframe
from hetal.ckks.parameters import Parameters
from hetal.ckks.presets import preset
from hetal.kernels.evaluator import Ciphertext
from hetal.native import load_engine
from hetal.native.roofline import counting, counts_of
from hetal.native.roofline import report as roofline

KEYS: Final = "keys"
INPUTS: Final = "inputs"
RESULTS: Final = "results"
HOISTED: Final = tuple(range(1, 9))
LOW_LEVEL: Final = 4

Array = NDArray[np.float64]
Report = dict[str, Any]


def precision(results: dict[str, Array], values: Array) -> Report:
    """Errors of the results over all slots, absolute and in bits."""
    x, y = values
    due = {"mul": x * y, "rotate": np.roll(x, -1), "bootstrap": x}
    report = {}
    for name, slots in results.items():
        error = np.abs(slots - due[name])
        report[name] = {
            "max": float(error.max()),
            "mean": float(error.mean()),
            "max_bits": round(-math.log2(error.max()), 2),
            "mean_bits": round(-math.log2(error.mean()), 2),
        }
    return report


class Measurement:
    """Runs and times the operations of one evaluator."""

    def __init__(self, evaluator: Any, params: Parameters, directory: Path, repeats: int) -> None:
        self.ev, self.params, self.directory, self.repeats = evaluator, params, directory, repeats
        self.x, self.y = (evaluator.load((directory / INPUTS / str(i)).read_bytes()) for i in range(2))
        self.vector = np.random.default_rng(1).uniform(-1, 1, params.slots)
        self.seconds: dict[str, dict[str, float]] = {}

    def run(self, bootstraps: int) -> None:
        top = self.params.top_level
        for level in sorted({top, self.params.bootstrap_output_level, LOW_LEVEL}, reverse=True):
            self._level(level)
        entered = self.ev.drop(self.x, self.params.bootstrap_input_level)
        self._time("bootstrap", self.params.bootstrap_output_level, lambda: self.ev.bootstrap(entered), bootstraps)
        # Results at a level that every backend can send.
        self._keep("bootstrap", self.ev.bootstrap(entered))
        self._keep("mul", self.ev.mul(self.x, self.y))
        self._keep("rotate", self.ev.rotate(self.x, 1))

    def _level(self, level: int) -> None:
        ev = self.ev
        # Settled operands: a pending rescaling would be paid by the first of the repetitions alone.
        x, y = (ev.rotate(ev.drop(ct, level), 1) if level < self.params.top_level else ct for ct in (self.x, self.y))
        for operand in (x, y):
            ev.mul_plain(operand, self.vector)
        self._time("add", level, lambda: ev.add(x, y))
        self._time("mul_plain", level, lambda: ev.mul_plain(x, self.vector))
        self._time("mul_no_relin", level, lambda: ev.mul_no_relin(x, y))
        self._time("mul_relin", level, lambda: ev.mul(x, y))
        self._time("rotate", level, lambda: ev.rotate(x, 1))
        self._time("rotate_8_hoisted", level, lambda: ev.rotate_many(x, HOISTED))
        self._time("conjugate", level, lambda: ev.conjugate(x))

        def rescale() -> float:
            product = ev.mul_plain(x, self.vector)
            began = time.perf_counter()
            ev.mul_plain(product, self.vector)
            return time.perf_counter() - began

        plain = self.seconds["mul_plain"][str(level)]
        both = [rescale() for _ in range(self.repeats + 1)][1:]
        self.seconds.setdefault("rescale", {})[str(level)] = max(median(both) - plain, 1e-9)

    def _time(self, operation: str, level: int, work: Callable[[], Any], repeats: int | None = None) -> None:
        work()
        times = []
        for _ in range(repeats or self.repeats):
            began = time.perf_counter()
            work()
            times.append(time.perf_counter() - began)
        self.seconds.setdefault(operation, {})[str(level)] = median(times)

    def rooflines(self, limits: dict[str, float]) -> Report:
        """Of the native engine: counts, floors and shares of a rotation, a product and a bootstrap."""
        ev, ring = self.ev, self.ev.scheme.ring
        entered = ev.drop(self.x, self.params.bootstrap_input_level)
        top, output = str(self.params.top_level), str(self.params.bootstrap_output_level)
        works = {
            "rotate": (top, lambda: ev.rotate(self.x, 1)),
            "mul_relin": (top, lambda: ev.mul(self.x, self.y)),
            "bootstrap": (output, lambda: ev.bootstrap(entered)),
        }
        return {
            name: roofline(counts_of(ring, work), self.params.ring_dimension, limits, self.seconds[name][level])
            for name, (level, work) in works.items()
        }

    def _keep(self, name: str, result: Ciphertext) -> None:
        (self.directory / RESULTS / name).write_bytes(self.ev.dump(result))


def kernels(params: Parameters, threads: int) -> dict[str, float]:
    """Seconds of single limb kernels, and the machine's limits, with that many threads at work."""
    engine = load_engine()
    ring = engine.Ring(params.spec.log2_ring_dimension, engine_primes(params), (), (), 1)
    measured: dict[str, float] = engine.measure(ring, threads)
    return measured


def evaluator(backend: str, params: Parameters, key_tag: str, threads: int) -> Any:
    if backend == "native":
        from hetal.kernels.backends.native import NativeEvaluator

        return NativeEvaluator(params, key_tag, threads, engine=counting(load_engine()))
    from hetal.kernels.backends.openfhe import OpenFheEvaluator

    return OpenFheEvaluator(params, key_tag, threads)


def main() -> int:
    parser = argparse.ArgumentParser(prog="hetal.cli.bench_engine_process")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--backend", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--preset", required=True)
    parser.add_argument("--key-tag", required=True)
    parser.add_argument("--repeats", type=int, required=True)
    parser.add_argument("--bootstraps", type=int, required=True)
    args = parser.parse_args()
    params = preset(args.preset)
    began = time.perf_counter()
    ev = evaluator(args.backend, params, args.key_tag, args.threads)
    key_bytes = 0
    for path in sorted((args.directory / KEYS).iterdir()):
        kind = Kind.MULT_KEY if "mult" in path.name else Kind.ROTATION_KEYS
        data = path.read_bytes()
        key_bytes += len(data)
        ev.load_key(kind, unframe(data, kind, params.digest))
    loaded = time.perf_counter()
    ev.finish_keys(HOISTED)
    ready = time.perf_counter()
    measurement = Measurement(ev, params, args.directory, args.repeats)
    measurement.run(args.bootstraps)
    report: Report = {
        "load_s": loaded - began,
        "prepare_s": ready - loaded,
        "seconds": measurement.seconds,
        "key_bytes": key_bytes,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    if args.backend == "native":
        report["kernels"] = kernels(params, args.threads)
        report["roofline"] = measurement.rooflines(report["kernels"])
    json.dump(report, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
