"""``hetal bench iteration`` and ``hetal bench train``: counts of the paper's shapes, and runs at the test preset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hetal.cli.bench_iteration import DESIGN, SHAPES
from hetal.cli.main import main

# Key switches that the project allows an iteration of each shape.
KEY_SWITCHES_MAX = {"facemask": 450, "snips": 450, "derma": 450, "mnist": 450, "cifar10": 600}


def bench(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    assert main(["bench", *options, "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_the_design_weighs_by_limbs() -> None:
    assert DESIGN.of("relin", 25) == 0.150
    assert DESIGN.of("rotate", 9) == 0.050
    assert DESIGN.of("rotate_hoisted", 9) == pytest.approx(0.020)
    assert DESIGN.of("phase", 15) == DESIGN.of("bootstrap", 12) == 12.0


@pytest.mark.parametrize("name", SHAPES)
def test_counts_at_the_shapes_of_the_paper(capsys: pytest.CaptureFixture[str], name: str) -> None:
    (row,) = bench(capsys, "iteration", "--shape", name)["shapes"]
    ours, paper = row["schedules"]["pairwise"], row["schedules"]["hetal"]
    assert ours["bootstraps"] <= 4
    assert ours["key_switches"] <= KEY_SWITCHES_MAX[name]
    assert ours["feature_ciphertexts"] <= 64
    for schedule in (ours, paper):
        parts = schedule["stages"].values()
        assert sum(part["key_switches"] for part in parts) == schedule["key_switches"]
        assert sum(part["weighted_s"] for part in parts) == pytest.approx(schedule["weighted_s"], abs=0.01)
    assert row["ratios"]["hetal"] == pytest.approx(paper["weighted_s"] / ours["weighted_s"], abs=0.01)
    assert row["ratios"]["hetal"] > 8.5


def test_an_iteration_on_the_engine_computes_what_numpy_slots_do(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--preset", "insecure-test", "--backend", "native", "--ours-only")
    (row,) = bench(capsys, "iteration", "--shape", "40,9,3", *options)["shapes"]
    (schedule,) = row["schedules"].values()
    measured = schedule["measured"]
    assert measured["weights_error"] < 1e-3
    assert {"expand", "forward", "softmax", "spread", "backward"} <= set(measured["stages"])
    assert 0 < sum(measured["stages"].values()) <= measured["seconds"]


def test_people_read_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "iteration", "--preset", "insecure-test", "--shape", "40,9,3"]) == 0
    told = capsys.readouterr().out
    for part in ("40, 9, 3", "hetal, best blocks", "pairwise", "softmax", "built-in model"):
        assert part in told


@pytest.mark.parametrize("shape", ["cats", "1,2", "1,2,x", "40,9,1"])
def test_wrong_shapes_are_told(capsys: pytest.CaptureFixture[str], shape: str) -> None:
    assert main(["bench", "iteration", "--preset", "insecure-test", "--shape", shape]) == 2
    assert "error [" in capsys.readouterr().err


def data_file(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for part, rows in (("train", 120), ("val", 40), ("test", 60)):
        y = np.arange(rows) % 3
        arrays |= {f"X_{part}": np.eye(3)[y] @ np.eye(3, 8) + 0.3 * rng.normal(size=(rows, 8)), f"y_{part}": y}
    folder.mkdir()
    np.savez(folder / "features.npz", **arrays)
    return folder / "features.npz"


@pytest.mark.parametrize("plain", [True, False])
def test_a_training_beside_the_clear_one_and_the_papers(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, plain: bool
) -> None:
    path = data_file(tmp_path / "facemask")
    more = ("--plain",) if plain else ("--threads", "1")
    options = ("--preset", "insecure-test", "--epochs", "2", "--batch-size", "60", *more)
    report = bench(capsys, "train", "--data", str(path), *options)
    assert report["kind"] == ("simulated" if plain else "encrypted")
    assert report["data"]["set"] == "facemask"
    assert report["paper"]["seconds_per_iteration"] == 4.29
    assert report["job"]["learning_rate"] == 0.5
    assert report["trained"]["epochs"] == report["clear"]["epochs"] == 2
    assert abs(report["test_accuracy_difference"]) <= 0.05
    assert report["weights_distance"] < 0.1
    if not plain:
        assert report["trained"]["seconds_per_iteration"] > 0
        assert {"keys", "upload", "training", "download"} <= set(report["trained"]["seconds"])
        assert report["trained"]["bytes_sent"] > 1_000_000


def test_a_set_of_no_paper_is_told_in_words(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = data_file(tmp_path / "own")
    arguments = ["bench", "train", "--data", str(path), "--preset", "insecure-test", "--plain", "--epochs", "1"]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    for part in ("features: 120 of 120 rows", "simulated", "clear", "test accuracy", "weights differ"):
        assert part in told
