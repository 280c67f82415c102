"""``hetal plan``: figures of the real plan, for people and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hetal.ckks.presets import preset
from hetal.cli.main import main
from hetal.client.keys import KeySet
from hetal.errors import InputError
from hetal.kernels.cost import MODEL, OPERATIONS, CostTable, model
from hetal.kernels.forecast import forecast, staged
from hetal.kernels.plan import plan
from hetal.protocol.job import METHODS, JobSpec

SHAPES = ("--samples", "300", "--validation-samples", "50", "--features", "20", "--classes", "3", "--batch-size", "128")


@pytest.fixture(autouse=True)
def no_measured_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HETAL_COST_CACHE", str(tmp_path / "costs"))


def planned(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    assert main(["plan", "--preset", "insecure-test", *options, "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def job(**changes: Any) -> JobSpec:
    values: dict[str, Any] = {
        "parameters": preset("insecure-test"),
        "train_samples": 300,
        "validation_samples": 50,
        "features": 20,
        "classes": 3,
        "batch_size": 128,
        "epochs_max": 10,
    }
    return JobSpec(**(values | changes))


@pytest.mark.parametrize("method", METHODS)
def test_the_report_is_that_of_the_plan(capsys: pytest.CaptureFixture[str], method: str) -> None:
    result = planned(capsys, *SHAPES, "--method", method)
    chosen = plan(job(method=method))
    iteration = result["iteration"]
    assert iteration["bootstraps"] == chosen.bootstraps > 0
    assert iteration["key_switches"] == chosen.key_switches
    assert sum(row["key_switches"] for row in iteration["stages"].values()) == chosen.key_switches
    assert sum(row["bootstraps"] for row in iteration["stages"].values()) == chosen.bootstraps
    told = {(name, int(level)): n for name, by in iteration["operations"].items() for level, n in by.items()}
    assert told == {key: count for key, count in chosen.counts.items() if count}
    assert iteration["seconds"] == pytest.approx(
        iteration["reading_s"] + sum(row["seconds"] for row in iteration["stages"].values())
    )
    assert result["batches"] == 3
    assert result["costs"] == "the built-in model"


@pytest.mark.parametrize("method", METHODS)
def test_keys_and_their_bytes_are_those_that_a_client_makes(capsys: pytest.CaptureFixture[str], method: str) -> None:
    told = planned(capsys, *SHAPES, "--method", method)["keys"]
    keys, rotations = KeySet.generate(preset("insecure-test")), plan(job(method=method)).rotations
    assert told["rotations"] == list(rotations)
    assert told["count"] == len(keys.rotation_indices(rotations)) + 1
    made = len(keys.mult_key_blob()) + sum(len(data) for _, data in keys.rotation_key_blobs(rotations))
    assert made <= told["bytes"] <= 1.1 * made


@pytest.mark.parametrize("method", METHODS)
def test_pruning_leaves_the_iterations_as_they_are_and_takes_fewer(
    capsys: pytest.CaptureFixture[str], method: str
) -> None:
    whole = planned(capsys, *SHAPES, "--method", method)
    pruned = planned(capsys, *SHAPES, "--method", method, "--prune-keep", "0.67", "--prune-after", "4")
    assert pruned["iteration"] == whole["iteration"]
    validations = 10 * whole["validation"]["seconds"]
    left = (3 * 4 + 2 * 6) / (3 * 10)
    assert pruned["seconds"]["training"] - validations == pytest.approx(
        left * (whole["seconds"]["training"] - validations)
    )
    assert pruned["wire_bytes"]["received"] > whole["wire_bytes"]["received"]


def test_a_file_has_the_shapes_of_its_arrays(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {"X_train": rng.normal(size=(300, 20)), "X_val": rng.normal(size=(50, 20))}
    path = tmp_path / "data.npz"
    np.savez(path, y_train=np.arange(300) % 3, y_val=np.arange(50) % 3, **arrays)
    assert planned(capsys, "--data", str(path), "--batch-size", "128") == planned(capsys, *SHAPES)


def test_people_read_words_and_units(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--preset", "insecure-test", *SHAPES]) == 0
    told = capsys.readouterr().out
    for part in (
        "INSECURE",
        "replica-packed: ",
        "softmax",
        "an iteration: ",
        "the built-in model",
        "client",
        "of it keys",
    ):
        assert part in told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "lacks --samples and --features and --classes"),
        (("--data", "x.npz", "--samples", "3"), "exclude each other"),
        (("--data", "absent.npz"), "cannot read"),
        ((*SHAPES[:-4], "--classes", "1"), "at least 2"),
        ((*SHAPES, "--features", "0"), "features = 0"),
    ],
)
def test_wrong_jobs_are_told(capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str) -> None:
    assert main(["plan", "--preset", "insecure-test", *options]) == 2
    assert message in capsys.readouterr().err


class TestCosts:
    def test_lines_between_measured_levels(self) -> None:
        table = CostTable("test", {name: {2: 1.0, 4: 3.0, 10: 4.0} for name in OPERATIONS})
        assert [table.of("add", level) for level in (1, 2, 3, 4, 7, 10, 16)] == [0.0, 1.0, 2.0, 3.0, 3.5, 4.0, 5.0]
        assert table.seconds({("add", 3): 2, ("relin", 10): 1}) == 8.0

    def test_one_level_serves_all(self) -> None:
        table = CostTable("test", {name: {5: 2.0} for name in OPERATIONS})
        assert table.of("phase", 0) == table.of("phase", 20) == 2.0

    @pytest.mark.parametrize(
        "points",
        [
            {name: {1: 1.0} for name in OPERATIONS[1:]},
            {name: {} for name in OPERATIONS},
            {name: {1: -1.0} for name in OPERATIONS},
            {name: {1: float("nan")} for name in OPERATIONS},
            {name: {-1: 1.0} for name in OPERATIONS},
        ],
    )
    def test_wrong_tables_are_refused(self, points: dict[str, dict[int, float]]) -> None:
        with pytest.raises(InputError, match="cost table"):
            CostTable("test", points)

    def test_a_small_ring_is_cheaper(self) -> None:
        small, large = model(preset("insecure-test")), model(preset("default"))
        assert large.points == MODEL.points
        assert all(small.of(name, 20) < large.of(name, 20) for name in OPERATIONS)


@pytest.mark.parametrize("method", METHODS)
def test_a_forecast_leaves_no_operation_out(method: str) -> None:
    chosen = plan(job(method=method))
    total = sum(staged(chosen).values(), start=type(chosen.counts)())
    assert total == +chosen.counts
    expected = forecast(chosen, MODEL)
    rows = chosen.circuit.job.batch_rows(0)
    reading = MODEL.reading(chosen.circuit, rows)
    assert expected.iteration_s == pytest.approx(MODEL.seconds(chosen.counts) + reading)
    assert expected.training_s > 10 * 2 * expected.iteration_s
