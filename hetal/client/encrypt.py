"""From prepared arrays to framed blobs of ciphertexts, and from blobs of results back to arrays."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hetal.ckks.framing import Kind, frame, join, split, unframe
from hetal.client.dataset import Array, Prepared
from hetal.client.keys import KeySet
from hetal.errors import CiphertextFormatError
from hetal.kernels.clear import with_bias
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

    def blob_sizes(self) -> dict[str, int]:
        """Largest size in bytes of every blob of ciphertexts, for the manifest."""
        job, plan, layout = self.job, self.plan, self.plan.layout
        columns = layout.column_blocks(job.columns)
        sizes = {
            INITIAL_WEIGHTS: self._size(columns, plan.weights_level),
            VALIDATION_X: self._size(layout.row_blocks(job.validation_samples) * columns, plan.validation_level),
        }
        for batch in range(job.batches):
            rows = layout.row_blocks(job.batch_rows(batch))
            sizes[batch_x_blob(batch)] = self._size(rows * columns, plan.x_level)
            sizes[batch_y_blob(batch)] = self._size(rows, plan.y_level)
        return sizes

    def blobs(self, data: Prepared, initial: Array | None = None) -> Iterator[tuple[str, bytes]]:
        """(name, framed blob), one at a time.

        Args:
            initial: weights (classes, features + 1) to start from; zeros by default.
        """
        job, plan, layout = self.job, self.plan, self.plan.layout
        weights = np.zeros((job.padded_classes, job.columns))
        if initial is not None:
            weights[: job.classes] = initial
        yield INITIAL_WEIGHTS, self._blob(layout.pack_tiled_rows(weights), plan.weights_level)
        yield VALIDATION_X, self.features(data.x_val)
        x = with_bias(data.x_train)
        onehot = np.eye(job.padded_classes)[data.y_train]
        for batch in range(job.batches):
            start = batch * job.batch_size
            rows = slice(start, start + job.batch_rows(batch))
            blocks = [block for row in layout.pack(x[rows]) for block in row]
            yield batch_x_blob(batch), self._blob(blocks, plan.x_level)
            yield batch_y_blob(batch), self._blob(layout.pack_tiled_columns(onehot[rows]), plan.y_level)

    def features(self, x: Array) -> bytes:
        """Prepared features, without bias, for an evaluation of the classifier."""
        blocks = [block for row in self.plan.layout.pack(with_bias(x)) for block in row]
        return self._blob(blocks, self.plan.validation_level)

    def logits(self, blob: bytes, samples: int) -> Array:
        """(samples, classes) from the server's encrypted logits."""
        layout = self.plan.layout
        vectors = self._open(blob, layout.row_blocks(samples), "logits")
        scaled = layout.unpack_tiled_columns(vectors, (samples, self.job.padded_classes))
        return np.asarray(scaled[:, : self.job.classes] / self.plan.logit_scale)

    def weights(self, blob: bytes) -> Array:
        """(classes, features + 1) from the server's encrypted classifier."""
        layout, job = self.plan.layout, self.job
        vectors = self._open(blob, layout.column_blocks(job.columns), "classifier")
        return layout.unpack_tiled_rows(vectors, (job.padded_classes, job.columns))[: job.classes]

    def _open(self, blob: bytes, count: int, what: str) -> list[Array]:
        parts = split(unframe(blob, Kind.CIPHERTEXTS, self.job.parameters.digest))
        if len(parts) != count:
            raise CiphertextFormatError(f"the {what} came in {len(parts)} ciphertexts, not {count}")
        return [self.keys.decrypt(part) for part in parts]

    def _blob(self, vectors: list[Array], level: int) -> bytes:
        parts = [self.keys.encrypt(vector, level) for vector in vectors]
        return frame(Kind.CIPHERTEXTS, self.job.parameters.digest, join(parts))

    def _size(self, count: int, level: int) -> int:
        return OBJECT_OVERHEAD_BYTES + count * (self.job.parameters.ciphertext_bytes(level) + OBJECT_OVERHEAD_BYTES)
