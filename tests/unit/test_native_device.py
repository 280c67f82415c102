"""Rings on a device, its launches run lane by lane on the CPU, against the CPU's own rings: the same residues."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from native_client import Client, small_parameters
from ring_program import CHAINS, RESIDUES, Program, chain, digests, programs, uniform

from hetal.errors import DeviceMemoryError
from hetal.native import load_engine
from hetal.native.bootstrap import Bootstrapper
from hetal.native.cuda.device import Device
from hetal.native.cuda.emulated import MEMORY_BYTES, EmulatedDriver, compiler
from hetal.native.cuda.engine import Engine
from hetal.native.transforms import bootstrap_automorphisms

engine = load_engine()
pytestmark = pytest.mark.skipif(compiler() is None, reason="needs a C++ compiler")


def open_device(integers: bool | None = None, memory_bytes: int = MEMORY_BYTES) -> Device:
    return Device("emulated", EmulatedDriver(memory_bytes), integers=integers)


@pytest.fixture
def device() -> Iterator[Device]:
    made = open_device()
    yield made
    made.close()


def results(program: Program, made: Any) -> dict[str, Any]:
    ring = program.ring(made)
    found: dict[str, Any] = program.run(ring)
    for limb, residues in enumerate(program.operands[0]):
        found[f"forward {limb}"] = made.forward_ntt(ring, residues, limb)
        found[f"inverse {limb}"] = made.inverse_ntt(ring, residues, limb)
    return found


def assert_same(program: Program, device: Device) -> None:
    due, got = results(program, engine), results(program, Engine(device))
    assert [name for name in due if not (due[name] == got[name]).all()] == []


@pytest.mark.parametrize("name", sorted(CHAINS))
@pytest.mark.parametrize("log2_dimension", [10, 11, 13])
def test_every_operation_gives_the_residues_of_the_cpu(name: str, log2_dimension: int, device: Device) -> None:
    assert_same(Program(name, log2_dimension, 4, 3, 2), device)


@pytest.mark.parametrize("name", ["mixed", "narrow"])
def test_at_the_dimension_of_the_presets_too(name: str, device: Device) -> None:
    assert_same(Program(name, 16, 3, 2, 2), device)


@pytest.mark.parametrize("name", sorted(CHAINS))
def test_integers_give_the_same_residues_where_doubles_are_slow(name: str) -> None:
    device = open_device(integers=True)
    assert_same(Program(name, 11, 4, 3, 2), device)
    device.close()


@pytest.mark.parametrize("name", sorted(CHAINS))
def test_sums_longer_than_an_accumulator_and_more_digits_than_a_batch(name: str, device: Device) -> None:
    assert_same(Program(name, 10, 20, 19, 18), device)
    assert_same(Program(name, 10, 18, 2, 1), device)


@pytest.mark.parametrize("name", sorted(CHAINS))
@pytest.mark.parametrize("shape", [(10, 4, 3, 2), (11, 4, 3, 2), (13, 4, 3, 2), (10, 16, 2, 2), (10, 10, 2, 1)])
def test_the_fused_key_switch_gives_the_residues_of_the_cpu(
    name: str, shape: tuple[int, int, int, int], device: Device
) -> None:
    """With up to eight digits; more take two launches."""
    program = Program(name, *shape)
    q_limbs, p_limbs = len(program.q), len(program.p)
    cpu, ring = program.ring(engine), program.ring(Engine(device))
    device.fused = True
    sums = ([made.from_residues(v, p_limbs) for v in program.operands] for made in (cpu, ring))
    (a, b, c, d), (a2, b2, c2, d2) = sums
    fused = 0
    for limbs in (1, 3, q_limbs):
        key, key2 = (made.read_key(*program.key, limbs, p_limbs) for made in (cpu, ring))
        low, before = cpu.truncate(a, limbs), (cpu.truncate(b, limbs), None)
        low2, before2 = ring.truncate(a2, limbs), (ring.truncate(b2, limbs), None)
        after, after2 = ([(c, d)], [(c2, d2)]) if limbs == q_limbs else (None, None)
        for index in (1, 5):
            with device.logged() as log:
                got = ring.switch(low2, [key2], [index], before2, after2)[0]
            fused += sum(launch.entry == "switch_rows" for launch in log)
            due = cpu.switch(low, [key], [index], before, after)[0]
            assert all((cpu.residues(x) == ring.residues(y)).all() for x, y in zip(due, got, strict=True))
    assert fused == (4 if -(-q_limbs // program.digit_limbs) > 8 else 6)


def test_a_bootstrap_gives_the_residues_of_the_cpu_each_time(device: Device) -> None:
    """The first call launches, the second records a graph, later ones replay it, with other inputs."""
    params = small_parameters()
    results = []
    for made in (engine, Engine(device)):
        client = Client(made, params)
        client.make_keys(bootstrap_automorphisms(params), low_limbs=params.bootstrap_input_level)
        bootstrapper = Bootstrapper(client.scheme, params)
        rng = np.random.default_rng(1)
        rows = []
        for _ in range(4):
            x = client.encrypt(rng.uniform(-1, 1, params.slots), params.bootstrap_input_level + 1)
            out = bootstrapper.bootstrap(x)
            rows.append((out.scale, out.degree, [client.ring.residues(part) for part in out.parts]))
        results.append(rows)
    for (scale, degree, due), (same_scale, same_degree, got) in zip(*results, strict=True):
        assert (scale, degree) == (same_scale, same_degree)
        assert all((a == b).all() for a, b in zip(due, got, strict=True))
    assert device.counts["replays"] == 3


def test_two_rings_share_what_both_have(device: Device) -> None:
    on_device = Engine(device)
    for made in (engine, on_device):
        q, p, _ = chain("narrow", 10, 3, 2)
        large, small = made.Ring(10, q, p, [], 2), made.Ring(10, q[:1], p, [], 1)
        a = large.from_residues(uniform([m for m, _ in q], 1024, 1))
        one = small.adopt(large.truncate(a, 1), large)
        assert (large.residues(large.adopt(one, small)) == large.residues(large.truncate(a, 1))).all()
        stranger = made.Ring(10, q[1:], p, [], 1)
        for ring, poly, source in ((small, a, large), (stranger, one, small)):
            with pytest.raises(ValueError, match="first prime"):
                ring.adopt(poly, source)


@pytest.mark.parametrize("on_device", [False, True])
def test_what_is_wrong_is_refused_as_on_the_cpu(on_device: bool, device: Device) -> None:
    q, p, _ = chain("narrow", 10, 3, 2)
    ring = (Engine(device) if on_device else engine).Ring(10, q, p, [], 2)
    residues = uniform([m for m, _ in q], 1024, 0)
    a = ring.from_residues(residues)
    low, key_bytes = ring.truncate(a, 2), bytes(2 * 2 * 5 * 8192)
    offsets = [[[8192 * i for i in range(5)]] * 2] * 2
    key = ring.read_key(key_bytes, offsets, 2, 1)
    compact = ring.from_coefficients(np.zeros(64), 3)
    residues[1, 700] = q[1][0]
    wrong: list[tuple[str | None, Any]] = [
        ("limb 1 ", lambda: ring.from_residues(residues)),
        ("a limb has N residues", lambda: ring.from_residues(residues[:, :512])),
        (r"4 \+ 0 limbs", lambda: ring.zeros(4)),
        ("operands of", lambda: ring.add(a, low)),
        ("a factor of", lambda: ring.multiply(a, low)),
        (None, lambda: ring.add(a, compact)),
        ("constant", lambda: ring.multiply_constants(a, [1, 2])),
        ("not below its modulus", lambda: ring.add_constants(a, [0, 0, q[2][0]])),
        ("exponent", lambda: ring.multiply_monomial(a, 2048)),
        ("automorphism 2", lambda: ring.automorphism(a, 2)),
        ("limbs of 3", lambda: ring.truncate(a, 4)),
        ("special", lambda: ring.mod_down(a)),
        (None, lambda: ring.rescale(ring.truncate(a, 1))),
        ("one limb", lambda: ring.raise_modulus(a, 3)),
        ("a key of", lambda: ring.switch(a, [key], [5])),
        ("for each key", lambda: ring.switch(low, [key], [])),
        ("an addend of", lambda: ring.switch(low, [key], [1], (a, None))),
        ("64", lambda: ring.dot([a] * 65, [a] * 65)),
        ("another length", lambda: ring.transform([(a, a)], [[a, a]])),
        ("outside", lambda: ring.read(bytes(100), [0], 1)),
        ("outside", lambda: ring.write(a, bytearray(8192), [0, 1, 2])),
        (None, lambda: ring.residues(compact)),
        ("2\\^62", lambda: ring.from_coefficients(np.full(64, np.nan), 1)),
        ("power of two", lambda: ring.from_coefficients(np.zeros(65), 1)),
        ("too few digits", lambda: ring.read_key(key_bytes, [[], []], 2, 1)),
        ("outside the key", lambda: ring.read_key(bytes(8), offsets, 2, 1)),
    ]
    for match, call in wrong:
        with pytest.raises(ValueError, match=match):
            call()


def test_keys_that_do_not_fit_come_and_go(device: Device) -> None:
    program = Program("mixed", 10, 4, 3, 2)
    due = program.run(program.ring(engine))
    q_limbs, p_limbs = len(program.q), len(program.p)
    # Of three keys two fit.
    on_device = Engine(device, key_bytes=10 * 7 * 8192)
    ring, cpu = program.ring(on_device), program.ring(engine)
    rng = np.random.default_rng(5)
    keys = [(ring.read_key(*program.key, q_limbs, p_limbs), cpu.read_key(*program.key, q_limbs, p_limbs))]
    for _ in range(2):
        data = bytearray(program.key[0])
        for offset in (o for half in program.key[1] for digit in half for o in digit):
            data[offset : offset + 8 * 1024] = rng.integers(0, 1 << 44, 1024, dtype=np.uint64).tobytes()
        both = (made.read_key(bytes(data), program.key[1], q_limbs, p_limbs) for made in (ring, cpu))
        keys.append((next(both), next(both)))
    assert device.counts["key_evictions"] == 1
    a, b = (made.from_residues(program.operands[0][:q_limbs]) for made in (ring, cpu))
    for number in (0, 1, 2, 2, 0, 1):
        key, other = keys[number]
        switched, wanted = ring.switch(a, [key], [5])[0], cpu.switch(b, [other], [5])[0]
        for x, y in zip(switched, wanted, strict=True):
            assert (ring.residues(x) == cpu.residues(y)).all()
        # Nothing of the next switch waits for the host.
        a = ring.mod_down(switched[0])
        b = cpu.mod_down(wanted[0])
    assert (device.counts["key_misses"], device.counts["key_hits"]) == (5, 1)
    assert device.counts["key_bytes_uploaded"] == 5 * keys[0][0].nbytes
    with pytest.raises(DeviceMemoryError, match="keys may hold"):
        ring.switch(a, [key for key, _ in keys], [1, 1, 1])
    del key, other, keys, switched
    gc.collect()
    last = ring.read_key(*program.key, 1, 1)
    assert on_device.keys.resident_bytes == last.nbytes
    again = program.run(program.ring(Engine(device)))
    assert all((due[name] == again[name]).all() for name in due)


def test_out_of_memory_is_an_error_with_the_bytes_and_later_work_goes_on() -> None:
    q, p, _ = chain("narrow", 10, 4, 2)
    device = open_device(memory_bytes=1 << 20)
    ring = Engine(device).Ring(10, q, p, [], 2)
    held = []
    with pytest.raises(DeviceMemoryError, match=r"32768 bytes are needed on emulated, and \d+ are free"):
        for _ in range(100):
            held.append(ring.zeros(4))
    count = len(held)
    held.clear()
    # Blocks of another size: those that lie idle are freed.
    held = [ring.zeros(2) for _ in range(2 * count)]
    assert (ring.residues(held[-1]) == 0).all()
    assert ring.pool_bytes <= 1 << 20
    device.close()


def test_keys_make_room_for_polynomials() -> None:
    q, p, _ = chain("narrow", 10, 4, 2)
    device = open_device(memory_bytes=1 << 20)
    ring = Engine(device).Ring(10, q, p, [], 2)
    data = np.zeros(6 * 1024, dtype=np.uint64).tobytes()
    offsets = [[[8192 * i for i in range(6)]] * 2] * 2
    keys = [ring.read_key(data, offsets, 4, 2) for _ in range(3)]
    held = [ring.zeros(4) for _ in range(13)]
    assert device.counts["key_evictions"] >= 1
    a = held.pop()
    held.clear()
    for key in keys:
        assert all((ring.residues(part) == 0).all() for part in ring.switch(a, [key], [5])[0])
    device.close()


def test_a_graph_holds_its_keys_and_gives_its_memory_back(device: Device) -> None:
    program = Program("narrow", 10, 4, 3, 2)
    ring, cpu = program.ring(Engine(device)), program.ring(engine)
    keys = [made.read_key(*program.key, 4, 3) for made in (ring, cpu)]

    def work(made: Any, key: Any, a: Any) -> list[Any]:
        return list(made.mod_down_pair(made.switch(a, [key], [5])[0]))

    for seed in range(5):
        residues = uniform([m for m, _ in program.q], 1024, seed)
        a, b = ring.from_residues(residues), cpu.from_residues(residues)
        got, rest = ring.replayed("switch", [a], lambda parts: (work(ring, keys[0], parts[0]), "rest"))
        assert rest == "rest"
        for x, y in zip(got, work(cpu, keys[1], b), strict=True):
            assert (ring.residues(x) == cpu.residues(y)).all()
    assert device.counts["replays"] == 4
    held = ring.pool_bytes
    ring.forget_recordings()
    del a, got, x
    device.pool.trim()
    assert ring.pool_bytes < held
    # Work that waits for the host is not recorded, and works all the same.
    for _ in range(3):
        a = ring.from_residues(residues)
        got, _ = ring.replayed("read", [a], lambda parts: ([ring.from_residues(ring.residues(parts[0]))], None))
        assert (ring.residues(got[0]) == residues).all()
    assert device.counts["replays"] == 4


def test_a_graph_keeps_what_it_reads(device: Device) -> None:
    """An operand from outside that everybody else has forgotten is not overwritten."""
    program = Program("narrow", 10, 4, 3, 2)
    ring = program.ring(Engine(device))
    residues = [uniform([m for m, _ in program.q], 1024, seed) for seed in range(3)]
    a, factor = ring.from_residues(residues[0]), [ring.from_residues(residues[1])]
    due = ring.residues(ring.multiply(a, factor[0]))
    for _ in range(2):
        ring.replayed("product", [a], lambda parts: ([ring.multiply(parts[0], factor[0])], None))
    factor.clear()
    others = [ring.from_residues(residues[2]) for _ in range(16)]
    (product,), _ = ring.replayed("product", [a], lambda parts: ([], None))
    assert (ring.residues(product) == due).all()
    del others


def test_several_polynomials_take_the_launches_of_one(device: Device) -> None:
    program = Program("mixed", 10, 4, 3, 2)
    ring, cpu = program.ring(Engine(device)), program.ring(engine)
    # More than a launch takes, and compact factors among others.
    polys, others = ([made.from_residues(v, 3) for v in program.operands * 5] for made in (ring, cpu))
    constants = [int(v) for v in program.operands[3][:, -1]]
    count = len(polys)
    cases: list[tuple[str, Any]] = [
        ("add", lambda ps, made: [ps[::-1]]),
        ("subtract", lambda ps, made: [ps[::-1]]),
        ("negate", lambda ps, made: []),
        ("multiply", lambda ps, made: [[*ps[1:], made.from_coefficients(np.arange(64.0), 4, 3)]]),
        ("multiply_constants", lambda ps, made: [[constants] * count]),
        ("multiply_monomial", lambda ps, made: [[77] * count]),
        ("mod_down", lambda ps, made: []),
    ]
    for operation, operands in cases:
        before = device.counts["launches"]
        got = ring.together(operation, polys, *operands(polys, ring))
        assert device.counts["launches"] - before <= 12
        rows = zip(others, *operands(others, cpu), strict=True)
        due = [getattr(cpu, operation)(*row) for row in rows]
        assert all((ring.residues(x) == cpu.residues(y)).all() for x, y in zip(got, due, strict=True)), operation
    low, low_cpu = ([made.truncate(p, 3) for p in ps] for made, ps in ((ring, polys), (cpu, others)))
    for x, y in zip(ring.together("rescale", low), low_cpu, strict=True):
        assert (ring.residues(x) == cpu.residues(cpu.rescale(y))).all()
    assert ring.together("negate", []) == []
    assert len(ring.together("add", polys[:3], polys[:2])) == 2


def test_the_residues_that_devices_are_compared_with_are_the_cpus() -> None:
    known = json.loads(RESIDUES.read_text())
    names = [name for name, _ in programs()]
    assert list(known) == names
    for name, program in programs():
        if program.log2_dimension < 12:
            assert digests(program.run(program.ring(engine))) == known[name]


def test_a_ring_on_a_device_has_all_that_the_cpus_has(device: Device) -> None:
    q, p, _ = chain("narrow", 10, 2, 1)
    ring, cpu = Engine(device).Ring(10, q, p, [], 2), engine.Ring(10, q, p, [], 2)
    assert {name for name in dir(cpu) if not name.startswith("_")} <= set(dir(ring))
    polys = [made.zeros(2, 1) for made in (cpu, ring)]
    assert {name for name in dir(polys[0]) if not name.startswith("_")} <= set(dir(polys[1]))
    assert polys[0].nbytes == polys[1].nbytes
