"""The encrypted training without encryption: the very kernels and plan of the server, on the plain backend."""

from __future__ import annotations

import numpy as np

from hetal.kernels.backends.plain import Noise, PlainEvaluator
from hetal.kernels.clear import Array, ClearResult, Labels, cross_entropy, with_bias
from hetal.kernels.evaluator import level_model
from hetal.kernels.iteration import evaluate, iterate
from hetal.kernels.optimizer import State
from hetal.kernels.plan import plan
from hetal.protocol.early_stopping import EarlyStopping
from hetal.protocol.job import JobSpec


def simulate(job: JobSpec, x: Array, y: Labels, x_val: Array, y_val: Labels, noise: Noise | None = None) -> ClearResult:
    """What ``train_clear`` computes, with the approximations and the level schedule of the server."""
    chosen = plan(job)
    layout, padded = chosen.layout, job.padded_classes
    ev = PlainEvaluator(level_model(job.parameters), noise)
    ev.schedule = chosen.schedule
    xb, vb = with_bias(x), with_bias(x_val)
    onehot = np.eye(padded)[y]
    zeros = [ev.encrypt(v, chosen.weights_level) for v in layout.pack_tiled_rows(np.zeros((padded, job.columns)))]
    state = State(zeros, zeros)
    validation = [[ev.encrypt(v, chosen.validation_level) for v in row] for row in layout.pack(vb)]

    def unpacked() -> Array:
        slots = [ev.decrypt(ct).real for ct in state.weights]
        return layout.unpack_tiled_rows(slots, (padded, job.columns))[: job.classes]

    result = ClearResult(unpacked())
    stopping = EarlyStopping(job.patience, job.epochs_max)
    step = 0
    while True:
        for batch in range(job.batches):
            count = job.batch_rows(batch)
            rows = slice(batch * job.batch_size, batch * job.batch_size + count)
            blocks = [[ev.encrypt(v, chosen.x_level) for v in row] for row in layout.pack(xb[rows])]
            labels = [ev.encrypt(v, chosen.y_level) for v in layout.pack_tiled_columns(onehot[rows])]
            state = iterate(ev, job, layout, state, blocks, labels, step=step, rows=count)
            step += 1
        slots = [
            ev.decrypt(ct).real / chosen.logit_scale for ct in evaluate(ev, job, layout, validation, state.weights)
        ]
        logits = layout.unpack_tiled_columns(slots, (len(vb), padded))[:, : job.classes]
        result.largest_logit = max(result.largest_logit, float(np.abs(logits).max()))
        result.losses.append(cross_entropy(logits, y_val))
        result.accuracies.append(float((logits.argmax(axis=1) == y_val).mean()))
        result.epochs += 1
        decision = stopping.update(result.losses[-1])
        if decision.best:
            result.weights, result.best_epoch = unpacked(), result.epochs
        if decision.stop:
            return result
