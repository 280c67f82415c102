"""Whole trainings through the command line, as a user runs them: minutes and gigabytes, so for ``make test-full``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hetal.ckks.presets import TEST_PRESET
from hetal.client.dataset import load, prepare
from hetal.client.model import Model
from hetal.client.session import job_spec
from hetal.kernels.clear import train_clear
from hetal.protocol.job import SoftmaxSpec

SHARED = Path(__file__).parents[3] / "shared" / "data"
SNIPS = SHARED / "snips" / "features_minilm_384.npz"

pytestmark = pytest.mark.full


def hetal(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "hetal.cli.main", *arguments, "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def agrees(result: dict[str, Any]) -> None:
    assert abs(result["test_accuracy"] - result["test_accuracy_clear"]) <= 0.005
    assert result["weights_distance_to_plain"] < 1e-2
    assert result["validation_loss"] == pytest.approx(result["clear_validation_loss"], abs=0.02)


@pytest.mark.parametrize("dataset", ["breast_cancer", "digits", "wine"])
def test_demo_at_the_test_preset(dataset: str, tmp_path: Path) -> None:
    agrees(hetal("demo", "--dataset", dataset, "--preset", TEST_PRESET, "--out", str(tmp_path)))
    assert (tmp_path / "training.png").stat().st_size > 10_000


def test_demo_at_128_bits(tmp_path: Path) -> None:
    agrees(hetal("demo", "--epochs", "2", "--out", str(tmp_path)))


@pytest.mark.skipif(not SNIPS.exists(), reason="the SNIPS features are not beside this checkout")
def test_snips_slice(tmp_path: Path) -> None:
    """2000 rows, 384 features, 7 intents, against the same steps in the clear."""
    model = tmp_path / "model.npz"
    options = ("--preset", TEST_PRESET, "--batch-size", "512", "--epochs", "2", "--softmax-extensions", "3")
    result = hetal(
        *("train", "--features", str(SNIPS), "--limit-rows", "2000", "--model-out", str(model), *options),
        *("--weight-bound", "4"),
    )
    data = load(SNIPS).limited(2000, 0)
    prepared = prepare(data.x_train, data.y_train, data.x_val, data.y_val, standardize=True, seed=0)
    job = job_spec(
        prepared,
        preset_name=TEST_PRESET,
        epochs=2,
        batch_size=512,
        learning_rate=1.0,
        softmax=SoftmaxSpec(extensions=3),
    )
    clear = train_clear(job, prepared.x_train, prepared.y_train, prepared.x_val, prepared.y_val)
    reference = Model(clear.weights, prepared.standardizer, prepared.labels)
    assert data.x_test is not None and data.y_test is not None
    x_test = np.asarray(data.x_test, dtype=np.float64)
    assert abs(result["test_accuracy"] - reference.accuracy(x_test, data.y_test)) <= 0.005
    assert result["test_accuracy"] > 0.9
