"""Work of known sizes on a device, under keys made of random residues: their content changes no time.

What the work computes is compared with the CPU elsewhere; here it is only timed, or its launches are counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hetal.ckks.chain import engine_prime_count
from hetal.ckks.parameters import Parameters
from hetal.kernels.backends.native import Cell, NativeEvaluator, bootstrap_key_limbs
from hetal.kernels.evaluator import Ciphertext
from hetal.native.cuda.device import Device, Launch
from hetal.native.cuda.engine import Engine
from hetal.native.scheme import Ct, Scheme

# Below all moduli.
RESIDUE_BITS: Final = 20
# Ciphertexts that take turns: more than any cache holds.
INPUTS: Final = 16
WARM_UPS: Final = 3
HOISTED: Final = tuple(range(1, 9))
SEED: Final = 0

Work = Callable[[], object]


class RandomScheme(Scheme):
    """Has a key for every automorphism, for ``key_limbs`` limbs, made when it is first asked for."""

    key_limbs = 1
    params: Parameters

    def automorphism_key(self, index: int, limbs: int, what: str) -> Any:
        if index not in self.automorphisms:
            self.automorphisms[index] = random_key(self.ring, self.params, self.key_limbs)
        return super().automorphism_key(index, limbs, what)


class RandomEvaluator(NativeEvaluator):
    """A native evaluator on a device whose keys and ciphertexts are random.

    Args:
        level: of the ciphertexts that :meth:`encrypt` gives, and the highest at which keys rotate them.
    """

    def __init__(self, params: Parameters, engine: Engine, level: int) -> None:
        super().__init__(params, "0" * 32, engine=engine)
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

    def prepare_bootstrap(self) -> None:
        """With the keys that a job keeps for it."""
        scheme, chain = self.scheme, self._expected.chain
        order = 2 * self.params.ring_dimension
        for index, limbs in bootstrap_key_limbs(self.params).items():
            if chain.encapsulation and index == order - 4:
                first, *auxiliary = chain.encapsulation
                log2 = self.params.spec.log2_ring_dimension
                small = self._engine.Ring(log2, [first], auxiliary, [], 1)
                scheme.encapsulation = small, _fill(small, 1, len(auxiliary), 1)
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
    digit_limbs = -(-(params.top_level + 1) // params.spec.digits)
    return _fill(ring, q_limbs, engine_prime_count(params, q_limbs), -(-q_limbs // digit_limbs))


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
    vector = np.random.default_rng(SEED).uniform(-1, 1, ev.slots)

    def key_switch(a: Any) -> list[Any]:
        return list(ring.mod_down_pair(ring.switch(a, [key], [5])[0]))

    yield "key_switch", lambda: key_switch(part)
    yield "key_switch_replayed", lambda: ring.replayed("bench", [part], lambda parts: (key_switch(parts[0]), None))
    yield "rotate", lambda: ev.rotate(x, 1)
    yield "rotate_8_hoisted", lambda: ev.rotate_many(x, HOISTED)
    yield "mul_relin", lambda: ev.mul(x, y)
    yield "mul_no_relin", lambda: ev.mul_no_relin(x, y)
    yield "mul_plain", lambda: ev.mul_plain(x, vector)
    yield "add", lambda: ev.add(x, y)
    yield "rescale", lambda: [ring.rescale(one) for one in x.payload.value.parts]


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
    """That a second run gives, and the seconds in which it gives them: the first one makes tables."""
    device: Device = ev.scheme.ring.device
    work()
    with device.logged() as log:
        began = time.perf_counter()
        work()
        host_s = time.perf_counter() - began
    return log, host_s
