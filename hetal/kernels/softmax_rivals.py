"""The approximations of softmax that HETAL compares itself with (ICML 2023; errors in papers.md 1.5).

All take logits / (2R) in tiled columns, R = ``logit_range``, as :mod:`hetal.kernels.softmax` does, and return
probabilities in tiled columns, zero in padded classes. They exist to be measured: without a maximum their intermediate
values leave the range of a bootstrap, and only HETAL's own variants can be scheduled; the others run on evaluators with
enough levels.

Parameters are those with which HETAL's authors ran the rivals; each docstring names the source of the method.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hetal.kernels.evaluator import Ciphertext, Evaluator
from hetal.kernels.layout import BlockLayout
from hetal.kernels.matmul import rotate_columns
from hetal.kernels.polynomial import evaluate
from hetal.kernels.softmax import inverse_of_sum, padded_classes, softmax
from hetal.protocol.job import SoftmaxSpec

# exp on [-1, 1] by its Taylor polynomial of degree 12: within 2e-10 there, far below the other errors of the method.
TAYLOR: Final = tuple(1.0 / math.factorial(i) for i in range(13))
GUMBEL_TEMPERATURE: Final = 4.0
GUMBEL_SQUARINGS: Final = 6
GUMBEL_INVERSE: Final = SoftmaxSpec(inverse_range=1e4, inverse_iterations=8)
HONG_SQUARINGS: Final = 4
HONG_INVERSE: Final = SoftmaxSpec(inverse_range=80.0, inverse_iterations=30)
PRIVGD_SIGMOID: Final = (0.5, 0.15012, 0.0, -0.00156)
# A comparison so sharp that the maximum is exact, and no domain extension: logits in [-4, 4].
NO_EXTENSION: Final = SoftmaxSpec(extensions=0, comparison_g=8, comparison_f=3)


def precise_softmax(ev: Evaluator, x: Ciphertext, layout: BlockLayout, classes: int, spec: SoftmaxSpec) -> Ciphertext:
    """HETAL with the domain extension inverted by a polynomial of degree 5. Three levels more than HETAL's."""
    return softmax(ev, x, layout, classes, spec, correct=True)


def unextended_softmax(ev: Evaluator, x: Ciphertext, layout: BlockLayout, classes: int) -> Ciphertext:
    """HETAL without domain extension, for logits in [-4, 4]; x = logits / 8."""
    return softmax(ev, x, layout, classes, NO_EXTENSION)


def gumbel_softmax(ev: Evaluator, x: Ciphertext, layout: BlockLayout, classes: int, logit_range: float) -> Ciphertext:
    """exp(z / 4) / sum exp(z / 4), z = logits (Lee et al., IEEE Access 2022: Gumbel softmax of temperature 4).

    The exponential is a polynomial of degree 12 of z / 256, six times squared; the inverse is Goldschmidt's with range
    10^4 and 8 iterations, too few where the sum is small. It is not meant to equal softmax, only to keep its order.

    Levels: 4 + 6 for the exponential, 1 for the mask of the sum, 9 for the inverse, 1 for the product.
    """
    ratio = 2.0 * logit_range / (GUMBEL_TEMPERATURE * 2**GUMBEL_SQUARINGS)
    padded = padded_classes(classes)
    numerator = evaluate(ev, x, [c * ratio**i for i, c in enumerate(TAYLOR)], _class_mask(layout, classes))
    for _ in range(GUMBEL_SQUARINGS):
        numerator = ev.square(numerator)
    return ev.mul(numerator, inverse_of_sum(ev, numerator, layout, padded, GUMBEL_INVERSE))


def hong_softmax(ev: Evaluator, x: Ciphertext, layout: BlockLayout, classes: int, logit_range: float) -> Ciphertext:
    """((16 + z) / 32)^16 over its sum, z = logits (Hong et al., BMC Genomics 2022: e^z ~ (1 + z/2^k)^(2^k), k = 4).

    Goldschmidt's inverse with range 80 and 30 iterations.

    Levels: 1 + 4 for the exponential, 1 for the mask of the sum, 31 for the inverse, 1 for the product.
    """
    padded = padded_classes(classes)
    slope = 2.0 * logit_range / 2 ** (HONG_SQUARINGS + 1)
    numerator = evaluate(ev, x, [0.5, slope], _class_mask(layout, classes))
    for _ in range(HONG_SQUARINGS):
        numerator = ev.square(numerator)
    return ev.mul(numerator, inverse_of_sum(ev, numerator, layout, padded, HONG_INVERSE))


def privgd_softmax(ev: Evaluator, x: Ciphertext, layout: BlockLayout, classes: int, logit_range: float) -> Ciphertext:
    """prod over j != i of s(z_i - z_j), s(z) = 0.5 + 0.15012 z - 0.00156 z^3 (PrivGD: Jin et al., ProvSec 2020).

    Factors that belong to a padded class are one. Levels: 1 for the rotations inside rows, 2 for s, log2(c') for the
    tree of products, and 1 that clears the padded classes, where there are any.
    """
    padded = padded_classes(classes)
    cubic = [c * (2.0 * logit_range) ** i for i, c in enumerate(PRIVGD_SIGMOID)]
    factors = []
    for shift in range(1, padded):
        present = _partner_mask(layout, classes, shift)
        difference = ev.sub(x, rotate_columns(ev, x, shift, layout))
        factors.append(ev.add_plain(evaluate(ev, difference, cubic, present), 1.0 - present))
    while len(factors) > 1:
        pairs = [ev.mul(factors[i], factors[i + 1]) for i in range(0, len(factors) - 1, 2)]
        factors = pairs + factors[2 * len(pairs) :]
    mask = _class_mask(layout, classes)
    return factors[0] if mask is None else ev.mul_plain(factors[0], mask)


@lru_cache(maxsize=64)
def _class_mask(layout: BlockLayout, classes: int) -> NDArray[np.float64] | None:
    """1 in the columns of true classes; None where there are no others."""
    padded = padded_classes(classes)
    if padded == classes:
        return None
    return np.tile(np.where(np.arange(layout.cols) % padded < classes, 1.0, 0.0), layout.rows)


@lru_cache(maxsize=64)
def _partner_mask(layout: BlockLayout, classes: int, shift: int) -> NDArray[np.float64]:
    """1 in the columns whose partner, ``shift`` to the right in the period, is a true class."""
    partner = (np.arange(layout.cols) + shift) % padded_classes(classes)
    return np.tile(np.where(partner < classes, 1.0, 0.0), layout.rows)
