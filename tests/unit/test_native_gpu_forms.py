"""The GPU form of every kernel, run lane by lane on the CPU, against the CPU's own kernels: the same residues."""

from __future__ import annotations

import pytest
from ring_program import CHAINS, Array, Program, chain, primes, uniform

from hetal.native import load_engine

engine = load_engine()


def run(program: Program, variant: str) -> dict[str, Array]:
    ring = program.ring(engine, variant)
    assert ring.variant == variant
    results = program.run(ring)
    for limb, residues in enumerate(program.operands[0]):
        results[f"forward {limb}"] = engine.forward_ntt(ring, residues, limb)
        results[f"inverse {limb}"] = engine.inverse_ntt(ring, residues, limb)
    return results


def assert_same(program: Program, variants: list[str]) -> None:
    emulated = run(program, "emulated")
    for variant in variants:
        due = run(program, variant)
        different = [name for name in due if not (due[name] == emulated[name]).all()]
        assert not different, variant


@pytest.mark.parametrize("name", sorted(CHAINS))
@pytest.mark.parametrize("log2_dimension", [10, 11, 13])
def test_every_operation_gives_the_residues_of_every_instruction_set(name: str, log2_dimension: int) -> None:
    assert_same(Program(name, log2_dimension, 4, 3, 2), engine.variants())


@pytest.mark.parametrize("name", ["mixed", "narrow", "tight"])
def test_at_the_dimension_of_the_presets_too(name: str) -> None:
    assert_same(Program(name, 16, 3, 2, 2), engine.variants()[:1])


@pytest.mark.parametrize("log2_dimension", [12, 14, 15, 17])
def test_transforms_of_every_other_size(log2_dimension: int) -> None:
    moduli = [primes(bits, 1, log2_dimension, 0)[0] for bits in (49, 50, 60)]
    operands = uniform([m for m, _ in moduli], 1 << log2_dimension, 1)
    rings = [engine.Ring(log2_dimension, moduli, [], [], 1, 1, v) for v in ("emulated", engine.variants()[0])]
    for limb, residues in enumerate(operands):
        forward, inverse = (
            [f(ring, residues, limb) for ring in rings] for f in (engine.forward_ntt, engine.inverse_ntt)
        )
        assert (forward[0] == forward[1]).all()
        assert (inverse[0] == inverse[1]).all()


@pytest.mark.parametrize("name", sorted(CHAINS))
def test_sums_longer_than_an_accumulator(name: str) -> None:
    """19 sources and a rounded quotient make two or three groups; 40 terms of a transform make three or five."""
    assert_same(Program(name, 10, 20, 19, 18), engine.variants()[:1])
    q, _, _ = chain(name, 10, 3, 1)
    residues = [uniform([m for m, _ in q], 1024, seed) for seed in range(6)]
    results = []
    for variant in ("emulated", engine.variants()[0]):
        ring = engine.Ring(10, q, [], [], 1, 1, variant)
        polys = [ring.from_residues(v) for v in residues]
        terms = [polys[k % 5] for k in range(40)]
        factors = [[None if (k + g) % 7 == 0 else polys[(k + g) % 6] for k in range(40)] for g in range(3)]
        rows = ring.transform([(x, polys[5]) for x in terms], factors)
        results.append([ring.residues(p) for p in (*(p for row in rows for p in row), ring.dot(terms, terms))])
    assert all((x == y).all() for x, y in zip(*results, strict=True))


def test_a_residue_that_is_not_below_its_modulus_is_refused() -> None:
    q, _, _ = chain("mixed", 10, 2, 1)
    ring = engine.Ring(10, q, [], [], 1, 1, "emulated")
    residues = uniform([m for m, _ in q], 1024, 0)
    residues[1, 700] = q[1][0]
    with pytest.raises(ValueError, match="limb 1"):
        ring.from_residues(residues)


def test_it_is_not_offered_as_an_instruction_set() -> None:
    assert "emulated" not in engine.variants()
    q, _, _ = chain("narrow", 10, 1, 1)
    assert engine.Ring(10, q, [], [], 1).variant != "emulated"
