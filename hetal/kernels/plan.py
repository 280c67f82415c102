"""Where to bootstrap, at which levels to work, and which rotations that needs: derived by tracing the kernels.

Kernels mark with ``checkpoint`` where a bootstrap is *allowed*; this module decides where one is *made*. It runs one
iteration on symbols (:class:`Tracer`), which gives a graph of checkpoints joined by the number of levels consumed
between them. Walking it backwards from the end of the iteration yields the level every place must still have. A set of
bootstraps is feasible when no place behind a bootstrap needs more levels than a bootstrap gives, and when the state
at the end of an iteration is at least where it began. The cheapest set is searched by leaving out bootstraps one at a
time, in several orders. Both sides compute the same plan from the same job: the client to make exactly the keys and
levels needed, the server to run it.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from hetal.errors import LayoutError, LevelError
from hetal.kernels.backends.counting import CountingEvaluator
from hetal.kernels.evaluator import Ciphertext, Evaluator, LevelModel, Refresh, Vector, level_model
from hetal.kernels.iteration import evaluate, iterate, logit_scale
from hetal.kernels.layout import BlockLayout
from hetal.kernels.optimizer import State
from hetal.protocol.job import JobSpec

# A bootstrap costs about as much as this many key switches (openfhe.md: 12 s against 0.15 s).
BOOTSTRAP_KEY_SWITCHES: Final = 80
SEARCH_ORDERS: Final = 24
# Any momentum makes the widest circuit; its value does not matter to the levels.
STEADY_STEP: Final = 2
# Levels of a trace: more than any circuit has.
UNBOUNDED: Final = 1 << 20
# Checkpoints that exist once per column block of the weights; all others exist once per row block of the batch.
COLUMN_CHECKPOINTS: Final = frozenset({"weights", "lookahead"})


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything both sides derive from a job.

    Attributes:
        layout: block shape.
        schedule: decision per checkpoint.
        x_level, y_level, weights_level, validation_level: levels at which the client encrypts. Weights after an
        iteration
            are at ``weights_level`` or above, and the lookahead at ``lookahead_level`` or above.
        rotations: slot steps, in 1..slots-1, that need a key besides the bootstrap's own; conjugation is always needed.
        rotation_levels: per step the highest level at which it is made: a key may be kept for that level alone.
        bootstraps: per iteration of a full batch.
        logit_scale: validation logits arrive multiplied by this.
        levels: consumed by one iteration along its longest path.
    """

    layout: BlockLayout
    schedule: dict[str, Refresh] = field(repr=False)
    x_level: int
    y_level: int
    weights_level: int
    lookahead_level: int
    validation_level: int
    rotations: tuple[int, ...] = field(repr=False)
    rotation_levels: dict[int, int] = field(repr=False)
    bootstraps: int
    logit_scale: float
    levels: int


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
        self.steps: set[int] = set()

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
        self.steps.add(steps)
        return a.payload

    def _rotate_many(self, a: Ciphertext, steps: Sequence[int]) -> list[Any]:
        self.steps.update(steps)
        return [a.payload for _ in steps]

    def _conjugate(self, a: Ciphertext) -> Any:
        return a.payload

    def _bootstrap(self, a: Ciphertext, level: int) -> Any:
        raise LevelError("kernels mark checkpoints and leave bootstraps to the plan")

    def _phase(self, a: Ciphertext, period: float) -> Any:
        raise LevelError("kernels mark checkpoints and leave bootstraps to the plan")


class _Rotations(CountingEvaluator):
    """Notes the highest level at which each rotation is made."""

    def __init__(self, model: LevelModel, schedule: dict[str, Refresh]) -> None:
        super().__init__(model)
        self.schedule = schedule
        self.levels: dict[int, int] = {}

    def _rotate(self, a: Ciphertext, steps: int) -> None:
        self.levels[steps] = max(a.level, self.levels.get(steps, 0))

    def _rotate_many(self, a: Ciphertext, steps: Sequence[int]) -> list[None]:
        for count in steps:
            self._rotate(a, count)
        return [None] * len(steps)


class _Graph:
    """Checkpoints of one traced iteration and the levels between them."""

    def __init__(self, tracer: Tracer, job: JobSpec) -> None:
        self.order = tracer.order
        self.bounds = tracer.bounds
        self.parameters = job.parameters
        self.successors: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for (ancestor, name), cost in tracer.edges.items():
            self.successors[ancestor].append((name, cost))

    def needs(self, bootstrapped: frozenset[str]) -> dict[str, int] | None:
        """Level that each place must still have behind it, or None where that is not to be had."""
        output = self.parameters.bootstrap_output_level
        top = self.parameters.top_level
        ends = {"end/weights": 0, "end/lookahead": 0}
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
            found = {"end/weights": behind["begin/weights"], "end/lookahead": behind["begin/lookahead"]}
            if all(found[end] <= ends[end] for end in ends):
                return behind
            ends = {end: max(found[end], ends[end]) for end in ends}
            if max(ends.values()) > top:
                return None
        return None


def _trace(job: JobSpec, layout: BlockLayout) -> Tracer:
    tracer = Tracer(layout.slots)
    x, y = tracer.source("x"), tracer.source("y")
    state = State([tracer.source("begin/weights")], [tracer.source("begin/lookahead")])
    after = iterate(tracer, job, layout, state, [[x]], [y], step=STEADY_STEP, rows=min(layout.rows, job.batch_size))
    tracer.sink(after.weights[0], "end/weights")
    tracer.sink(after.lookahead[0], "end/lookahead")
    return tracer


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


def _layouts(job: JobSpec) -> list[BlockLayout]:
    slots, padded = job.parameters.slots, job.padded_classes
    shapes = []
    rows = padded
    while slots // rows >= padded:
        shapes.append(BlockLayout(rows, slots // rows))
        rows *= 2
    return shapes


def _key_switches(job: JobSpec, layout: BlockLayout) -> int:
    """Rotations and relinearisations of both products, by the formulas of papers.md 1.6."""
    a, b = layout.row_blocks(min(job.batch_size, job.train_samples)), layout.column_blocks(job.columns)
    log_rows, log_cols = int(math.log2(layout.rows)), int(math.log2(layout.cols))
    half = job.padded_classes // 2
    return half * (b + 2 * a * log_cols + a) + half * (a + a * b + log_rows * b + b)


@lru_cache(maxsize=16)
def plan(job: JobSpec) -> Plan:
    """The cheapest plan for a checked job.

    Raises:
        LevelError: the parameters have too few levels for the circuit.
        LayoutError: the classes do not fit the slots.
    """
    candidates: list[tuple[float, int, BlockLayout]] = []
    layouts = _layouts(job)
    if not layouts:
        raise LayoutError(f"{job.classes} classes do not fit {job.parameters.slots} slots")
    for layout in layouts:
        a = layout.row_blocks(min(job.batch_size, job.train_samples))
        b = layout.column_blocks(job.columns)
        # All layouts share one shape of circuit, so about 12 refreshes per row block and one per column block rank
        # them.
        candidates.append(((12 * a + b) * BOOTSTRAP_KEY_SWITCHES + _key_switches(job, layout), layout.rows, layout))
    layout = min(candidates)[2]
    return plan_for(job, layout)


def plan_for(job: JobSpec, layout: BlockLayout) -> Plan:
    """The plan for a given block shape."""
    tracer = _trace(job, layout)
    graph = _Graph(tracer, job)
    a = layout.row_blocks(min(job.batch_size, job.train_samples))
    b = layout.column_blocks(job.columns)
    multiplicity = {name: b if name in COLUMN_CHECKPOINTS else a for name in graph.bounds}
    bootstrapped = _search(graph, multiplicity)
    needs = graph.needs(bootstrapped)
    if needs is None:
        raise LevelError("no feasible placement of bootstraps")
    validation = _validation_level(job, layout, tracer)
    schedule = {name: Refresh(name in bootstrapped, needs[name]) for name in graph.bounds}
    weights_level = max(needs["begin/weights"], needs["begin/lookahead"], validation)
    return Plan(
        layout=layout,
        schedule=schedule,
        x_level=needs["x"],
        y_level=needs["y"],
        weights_level=weights_level,
        lookahead_level=needs["begin/lookahead"],
        validation_level=validation,
        rotations=tuple(sorted(tracer.steps)),
        rotation_levels=_rotation_levels(job, layout, schedule, needs, weights_level, validation),
        bootstraps=sum(multiplicity[name] for name in bootstrapped),
        logit_scale=logit_scale(job),
        levels=_longest(graph),
    )


def _validation_level(job: JobSpec, layout: BlockLayout, tracer: Tracer) -> int:
    """Levels that the evaluation of the classifier consumes; its rotations join the tracer's."""
    probe = Tracer(layout.slots)
    logits = evaluate(probe, job, layout, [[probe.source("x")]], [probe.source("w")])
    probe.sink(logits[0], "logits")
    tracer.steps.update(probe.steps)
    return max(probe.edges.values())


def _rotation_levels(
    job: JobSpec,
    layout: BlockLayout,
    schedule: dict[str, Refresh],
    needs: dict[str, int],
    weights_level: int,
    validation_level: int,
) -> dict[int, int]:
    """Levels of all rotations of a training, found by counting two iterations and the validations after them."""
    ev = _Rotations(level_model(job.parameters), schedule)
    fresh = ev.encrypt(level=weights_level)
    state = State([fresh], [fresh])
    for step in range(2):
        rows = min(layout.rows, job.batch_size)
        x, y = ev.encrypt(level=needs["x"]), ev.encrypt(level=needs["y"])
        state = iterate(ev, job, layout, state, [[x]], [y], step=STEADY_STEP + step, rows=rows)
        for weights in (state.weights[0], fresh):
            evaluate(ev, job, layout, [[ev.encrypt(level=validation_level)]], [weights])
    return ev.levels


def _longest(graph: _Graph) -> int:
    """Levels consumed along the longest path of one iteration, from a source to the new state."""
    depth: dict[str, int] = {}
    for name in reversed(graph.order):
        depth[name] = max((depth[later] + cost for later, cost in graph.successors[name]), default=0)
    return max(depth.values())
