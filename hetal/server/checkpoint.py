"""The checkpoints of one job on disk: the last one, and the one before it for the day when the last one is damaged."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from hetal.errors import DamagedCheckpointError, IntegrityError
from hetal.server.failpoints import failpoint
from hetal.server.log import event
from hetal.server.store.files import fsync_dir, write_atomically

LAST: Final = "checkpoint"
PREVIOUS: Final = "checkpoint.previous"


class Checkpoints:
    """Of the job whose results lie in ``folder``. Blocking."""

    def __init__(self, folder: Path) -> None:
        self._last = folder / LAST
        self._previous = folder / PREVIOUS

    def save(self, checkpoint: bytes) -> None:
        """Replace the last checkpoint, which becomes the previous one. It is on disk when this returns."""
        failpoint("checkpoint.before")
        if self._last.exists():
            spare = self._previous.with_name(PREVIOUS + ".tmp")
            spare.unlink(missing_ok=True)
            os.link(self._last, spare)
            os.replace(spare, self._previous)
            fsync_dir(self._last.parent)
        failpoint("checkpoint.kept")
        write_atomically(self._last, checkpoint)
        failpoint("checkpoint.after")

    def restore(self, load: Callable[[bytes], None]) -> bool:
        """Give the last sound checkpoint to ``load``, which raises an :class:`IntegrityError` for a damaged one.

        Returns:
            False where there was none yet.

        Raises:
            DamagedCheckpointError: there are checkpoints, and none of them is sound.
        """
        found = [path for path in (self._last, self._previous) if path.exists()]
        for path in found:
            try:
                load(path.read_bytes())
            except (IntegrityError, OSError) as error:
                event("checkpoint damaged", level=logging.ERROR, file=path.name, reason=str(error))
                continue
            if path == self._previous:
                # A damaged one must not become the previous one of the next.
                os.replace(self._previous, self._last)
                fsync_dir(self._last.parent)
            return True
        if found:
            raise DamagedCheckpointError(f"none of the job's {len(found)} checkpoints is sound")
        return False
