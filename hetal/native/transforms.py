"""The two linear transforms of bootstrapping, factored into a few sparse stages (Chen-Chillotti-Song 2019, section 4).

SlotsToCoeffs turns slots into coefficients: as a map of slots it is the decoding matrix U, U[j, k] = zeta^(k * 5^j).
U = B_n ... B_1 R with butterfly layers B_l and the bit reversal R. R is left out on both sides: SlotsToCoeffs leaves
the coefficients in bit-reversed order, and CoeffsToSlots expects them so. A stage multiplies neighbouring layers
together: its matrix has few cyclic diagonals, at offsets that are multiples of a power of two, and all of them repeat
with the period of its topmost layer.

Stages, and the baby and giant steps of each, are those for which OpenFHE's clients make rotation keys.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hetal.ckks.parameters import Parameters

Diagonals = dict[int, NDArray[np.complex128]]


@dataclass(frozen=True, slots=True)
class Stage:
    """Layers ``low`` + 1 to ``high`` of the transform on ``slots`` slots, and how its rotations are composed.

    Offsets of the diagonals are brought into 0 .. 2^(high-low+1) - 1 times 2^low by a rotation of the stage's result,
    ``shift``; the shifts of all stages of a transform add up to none.

    Attributes:
        giant_step: rotations are composed of at most ``giant_step`` - 1 single steps of 2^low slots and of giant
            steps, one after the other (Horner's rule): keys for 2^low * (1, 2, .., giant_step) are all it takes.
        shift: y' = rotate(y, shift) is computed of x' = rotate(x, before), where y is this stage's result of x.
        before: shifts of the stages before this one.
        inverse: of CoeffsToSlots: 2^(high - low) times the inverse of the layers.
    """

    slots: int
    low: int
    high: int
    giant_step: int
    shift: int = 0
    before: int = 0
    inverse: bool = False

    @property
    def steps(self) -> tuple[int, ...]:
        """Rotations, in slots, that the stage may make; the last is the giant step."""
        return tuple((j << self.low) % self.slots for j in range(1, self.giant_step + 1))

    def diagonals(self) -> Diagonals:
        """By offset o: one period of the vector d_o of the map y[k] = sum_o d_o[k] x[k + o], without the shifts."""
        period = 1 << self.high
        layers = range(self.low + 1, self.high + 1)
        product: Diagonals = {0: np.ones(period, dtype=np.complex128)}
        for layer in reversed(layers) if self.inverse else layers:
            product = _compose(_butterfly(layer, period, self.inverse), product)
        return product

    def rows(self) -> list[dict[int, NDArray[np.complex128]]]:
        """Row i is {j: diagonal}: the shifted map is sum_i rotate(sum_j diagonal * rotate(x, j 2^low), i g 2^low).

        g is the giant step, and j < g. The last row is not empty, others may be.
        """
        shifted: Diagonals = {}
        for offset, diagonal in self.diagonals().items():
            place = ((offset + self.shift) % self.slots) >> self.low
            moved = np.roll(diagonal, -(self.before + self.shift))
            # In the topmost stage offsets o and o - slots are one rotation.
            shifted[place] = shifted[place] + moved if place in shifted else moved
        count = max(shifted) // self.giant_step + 1
        rows: list[dict[int, NDArray[np.complex128]]] = [{} for _ in range(count)]
        for place in sorted(shifted):
            giant, baby = divmod(place, self.giant_step)
            rows[giant][baby] = np.roll(shifted[place], giant * self.giant_step << self.low)
        return rows


def slots_to_coeffs(params: Parameters) -> tuple[Stage, ...]:
    """Stages of SlotsToCoeffs in the order in which they apply."""
    log2_slots = params.spec.log2_ring_dimension - 1
    width, rest = _layers(log2_slots, params.spec.level_budget[1])
    cuts = [*range(0, log2_slots - rest + 1, width), *([log2_slots] if rest else [])]
    return _stages(log2_slots, cuts, params.spec.giant_steps[1], log2_slots - rest if rest else -1, inverse=False)


def coeffs_to_slots(params: Parameters) -> tuple[Stage, ...]:
    """Stages of CoeffsToSlots in the order in which they apply; their product is ``slots`` times the inverse."""
    log2_slots = params.spec.log2_ring_dimension - 1
    width, rest = _layers(log2_slots, params.spec.level_budget[0])
    cuts = [*([0] if rest else []), *range(rest, log2_slots + 1, width)]
    return _stages(log2_slots, cuts, params.spec.giant_steps[0], 0 if rest else -1, inverse=True)


def bootstrap_steps(params: Parameters) -> list[int]:
    """Rotations, in slots, that a bootstrap needs."""
    steps: set[int] = set()
    for stage in (*slots_to_coeffs(params), *coeffs_to_slots(params)):
        rows = stage.rows()
        steps.update((baby << stage.low) % stage.slots for row in rows for baby in row)
        if len(rows) > 1:
            steps.add(stage.steps[-1])
    return sorted(steps - {0})


def bootstrap_automorphisms(params: Parameters) -> list[int]:
    """Indices of the evaluation keys that a bootstrap needs.

    Rotations are 5^steps, the conjugation is 2N - 1; with a sparse encapsulated secret 2N - 4 switches to the ephemeral
    secret and 2N - 2 back. (These two are no automorphisms.)
    """
    order = 2 * params.ring_dimension
    indices = {pow(5, steps, order) for steps in bootstrap_steps(params)} | {order - 1}
    if params.spec.secret == "sparse_encapsulated":
        indices |= {order - 4, order - 2}
    return sorted(indices)


def _stages(log2_slots: int, cuts: list[int], giant_step: int, odd: int, inverse: bool) -> tuple[Stage, ...]:
    """Stages between neighbouring cuts; the one that begins at ``odd`` has its own giant step."""
    slots = 1 << log2_slots
    stages = []
    for low, high in itertools.pairwise(cuts):
        offsets = (2 << (high - low)) - 1
        chosen = 0 < giant_step <= offsets and low != odd
        count = giant_step if chosen else _default_giant_step(high - low)
        # Offsets are -(2^high - 2^low) to 2^high - 2^low. In the topmost stage they are all multiples of 2^low whatever
        # it rotates by; so it takes back the other shifts, whose sum is 2^low.
        first = 1 << low if low else 0
        shift = -first if high == log2_slots else (1 << high) - first
        stages.append(Stage(slots, low, high, count, shift, 0, inverse))
    if inverse:
        stages.reverse()
    result, before = [], 0
    for stage in stages:
        result.append(replace(stage, before=before))
        before += stage.shift
    return tuple(result)


def _default_giant_step(layers: int) -> int:
    return 1 << (layers // 2 + 1 + (layers > 2))


def _layers(log2_slots: int, budget: int) -> tuple[int, int]:
    """(layers of a stage, layers of the odd stage or 0) where ``budget`` stages share ``log2_slots`` layers."""
    budget = min(budget, log2_slots)
    width = math.ceil(log2_slots / budget)
    rows, rest = divmod(log2_slots, width)
    if rows + (rest > 0) < budget:
        width -= 1
        rows = min(log2_slots // width, budget)
        rest = log2_slots - rows * width
        if rows + (rest > 0) > budget:
            rows -= 1
            rest = log2_slots - rows * width
    return width, rest


def _butterfly(layer: int, period: int, inverse: bool) -> Diagonals:
    """The diagonals of B_l, or of twice its inverse, repeated up to ``period``."""
    size = 1 << layer
    half = size // 2
    powers = np.array(_powers_of_five(half, 4 * size), dtype=np.float64)
    twiddle = np.exp(2j * np.pi * powers / (4 * size))
    ones, zeros = np.ones(half, dtype=np.complex128), np.zeros(half, dtype=np.complex128)
    if inverse:
        twiddle = twiddle.conj()
        blocks = {0: (ones, -twiddle), half: (ones, zeros), -half: (zeros, twiddle)}
    else:
        blocks = {0: (ones, -twiddle), half: (twiddle, zeros), -half: (zeros, ones)}
    return {offset: np.tile(np.concatenate(parts), period // size) for offset, parts in blocks.items()}


def _powers_of_five(count: int, modulus: int) -> list[int]:
    powers, power = [], 1
    for _ in range(count):
        powers.append(power)
        power = power * 5 % modulus
    return powers


def _compose(outer: Diagonals, inner: Diagonals) -> Diagonals:
    """The diagonals of the product of two maps (outer after inner)."""
    result: Diagonals = {}
    for p, left in outer.items():
        for o, right in inner.items():
            term = left * np.roll(right, -p)
            result[p + o] = result[p + o] + term if p + o in result else term
    return {offset: diagonal for offset, diagonal in result.items() if np.any(diagonal)}
