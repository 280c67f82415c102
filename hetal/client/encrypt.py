"""From prepared arrays to framed blobs of ciphertexts, and from blobs of results back to arrays."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from hetal.ckks.framing import Kind, frame, join, split, unframe
from hetal.client.dataset import Array, Prepared
from hetal.client.keys import KeySet
from hetal.errors import CiphertextFormatError
from hetal.kernels.clear import with_bias
from hetal.kernels.evaluator import Vector
from hetal.kernels.plan import Plan
from hetal.protocol.job import INITIAL_WEIGHTS, VALIDATION_X, JobSpec, batch_x_blob, batch_y_blob

# What serialisation may add to a ciphertext's limbs.
OBJECT_OVERHEAD_BYTES = 64 * 1024


class Encryptor:
    """Encrypts one job's data under its plan."""

    def __init__(self, job: JobSpec, plan: Plan, keys: KeySet) -> None:
        self.job = job
        self.plan = plan
        self.keys = keys

    def blobs(self, data: Prepared, initial: Array | None = None) -> Iterator[tuple[str, bytes]]:
        """(name, framed blob), one at a time.

        Args:
            initial: weights (classes, features + 1) to start from; zeros by default.
        """
        job, circuit = self.job, self.plan.circuit
        levels = circuit.levels
        weights = np.zeros((job.classes, job.columns)) if initial is None else initial
        yield INITIAL_WEIGHTS, self._blob(circuit.pack_weights(weights), levels.weights)
        yield VALIDATION_X, self.features(data.x_val)
        x = with_bias(data.x_train)
        for batch in range(job.batches):
            start = batch * job.batch_size
            rows = slice(start, start + job.batch_rows(batch))
            yield batch_x_blob(batch), self._blob(circuit.pack_features(x[rows]), levels.features)
            yield batch_y_blob(batch), self._blob(circuit.pack_labels(data.y_train[rows]), levels.labels)

    def features(self, x: Array) -> bytes:
        """Prepared features, without bias, for an evaluation of the classifier."""
        circuit = self.plan.circuit
        return self._blob(circuit.pack_validation(with_bias(x)), circuit.levels.validation)

    def logits(self, blob: bytes, samples: int) -> Array:
        """(samples, classes) from the server's encrypted logits, up to what those of a sample have in common."""
        circuit = self.plan.circuit
        return circuit.unpack_logits(self._open(blob, circuit.logits_count(samples), "logits"), samples)

    def logits_and_scores(self, blob: bytes) -> tuple[Array, list[Array]]:
        """The validation logits of the epoch that is scored, and the scores (rows,) of each mini-batch."""
        job, circuit = self.job, self.plan.circuit
        counts = [circuit.labels_count(job.batch_rows(batch)) for batch in range(job.batches)]
        logits_count = circuit.logits_count(job.validation_samples)
        vectors = self._open(blob, logits_count + sum(counts), "logits and scores")
        ends = np.cumsum([logits_count, *counts])
        scores = [
            circuit.unpack_scores(vectors[start:end], job.batch_rows(batch))
            for batch, (start, end) in enumerate(pairwise(ends))
        ]
        return circuit.unpack_logits(vectors[:logits_count], job.validation_samples), scores

    def weights(self, blob: bytes, initial: Array | None = None) -> Array:
        """(classes, features + 1) from the server's encrypted classifier.

        Args:
            initial: that the training started from. What its weights have in common is not a training's business.
        """
        circuit = self.plan.circuit
        weights = circuit.unpack_classifier(self._open(blob, circuit.classifier_count, "classifier"))
        if initial is None:
            return weights
        return np.asarray(weights - weights.mean(axis=0) + initial.mean(axis=0))

    def _open(self, blob: bytes, count: int, what: str) -> list[Array]:
        parts = split(unframe(blob, Kind.CIPHERTEXTS, self.job.parameters.digest))
        if len(parts) != count:
            raise CiphertextFormatError(f"the {what} came in {len(parts)} ciphertexts, not {count}")
        return [self.keys.decrypt(part) for part in parts]

    def _blob(self, vectors: list[Vector], level: int) -> bytes:
        parts = [self.keys.encrypt(vector, level) for vector in vectors]
        return frame(Kind.CIPHERTEXTS, self.job.parameters.digest, join(parts))


def blob_sizes(job: JobSpec, plan: Plan) -> dict[str, int]:
    """Largest size in bytes of every blob of ciphertexts that a client uploads, for the manifest."""
    circuit, params = plan.circuit, job.parameters
    levels = circuit.levels

    def size(count: int, level: int) -> int:
        return OBJECT_OVERHEAD_BYTES + count * (params.ciphertext_bytes(level) + OBJECT_OVERHEAD_BYTES)

    sizes = {
        INITIAL_WEIGHTS: size(circuit.weights_count, levels.weights),
        VALIDATION_X: size(circuit.validation_count(job.validation_samples), levels.validation),
    }
    for batch in range(job.batches):
        rows = job.batch_rows(batch)
        sizes[batch_x_blob(batch)] = size(circuit.features_count(rows), levels.features)
        sizes[batch_y_blob(batch)] = size(circuit.labels_count(rows), levels.labels)
    return sizes
