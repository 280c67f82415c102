"""Work of known sizes on a device, under keys made of random residues: their content changes no time.

What the work computes is compared with the CPU elsewhere; here it is only timed, or its launches are counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from statistics import median
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hetal.ckks.chain import chain_of, engine_prime_count
from hetal.ckks.parameters import Parameters
from hetal.cli.matmul_work import PAPER_SECONDS, Counts, Shape, operands, prepared
from hetal.kernels.backends.native import Cell, NativeEvaluator, bootstrap_key_limbs
from hetal.kernels.evaluator import Ciphertext
from hetal.kernels.plan import plan
from hetal.native.cuda.device import Device, Launch
from hetal.native.cuda.dry import DryDriver
from hetal.native.cuda.engine import Engine, open_engine
from hetal.native.cuda.predict import MACHINES, predicted
from hetal.native.scheme import Ct, Scheme
from hetal.protocol.job import JobSpec

# Below all moduli.
RESIDUE_BITS: Final = 20
# Ciphertexts that take turns: more than any cache holds.
INPUTS: Final = 16
WARM_UPS: Final = 3
HOISTED: Final = tuple(range(1, 9))
SEED: Final = 0

# Of the paper's products (Lee et al. 2023, table 1).
PAPER_LEVEL: Final = 12

Work = Callable[[], object]
Report = dict[str, Any]


class RandomScheme(Scheme):
    """Has a key for every automorphism, for ``key_limbs`` limbs, made when it is first asked for."""

    key_limbs = 1
    params: Parameters

    def automorphism_key(self, index: int, limbs: int, what: str) -> Any:
        if index not in self.automorphisms:
            self.automorphisms[index] = random_key(self.ring, self.params, self.key_limbs)
        return super().automorphism_key(index, limbs, what)


class RandomEvaluator(NativeEvaluator):
    """A native evaluator on a device, or on this processor, whose keys and ciphertexts are random.

    Args:
        engine: of :func:`hetal.native.load_engine`.
        level: of the ciphertexts that :meth:`encrypt` gives, and the highest at which keys rotate them.
    """

    def __init__(self, params: Parameters, engine: Any, level: int, threads: int = 1) -> None:
        super().__init__(params, "0" * 32, threads, engine=engine)
        scheme = RandomScheme(self.scheme.ring, self.scheme.chain)
        scheme.params, scheme.key_limbs = params, level + 1
        scheme.relinearization = random_key(scheme.ring, params, level + 1)
        self.scheme = scheme
        self._level = level
        self._inputs: list[Ct] = []
        self._given = 0

    def encrypt(self, vector: object = None) -> Ciphertext:
        """One of :data:`INPUTS` ciphertexts."""
        if len(self._inputs) < INPUTS:
            parts = tuple(random_poly(self.scheme.ring, self._level + 1) for _ in range(2))
            self._inputs.append(Ct(parts, self.scheme.canonical_scale(self._level + 1)))
        self._given += 1
        value = self._inputs[self._given % len(self._inputs)]
        return Ciphertext(Cell(value), value.level)

    def at(self, level: int) -> Ciphertext:
        """One of them, at a lower level."""
        whole: Ct = self.encrypt().payload.value
        ring, scheme = self.scheme.ring, self.scheme
        parts = tuple(ring.truncate(part, level + 1) for part in whole.parts)
        return Ciphertext(Cell(Ct(parts, scheme.canonical_scale(level + 1))), level)

    def settle(self, ct: Ciphertext) -> None:
        """Do the rescaling that is pending."""
        self._settled(ct)

    def keep_keys(self, levels: Mapping[int, int]) -> None:
        """Keys for rotations by steps, for the levels at which they are made."""
        for steps, level in levels.items():
            index = self.scheme.rotation_index(steps)
            if index not in self.scheme.automorphisms:
                self.scheme.automorphisms[index] = random_key(self.scheme.ring, self.params, level + 1)

    def prepare_bootstrap(self) -> None:
        """With the keys that a job keeps for it."""
        scheme, chain = self.scheme, self._expected.chain
        order = 2 * self.params.ring_dimension
        for index, limbs in bootstrap_key_limbs(self.params).items():
            if chain.encapsulation and index == order - 4:
                first, *auxiliary = chain.encapsulation
                log2 = self.params.spec.log2_ring_dimension
                small = self._engine.Ring(log2, [first], auxiliary, [], 1, scheme.ring.threads)
                scheme.encapsulation = small, _key(small, 1, len(auxiliary), 1, wire=(1 + len(auxiliary), 1))
                continue
            keys = [random_key(scheme.ring, self.params, count) for count in sorted(limbs)]
            scheme.reduced[index], scheme.automorphisms[index] = keys[:-1], keys[-1]
        top = random_key(scheme.ring, self.params, self.params.top_level + 1)
        scheme.relinearization = top
        self.finish_keys([])


def random_poly(ring: Any, q_limbs: int, p_limbs: int = 0) -> Any:
    return ring.from_residues(_words(q_limbs + p_limbs, ring.dimension), p_limbs)


def random_key(ring: Any, params: Parameters, q_limbs: int) -> Any:
    """For polynomials of up to that many limbs, with as many special primes as a real one."""
    chain = chain_of(params)
    return _key(
        ring,
        q_limbs,
        engine_prime_count(params, q_limbs),
        -(-q_limbs // chain.digit_limbs),
        wire=(len(chain.q) + len(chain.special), chain.digits),
    )


def _key(ring: Any, q_limbs: int, p_limbs: int, digits: int, *, wire: tuple[int, int]) -> Any:
    """``wire``: limbs and digits of a key's bytes."""
    if hasattr(ring, "keys"):
        return _fill(ring, q_limbs, p_limbs, digits)
    # All limbs from the same bytes.
    limbs, count = wire
    return ring.read_key(_words(1, ring.dimension).tobytes(), [[[0] * limbs] * count] * 2, q_limbs, p_limbs)


def _fill(ring: Any, q_limbs: int, p_limbs: int, digits: int) -> Any:
    size = (q_limbs + p_limbs) * 8 * ring.dimension
    key, address = ring.keys.make(q_limbs, p_limbs, digits, 2 * digits * size)
    one = random_poly(ring, q_limbs, p_limbs)
    for part in range(2 * digits):
        ring.device.copy(address + part * size, one.address, size)
    return key


def _words(limbs: int, dimension: int) -> NDArray[np.uint64]:
    return np.random.default_rng(SEED).integers(0, 1 << RESIDUE_BITS, (limbs, dimension), dtype=np.uint64)


def operations(ev: RandomEvaluator) -> Iterator[tuple[str, Work]]:
    """Operations at the evaluator's level, and a bootstrap: once :meth:`RandomEvaluator.prepare_bootstrap` ran."""
    x, y = ev.encrypt(), ev.encrypt()
    ring, scheme = ev.scheme.ring, ev.scheme
    key = scheme.rotation_key(1, x.level + 1)
    part = x.payload.value.parts[1]
    # As the kernels' masks are: a vector that cannot change is hashed once.
    vector = np.random.default_rng(SEED).uniform(-1, 1, ev.slots)
    vector.setflags(write=False)

    def key_switch(a: Any) -> list[Any]:
        return list(ring.mod_down_pair(ring.switch(a, [key], [5])[0]))

    yield "key_switch", lambda: key_switch(part)
    yield "key_switch_replayed", lambda: ring.replayed("bench", [part], lambda parts: (key_switch(parts[0]), None))
    yield "key_switch_fused", lambda: fused(ring.device, lambda: key_switch(part))
    yield "rotate", lambda: ev.rotate(x, 1)
    yield "rotate_8_hoisted", lambda: ev.rotate_many(x, HOISTED)
    yield "mul_relin", lambda: ev.mul(x, y)
    yield "mul_no_relin", lambda: ev.mul_no_relin(x, y)
    yield "mul_plain", lambda: ev.mul_plain(x, vector)
    yield "add", lambda: ev.add(x, y)
    yield "rescale", lambda: [ring.rescale(one) for one in x.payload.value.parts]


def fused(device: Device, work: Work) -> object:
    """The work with the fused key switch."""
    device.fused = True
    try:
        return work()
    finally:
        device.fused = False


def measure(ev: RandomEvaluator, work: Work, repeats: int) -> dict[str, float]:
    """Medians of single runs: ``seconds`` until the device is done, ``device_s`` between events around the launches,
    ``host_s`` until the last one is given."""
    device = ev.scheme.ring.device
    for _ in range(WARM_UPS):
        work()
    whole, inside, host = [], [], []
    for _ in range(repeats):
        start, end = device.driver.event(), device.driver.event()
        device.synchronize()
        began = time.perf_counter()
        device.driver.record(start, device.compute)
        work()
        device.driver.record(end, device.compute)
        given = time.perf_counter()
        device.synchronize()
        whole.append(time.perf_counter() - began)
        host.append(given - began)
        inside.append(device.driver.elapsed_s(start, end))
    return {"seconds": median(whole), "device_s": median(inside), "host_s": median(host)}


def launches_of(ev: RandomEvaluator, work: Work) -> tuple[list[Launch], float]:
    """That a second run gives, and the processor's seconds that it takes to give them: the first one makes tables."""
    device: Device = ev.scheme.ring.device
    work()
    with device.logged() as log:
        began = time.thread_time()
        work()
        host_s = time.thread_time() - began
    return log, host_s


class Bench:
    """One device, there or pretended.

    Args:
        device: its name; where ``predict`` is given, that of nothing.
        predict: key of :data:`hetal.native.cuda.predict.MACHINES`.
        repeats: of each measurement.

    Attributes:
        head: of every report.
    """

    def __init__(self, params: Parameters, device: str, predict: str | None, repeats: int) -> None:
        self.params = params
        self._repeats = repeats
        self._machine = MACHINES[predict] if predict else None
        self._name = device if self._machine is None else self._machine.name
        engine = self.open()
        opened = engine.device
        self.head: Report = {
            "preset": params.name,
            "ring_dimension": params.ring_dimension,
            "limbs": params.top_level + 1,
            "digits": params.spec.digits,
            "predicted": self._machine is not None,
            "device": asdict(self._machine or opened.driver.facts) | {"integers": opened.integers},
        }
        engine.close()

    def open(self, key_bytes: int | None = None) -> Engine:
        if self._machine is None:
            return open_engine(self._name, key_bytes)
        return Engine(Device(self._name, DryDriver(self._machine.architecture)), key_bytes)

    def time(self, ev: RandomEvaluator, work: Work, repeats: int | None = None) -> Report:
        """Seconds of the work, measured or predicted; ``host_s`` of a prediction is what Python took on this machine to
        give the launches, without the driver's share."""
        if self._machine is not None:
            launches, host_s = launches_of(ev, work)
            return {**predicted(launches, self._machine), "host_s": host_s}
        return measure(ev, work, repeats or self._repeats)


def engine_report(bench: Bench, bootstraps: int) -> Report:
    """Operations at the top level and at the paper's, and a bootstrap."""
    params = bench.params
    levels: Report = {}
    for level in sorted({params.top_level, min(PAPER_LEVEL, params.top_level)}, reverse=True):
        engine = bench.open()
        ev = RandomEvaluator(params, engine, level)
        levels[str(level)] = {name: bench.time(ev, work) for name, work in operations(ev)}
        ev.close()
    engine = bench.open()
    ev = RandomEvaluator(params, engine, params.top_level)
    ev.prepare_bootstrap()
    entered = ev.drop(ev.encrypt(), params.bootstrap_input_level)
    bootstrap = bench.time(ev, lambda: ev.bootstrap(entered), bootstraps)
    ev.scheme.ring.forget_recordings()
    bootstrap_fused = bench.time(ev, lambda: fused(engine.device, lambda: ev.bootstrap(entered)), bootstraps)
    held, counts = engine.device.pool.held_bytes, dict(engine.device.counts)
    ev.close()
    return {
        **bench.head,
        "levels": levels,
        "bootstrap": bootstrap,
        "bootstrap_fused": bootstrap_fused,
        "memory_bytes": held,
        "counts": counts,
    }


def keys_report(bench: Bench) -> Report:
    """Rotations by :data:`HOISTED` steps one after the other, with all keys on the device, and with half of them."""
    params = bench.params
    level = min(PAPER_LEVEL, params.top_level)
    report: Report = {**bench.head, "level": level, "rotations": len(HOISTED)}
    key_bytes: int | None = None
    for name in ("all", "half"):
        engine = bench.open(key_bytes)
        ev = RandomEvaluator(params, engine, level)
        x = ev.encrypt()

        def work(ev: RandomEvaluator = ev, x: Ciphertext = x) -> None:
            for steps in HOISTED:
                ev.rotate(x, steps)

        timing = bench.time(ev, work)
        key_bytes = engine.keys.resident_bytes // 2
        report[name] = {**timing, "counts": dict(engine.device.counts)}
        ev.close()
    return report


def matmul_report(bench: Bench, shapes: Mapping[Shape, Mapping[str, Counts]]) -> Report:
    """Per shape and product the seconds at the paper's level, measured or predicted, beside the paper's on an A40.

    PrivGD's are its counts times the seconds of single operations, as the paper's are. Shapes that do not fit into the
    preset's slots are left out.
    """
    params = bench.params
    level = min(PAPER_LEVEL, params.top_level)
    engine = bench.open()
    ev = RandomEvaluator(params, engine, level)
    x, vector = ev.encrypt(), np.ones(ev.slots)
    vector.setflags(write=False)
    works: dict[str, Work] = {
        "mul_plain": lambda: ev.mul_plain(x, vector),
        "mul": lambda: ev.mul(x, x),
        "rotate": lambda: ev.rotate(x, 1),
    }
    units = {name: bench.time(ev, work)["seconds"] for name, work in works.items()}
    rows = []
    for shape, products in shapes.items():
        if shape.a * shape.c > ev.slots:
            continue
        paper = PAPER_SECONDS.get(shape, {})
        columns: dict[str, Any] = {}
        for name, counts in products.items():
            seconds: Report
            if name.startswith("privgd"):
                total = sum(count * unit for count, unit in zip(counts, units.values(), strict=True))
                seconds = {"seconds": total, "by_counts": True}
            else:
                seconds = bench.time(ev, prepared(ev, name, operands(shape)))
            columns[name] = {**seconds, "paper_s": paper.get(name)}
        rows.append({"a": shape.a, "b": shape.b, "c": shape.c, "columns": columns})
    ev.close()
    return {**bench.head, "level": level, "units_s": units, "shapes": rows}


def training_report(bench: Bench, job: JobSpec) -> Report:
    """One iteration of a training, by the circuit that its plan chooses."""
    chosen = plan(job)
    circuit, levels = chosen.circuit, chosen.circuit.levels
    engine = bench.open()
    ev = RandomEvaluator(bench.params, engine, bench.params.top_level)
    ev.prepare_bootstrap()
    ev.keep_keys(chosen.rotation_levels)
    ev.schedule = dict(getattr(circuit, "schedule", {}))
    rows = job.batch_rows(0)
    state = circuit.begin(ev, [ev.at(levels.weights) for _ in range(circuit.weights_count)])
    x = [ev.at(levels.features) for _ in range(circuit.features_count(rows))]
    y = [ev.at(levels.labels) for _ in range(circuit.labels_count(rows))]
    # The state of a training that goes on has the levels that an iteration leaves.
    state = circuit.iterate(ev, state, x, y, step=0, rows=rows)
    timing = bench.time(ev, lambda: circuit.iterate(ev, state, x, y, step=1, rows=rows))
    held = engine.device.pool.held_bytes
    ev.close()
    shape = {"rows": rows, "columns": job.columns, "classes": job.classes, "method": job.method}
    operations = {**shape, "bootstraps": chosen.bootstraps, "circuit": type(circuit).__name__}
    return {**bench.head, **operations, "iteration": timing, "memory_bytes": held}
