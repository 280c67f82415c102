"""Kill -9 at every named point, once each: nothing acknowledged is lost, and the classifier is the undisturbed run's.

scripts/crash_storm.py does it as often as one likes, at later passages of the points too.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from crash import TRAINING, UPLOADING, pairs, record_training, record_upload, storm, undisturbed

from hetal.server.failpoints import FRONT, POINTS, WORKER


def test_every_point_is_in_one_of_the_storms() -> None:
    lives = [[point] for point in UPLOADING] + pairs(TRAINING, tuple(WORKER))
    assert sorted(point for life in lives for point in life) == sorted(POINTS)
    assert set(UPLOADING) | set(TRAINING) == set(FRONT)


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.full)])
async def test_nothing_acknowledged_is_lost(tmp_path: Path, every: int) -> None:
    """At every fourth point, or at all of them."""
    training, upload = record_training(2), record_upload()
    uploading = [[point] for point in UPLOADING][::every]
    striking = pairs(TRAINING, tuple(WORKER))[::every]
    model, uploads, trainings = await asyncio.gather(
        undisturbed(training, tmp_path / "undisturbed"),
        storm(upload, uploading, tmp_path / "uploads"),
        storm(training, striking, tmp_path / "trainings"),
    )
    points = {point for life in (*uploading, *striking) for point in life}
    assert uploads.struck | trainings.struck == points
    assert uploads.deaths + trainings.deaths >= len(points & set(FRONT))
    assert set(trainings.models) == {model}
