"""Kill -9 at every named point, once each: nothing acknowledged is lost, and the classifier is the undisturbed run's.

scripts/crash_storm.py does it as often as one likes, at later passages of the points too.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from crash import TRAINING, UPLOADING, pairs, record_training, record_upload, storm, undisturbed

from hetal.server.failpoints import FRONT, POINTS, WORKER


def test_every_point_is_in_one_of_the_storms() -> None:
    lives = [[point] for point in UPLOADING] + pairs(TRAINING, tuple(WORKER))
    assert sorted(point for life in lives for point in life) == sorted(POINTS)
    assert set(UPLOADING) | set(TRAINING) == set(FRONT)


async def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    training, upload = record_training(2), record_upload()
    model, uploads, trainings = await asyncio.gather(
        undisturbed(training, tmp_path / "undisturbed"),
        storm(upload, [[point] for point in UPLOADING], tmp_path / "uploads"),
        storm(training, pairs(TRAINING, tuple(WORKER)), tmp_path / "trainings"),
    )
    assert uploads.struck | trainings.struck == set(POINTS)
    assert uploads.deaths + trainings.deaths >= len(FRONT)
    assert set(trainings.models) == {model}
