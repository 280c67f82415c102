"""The planner: feasible, minimal in the sense it claims, and the same on both sides."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from hetal.ckks.parameters import check
from hetal.ckks.presets import PRESETS, preset
from hetal.errors import LevelError, SoftmaxUnavailableError
from hetal.kernels.backends.counting import CountingEvaluator
from hetal.kernels.clear import train_clear
from hetal.kernels.evaluator import Ciphertext, level_model
from hetal.kernels.hetal_circuit import HetalCircuit
from hetal.kernels.optimizer import hetal_momentum, momentum, total, weight
from hetal.kernels.placement import _Graph, _trace
from hetal.kernels.plan import method_for, plan
from hetal.kernels.simulate import simulate
from hetal.protocol.job import METHODS, JobSpec, SoftmaxSpec


def job(preset_name: str = "insecure-test", **changes: object) -> JobSpec:
    base = JobSpec(
        parameters=preset(preset_name),
        train_samples=100,
        validation_samples=20,
        features=12,
        classes=3,
        batch_size=50,
        epochs_max=2,
        method="hetal",
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
    circuit = plan(spec).circuit
    assert isinstance(circuit, HetalCircuit)
    graph = _Graph(_trace(circuit, spec.parameters.slots, spec.batch_rows(0)), spec.parameters)
    bootstrapped = frozenset(n for n, step in circuit.schedule.items() if step.bootstrap)
    assert graph.needs(bootstrapped) is not None
    for left_out in bootstrapped:
        assert graph.needs(bootstrapped - {left_out}) is None


def test_more_usable_levels_need_fewer_bootstraps() -> None:
    assert plan(job("deep")).bootstraps < plan(job("default")).bootstraps


def test_too_few_levels_are_refused() -> None:
    shallow = check(dataclasses.replace(PRESETS["insecure-test"], levels=17))
    with pytest.raises(LevelError):
        plan(job(parameters=shallow))


@pytest.mark.parametrize("method", METHODS)
def test_plan_is_deterministic(method: str) -> None:
    first = plan(job(method=method))
    plan.cache_clear()
    second = plan(job(method=method))
    assert dataclasses.replace(second, circuit=first.circuit) == first
    for name in ("layout", "levels", "schedule", "inner"):
        assert getattr(second.circuit, name, None) == getattr(first.circuit, name, None)


@pytest.mark.parametrize(
    ("classes", "features", "batch", "rows"),
    [(2, 1, 40, 40), (3, 12, 50, 120), (5, 40, 30, 70), (2, 30, 64, 65)],
    ids=["one feature", "three classes", "several column blocks", "last batch of one"],
)
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_simulation_follows_the_clear_training_within_the_levels(
    method: str, classes: int, features: int, batch: int, rows: int, nesterov: bool
) -> None:
    x, y = blobs(classes, rows, features, seed=1)
    x_val, y_val = blobs(classes, 33, features, seed=2)
    spec = job(
        method=method,
        logits_max=32.0,
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
    circuit = plan(spec).circuit
    assert isinstance(circuit, HetalCircuit)
    circuit.schedule = {name: dataclasses.replace(step, bootstrap=False) for name, step in circuit.schedule.items()}
    monkeypatch.setattr("hetal.kernels.simulate.plan", lambda _: dataclasses.replace(plan(spec), circuit=circuit))
    with pytest.raises(LevelError):
        simulate(spec, x, y, x, y)


def test_momentum_schedules() -> None:
    for beta in (momentum, hetal_momentum):
        assert beta(0) == 0.0
        values = [beta(t) for t in range(50)]
        assert values == sorted(values)
        assert 0.9 < values[-1] < 1.0
    assert hetal_momentum(1) == pytest.approx(0.2817, abs=1e-3)


def test_sums_of_integers_are_the_momentum() -> None:
    for t in range(20):
        assert total(t + 1) == total(t) + weight(t)
        assert momentum(t) == pytest.approx(weight(t + 1) * total(t) / (weight(t) * total(t + 2)))


@pytest.mark.parametrize("name", sorted(PRESETS))
@pytest.mark.parametrize(
    ("classes", "features", "batch", "rows", "validation"),
    [(3, 12, 50, 100, 20), (2, 1, 40, 40, 40), (5, 300, 700, 1500, 900), (7, 40, 64, 65, 1)],
    ids=["one block", "one feature", "several blocks", "last batch of one"],
)
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_rotation_levels_are_those_of_a_whole_training_and_a_prediction(
    name: str, method: str, classes: int, features: int, batch: int, rows: int, validation: int, nesterov: bool
) -> None:
    spec = job(
        name,
        method=method,
        classes=classes,
        features=features,
        batch_size=batch,
        train_samples=rows,
        validation_samples=validation,
        nesterov=nesterov,
    )
    chosen = plan(spec)
    circuit, levels = chosen.circuit, chosen.circuit.levels
    ev = CountingEvaluator(level_model(spec.parameters))

    def fresh(count: int, level: int) -> list[Ciphertext]:
        return [ev.encrypt(level=level) for _ in range(count)]

    def validate(classifier: Sequence[Ciphertext]) -> None:
        circuit.evaluate(ev, classifier, fresh(circuit.validation_count(validation), levels.validation), validation)

    state = circuit.begin(ev, fresh(circuit.weights_count, levels.weights))
    for step in range(2 * spec.batches + 1):
        samples = spec.batch_rows(step % spec.batches)
        x = fresh(circuit.features_count(samples), levels.features)
        y = fresh(circuit.labels_count(samples), levels.labels)
        state = circuit.iterate(ev, state, x, y, step=step, rows=samples)
        validate(circuit.classifier(ev, state, step + 1))
    validate(fresh(circuit.classifier_count, levels.validation))

    assert tuple(sorted(ev.steps)) == chosen.rotations
    assert ev.steps == chosen.rotation_levels


@pytest.mark.parametrize(
    ("classes", "logits_max", "phases", "error", "method"),
    [
        (2, 128.0, True, 0.02, "pairwise"),
        (10, 128.0, True, 0.02, "pairwise"),
        (10, 128.0, True, 0.002, "normalise"),
        (10, 128.0, False, 0.02, "normalise"),
        (64, 128.0, True, 0.02, "normalise"),
        (100, 128.0, True, 0.03, "hetal"),
    ],
)
def test_the_method_follows_the_error_and_the_backend(
    classes: int, logits_max: float, phases: bool, error: float, method: str
) -> None:
    assert method_for(classes, logits_max, phases, error) == method


def test_an_error_that_no_method_keeps_is_named_with_the_best() -> None:
    with pytest.raises(SoftmaxUnavailableError, match="the best is 'normalise'"):
        method_for(10, 128.0, True, 1e-6)
