"""Where the numbers of a mini-batch lie."""

from __future__ import annotations

import numpy as np
import pytest

from hetal.errors import LayoutError, ShapeError
from hetal.kernels.sections import Sections

SECTIONS = Sections(slots=64, block=16, groups=3, stride=5, classes=4)


def test_every_number_lies_where_the_class_says() -> None:
    matrix = np.arange(1.0, 12 * 4 + 1).reshape(12, 4)
    slots = SECTIONS.pack(matrix)
    for sample in range(12):
        t, i = divmod(sample, SECTIONS.replicas)
        for k in range(4):
            assert slots[i * 16 + t * 5 + k] == matrix[sample, k]
    assert np.count_nonzero(slots) == 48


@pytest.mark.parametrize("samples", [1, 4, 5, 12])
def test_pack_and_unpack(samples: int) -> None:
    matrix = np.random.default_rng(0).normal(size=(samples, 4))
    assert np.array_equal(SECTIONS.unpack(SECTIONS.pack(matrix), samples), matrix)


def test_unpack_ignores_what_lies_elsewhere() -> None:
    matrix = np.ones((12, 4))
    slots = SECTIONS.pack(matrix)
    assert np.array_equal(SECTIONS.unpack(np.where(slots == 0.0, 7.0, slots), 12), matrix)


def test_masks() -> None:
    assert np.array_equal(SECTIONS.unpack(SECTIONS.mask([1, 0, 0, 2]), 12), np.tile([1.0, 0, 0, 2], (12, 1)))


@pytest.mark.parametrize("field, value", [("block", 12), ("block", 128), ("groups", 4), ("stride", 3), ("classes", 0)])
def test_sections_that_do_not_fit_are_refused(field: str, value: int) -> None:
    values = {"slots": 64, "block": 16, "groups": 3, "stride": 5, "classes": 4} | {field: value}
    with pytest.raises(LayoutError):
        Sections(**values)


@pytest.mark.parametrize("shape", [(13, 4), (12, 3)])
def test_matrices_that_do_not_fit_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ShapeError):
        SECTIONS.pack(np.zeros(shape))
