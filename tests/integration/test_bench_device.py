"""``hetal bench`` on a device: emulated, and predicted. No time is asserted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hetal.cli import bench_matmul
from hetal.cli.main import main
from hetal.cli.matmul_work import LABELS, PAPER, Shape
from hetal.native.cuda.device import Launch
from hetal.native.cuda.driver import Grid
from hetal.native.cuda.predict import MACHINES, predicted


def report_of(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    assert main(["bench", *options, "--preset", "insecure-test", "--json"]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def test_the_engine_on_an_emulated_device(capsys: pytest.CaptureFixture[str]) -> None:
    report = report_of(capsys, "engine", "--device", "emulated", "--repeats", "1", "--bootstraps", "1")
    assert not report["predicted"] and report["device"]["name"] == "emulated"
    assert list(report["levels"]) == ["24", "12"]
    for timings in report["levels"].values():
        assert all(timing["seconds"] > 0 for timing in timings.values())
        assert {"key_switch", "key_switch_replayed", "rotate", "mul_relin", "rescale"} <= set(timings)
    assert report["bootstrap"]["seconds"] > 0 and report["counts"]["replays"] > 0
    assert report["memory_bytes"] > 0


def test_the_engine_predicted(capsys: pytest.CaptureFixture[str]) -> None:
    report = report_of(capsys, "engine", "--predict", "h100")
    assert report["predicted"] and report["device"]["bytes_per_s"] == 3.35e12
    switch = report["levels"]["24"]["key_switch"]
    # Inverse transform, conversion, transform and inner product; and the division, whose last launch does two things.
    assert switch["launches"] == 2 + 1 + 2 + 1 + 2 + 1 + 2
    assert switch["seconds"] > switch["floor_s"] > 0
    fused = report["levels"]["24"]["key_switch_fused"]
    assert fused["launches"] == switch["launches"] - 1 and fused["bytes"] < switch["bytes"]
    assert report["bootstrap"]["seconds"] > switch["seconds"]


def test_matrix_products_predicted(capsys: pytest.CaptureFixture[str]) -> None:
    report = report_of(capsys, "matmul", "--predict", "h200")
    # What fits into 1024 slots.
    (shape,) = report["shapes"]
    assert (shape["a"], shape["b"], shape["c"], report["level"]) == (128, 128, 4, 12)
    assert set(shape["columns"]) == set(LABELS)
    assert all(column["seconds"] > 0 for column in shape["columns"].values())
    assert shape["columns"]["diag_abt"]["paper_s"] == 0.0601
    assert report["predicted"]


def test_matrix_products_on_an_emulated_device(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Shape(64, 16, 2)
    monkeypatch.setattr(bench_matmul, "PAPER", {small: PAPER[Shape(128, 128, 4)]})
    report = report_of(capsys, "matmul", "--device", "emulated", "--repeats", "1")
    ((shape),) = report["shapes"]
    assert not report["predicted"]
    assert all(column["seconds"] > 0 and column["paper_s"] is None for column in shape["columns"].values())


def test_tables_say_what_is_predicted(capsys: pytest.CaptureFixture[str]) -> None:
    for benchmark in ("engine", "matmul"):
        assert main(["bench", benchmark, "--predict", "a100", "--preset", "insecure-test"]) == 0
        assert "PREDICTED" in capsys.readouterr().out


def test_a_prediction_is_a_roofline() -> None:
    machine = MACHINES["h100"]
    grid = Grid(1, 1, 1, 256)
    bound_by_memory, bound_by_peak = Launch("a", grid, 3_350_000, 1.0), Launch("b", grid, 1, 1.7e7)
    result = predicted([bound_by_memory, bound_by_peak], machine)
    assert result["by_entry"] == pytest.approx({"a": 1e-6 + machine.gap_s, "b": 1e-6 + machine.gap_s})
    assert result["floor_s"] == pytest.approx(1e-6, rel=1e-5)


def test_unknown_devices_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "engine", "--device", "tpu:0", "--preset", "insecure-test"]) != 0
    assert "no device 'tpu:0'" in capsys.readouterr().err
