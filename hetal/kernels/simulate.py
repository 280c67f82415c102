"""The encrypted training without encryption: the very kernels and plan of the server, on the plain backend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hetal.kernels.backends.plain import Noise, PlainEvaluator
from hetal.kernels.clear import Array, ClearResult, Labels, cross_entropy, half_spread, hardest, with_bias
from hetal.kernels.evaluator import Ciphertext, Vector, level_model
from hetal.kernels.plan import plan
from hetal.protocol.early_stopping import EarlyStopping, adapted_range
from hetal.protocol.job import JobSpec


def simulate(job: JobSpec, x: Array, y: Labels, x_val: Array, y_val: Labels, noise: Noise | None = None) -> ClearResult:
    """What ``train_clear`` computes, with the approximations and the level schedule of the server."""
    circuit = plan(job).circuit
    levels = circuit.levels
    ev = PlainEvaluator(level_model(job.parameters), noise)
    xb, vb = with_bias(x), with_bias(x_val)

    def encrypted(vectors: Sequence[Vector], level: int) -> list[Ciphertext]:
        return [ev.encrypt(vector, level) for vector in vectors]

    def opened(cts: Sequence[Ciphertext]) -> list[Array]:
        return [ev.decrypt(ct).real for ct in cts]

    weights = np.zeros((job.classes, job.columns))
    state = circuit.begin(ev, encrypted(circuit.pack_weights(weights), levels.weights))
    validation = encrypted(circuit.pack_validation(vb), levels.validation)
    result = ClearResult(weights)
    stopping = EarlyStopping(job.patience, job.epochs_max)
    step, logits_max = 0, job.logits_max
    while True:
        means: list[float] = []
        scored = job.prunes and result.epochs + 1 == job.prune_after
        for batch in result.kept or range(job.batches):
            count = job.batch_rows(batch)
            rows = slice(batch * job.batch_size, batch * job.batch_size + count)
            features = encrypted(circuit.pack_features(xb[rows]), levels.features)
            labels = encrypted(circuit.pack_labels(y[rows]), levels.labels)
            state, scores = circuit.advance(
                ev, state, features, labels, step=step, rows=count, logits_max=logits_max, scored=scored
            )
            if scored:
                means.append(float(circuit.unpack_scores(opened(scores), count).mean()))
            step += 1
        classifier = circuit.classifier(ev, state, step)
        logits = circuit.unpack_logits(opened(circuit.evaluate(ev, classifier, validation, len(vb))), len(vb))
        result.largest_logit = max(result.largest_logit, float(np.abs(logits).max()))
        result.losses.append(cross_entropy(logits, y_val))
        result.accuracies.append(float((logits.argmax(axis=1) == y_val).mean()))
        result.epochs, result.steps = result.epochs + 1, step
        decision = stopping.update(result.losses[-1])
        if decision.best:
            result.weights, result.best_epoch = circuit.unpack_classifier(opened(classifier)), result.epochs
        if decision.stop:
            return result
        if scored:
            result.kept = hardest(means, job.batches_kept)
        if job.adaptive_range and (named := adapted_range(half_spread(logits), job.logits_max)):
            logits_max = named
