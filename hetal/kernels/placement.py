"""Where to bootstrap, and at which levels to work: derived by tracing a circuit.

Kernels mark with ``checkpoint`` where a bootstrap is *allowed*; this module decides where one is *made*. It runs one
iteration on symbols (:class:`Tracer`), which gives a graph of checkpoints joined by the number of levels consumed
between them. Walking it backwards from the end of the iteration yields the level every place must still have. A set of
bootstraps is feasible when no place behind a bootstrap needs more levels than a bootstrap gives, and when the state
at the end of an iteration is at least where it began. The cheapest set is searched by leaving out bootstraps one at a
time, in several orders.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hetal.ckks.parameters import Parameters
from hetal.errors import LevelError
from hetal.kernels.circuit import Circuit, InputLevels
from hetal.kernels.evaluator import Ciphertext, Evaluator, LevelModel, Refresh, Vector

SEARCH_ORDERS: Final = 24
# Any momentum makes the widest circuit; its value does not matter to the levels.
STEADY_STEP: Final = 2
# Levels of a trace: more than any circuit has.
UNBOUNDED: Final = 1 << 20
BEGIN: Final = "begin/"
END: Final = "end/"


@dataclass(frozen=True, slots=True)
class Placement:
    """A cheapest feasible set of bootstraps, and the levels that follow.

    Attributes:
        schedule: decision per checkpoint.
        levels: at which the client encrypts. States after an iteration are there or above.
        bootstraps: per iteration.
    """

    schedule: dict[str, Refresh]
    levels: InputLevels
    bootstraps: int


def place(circuit: Circuit, slots: int, rows: int, multiplicity: Mapping[str, int], default: int = 1) -> Placement:
    """The placement for a circuit.

    Args:
        rows: of the mini-batch that is traced: one block of them stands for all.
        multiplicity: ciphertexts that pass a checkpoint in an iteration, by its name; ``default`` for the others.

    Raises:
        LevelError: the parameters have too few levels for the circuit.
    """
    tracer = _trace(circuit, slots, rows)
    graph = _Graph(tracer, circuit.job.parameters)
    counts = {name: multiplicity.get(name, default) for name in graph.bounds}
    bootstrapped = _search(graph, counts)
    needs = graph.needs(bootstrapped)
    if needs is None:
        raise LevelError("no feasible placement of bootstraps")
    validation = _validation_level(circuit, slots)
    weights = max(need for name, need in needs.items() if name.startswith(BEGIN))
    return Placement(
        schedule={name: Refresh(name in bootstrapped, needs[name]) for name in graph.bounds},
        levels=InputLevels(needs["x"], needs["y"], max(weights, validation), validation),
        bootstraps=sum(counts[name] for name in bootstrapped),
    )


class Tracer(Evaluator):
    """Symbolic evaluator: a payload maps each ancestor place to the levels consumed since it."""

    def __init__(self, slots: int) -> None:
        super().__init__(
            LevelModel(
                slots,
                top_level=1 << 20,
                bootstrap_input_level=0,
                bootstrap_output_level=1 << 20,
                phase_output_level=1 << 20,
            )
        )
        self.edges: dict[tuple[str, str], int] = {}
        self.order: list[str] = []
        self.bounds: dict[str, float] = {}

    def source(self, name: str) -> Ciphertext:
        self.order.append(name)
        return Ciphertext({name: 0}, self.model.top_level)

    def sink(self, ct: Ciphertext, name: str) -> None:
        self._arrive(ct, name)

    def checkpoint(self, a: Ciphertext, name: str, bound: float = 1.0) -> Ciphertext:
        self._arrive(a, name)
        self.bounds[name] = max(bound, self.bounds.get(name, 0.0))
        return Ciphertext({name: 0}, a.level)

    def _arrive(self, ct: Ciphertext, name: str) -> None:
        if name not in self.order:
            self.order.append(name)
        for ancestor, cost in ct.payload.items():
            self.edges[ancestor, name] = max(cost, self.edges.get((ancestor, name), 0))

    @staticmethod
    def _join(cost: int, *cts: Ciphertext) -> dict[str, int]:
        merged: dict[str, int] = {}
        for ct in cts:
            for ancestor, spent in ct.payload.items():
                merged[ancestor] = max(spent + cost, merged.get(ancestor, 0))
        return merged

    def _add(self, a: Ciphertext, b: Ciphertext) -> Any:
        return self._join(0, a, b)

    def _sub(self, a: Ciphertext, b: Ciphertext) -> Any:
        return self._join(0, a, b)

    def _negate(self, a: Ciphertext) -> Any:
        return a.payload

    def _add_plain(self, a: Ciphertext, vector: Vector) -> Any:
        return a.payload

    def _add_scalar(self, a: Ciphertext, value: float) -> Any:
        return a.payload

    def _mul_integer(self, a: Ciphertext, factor: int) -> Any:
        return a.payload

    def _mul_monomial(self, a: Ciphertext, exponent: int) -> Any:
        return a.payload

    def _drop(self, a: Ciphertext, level: int) -> Any:
        return a.payload

    def _mul_no_relin(self, a: Ciphertext, b: Ciphertext) -> Any:
        return self._join(1, a, b)

    def _relinearize(self, a: Ciphertext) -> Any:
        return a.payload

    def _mul_plain(self, a: Ciphertext, vector: Vector) -> Any:
        return self._join(1, a)

    def _mul_scalar(self, a: Ciphertext, value: float) -> Any:
        return self._join(1, a)

    def _rotate(self, a: Ciphertext, steps: int) -> Any:
        return a.payload

    def _rotate_many(self, a: Ciphertext, steps: Sequence[int]) -> list[Any]:
        return [a.payload for _ in steps]

    def _conjugate(self, a: Ciphertext) -> Any:
        return a.payload

    def _bootstrap(self, a: Ciphertext, level: int) -> Any:
        raise LevelError("kernels mark checkpoints and leave bootstraps to the plan")

    def _phase(self, a: Ciphertext, period: float) -> Any:
        raise LevelError("kernels mark checkpoints and leave bootstraps to the plan")


class _Graph:
    """Checkpoints of one traced iteration and the levels between them."""

    def __init__(self, tracer: Tracer, parameters: Parameters) -> None:
        self.order = tracer.order
        self.bounds = tracer.bounds
        self.parameters = parameters
        self.successors: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for (ancestor, name), cost in tracer.edges.items():
            self.successors[ancestor].append((name, cost))

    def needs(self, bootstrapped: frozenset[str]) -> dict[str, int] | None:
        """Level that each place must still have behind it, or None where that is not to be had."""
        output = self.parameters.bootstrap_output_level
        top = self.parameters.top_level
        states = [name.removeprefix(BEGIN) for name in self.order if name.startswith(BEGIN)]
        ends = {END + state: 0 for state in states}
        for _ in range(output + 2):
            behind: dict[str, int] = {}
            before: dict[str, int] = dict(ends)
            for name in reversed(self.order):
                if name in ends:
                    continue
                need = max((before[later] + cost for later, cost in self.successors[name]), default=0)
                behind[name] = before[name] = need
                if name in bootstrapped:
                    if need > output:
                        return None
                    before[name] = self.parameters.bootstrap_input_level + (1 if self.bounds[name] > 1.0 else 0)
                elif need > top:
                    return None
            found = {END + state: behind[BEGIN + state] for state in states}
            if all(found[end] <= ends[end] for end in ends):
                return behind
            ends = {end: max(found[end], ends[end]) for end in ends}
            if max(ends.values()) > top:
                return None
        return None


def _trace(circuit: Circuit, slots: int, rows: int) -> Tracer:
    tracer = Tracer(slots)
    x = [tracer.source("x")] * circuit.features_count(rows)
    y = [tracer.source("y")] * circuit.labels_count(rows)
    state = [tracer.source(f"{BEGIN}{index}") for index in range(circuit.state_count)]
    after = circuit.iterate(tracer, state, x, y, step=STEADY_STEP, rows=rows)
    for index, ct in enumerate(after):
        tracer.sink(ct, f"{END}{index}")
    return tracer


def _validation_level(circuit: Circuit, slots: int) -> int:
    """Levels that the evaluation of the classifier consumes."""
    tracer = Tracer(slots)
    x = [tracer.source("x")] * circuit.validation_count(1)
    logits = circuit.evaluate(tracer, [tracer.source("w")] * circuit.classifier_count, x, 1)
    tracer.sink(logits[0], "logits")
    return max(tracer.edges.values())


def _search(graph: _Graph, multiplicity: dict[str, int]) -> frozenset[str]:
    """A cheapest feasible set of bootstraps, as far as greedy removal in several orders finds it."""
    names = sorted(graph.bounds)
    everything = frozenset(names)
    if graph.needs(everything) is None:
        raise LevelError("the parameters have too few levels between two bootstraps for this circuit")
    position = {name: i for i, name in enumerate(graph.order)}
    forward = sorted(names, key=lambda n: position[n])
    orders = [forward, forward[::-1], sorted(names, key=lambda n: (-multiplicity[n], -position[n]))]
    rng = random.Random(0)
    orders += [rng.sample(names, len(names)) for _ in range(SEARCH_ORDERS)]

    best, best_cost = everything, math.inf
    for order in orders:
        chosen = set(everything)
        for name in order:
            if graph.needs(frozenset(chosen - {name})) is not None:
                chosen.remove(name)
        cost = sum(multiplicity[name] for name in chosen)
        if cost < best_cost:
            best, best_cost = frozenset(chosen), cost
    return best
