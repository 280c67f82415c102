"""Runs a kernel without data: the levels and the counts of every operation, and nothing else.

Level checks and shape checks are those of every backend, so a kernel that runs here has the levels it asks for.
"""

from __future__ import annotations

from collections.abc import Sequence

from hetal.kernels.evaluator import Ciphertext, Evaluator, LevelModel, Vector


class CountingEvaluator(Evaluator):
    """Payloads are None.

    Attributes:
        steps: of every rotation made, in 1..slots-1, and the highest level at which it was.
    """

    def __init__(self, model: LevelModel) -> None:
        super().__init__(model)
        self.steps: dict[int, int] = {}

    def encrypt(self, vector: Vector | None = None, level: int | None = None) -> Ciphertext:
        """A fresh ciphertext, at the top level by default; ``vector`` is accepted for symmetry and not looked at."""
        return Ciphertext(None, self.model.top_level if level is None else level)

    def _add(self, a: Ciphertext, b: Ciphertext) -> None: ...

    def _sub(self, a: Ciphertext, b: Ciphertext) -> None: ...

    def _negate(self, a: Ciphertext) -> None: ...

    def _add_plain(self, a: Ciphertext, vector: Vector) -> None: ...

    def _add_scalar(self, a: Ciphertext, value: float) -> None: ...

    def _mul_integer(self, a: Ciphertext, factor: int) -> None: ...

    def _mul_monomial(self, a: Ciphertext, exponent: int) -> None: ...

    def _drop(self, a: Ciphertext, level: int) -> None: ...

    def _mul_no_relin(self, a: Ciphertext, b: Ciphertext) -> None: ...

    def _relinearize(self, a: Ciphertext) -> None: ...

    def _mul_plain(self, a: Ciphertext, vector: Vector) -> None: ...

    def _mul_scalar(self, a: Ciphertext, value: float) -> None: ...

    def _rotate(self, a: Ciphertext, steps: int) -> None:
        self.steps[steps] = max(a.level, self.steps.get(steps, 0))

    def _rotate_many(self, a: Ciphertext, steps: Sequence[int]) -> list[None]:
        for count in steps:
            self._rotate(a, count)
        return [None] * len(steps)

    def _conjugate(self, a: Ciphertext) -> None: ...

    def _bootstrap(self, a: Ciphertext, level: int) -> None: ...

    def _phase(self, a: Ciphertext, period: float) -> None: ...
