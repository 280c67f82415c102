"""Bootstrapping, SlotsToCoeffs first: slots become coefficients at the bottom of the chain, the modulus is raised,
coefficients become slots again and are reduced (Cheon-Han-Kim-Kim-Song 2018; the order is that of
Kim-Park-Kim-Kim-Ahn 2022).

No level goes into constants: the diagonals of the transforms and the series of the reduction carry them all. Two levels
that OpenFHE spends otherwise pay for a second and a third sine (hetal.native.evalmod), which take error off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from hetal.ckks.parameters import Parameters
from hetal.errors import LevelError, MissingKeyError, ParameterError
from hetal.native.encapsulation import Pair, raise_encapsulated, raise_modulus
from hetal.native.evalmod import SINES_MAX, Reduction, phase, reduction_of, sine
from hetal.native.linear_transform import PERIOD_MIN, LinearTransform
from hetal.native.scheme import Ct, Scheme
from hetal.native.transforms import Stage, bootstrap_automorphisms, coeffs_to_slots, slots_to_coeffs

# Bits by which the error of a first bootstrap is enlarged for the second to take it off.
ITERATION_BITS: Final = 13

Key = Any
Poly = Any


class Bootstrapper:
    """Bootstrapping of all slots under one scheme's keys, with the diagonals of its transforms.

    Making one encodes the diagonals: seconds at N = 2^16.

    Args:
        scheme: with all keys of ``bootstrap_automorphisms(params)`` and the relinearisation key.
        params: of the scheme's chain.
        output_level: of the results; ``params.bootstrap_output_level`` by default.
        sines: 1 to 3, see :mod:`hetal.native.evalmod`: each costs a level, and takes bits of error off. By default as
            many as the chain has levels for.

    Attributes:
        reduction: the constants chosen.
        input_level: least level at which a ciphertext may enter.
        output_level: level at which it leaves.
        levels: consumed between the modulus raised and the result.

    Raises:
        ParameterError: the chain has too few levels.
        MissingKeyError: a key is missing.
    """

    def __init__(
        self, scheme: Scheme, params: Parameters, *, output_level: int | None = None, sines: int | None = None
    ) -> None:
        self.scheme = scheme
        self.ring = scheme.ring
        self.params = params
        self.output_level = params.bootstrap_output_level if output_level is None else output_level
        self.input_level = params.bootstrap_input_level
        down, up = slots_to_coeffs(params), coeffs_to_slots(params)
        if sines is None:
            spare = len(scheme.moduli) - (self.output_level + 1 + len(up) + reduction_of(params, 1).levels)
            sines = 1 + min(max(spare, 0), SINES_MAX - 1)
        self.reduction = reduction_of(params, sines)
        self.levels = len(up) + self.reduction.levels
        self._raised = self.output_level + 1 + self.levels
        if self.output_level < 0 or self._raised > len(scheme.moduli):
            raise ParameterError(
                f"a bootstrap consumes {self.levels} levels: from {len(scheme.moduli) - 1} of parameter set "
                f"{params.name!r} it cannot leave at level {self.output_level}"
            )
        self._check_keys()
        q_0 = float(scheme.moduli[0])
        # x becomes the coefficient x q_0 / 2^message_bits.
        self._entry = len(down) + 1
        start = scheme.canonical_scale(self._entry)
        gain = q_0 / 2.0**self.reduction.message_bits / start
        self._down = self._encoded(down, self._entry, [gain ** (1.0 / len(down))] * len(down))
        # The coefficient q_0 t becomes t / K.
        end = scheme.canonical_scale(self._raised - len(up))
        gain = end / (params.slots * q_0 * self.reduction.bound)
        # It is small, so that the diagonals have few bits. Those that repeat have few coefficients to round, and can do
        # with fewer bits than others.
        share = [math.sqrt(max(1 << stage.high, PERIOD_MIN)) for stage in up]
        rest = (gain / math.prod(share)) ** (1.0 / len(up))
        self._up = self._encoded(up, self._raised, [rest * one for one in share])

    @property
    def nbytes(self) -> int:
        """Memory of the diagonals."""
        return sum(stage.nbytes for stage, _ in (*self._down, *self._up))

    @property
    def phase_level(self) -> int:
        """Level at which :meth:`phase` leaves."""
        return self.output_level + self.reduction.levels - self.reduction.phase_levels

    # -- what it computes ---------------------------------------------------------------------------------------------

    def bootstrap(self, a: Ct, iterations: int = 1, level: int | None = None) -> Ct:
        """Real slots of magnitude at most 1; what is imaginary in them is lost.

        Args:
            a: two parts, at ``input_level`` or above.
            iterations: 2 bootstraps the error of the first result, much enlarged, and takes it off (Meta-BTS;
                Bae-Cheon-Cho-Kim-Kim 2022): twice the time, and no level more.
            level: to leave at; above ``output_level`` with a sine less per level, and less precision.

        Raises:
            LevelError: ``a`` is at a lower level or has three parts, or the bootstrap cannot leave at ``level``.
            ParameterError: ``iterations`` is neither 1 nor 2.
        """
        reduction = self._leaving_at(level)

        def work(x: Ct) -> Ct:
            return self._iterated(x, iterations, lambda low, shrink: self._real(low, shrink, reduction), reduction)

        return self._replayed(a, ("real", iterations, reduction), work)

    def bootstrap_complex(self, a: Ct, iterations: int = 1) -> Ct:
        """As :meth:`bootstrap` of complex slots, real and imaginary parts of magnitude at most 1: two reductions."""
        what = ("complex", iterations)
        return self._replayed(a, what, lambda x: self._iterated(x, iterations, self._complex, self.reduction))

    def bootstrap_pair(self, a: Ct, b: Ct) -> tuple[Ct, Ct]:
        """Two ciphertexts of real slots of magnitude at most 1: everything but the reduction is done once.

        Raises:
            LevelError: one of them is below ``input_level`` or has three parts.
        """
        scheme = self.scheme
        first, second = self._lowered(a), self._lowered(b)
        joint = scheme.add(first, scheme.multiply_monomial(second, scheme.slots))
        reals = [self._reduced(t, 0, self.reduction) for t in self._halves(joint)]
        return self._imaginary(reals[0]), self._imaginary(reals[1])

    def phase(self, a: Ct, period: float) -> Ct:
        """exp(2 pi i x / period) of real slots x, at ``phase_level``.

        Args:
            a: two parts, at ``input_level`` or above.
            period: positive. Slots many periods away from 0 lose as many times the precision.

        Raises:
            LevelError: ``a`` is at a lower level or has three parts.
            ParameterError: ``period`` is not positive.
        """
        if not (math.isfinite(period) and period > 0.0):
            raise ParameterError(f"the period of a phase is positive, not {period}")
        t = self._real_slots(self._lowered(a, 2.0**self.reduction.message_bits / period))
        return phase(self.scheme, t, self.reduction, self.scheme.canonical_scale(self.phase_level + 1))

    # -- pieces -------------------------------------------------------------------------------------------------------

    def _leaving_at(self, level: int | None) -> Reduction:
        sines = self.reduction.sines - (0 if level is None else level - self.output_level)
        if not 1 <= sines <= self.reduction.sines:
            most = self.output_level + self.reduction.sines - 1
            raise LevelError(f"this bootstrap leaves at levels {self.output_level} to {most}, not {level}")
        return reduction_of(self.params, sines)

    def _real(self, low: Ct, shrink: int, reduction: Reduction) -> Ct:
        return self._imaginary(self._reduced(self._real_slots(low), shrink, reduction))

    def _complex(self, low: Ct, shrink: int) -> Ct:
        scheme = self.scheme
        real, imaginary = (self._reduced(t, shrink, self.reduction) for t in self._halves(low))
        # 2i (Im u + i Im v) = (u + i v) - conj(u - i v).
        turned = scheme.multiply_monomial(imaginary, scheme.slots)
        both = scheme.subtract(scheme.add(real, turned), scheme.conjugate(scheme.subtract(real, turned)))
        return self._over_i(both)

    def _replayed(self, a: Ct, what: Any, work: Callable[[Ct], Ct]) -> Ct:
        """``work``, as one graph of launches where the ring runs on a device that has them."""
        replayed = getattr(self.ring, "replayed", None)
        if replayed is None:
            return work(a)

        def launched(parts: Sequence[Poly]) -> tuple[Sequence[Poly], tuple[float, int]]:
            made = work(Ct(tuple(parts), a.scale, a.degree))
            return made.parts, (made.scale, made.degree)

        parts, (scale, degree) = replayed((id(self), what, a.scale, a.degree), a.parts, launched)
        return Ct(tuple(parts), scale, degree)

    def _iterated(self, a: Ct, iterations: int, bootstrap: Any, reduction: Reduction) -> Ct:
        if iterations not in (1, 2):
            raise ParameterError(f"a bootstrap has 1 or 2 iterations, not {iterations}")
        # The diagonals are made for the messages of ``self.reduction``.
        factor = 2.0 ** (self.reduction.message_bits - reduction.message_bits)
        low = self._lowered(a, factor)
        first: Ct = bootstrap(low, 0)
        if iterations == 1:
            return first
        scheme = self.scheme
        error = scheme.subtract(low, self._lowered(first, factor))
        enlarged = scheme.multiply_integer(error, 1 << ITERATION_BITS)
        return scheme.add(first, bootstrap(enlarged, ITERATION_BITS))

    def _lowered(self, a: Ct, factor: float = 1.0) -> Ct:
        """``factor`` times the slots, with the limbs and the scale that SlotsToCoeffs takes."""
        if len(a.parts) != 2:
            raise LevelError("relinearise before a bootstrap", hint="This is a fault in a kernel.")
        if a.level < self.input_level:
            raise LevelError(f"a bootstrap must be entered at level {self.input_level}, not {a.level}")
        scheme, limbs = self.scheme, self._entry
        scale = scheme.canonical_scale(limbs)
        dropped = [float(scheme.moduli[limbs + i]) for i in range(a.degree)]
        parts = [self.ring.truncate(part, limbs + a.degree) for part in a.parts]
        constant = Ct(tuple(parts), a.scale, a.degree)
        constant = scheme.multiply_integer(constant, round(factor * scale * math.prod(dropped) / a.scale))
        parts = list(constant.parts)
        for _ in dropped:
            parts = [self.ring.rescale(part) for part in parts]
        return Ct(tuple(parts), scale, 1)

    def _raised_slots(self, low: Ct) -> Ct:
        """Slots t_j + i t_(j+N/2) over K, where q_0 t are the coefficients of the raised polynomial."""
        scheme = self.scheme
        pair: Pair = (low.parts[0], low.parts[1])
        for stage, keys in self._down:
            pair = stage.apply(pair, keys)
        if scheme.encapsulation is None:
            pair = raise_modulus(self.ring, pair, self._raised)
        else:
            back = scheme.automorphism_key(2 * self.ring.dimension - 2, self._raised, "the ephemeral secret")
            pair = raise_encapsulated(self.ring, pair, self._raised, scheme.encapsulation, back)
        for stage, keys in self._up:
            pair = stage.apply(pair, keys)
        return Ct(pair, scheme.canonical_scale(pair[0].q_limbs), 1)

    def _real_slots(self, low: Ct) -> Ct:
        """t / K of the real halves."""
        both = self._raised_slots(low)
        return self._doubled_scale(self.scheme.add(both, self.scheme.conjugate(both)))

    def _halves(self, low: Ct) -> tuple[Ct, Ct]:
        """t / K of the real halves, and of the imaginary ones."""
        scheme = self.scheme
        both = self._raised_slots(low)
        conjugate = scheme.conjugate(both)
        real, imaginary = scheme.add(both, conjugate), self._over_i(scheme.subtract(both, conjugate))
        return self._doubled_scale(real), self._doubled_scale(imaginary)

    @staticmethod
    def _doubled_scale(a: Ct) -> Ct:
        """Half the slots. The sum of a number and its conjugate is twice its real part: so it is no less precise."""
        return Ct(a.parts, 2.0 * a.scale, a.degree)

    def _reduced(self, t: Ct, shrink: int, reduction: Reduction) -> Ct:
        """Slots whose imaginary parts are half of the message, or minus half of it."""
        limbs = self.output_level + 1 + self.reduction.levels - reduction.levels
        return sine(self.scheme, t, reduction, self.scheme.canonical_scale(limbs), shrink)

    def _imaginary(self, z: Ct) -> Ct:
        return self._over_i(self.scheme.subtract(z, self.scheme.conjugate(z)))

    def _over_i(self, a: Ct) -> Ct:
        return self.scheme.multiply_monomial(a, 3 * self.scheme.slots)

    # -- precomputation -----------------------------------------------------------------------------------------------

    def _check_keys(self) -> None:
        scheme, order = self.scheme, 2 * self.ring.dimension
        held = set(scheme.automorphisms) | ({order - 4} if scheme.encapsulation is not None else set())
        missing = sorted(set(bootstrap_automorphisms(self.params)) - held)
        if missing:
            raise MissingKeyError(f"a bootstrap needs a key for automorphism {missing[0]} and has none")
        if scheme.relinearization is None:
            raise MissingKeyError("a bootstrap needs the relinearisation key")

    def _encoded(
        self, stages: tuple[Stage, ...], limbs: int, gains: Sequence[float]
    ) -> list[tuple[LinearTransform, Mapping[int, Key]]]:
        """The stages for ciphertexts of ``limbs`` limbs at first, multiplying slots by ``gains``, with keys."""
        encoded: list[tuple[LinearTransform, Mapping[int, Key]]] = []
        for dropped, (stage, gain) in enumerate(zip(stages, gains, strict=True)):
            keys = self._stage_keys(stage, limbs - dropped)
            p_limbs = next(iter(keys.values())).p_limbs
            scale = gain * float(self.scheme.moduli[limbs - dropped - 1])
            encoded.append((LinearTransform(self.ring, stage, limbs - dropped, p_limbs, scale), keys))
        return encoded

    def _stage_keys(self, stage: Stage, limbs: int) -> dict[int, Key]:
        """The smallest keys for a stage at that many limbs: they share their special primes."""
        scheme = self.scheme
        indices = [index for index in (scheme.rotation_index(s) for s in stage.steps) if index in scheme.automorphisms]
        offered = {
            index: {key.p_limbs: key for key in self._offered(index) if key.q_limbs >= limbs} for index in indices
        }
        shared = set.intersection(*(set(keys) for keys in offered.values()))
        if not shared:
            raise LevelError(f"the rotation keys of a bootstrap do not all serve level {limbs - 1}")
        return {index: keys[min(shared)] for index, keys in offered.items()}

    def _offered(self, index: int) -> list[Key]:
        return [self.scheme.automorphisms[index], *self.scheme.reduced.get(index, ())]
