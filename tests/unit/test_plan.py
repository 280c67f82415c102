"""The planner: feasible, minimal in the sense it claims, and the same on both sides."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from hetal.ckks.parameters import check
from hetal.ckks.presets import PRESETS, preset
from hetal.errors import LevelError
from hetal.kernels.backends.counting import CountingEvaluator
from hetal.kernels.clear import train_clear
from hetal.kernels.evaluator import Ciphertext, Refresh, level_model
from hetal.kernels.iteration import evaluate, iterate
from hetal.kernels.optimizer import State, momentum
from hetal.kernels.plan import _Graph, _trace, plan
from hetal.kernels.simulate import simulate
from hetal.protocol.job import JobSpec, SoftmaxSpec


def job(preset_name: str = "insecure-test", **changes: object) -> JobSpec:
    base = JobSpec(
        parameters=preset(preset_name),
        train_samples=100,
        validation_samples=20,
        features=12,
        classes=3,
        batch_size=50,
        epochs_max=2,
        softmax=SoftmaxSpec(extensions=2),
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def blobs(classes: int, rows: int, features: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, features))
    y = np.arange(rows) % classes
    return 0.5 * (centres[y] + 0.7 * rng.normal(size=(rows, features))), y


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_plan_is_feasible_and_no_single_bootstrap_can_be_left_out(name: str) -> None:
    spec = job(name)
    chosen = plan(spec)
    graph = _Graph(_trace(spec, chosen.layout), spec)
    bootstrapped = frozenset(n for n, step in chosen.schedule.items() if step.bootstrap)
    assert graph.needs(bootstrapped) is not None
    for left_out in bootstrapped:
        assert graph.needs(bootstrapped - {left_out}) is None


def test_more_usable_levels_need_fewer_bootstraps() -> None:
    assert plan(job("deep")).bootstraps < plan(job("default")).bootstraps


def test_too_few_levels_are_refused() -> None:
    shallow = check(dataclasses.replace(PRESETS["insecure-test"], levels=17))
    with pytest.raises(LevelError):
        plan(job(parameters=shallow))


def test_plan_is_deterministic() -> None:
    first = plan(job())
    plan.cache_clear()
    assert plan(job()) == first


@pytest.mark.parametrize(
    ("classes", "features", "batch", "rows"),
    [(2, 1, 40, 40), (3, 12, 50, 120), (5, 40, 30, 70), (2, 30, 64, 65)],
    ids=["one feature", "three classes", "several column blocks", "last batch of one"],
)
@pytest.mark.parametrize("nesterov", [True, False])
def test_simulation_follows_the_clear_training_within_the_levels(
    classes: int, features: int, batch: int, rows: int, nesterov: bool
) -> None:
    x, y = blobs(classes, rows, features, seed=1)
    x_val, y_val = blobs(classes, 33, features, seed=2)
    spec = job(
        train_samples=rows,
        validation_samples=33,
        features=features,
        classes=classes,
        batch_size=batch,
        nesterov=nesterov,
        learning_rate=0.5,
    )
    clear = train_clear(spec, x, y, x_val, y_val)
    simulated = simulate(spec, x, y, x_val, y_val)
    scale = np.abs(clear.weights).max()
    assert clear.epochs == simulated.epochs
    assert np.abs(simulated.weights - clear.weights).max() < 0.03 * scale
    assert simulated.losses == pytest.approx(clear.losses, abs=0.01)


def test_an_unscheduled_run_would_exhaust_the_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = blobs(2, 40, 4, seed=1)
    spec = job(train_samples=40, validation_samples=40, features=4, classes=2, batch_size=40)
    broken = {
        name: dataclasses.replace(step, bootstrap=False) if isinstance(step, Refresh) else step
        for name, step in plan(spec).schedule.items()
    }
    monkeypatch.setattr("hetal.kernels.simulate.plan", lambda _: dataclasses.replace(plan(spec), schedule=broken))
    with pytest.raises(LevelError):
        simulate(spec, x, y, x, y)


def test_momentum_schedule() -> None:
    assert momentum(0, nesterov=True) == 0.0
    values = [momentum(t, nesterov=True) for t in range(50)]
    assert values == sorted(values)
    assert values[1] == pytest.approx(0.2817, abs=1e-3)
    assert 0.9 < values[-1] < 1.0
    assert momentum(7, nesterov=False) == 0.0


class HighestRotations(CountingEvaluator):
    """Notes the highest level of each rotation; a hoisted one counts like any other."""

    def __init__(self, spec: JobSpec) -> None:
        super().__init__(level_model(spec.parameters))
        self.highest: dict[int, int] = {}

    def _rotate(self, a: Ciphertext, steps: int) -> None:
        self.highest[steps] = max(a.level, self.highest.get(steps, 0))

    def _rotate_many(self, a: Ciphertext, steps: Sequence[int]) -> list[None]:
        for count in steps:
            self._rotate(a, count)
        return [None] * len(steps)


@pytest.mark.parametrize("name", sorted(PRESETS))
@pytest.mark.parametrize(
    ("classes", "features", "batch", "rows", "validation"),
    [(3, 12, 50, 100, 20), (2, 1, 40, 40, 40), (5, 300, 700, 1500, 900), (7, 40, 64, 65, 1)],
    ids=["one block", "one feature", "several blocks", "last batch of one"],
)
@pytest.mark.parametrize("nesterov", [True, False])
def test_rotation_levels_are_those_of_a_whole_training_and_a_prediction(
    name: str, classes: int, features: int, batch: int, rows: int, validation: int, nesterov: bool
) -> None:
    spec = job(
        name,
        classes=classes,
        features=features,
        batch_size=batch,
        train_samples=rows,
        validation_samples=validation,
        nesterov=nesterov,
    )
    chosen = plan(spec)
    ev = HighestRotations(spec)
    ev.schedule = chosen.schedule
    columns = chosen.layout.column_blocks(spec.columns)

    def fresh(blocks: int, level: int) -> list[list[Ciphertext]]:
        return [[ev.encrypt(level=level) for _ in range(columns)] for _ in range(blocks)]

    (weights,) = fresh(1, chosen.weights_level)
    state = State(weights, weights)
    for step in range(2 * spec.batches + 1):
        samples = spec.batch_rows(step % spec.batches)
        blocks = chosen.layout.row_blocks(samples)
        y = [ev.encrypt(level=chosen.y_level) for _ in range(blocks)]
        state = iterate(ev, spec, chosen.layout, state, fresh(blocks, chosen.x_level), y, step=step, rows=samples)
        x = fresh(chosen.layout.row_blocks(validation), chosen.validation_level)
        evaluate(ev, spec, chosen.layout, x, state.weights)
    (model,) = fresh(1, chosen.validation_level)
    evaluate(ev, spec, chosen.layout, fresh(1, chosen.validation_level), model)

    assert tuple(sorted(ev.highest)) == chosen.rotations
    assert ev.highest == chosen.rotation_levels
