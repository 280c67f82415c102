"""Who is next: one of each owner in turn, and in order of arrival within an owner."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")
_NONE: Final[Any] = object()


class FairQueue(Generic[T]):
    """An owner with a hundred jobs delays another's first one by one job, not by a hundred."""

    def __init__(self) -> None:
        # Owners in the order of their turns; none without items.
        self._turns: dict[str, deque[T]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._turns.values()))

    def __iter__(self) -> Iterator[T]:
        """In the order in which they are served, if none comes or goes."""
        rounds = zip_longest(*self._turns.values(), fillvalue=_NONE)
        return (item for turn in rounds for item in turn if item is not _NONE)

    def push(self, owner: str, item: T) -> None:
        self._turns.setdefault(owner, deque()).append(item)

    def head(self) -> T | None:
        """What :meth:`pop` would give."""
        return next((items[0] for items in self._turns.values()), None)

    def pop(self) -> T:
        """The next item; its owner's turn comes again after all others'."""
        owner, items = next(iter(self._turns.items()))
        del self._turns[owner]
        item = items.popleft()
        if items:
            self._turns[owner] = items
        return item

    def remove(self, item: T) -> None:
        """Take it out, if it is there."""
        for owner, items in list(self._turns.items()):
            if item in items:
                items.remove(item)
                if not items:
                    del self._turns[owner]

    def ahead(self, item: T) -> int:
        """How many are served before ``item``, if none comes or goes; 0 where it is not queued."""
        return next((place for place, other in enumerate(self) if other == item), 0)
