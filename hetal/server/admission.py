"""How much memory a job needs, and how much there is.

The estimate is a sum of four parts, each an upper bound of what was measured (docs/robustness.md):

    process + keys + HELD_CIPHERTEXTS * ciphertext at the top level + 2 * largest batch + validation set

Keys count at their uploaded size. The ciphertexts stand for the bootstrap's plaintexts, the weights, and what one
iteration holds at a time. A batch counts twice, as bytes and as ciphertexts.
"""

from __future__ import annotations

from typing import Final

import psutil

from hetal import limits
from hetal.errors import JobTooLargeError
from hetal.protocol.job import VALIDATION_X
from hetal.protocol.wire import CheckedManifest

ROTATION_PREFIX: Final = "keys/rotation/"
TRAIN_PREFIX: Final = "train/"
PROCESS_BYTES: Final = 384 * limits.MIB
HELD_CIPHERTEXTS: Final = 64
# The kernel, the front and other programs need the rest.
MACHINE_SHARE: Final = 0.9


def memory_bytes(checked: CheckedManifest) -> int:
    """Estimated peak of the memory of a job's worker."""
    params = checked.job.parameters
    rotations = sum(name.startswith(ROTATION_PREFIX) for name in checked.blobs)
    keys = (1 + rotations * limits.ROTATION_KEYS_PER_BLOB) * params.key_bytes()
    batch = max((size for name, size in checked.blobs.items() if name.startswith(TRAIN_PREFIX)), default=0)
    data = 2 * batch + checked.blobs.get(VALIDATION_X, 0)
    return PROCESS_BYTES + keys + HELD_CIPHERTEXTS * params.ciphertext_bytes(params.top_level) + data


class Memory:
    """What the workers of a server may use together.

    Args:
        total_bytes: None for the machine's, less a reserve.
    """

    def __init__(self, total_bytes: int | None) -> None:
        machine = int(psutil.virtual_memory().total * MACHINE_SHARE)
        self.total_bytes = total_bytes if total_bytes is not None else machine
        self.taken_bytes = 0

    def check(self, need_bytes: int) -> None:
        """Raise a :class:`JobTooLargeError` where a job would not fit even alone."""
        if need_bytes > self.total_bytes:
            need, total = need_bytes / limits.GIB, self.total_bytes / limits.GIB
            raise JobTooLargeError(f"the job needs about {need:.1f} GiB of memory; the server's jobs have {total:.1f}")

    def fits(self, need_bytes: int) -> bool:
        """Whether a job may start now. One alone always may: it was admitted under another limit."""
        return not self.taken_bytes or self.taken_bytes + need_bytes <= self.total_bytes

    def take(self, need_bytes: int) -> None:
        self.taken_bytes += need_bytes

    def give(self, need_bytes: int) -> None:
        self.taken_bytes -= need_bytes
