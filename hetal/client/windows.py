"""Search of bytes for secrets in the clear: runs of features, labels, logits, weights and key, in many encodings.

A secret becomes *windows*: disjoint runs of consecutive values, each 16 bytes or longer and uneven enough that it does
not occur by chance. The searched bytes are compared at every offset, so a leak is found wherever it lies, as long as it
holds one whole window: any 2w - 1 consecutive values, where w values make a window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hetal.client.dataset import Prepared

Bytes = bytes | bytearray | memoryview

REAL_ENCODINGS: Final = ("<f8", ">f8", "<f4", ">f4", "<f2", ">f2")
INTEGER_ENCODINGS: Final = ("<i8", ">i8", "<i4", ">i4", "<i2", ">i2", "<i1")
WINDOW_BYTES: Final = (16, 64, 256, 1024)
# A window is telling when its bytes take 6 values or more, or its values change 8 times or more.
DISTINCT_BYTES_MIN: Final = 6
CHANGES_MIN: Final = 8
WINDOWS_PER_ENCODING_MAX: Final = 1 << 16
TEXT_BYTES_MIN: Final = 6
BLOCK_BYTES: Final = 4 << 20
HITS_MAX: Final = 1_000
PART_BYTES_MAX: Final = 64
FILTER_BITS: Final = 22
_FACTOR: Final = 0x9E3779B1


@dataclass(frozen=True, slots=True)
class Hit:
    """A secret in the clear.

    Attributes:
        secret: such as "features".
        encoding: how it is written: a NumPy type, or text.
        offset: in the searched bytes.
    """

    secret: str
    encoding: str
    offset: int

    def __str__(self) -> str:
        return f"{self.secret} as {self.encoding} at byte {self.offset}"


class Windows:
    """The windows of some secrets, and the search for them."""

    def __init__(self) -> None:
        self._texts: dict[bytes, tuple[str, str]] = {}
        self._runs: dict[int, dict[bytes, tuple[str, str]]] = {length: {} for length in WINDOW_BYTES}
        # Made at the first search.
        self._tables: list[_Table] | None = None

    def __len__(self) -> int:
        return len(self._texts) + sum(map(len, self._runs.values()))

    def add_reals(self, secret: str, values: NDArray[Any]) -> None:
        """Real numbers, row after row and column after column: binary, and as the decimals that Python prints."""
        array = np.asarray(values, dtype=np.float64)
        for flat in _orders(array):
            for encoding in REAL_ENCODINGS:
                with np.errstate(over="ignore"):
                    self._add_runs(secret, encoding, flat.astype(encoding))
        for value in _spread(array.reshape(-1), WINDOWS_PER_ENCODING_MAX).tolist():
            self._runs[WINDOW_BYTES[0]].update(_decimal(secret, value))

    def add_integers(self, secret: str, values: NDArray[Any]) -> None:
        """Integers, row after row and column after column, in every width and as reals; binary ones also as bits."""
        array = np.asarray(values)
        for flat in _orders(array):
            for encoding in (*INTEGER_ENCODINGS, *REAL_ENCODINGS):
                self._add_runs(secret, encoding, flat.astype(encoding))
            if not set(np.unique(flat).tolist()) - {0, 1}:
                for order in ("big", "little"):
                    packed = np.packbits(flat.astype(bool), bitorder=order)
                    self._add_runs(secret, f"bits, {order}", packed)

    def add_bytes(self, secret: str, data: Bytes) -> None:
        """Binary data as it is."""
        self._add_runs(secret, "bytes", np.frombuffer(data, dtype=np.uint8))

    def add_text(self, secret: str, text: str) -> None:
        """A word; shorter than ``TEXT_BYTES_MIN`` it would occur by chance and is left out."""
        for encoding in ("utf-8", "utf-16-le"):
            data = text.encode(encoding)
            if len(data) >= TEXT_BYTES_MIN:
                self._texts[data] = (secret, encoding)

    def search(self, data: Bytes) -> list[Hit]:
        """All places where a window begins, up to ``HITS_MAX``."""
        hits: list[Hit] = []

        def note(secret: tuple[str, str], offset: int) -> bool:
            hits.append(Hit(*secret, offset))
            return len(hits) < HITS_MAX

        self._scan(data, note)
        return hits

    def search_file(self, path: Path) -> list[Hit]:
        """As :meth:`search`, of a file that may be larger than the memory."""
        if path.stat().st_size == 0:
            return []
        return self.search(np.memmap(path, dtype=np.uint8, mode="r").data)

    def search_tree(self, folder: Path) -> dict[Path, list[Hit]]:
        """Hits by file, of all files below ``folder``."""
        found = {path: self.search_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}
        return {path: hits for path, hits in found.items() if hits}

    # -- parts --------------------------------------------------------------------------------------------------------

    def _add_runs(self, secret: str, encoding: str, values: NDArray[Any]) -> None:
        """Windows of the shortest length at which most runs of the values are telling, and the telling ones below."""
        self._tables = None
        for length in WINDOW_BYTES:
            count = length // values.itemsize
            runs = values[: len(values) // count * count].reshape(-1, count)
            if not len(runs):
                return
            telling = _telling(runs)
            for row in _spread(np.flatnonzero(telling), WINDOWS_PER_ENCODING_MAX):
                self._runs[length][runs[row].tobytes()] = (secret, encoding)
            if 2 * np.count_nonzero(telling) >= len(runs):
                return

    def _scan(self, data: Bytes, note: Callable[[tuple[str, str], int], bool]) -> None:
        view = memoryview(data).cast("B")
        overlap = max([*WINDOW_BYTES, *map(len, self._texts)])
        if self._tables is None:
            self._tables = [_Table(length, runs) for length, runs in self._runs.items() if runs]
        for start in range(0, max(1, len(view)), BLOCK_BYTES):
            raw = bytes(view[start : start + BLOCK_BYTES + overlap])
            for text, secret in self._texts.items():
                at = raw.find(text)
                if 0 <= at < BLOCK_BYTES and not note(secret, start + at):
                    return
            for at, secret in _matches(raw, self._tables):
                if at < BLOCK_BYTES and not note(secret, start + at):
                    return


def add_data(windows: Windows, data: Prepared, raw: Iterable[Any] = ()) -> None:
    """Features as they are encrypted and (``raw``) as they were given, the labels, and the names of the classes."""
    for x in (data.x_train, data.x_val):
        windows.add_reals("features", x)
    for x in raw:
        windows.add_reals("raw features", np.asarray(x))
    for y in (data.y_train, data.y_val):
        windows.add_integers("labels", y)
        windows.add_integers("labels", np.eye(len(data.labels.values), dtype=np.int64)[y])
    windows.add_reals("means and deviations", np.stack([data.standardizer.mean, data.standardizer.scale]))
    for value in data.labels.values:
        windows.add_text("class name", str(value))


class _Table:
    """The windows of one length, by the hash of a part: the first 16 bytes, or of long ones the liveliest 64.

    Long windows are those of small numbers. Most of their bytes are zeros, as are those of much that is no secret.
    """

    def __init__(self, length: int, runs: Mapping[bytes, tuple[str, str]]) -> None:
        self.length = length
        self.part_bytes = min(length, PART_BYTES_MAX)
        rows = np.stack([np.frombuffer(run, dtype=np.uint8) for run in runs])
        parts = rows.reshape(len(rows), -1, self.part_bytes)
        changes = np.count_nonzero(parts[:, :, 1:] != parts[:, :, :-1], axis=2)
        liveliest = changes.argmax(axis=1)
        hashes = _hashes(parts[np.arange(len(rows)), liveliest])
        order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[order]
        self._shifts = liveliest[order] * self.part_bytes
        self._runs = list(runs.items())
        self._order = order
        self._filter = np.zeros(1 << FILTER_BITS, dtype=bool)
        self._filter[hashes >> np.uint32(32 - FILTER_BITS)] = True

    def matches(self, raw: bytes, hashes: NDArray[np.uint32]) -> Iterator[tuple[int, tuple[str, str]]]:
        """(offset, secret) of each window in ``raw``, given the hash of every run of ``part_bytes`` bytes."""
        at = np.flatnonzero(self._filter[hashes >> np.uint32(32 - FILTER_BITS)])
        first = np.searchsorted(self._hashes, hashes[at], side="left")
        last = np.searchsorted(self._hashes, hashes[at], side="right")
        for where in np.flatnonzero(last > first).tolist():
            for index in range(first[where], last[where]):
                begin = int(at[where]) - int(self._shifts[index])
                run, secret = self._runs[self._order[index]]
                if begin >= 0 and raw.startswith(run, begin):
                    yield begin, secret


def _matches(raw: bytes, tables: Sequence[_Table]) -> Iterator[tuple[int, tuple[str, str]]]:
    values = np.frombuffer(raw, dtype=np.uint8).astype(np.uint32) + np.uint32(1)
    hashes: NDArray[np.uint32] = values.reshape(1, -1)
    have = 1
    for part_bytes, group in groupby(tables, key=lambda table: table.part_bytes):
        if len(raw) < part_bytes:
            return
        hashes = _doubled(hashes, have, part_bytes)
        have = part_bytes
        mixed = _mixed(hashes)[0]
        for table in group:
            yield from table.matches(raw, mixed)


def _hashes(rows: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Of each row of a power of two bytes: a polynomial modulo 2^32, mixed."""
    return np.asarray(_mixed(_doubled(rows.astype(np.uint32) + np.uint32(1), 1, rows.shape[1]))[:, 0])


def _doubled(hashes: NDArray[np.uint32], have: int, want: int) -> NDArray[np.uint32]:
    """From hashes of runs of ``have`` bytes to those of ``want``: two neighbouring runs make one twice as long."""
    while have < want:
        hashes = hashes[:, :-have] * np.uint32(pow(_FACTOR, have, 1 << 32)) + hashes[:, have:]
        have *= 2
    return hashes


def _mixed(hashes: NDArray[np.uint32]) -> NDArray[np.uint32]:
    # The filter takes the top bits, which a polynomial of similar bytes leaves alike.
    hashes = (hashes ^ (hashes >> np.uint32(15))) * np.uint32(0x85EBCA6B)
    return np.asarray(hashes ^ (hashes >> np.uint32(13)))


def _orders(array: NDArray[Any]) -> list[NDArray[Any]]:
    orders = [array, array.T] if array.ndim == 2 and min(array.shape) > 1 else [array]
    return [order.reshape(-1) for order in orders]


def _telling(runs: NDArray[Any]) -> NDArray[np.bool_]:
    changes = np.count_nonzero(runs[:, 1:] != runs[:, :-1], axis=1)
    ordered = np.sort(np.ascontiguousarray(runs).view(np.uint8).reshape(len(runs), -1), axis=1)
    distinct = 1 + np.count_nonzero(ordered[:, 1:] != ordered[:, :-1], axis=1)
    return np.asarray((changes >= CHANGES_MIN) | ((changes >= 1) & (distinct >= DISTINCT_BYTES_MIN)))


def _spread(values: NDArray[Any], at_most: int) -> NDArray[Any]:
    """Evenly chosen ones where there are more than ``at_most``."""
    return values if len(values) <= at_most else values[np.linspace(0, len(values) - 1, at_most).astype(int)]


def _decimal(secret: str, value: float) -> dict[bytes, tuple[str, str]]:
    """The first 16 characters of a number that has as many."""
    text = repr(abs(value)).encode()[: WINDOW_BYTES[0]]
    return {text: (secret, "decimal")} if len(text) == WINDOW_BYTES[0] else {}
