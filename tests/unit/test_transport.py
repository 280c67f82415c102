"""What the client makes of calls that end at the wrong moment."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from hetal.client.transport import Hesitation, settled


async def self_cancelled() -> int:
    raise asyncio.CancelledError


async def test_a_call_that_cancels_itself_is_broken_and_not_cancelled() -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await settled(self_cancelled())
    assert caught.value.code() is grpc.StatusCode.INTERNAL


async def test_a_caller_that_is_cancelled_stays_so() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    task = asyncio.ensure_future(settled(work()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(ended.wait(), 5)


async def test_answers_and_errors_pass() -> None:
    async def seven() -> int:
        return 7

    async def fail() -> int:
        raise ValueError("no")

    assert await settled(seven()) == 7
    with pytest.raises(ValueError, match="no"):
        await settled(fail())


async def test_hesitation_grows_with_lost_answers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    hesitation, none = Hesitation(), grpc.aio.Metadata()
    for code in (grpc.StatusCode.UNAVAILABLE, *([grpc.StatusCode.INTERNAL] * 7)):
        await hesitation.pause()
        with pytest.raises(grpc.aio.AioRpcError), hesitation.learn(None):
            raise grpc.aio.AioRpcError(code, none, none, "", "")
    assert pauses == [0, 0, 0.5, 1, 2, 4, 8, 10]
