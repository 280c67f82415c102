"""Measures what single operations cost on this machine, on random keys and ciphertexts: content changes no time."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from hetal._version import __version__
from hetal.ckks.parameters import Parameters
from hetal.cli.device_work import HOISTED, SEED, RandomEvaluator, random_key
from hetal.kernels.cost import CostTable
from hetal.native import load_engine
from hetal.processor import processor_name

# Sums of products that are rescaled once, as masks and series make them.
TERMS: Final = 4
ITEMS: Final = 8
REPEATS: Final = 5
BOOTSTRAPS: Final = 3
LOW_LEVEL: Final = 2

Item = Any
Work = Callable[[Item], object]


def measure_costs(params: Parameters, threads: int) -> CostTable:
    """The fastest of a few runs at a low, a middle and the top level; all but bootstraps in batches for the threads.

    Raises:
        BackendError: the native engine is not built.
    """
    points: dict[str, dict[float, float]] = {}
    for level in sorted({LOW_LEVEL, params.top_level // 2, params.top_level}):
        ev = RandomEvaluator(params, load_engine(), level, threads)
        for name, result, seconds in _operations(ev, level):
            points.setdefault(name, {})[float(result)] = seconds
        ev.close()
        gc.collect()
    points |= _bootstraps(params, threads)
    source = f"measured on {processor_name()}, {threads} thread{'' if threads == 1 else 's'}, hetal {__version__}"
    return CostTable(source, points)


def _operations(ev: RandomEvaluator, level: int) -> list[tuple[str, int, float]]:
    """(operation, level of its result, seconds)."""
    params, scheme = ev.params, ev.scheme
    # A job keeps these keys for all levels, for the bootstrap's sake.
    whole = random_key(scheme.ring, params, params.top_level + 1)
    scheme.relinearization = scheme.automorphisms[2 * params.ring_dimension - 1] = whole
    rng = np.random.default_rng(SEED)
    vectors = [rng.uniform(-1, 1, params.slots) for _ in range(TERMS)]
    items = [ev.at(level) for _ in range(ITEMS)]
    terms = [ev.at(level) for _ in range(TERMS)]
    products = [ev.mul_no_relin(item, item) for item in items]
    blob = ev.dump(items[0])

    def sum_of_products(factors: list[Any]) -> Work:
        return lambda _: ev.settle(ev.combine(terms, factors))

    def each(work: Work, some: list[Item] = items, parts: int = 1) -> float:
        return _seconds(lambda: ev.map(work, some), REPEATS) / (len(some) * parts)

    return [
        ("add", level, each(lambda x: ev.add(x, x))),
        ("mul", level - 1, each(lambda x: ev.mul_no_relin(x, x))),
        ("relin", level - 1, each(ev.relinearize, products)),
        ("mul_plain", level - 1, each(sum_of_products(list(vectors)), parts=TERMS)),
        ("mul_scalar", level - 1, each(sum_of_products([0.5] * TERMS), parts=TERMS)),
        ("rotate", level, each(lambda x: ev.rotate(x, 1))),
        ("rotate_hoisted", level, each(lambda x: ev.rotate_many(x, HOISTED), parts=len(HOISTED))),
        ("conjugate", level, each(ev.conjugate)),
        ("load", level, each(lambda _: ev.load(blob))),
    ]


def _bootstraps(params: Parameters, threads: int) -> dict[str, dict[float, float]]:
    ev = RandomEvaluator(params, load_engine(), params.top_level, threads)
    ev.prepare_bootstrap()
    entered = ev.at(params.bootstrap_input_level)
    measured = {
        "bootstrap": {float(params.bootstrap_output_level): _seconds(lambda: ev.bootstrap(entered), BOOTSTRAPS)},
        "phase": {float(params.phase_output_level): _seconds(lambda: ev.phase(entered, 1.0), BOOTSTRAPS)},
    }
    ev.close()
    return measured


def _seconds(work: Callable[[], object], repeats: int) -> float:
    """Of the fastest run, after one that makes tables: what other programs take of the machine does not count."""
    work()
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken)
