"""Named places where a test makes a server or a worker die, run out of disk, or out of memory.

Armed by the environment alone, when the process starts; otherwise a point is one test of an empty dictionary::

    HETAL_FAILPOINTS="object.linked=kill@2,checkpoint.before=full"
    HETAL_FAILPOINTS_LATCH=/path/to/directory

``@n`` strikes from the n-th passage of a process on, from the first by default. With a latch directory a point strikes
once in the life of that directory: the file named after the point, made just before, says that it did.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hetal.errors import InputError

VARIABLE: Final = "HETAL_FAILPOINTS"
LATCH_VARIABLE: Final = "HETAL_FAILPOINTS_LATCH"
ACTIONS: Final = ("kill", "full", "memory")

# Where, and what has just happened there. The front's points come first, in the order of a job's life.
FRONT: Final = {
    "job.folder": "a new job has its folder and no row",
    "job.row": "a new job has its row; the client has no answer",
    "db.begin": "a transaction has begun and changed nothing",
    "db.changed": "a transaction has changed everything and is not committed",
    "db.committed": "a transaction is on disk",
    "upload.opened": "a stream of a blob has the file open",
    "upload.chunk": "a chunk has come and is not written",
    "upload.written": "a chunk is written, perhaps to a buffer alone",
    "upload.sync": "the last chunk is written and not flushed",
    "upload.synced": "the blob's bytes are on disk under their partial name",
    "object.link": "the blob's hash is right; it has its partial name alone",
    "object.linked": "the blob has both its names; the directory is not flushed",
    "object.synced": "the blob is an object; no row refers to it",
    "upload.committed": "the blob is committed; the job has not heard of it",
    "upload.heard": "the job has heard of the blob; the client has no answer",
    "snapshot.before": "the job's machine has moved; its snapshot is not written",
    "snapshot.after": "the snapshot is written; nothing that follows from it is done",
    "slot.granted": "the job left the queue and has no worker",
    "worker.start": "a worker is about to start",
    "worker.started": "a worker runs and has no command",
    "worker.commanded": "a worker has its command",
    "event.before": "an event is about to go to a client",
    "event.after": "an event is in the client's stream",
    "answer.heard": "the client's answer has come; the job has not heard it",
    "answer.taken": "the answer is on disk; the worker has not heard it",
    "models.removed": "classifiers that no one needs any more are removed",
    "download.chunk": "a chunk of a result is about to go out",
    "delete.row": "a deleted job has no row; its bytes lie there",
    "delete.objects": "a deleted job's objects are removed, its folder is not",
}
WORKER: Final = {
    "train.begin": "the worker has its command and no keys",
    "train.loaded": "the worker has its keys and no state",
    "train.restored": "the worker has its state",
    "iteration.before": "an iteration is about to begin",
    "iteration.after": "an iteration is over; nothing is written",
    "file.write": "a file is about to be written",
    "file.written": "its temporary file is written and not flushed",
    "file.synced": "its temporary file is on disk",
    "file.renamed": "it has its name; the directory is not flushed",
    "results.written": "an epoch's logits and classifier are on disk; the checkpoint is not",
    "checkpoint.before": "a checkpoint is about to be written",
    "checkpoint.kept": "the last checkpoint has its second name",
    "checkpoint.after": "the checkpoint is on disk",
    "epoch.before": "an epoch is on disk; the front has not heard of it",
    "epoch.after": "the front was told of the epoch",
    "answer.passed": "the worker has heard the answer",
}
POINTS: Final = FRONT | WORKER


@dataclass(frozen=True, slots=True)
class Strike:
    """What happens at a point, and at which passage."""

    action: str
    passage: int = 1


def parse(text: str) -> dict[str, Strike]:
    """Points by name; raises an :class:`InputError` where the text names none."""
    strikes: dict[str, Strike] = {}
    for item in filter(None, text.split(",")):
        name, _, rest = item.partition("=")
        action, _, passage = rest.partition("@")
        if name not in POINTS or action not in ACTIONS or not (passage or "1").isdecimal():
            raise InputError(f"{item!r} in {VARIABLE} is no failpoint", hint="Unset it: it is for tests alone.")
        strikes[name] = Strike(action, int(passage or "1"))
    return strikes


_armed: Final = parse(os.environ.get(VARIABLE, ""))
_passages: Final[Counter[str]] = Counter()


def failpoint(name: str) -> None:
    """Pass the point of that name; see :data:`POINTS`."""
    if _armed:
        _pass(name)


def _pass(name: str) -> None:
    strike = _armed.get(name)
    if strike is None:
        return
    _passages[name] += 1
    if _passages[name] < strike.passage or not _latched(name):
        return
    match strike.action:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
            # Of another thread the signal may take a moment.
            time.sleep(60)
        case "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        case "memory":
            raise MemoryError


def _latched(name: str) -> bool:
    """Whether this is the point's first strike."""
    latch = os.environ.get(LATCH_VARIABLE)
    if latch is None:
        return True
    try:
        (Path(latch) / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
