"""Full disks and exhausted memory, recognised in one place: they end one call or one job, with a code of their own."""

from __future__ import annotations

import errno
import sqlite3
from typing import Final

from hetal.errors import DiskFullError, HetalError, OutOfMemoryError

DISK_ERRORS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def shortage(error: BaseException) -> HetalError | None:
    """The error of the catalogue where ``error`` means that disk or memory ran out, else None."""
    if isinstance(error, (DiskFullError, OutOfMemoryError)):
        return error
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return OutOfMemoryError("the server ran out of memory")
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return DiskFullError("the server's disk is full")
    # Python 3.10 tells SQLite's reasons by their texts alone.
    if isinstance(error, sqlite3.OperationalError) and "disk is full" in str(error):
        return DiskFullError("the server's disk is full")
    return None
