"""Streams that break leave nothing behind. scripts/break_streams.py measures ten thousand of them."""

from __future__ import annotations

from pathlib import Path

from streams import MIB, growth_bytes


async def test_left_streams_take_no_memory(tmp_path: Path) -> None:
    growth, _ = await growth_bytes(tmp_path, warm_up=200, count=400)
    assert growth <= 10 * MIB
