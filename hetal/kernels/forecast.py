"""What a planned job will take: seconds by stage, keys and bytes, from its plan and a table of costs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hetal.kernels.cost import CostTable
from hetal.kernels.plan import Plan
from hetal.native.transforms import bootstrap_automorphisms

KEY_SWITCHES = ("relin", "rotate", "rotate_hoisted", "conjugate")
READING = "reading"
OTHER = "other"


@dataclass(frozen=True, slots=True)
class Forecast:
    """Seconds of the server's work, of a job that trains all its epochs.

    Attributes:
        stages: of an iteration on a full batch, by stage; ``reading`` is that of its ciphertexts, ``other`` what
            lies between stages.
        validation_s: of one, at the end of an epoch.
        training_s: of all iterations and validations.
    """

    stages: dict[str, float]
    validation_s: float
    training_s: float

    @property
    def iteration_s(self) -> float:
        return sum(self.stages.values())


def forecast(plan: Plan, table: CostTable) -> Forecast:
    """What the table says of the plan."""
    job, circuit = plan.circuit.job, plan.circuit
    stages = {READING: table.reading(circuit, job.batch_rows(0))}
    stages |= {name: table.seconds(counts) for name, counts in staged(plan).items()}
    validation_s = table.seconds(plan.validation_counts)
    # The last mini-batch of an epoch may be smaller; the share of its rows is near enough.
    iterations = job.train_samples / job.batch_rows(0) * job.iterations_max / job.batches
    return Forecast(stages, validation_s, iterations * sum(stages.values()) + job.epochs_max * validation_s)


def staged(plan: Plan) -> dict[str, Counter[tuple[str, int]]]:
    """Operations of an iteration by stage, with what no stage has as ``other``."""
    rest = plan.counts.copy()
    for counts in plan.stages.values():
        rest.subtract(counts)
    return {**plan.stages, OTHER: +rest}


def key_count(plan: Plan) -> int:
    """Evaluation keys that a client makes: rotations, the conjugation, the bootstrap's, and the relinearisation's."""
    params = plan.circuit.job.parameters
    order = 2 * params.ring_dimension
    wanted = {pow(5, steps, order) for steps in plan.rotations} | set(bootstrap_automorphisms(params))
    return len(wanted | {order - 1}) + 1
