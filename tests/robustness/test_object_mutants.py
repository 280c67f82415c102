"""At least 12,000 mutants of every kind of object: each is an error of our tree, or changes what nothing contradicts.

scripts/fuzz_objects.py runs as many as one likes.
"""

from __future__ import annotations

import numpy as np
import pytest
from mutants import (
    FAILURE,
    FREE,
    MUTATIONS,
    RESIDUES,
    Specimen,
    mutants,
    short_parameters,
    specimens,
    verdict,
    verdicts,
)

from hetal.ckks.chain import chain_of
from hetal.ckks.objects import ciphertext_limbs

SPECIMENS = {specimen.name: specimen for specimen in specimens()}
LONGEST = "rotation keys, encapsulation"
PER_MUTATION = 110
# Of the longest object, whose reading takes milliseconds.
PER_MUTATION_LONGEST = 30
OF_RESIDUES = {"a bit anywhere", "two limbs swapped", "a residue replaced"}


@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize("name", SPECIMENS)
def test_mutants(name: str, mutation: str) -> None:
    count = PER_MUTATION_LONGEST if name == LONGEST else PER_MUTATION
    found = verdicts(SPECIMENS[name], mutation, 1, count)
    assert sum(found.values()) == count
    assert not [outcome for outcome in found if outcome.startswith(FAILURE)]
    # Mutations of the structure do not even change residues.
    assert (found[RESIDUES] > 0) == (mutation in OF_RESIDUES)


@pytest.mark.parametrize("name", SPECIMENS)
def test_specimens_are_sound_and_mapped(name: str) -> None:
    """Limbs and fields cover everything behind the head, so that no byte escapes mutation."""
    specimen = SPECIMENS[name]
    specimen.read(specimen.data, check_residues=True)
    covered = np.zeros(len(specimen.data), bool)
    covered[: specimen.head_end] = True
    for start, end, _ in specimen.limbs:
        covered[start:end] = True
    for at, size in specimen.fields:
        covered[at : at + size] = True
    # The words of composite moduli are longer than any field.
    assert (~covered).sum() <= 8 * 8 * len(specimen.limbs)


def test_mutants_are_the_seeds() -> None:
    specimen = SPECIMENS["mult key"]
    for mutation in MUTATIONS:
        first, again, other = (list(mutants(specimen, mutation, seed, 5)) for seed in (4, 4, 5))
        assert first == again != other


def test_an_accepted_change_is_noticed() -> None:
    """The judge itself: what it is told to be free or a residue, and nothing else."""
    specimen = SPECIMENS["ciphertext, 2 limbs"]
    scale = bytearray(specimen.data)
    scale[specimen.free[0][0]] ^= 1
    assert verdict(specimen, bytes(scale)) == FREE
    strict = Specimen(**{**specimen.__dict__, "free": []})
    assert verdict(strict, bytes(scale)) == f"{FAILURE}: byte {specimen.free[0][0]} has changed and is accepted"
    residue = bytearray(specimen.data)
    residue[specimen.limbs[3][0]] ^= 1
    assert verdict(specimen, bytes(residue)) == RESIDUES
    blind = Specimen(**{**specimen.__dict__, "limbs": specimen.limbs[:3]})
    assert verdict(blind, bytes(residue)).startswith(FAILURE)


@pytest.mark.parametrize("relative", [2e-3, -2e-3, 1.0])
def test_scales_far_from_the_level_are_refused(relative: float) -> None:
    specimen = SPECIMENS["ciphertext, 3 limbs"]
    at, end = specimen.free[0]
    scale = ciphertext_limbs(specimen.data, specimen.expected)[0].scale
    assert scale == chain_of(short_parameters()).scales[0]
    data = specimen.data[:at] + np.float64(scale * (1 + relative)).tobytes() + specimen.data[end:]
    assert verdict(specimen, data) == "OBJECT_MALFORMED"
