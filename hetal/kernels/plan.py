"""What both sides derive from a job: its circuit, with layout and levels chosen by cost, and the keys it needs.

Both compute the same plan from the same job: the client to make exactly the keys and levels needed, the server to run
it. So the choice between layouts goes by a cost model of fixed numbers (:mod:`hetal.kernels.cost`), not by what one
machine measures.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from hetal.errors import LayoutError, SoftmaxUnavailableError
from hetal.kernels import cost
from hetal.kernels.backends.counting import CountingEvaluator
from hetal.kernels.circuit import Circuit
from hetal.kernels.evaluator import Ciphertext, level_model
from hetal.kernels.hetal_circuit import HetalCircuit
from hetal.kernels.layout import BlockLayout
from hetal.kernels.placement import STEADY_STEP, place
from hetal.kernels.replica_circuit import NormaliseCircuit, PhaseCircuit
from hetal.kernels.tables import normalise_spec, pairwise_table, sigmoid_table
from hetal.protocol.job import METHODS, JobSpec

# A softmax that errs no more does not change a training's accuracy (docs/kernels.md).
SOFTMAX_ERROR: Final = 0.02
# HETAL's, in the published comparison.
HETAL_ERROR: Final = 0.0224
# A bootstrap costs about as much as this many key switches.
BOOTSTRAP_KEY_SWITCHES: Final = 80
# Epochs over which the making and sending of the features is shared out.
EPOCHS_EXPECTED: Final = 8
# Ciphertexts of features that a job may have, at most; a layout with more is chosen only where none has fewer.
FEATURE_BYTES_MAX: Final = 16 << 30


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything both sides derive from a job.

    Attributes:
        circuit: what is packed, computed and unpacked.
        rotations: slot steps, in 1..slots-1, that need a key besides the bootstrap's own; conjugation is always needed.
        rotation_levels: per step the highest level at which it is made: a key may be kept for that level alone.
        relinearization_levels: levels at which products are relinearised.
        counts: operations of one iteration on a full batch, by name and level of the result.
        validation_counts: those of one validation.
        stages: ``counts`` by the stage of the circuit, in their order; what lies between stages is in none.
    """

    circuit: Circuit
    rotations: tuple[int, ...] = field(repr=False)
    rotation_levels: dict[int, int] = field(repr=False)
    counts: Counter[tuple[str, int]] = field(repr=False)
    validation_counts: Counter[tuple[str, int]] = field(repr=False)
    stages: dict[str, Counter[tuple[str, int]]] = field(repr=False)

    @property
    def bootstraps(self) -> int:
        """Per iteration of a full batch, phases included."""
        return self.total("bootstrap", "phase")

    @property
    def key_switches(self) -> int:
        """Per iteration of a full batch, those inside of bootstraps left out."""
        return self.total("relin", "rotate", "rotate_hoisted", "conjugate")

    def total(self, *operations: str) -> int:
        return sum(count for (name, _), count in self.counts.items() if name in operations)


def method_for(classes: int, logits_max: float, phases: bool, error: float = SOFTMAX_ERROR) -> str:
    """The method of the fewest bootstraps whose probabilities are no more than ``error`` off.

    Args:
        phases: whether the backend has them.

    Raises:
        SoftmaxUnavailableError: none is so accurate for so many classes in that range.
    """
    offered: list[tuple[str, float]] = []
    for method in METHODS if phases else METHODS[1:]:
        with suppress(SoftmaxUnavailableError):
            offered.append((method, _softmax_error(method, classes, logits_max)))
    for method, largest in offered:
        if largest <= error:
            return method
    if not offered:
        raise SoftmaxUnavailableError(f"no method serves {classes} classes with logits up to {logits_max:g}")
    method, least = min(offered, key=lambda one: one[1])
    raise SoftmaxUnavailableError(
        f"no method errs by {error:g} or less for {classes} classes with logits up to {logits_max:g}; the best is"
        f" {method!r} with {least:g}",
        hint="Allow a larger error, or lower the range of the logits.",
    )


def _softmax_error(method: str, classes: int, logits_max: float) -> float:
    match method:
        case "pairwise" if classes == 2:
            return sigmoid_table(2.0 * logits_max).max_error
        case "pairwise":
            return pairwise_table(classes, logits_max).max_error
        case "normalise":
            return normalise_spec(classes, logits_max).max_error
    return HETAL_ERROR


@lru_cache(maxsize=16)
def plan(job: JobSpec) -> Plan:
    """The cheapest plan for a checked job.

    Raises:
        LevelError: the parameters have too few levels for the circuit.
        LayoutError: the classes do not fit the slots.
    """
    return plan_of(_hetal_circuit(job)) if job.method == "hetal" else _replica_plan(job)


def plan_of(circuit: Circuit) -> Plan:
    """The plan of a given circuit, found by counting iterations, validations and a prediction."""
    job, levels = circuit.job, circuit.levels
    ev = CountingEvaluator(level_model(job.parameters))

    def fresh(count: int, level: int) -> list[Ciphertext]:
        return [ev.encrypt(level=level)] * count

    def evaluate(classifier: Sequence[Ciphertext]) -> None:
        x = fresh(circuit.validation_count(job.validation_samples), levels.validation)
        circuit.evaluate(ev, classifier, x, job.validation_samples)

    state = circuit.begin(ev, fresh(circuit.weights_count, levels.weights))
    counts: Counter[tuple[str, int]] = Counter()
    stages: dict[str, Counter[tuple[str, int]]] = {}
    # The last batch may be smaller, and need other rotations.
    for step, batch in enumerate((0, job.batches - 1, 0), start=STEADY_STEP):
        rows = job.batch_rows(batch)
        ev.counts.clear()
        ev.stages.clear()
        x, y = fresh(circuit.features_count(rows), levels.features), fresh(circuit.labels_count(rows), levels.labels)
        after = circuit.iterate(ev, state, x, y, step=step, rows=rows)
        counts = ev.counts.copy()
        stages = {name: stage.counts for name, stage in ev.stages.items()}
        if job.prunes:
            # Rotations of the scores count; what is done once in a training is no part of an iteration.
            ev.stages.clear()
            circuit.advance(ev, state, x, y, step=step, rows=rows, scored=True)
        state = after
    ev.counts.clear()
    evaluate(circuit.classifier(ev, state, STEADY_STEP))
    validation = ev.counts.copy()
    evaluate(fresh(circuit.classifier_count, levels.validation))
    return Plan(circuit, tuple(sorted(ev.steps)), ev.steps, counts, validation, stages)


# -- HETAL's circuit --------------------------------------------------------------------------------------------------


def _hetal_circuit(job: JobSpec) -> HetalCircuit:
    candidates: list[tuple[float, int, BlockLayout]] = []
    rows = min(job.batch_size, job.train_samples)
    for layout in _block_layouts(job):
        a, b = layout.row_blocks(rows), layout.column_blocks(job.columns)
        # All layouts share one shape of circuit, so about 12 refreshes per row block and one per column block rank
        # them.
        candidates.append(((12 * a + b) * BOOTSTRAP_KEY_SWITCHES + _key_switches(job, layout), layout.rows, layout))
    if not candidates:
        raise LayoutError(f"{job.classes} classes do not fit {job.parameters.slots} slots")
    return hetal_circuit(job, min(candidates)[2])


def hetal_circuit(job: JobSpec, layout: BlockLayout) -> HetalCircuit:
    """HETAL's circuit with the cheapest bootstraps for a given block shape."""
    rows = min(job.batch_size, job.train_samples)
    a, b = layout.row_blocks(rows), layout.column_blocks(job.columns)
    placed = place(
        HetalCircuit(job, layout), layout.slots, min(layout.rows, rows), {"weights": b, "lookahead": b}, default=a
    )
    return HetalCircuit(job, layout, placed.levels, placed.schedule)


def _block_layouts(job: JobSpec) -> list[BlockLayout]:
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


# -- the replica-packed circuit ---------------------------------------------------------------------------------------


def _replica_plan(job: JobSpec) -> Plan:
    best: tuple[tuple[bool, float], Plan] | None = None
    method = PhaseCircuit if job.method == "pairwise" else NormaliseCircuit
    for circuit in method.candidates(job):
        chosen = plan_of(circuit)
        total = cost.MODEL.seconds(chosen.counts) + cost.MODEL.reading(circuit, job.batch_rows(0))
        shared = cost.sending(circuit, job) / max(1, min(job.epochs_max, EPOCHS_EXPECTED) * job.batches)
        key = (feature_bytes(circuit) > FEATURE_BYTES_MAX, total + shared)
        if best is None or key < best[0]:
            best = (key, chosen)
    if best is None:
        raise LayoutError(f"{job.classes} classes do not fit {job.parameters.slots} slots")
    return best[1]


def feature_bytes(circuit: Circuit) -> int:
    """Size of all encrypted training features of a job."""
    job = circuit.job
    each = job.parameters.ciphertext_bytes(circuit.levels.features)
    return each * sum(circuit.features_count(job.batch_rows(batch)) for batch in range(job.batches))
