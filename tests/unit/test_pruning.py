"""Pruning by mini-batches: scores on ciphertexts, the choice, what an answer may name, and how it outlives a worker."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hetal._pb import hetal_pb2 as pb
from hetal.ckks.presets import preset
from hetal.errors import InputError
from hetal.kernels.backends.plain import PlainEvaluator
from hetal.kernels.clear import exact_softmax, hardest, train_clear, with_bias
from hetal.kernels.evaluator import level_model
from hetal.kernels.plan import plan
from hetal.kernels.simulate import simulate
from hetal.protocol.early_stopping import Decision
from hetal.protocol.job import METHODS, JobSpec
from hetal.protocol.server_machine import Snapshot
from hetal.protocol.wire import manifest_from_proto, manifest_to_proto

JOB = JobSpec(
    parameters=preset("insecure-test"),
    train_samples=90,
    validation_samples=20,
    features=12,
    classes=3,
    batch_size=20,
    epochs_max=4,
    logits_max=32.0,
    prune_keep=0.5,
)


def blobs(classes: int, rows: int, seed: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, JOB.features))
    y = np.arange(rows) % classes
    return 0.5 * (centres[y] + 0.7 * rng.normal(size=(rows, JOB.features))), y


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("method", METHODS)
def test_scores_are_those_of_the_exact_residuals(method: str, classes: int) -> None:
    job = replace(JOB, method=method, classes=classes)
    circuit = plan(job).circuit
    levels, ev = circuit.levels, PlainEvaluator(level_model(job.parameters))
    x, y = blobs(classes, job.batch_size, seed=3)
    weights = 0.3 * np.random.default_rng(5).normal(size=(classes, job.columns))

    def encrypted(vectors: Any, level: int) -> list[Any]:
        return [ev.encrypt(vector, level) for vector in vectors]

    state = circuit.begin(ev, encrypted(circuit.pack_weights(weights), levels.weights))
    features = encrypted(circuit.pack_features(with_bias(x)), levels.features)
    labels = encrypted(circuit.pack_labels(y), levels.labels)
    arguments = (ev, state, features, labels)
    scored, scores = circuit.advance(*arguments, step=0, rows=len(y), scored=True)
    unscored = circuit.iterate(*arguments, step=0, rows=len(y))

    assert len(scores) == circuit.labels_count(len(y))
    assert {ct.level for ct in scores} == {0}
    residuals = exact_softmax(with_bias(x) @ weights.T) - np.eye(classes)[y]
    found = circuit.unpack_scores([ev.decrypt(ct).real for ct in scores], len(y))
    assert found == pytest.approx((residuals**2).sum(axis=1), abs=0.02)
    for a, b in zip(scored, unscored, strict=True):
        assert np.array_equal(ev.decrypt(a), ev.decrypt(b))


@pytest.mark.parametrize("method", METHODS)
def test_simulated_pruning_follows_the_clear_one(method: str) -> None:
    job = replace(JOB, method=method, learning_rate=0.3)
    data = (*blobs(3, job.train_samples, seed=1), *blobs(3, job.validation_samples, seed=2))
    clear, simulated = train_clear(job, *data), simulate(job, *data)
    assert len(clear.kept) == job.batches_kept == 2
    assert simulated.kept == clear.kept
    assert simulated.steps == clear.steps == job.iterations_max == 5 + 3 * 2
    assert np.abs(simulated.weights - clear.weights).max() < 0.03 * np.abs(clear.weights).max()
    assert train_clear(replace(job, prune_keep=1.0), *data).steps == 20


def test_the_mini_batches_of_the_largest_scores_are_kept_in_their_order() -> None:
    assert hardest([0.1, 0.4, 0.2, 0.4, 0.3], 3) == (1, 3, 4)
    assert hardest([0.2, 0.2, 0.2], 2) == (0, 1)


@pytest.mark.parametrize(
    ("epoch", "kept"), [(1, ()), (1, (0,)), (1, (1, 1)), (1, (2, 1)), (1, (1, 5)), (1, (-1, 2)), (2, (1, 2))]
)
def test_mini_batches_that_an_answer_may_not_name(epoch: int, kept: tuple[int, ...]) -> None:
    with pytest.raises(InputError):
        JOB.check_kept(epoch, kept)


def test_mini_batches_that_an_answer_may_name() -> None:
    JOB.check_kept(1, (1, 4))
    JOB.check_kept(2, ())
    replace(JOB, prune_keep=1.0).check_kept(1, ())
    with pytest.raises(InputError):
        replace(JOB, prune_keep=1.0).check_kept(1, (1, 4))


@pytest.mark.parametrize(
    "changes",
    [
        {"prune_keep": 0.0},
        {"prune_keep": 1.1},
        {"prune_keep": float("nan")},
        {"prune_keep": 0.95},
        {"batch_size": 90},
        {"prune_after": 4},
        {"prune_after": 0},
    ],
)
def test_jobs_that_cannot_be_pruned_are_refused(changes: dict[str, Any]) -> None:
    JOB.check()
    with pytest.raises(InputError):
        replace(JOB, **changes).check()


def test_pruning_survives_the_wire_and_is_off_where_a_manifest_says_nothing() -> None:
    message = manifest_to_proto(replace(JOB, prune_after=2), key_tag="t", blobs={"keys/mult": 1})
    sent = pb.Manifest.FromString(message.SerializeToString())
    assert manifest_from_proto(sent, allow_insecure=True).job == replace(JOB, prune_after=2)
    sent.ClearField("prune_keep")
    sent.ClearField("prune_after")
    assert manifest_from_proto(sent, allow_insecure=True).job == replace(JOB, prune_keep=1.0)


def test_a_snapshot_keeps_the_choice_and_older_ones_have_none() -> None:
    snapshot = Snapshot(decisions={1: Decision(stop=False, best=True, kept=(0, 3))})
    assert Snapshot.from_json(snapshot.to_json()).decisions == snapshot.decisions
    older = Snapshot(decisions={1: Decision(stop=False, best=True)}).to_json().replace('"kept": [], ', "")
    assert "kept" not in older
    assert Snapshot.from_json(older).decisions[1].kept == ()
