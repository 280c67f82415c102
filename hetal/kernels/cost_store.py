"""Measured cost tables: kept in the user's cache, and on the wire."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from hetal._pb import hetal_pb2 as pb
from hetal._version import __version__
from hetal.ckks.parameters import Parameters
from hetal.errors import HetalError, InputError
from hetal.kernels.cost import LEVELS_PER_OPERATION_MAX, OPERATIONS, CostTable
from hetal.processor import core_count, processor_name

TABLES_MAX: Final = 16
FILE_BYTES_MAX: Final = 1 << 20


def directory() -> Path:
    """``$HETAL_COST_CACHE``, or ``hetal/costs`` in the user's cache."""
    if chosen := os.environ.get("HETAL_COST_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "hetal" / "costs"


def path_of(params: Parameters, threads: int) -> Path:
    """Where the table of these parameters on this machine lies: by processor, cores, threads, ring, chain, release."""
    facts = [processor_name(), core_count(), threads, params.digest.hex(), __version__]
    return directory() / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]}.json"


def load(params: Parameters, threads: int) -> CostTable | None:
    """The table that was measured here; None without one, or where its file is damaged."""
    path = path_of(params, threads)
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            return None
        values = json.loads(path.read_text(encoding="utf-8"))
        points = {
            str(name): {float(level): float(value) for level, value in by.items()}
            for name, by in values["points"].items()
        }
        return CostTable(str(values["source"]), points)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, HetalError):
        return None


def save(params: Parameters, threads: int, table: CostTable) -> Path:
    """Keep a table, whole or not at all.

    Raises:
        OSError: the cache cannot be written.
    """
    path = path_of(params, threads)
    path.parent.mkdir(parents=True, exist_ok=True)
    points = {name: {str(level): value for level, value in by.items()} for name, by in table.points.items()}
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps({"source": table.source, "points": points}), encoding="utf-8")
    os.replace(temporary, path)
    return path


def to_proto(params: Parameters, table: CostTable) -> pb.CostTable:
    """As a server offers it."""
    points = [
        pb.CostPoint(operation=name, level=round(level), seconds=value)
        for name, by in table.points.items()
        for level, value in by.items()
    ]
    return pb.CostTable(parameter_digest=params.digest, source=table.source, points=points)


def from_proto(messages: Iterable[pb.CostTable], params: Parameters) -> CostTable | None:
    """A server's table for these parameters, checked; None where it offers none.

    Raises:
        InputError: there are too many tables, or this one is malformed.
    """
    offered = list(messages)
    if len(offered) > TABLES_MAX:
        raise InputError(f"the server offers {len(offered)} cost tables; at most {TABLES_MAX} are read")
    for message in offered:
        if message.parameter_digest != params.digest:
            continue
        if len(message.points) > len(OPERATIONS) * LEVELS_PER_OPERATION_MAX:
            raise InputError(f"a cost table of the server has {len(message.points)} points")
        points: dict[str, dict[float, float]] = {}
        for point in message.points:
            points.setdefault(point.operation[:40], {})[float(point.level)] = point.seconds
        return CostTable(message.source, points)
    return None
