"""The fair queue: owners in turn, arrival within an owner, and an honest count of who is ahead."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hetal.server.queue import FairQueue

ARRIVALS = st.lists(st.sampled_from("abc"), max_size=12)


def filled(owners: list[str]) -> FairQueue[tuple[str, int]]:
    queue: FairQueue[tuple[str, int]] = FairQueue()
    for number, owner in enumerate(owners):
        queue.push(owner, (owner, number))
    return queue


def drained(queue: FairQueue[tuple[str, int]]) -> list[tuple[str, int]]:
    return [queue.pop() for _ in range(len(queue))]


def test_one_of_each_owner_in_turn() -> None:
    served = drained(filled(list("aaabbc")))
    assert [owner for owner, _ in served] == list("abcaba")
    assert [number for owner, number in served if owner == "a"] == [0, 1, 2]


def test_who_comes_back_waits_for_the_others() -> None:
    queue = filled(list("ab"))
    assert queue.pop() == ("a", 0)
    queue.push("a", ("a", 9))
    assert drained(queue) == [("b", 1), ("a", 9)]
    assert queue.head() is None


@given(ARRIVALS)
def test_ahead_counts_what_is_served_before(owners: list[str]) -> None:
    items = [(owner, number) for number, owner in enumerate(owners)]
    ahead = {item: filled(owners).ahead(item) for item in items}
    assert drained(filled(owners)) == sorted(items, key=ahead.__getitem__)
    assert sorted(ahead.values()) == list(range(len(items)))
    assert list(filled(owners)) == drained(filled(owners))


@given(ARRIVALS, st.integers(0, 11))
def test_removal_leaves_the_rest_in_their_order(owners: list[str], index: int) -> None:
    queue = filled(owners)
    if index >= len(owners):
        queue.remove(("z", 0))
        assert len(queue) == len(owners)
        return
    gone = (owners[index], index)
    queue.remove(gone)
    assert gone not in queue
    assert queue.ahead(gone) == 0
    rest = drained(queue)
    assert sorted(rest) == sorted(set(enumerated(owners)) - {gone})
    for owner in "abc":
        own = [number for name, number in rest if name == owner]
        assert own == sorted(own)


def enumerated(owners: list[str]) -> list[tuple[str, int]]:
    return [(owner, number) for number, owner in enumerate(owners)]
