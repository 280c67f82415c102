"""Commands that need no server, and failures that must be told before one is asked."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from hetal.cli.demo import RECIPES, dataset
from hetal.cli.main import EXIT_ERROR, build_parser, main
from hetal.cli.render import duration
from hetal.cli.train import training_options
from hetal.client.dataset import LabelMap, Standardizer
from hetal.client.model import Model
from hetal.units import size

X = np.random.default_rng(3).normal(size=(6, 2))
MODEL = Model(np.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]), Standardizer.identity(2), LabelMap(("left", "right")))


def error_lines(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str]:
    """The two lines of a failed command, which prints nothing on standard output."""
    assert main(arguments) == EXIT_ERROR
    out, err = capsys.readouterr()
    assert out == ""
    message, hint = err.splitlines()
    return message, hint


class TestParser:
    def test_exit_codes_are_documented(self) -> None:
        assert f"{EXIT_ERROR} wrong input" in (build_parser().epilog or "")

    def test_training_options_reach_the_client(self) -> None:
        args = build_parser().parse_args(
            [
                *("train", "--features", "x.npz", "--epochs", "4", "--batch-size", "32", "--learning-rate", "0.5"),
                *("--patience", "2", "--no-momentum", "--softmax-extensions", "3", "--seed", "9"),
            ]
        )
        options = training_options(args)
        assert (options["epochs"], options["batch_size"], options["learning_rate"]) == (4, 32, 0.5)
        assert (options["patience"], options["nesterov"], options["seed"]) == (2, False, 9)
        assert options["softmax"].logit_range == 32.0
        assert options["preset_name"] == "default"


class TestErrors:
    def test_bad_features_keep_their_code(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        MODEL.save(tmp_path / "m.npz")
        np.save(tmp_path / "x.npy", np.full((2, 2), np.nan))
        message, _ = error_lines(
            capsys, "predict", "--model", str(tmp_path / "m.npz"), "--features", str(tmp_path / "x.npy")
        )
        assert message.startswith("error [FEATURES_NOT_FINITE]: ")

    @pytest.mark.parametrize("option", ["--model-out", "--keep-keys"])
    def test_a_result_that_cannot_be_written_is_told_before_training(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, option: str
    ) -> None:
        for target in (tmp_path / "missing" / "file", tmp_path):
            message, _ = error_lines(capsys, "train", "--features", "/nowhere/x.npz", option, str(target))
            assert f"cannot write {target}" in message

    def test_errors_of_the_file_system_are_not_tracebacks(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        MODEL.save(tmp_path / "m.npz")
        np.save(tmp_path / "x.npy", X)
        files = ("--model", str(tmp_path / "m.npz"), "--features", str(tmp_path / "x.npy"))
        message, _ = error_lines(capsys, "predict", *files, "--out", str(tmp_path / "missing" / "out.csv"))
        assert "missing" in message

    @pytest.mark.parametrize(
        "arguments",
        [
            ("train",),
            ("train", "--features", "a.npz", "--texts", "b.txt"),
            ("train", "--texts", "b.txt", "--labels", "y.npy"),
            ("predict", "--model", "{model}"),
            ("predict", "--model", "{model}", "--images", "d"),
            ("predict", "--model", "{model}", "--features", "{features}", "--encrypted"),
        ],
    )
    def test_options_that_do_not_fit_together(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: tuple[str, ...]
    ) -> None:
        MODEL.save(tmp_path / "m.npz")
        np.save(tmp_path / "x.npy", X)
        names = {"model": tmp_path / "m.npz", "features": tmp_path / "x.npy"}
        message, _ = error_lines(capsys, *(a.format(**names) for a in arguments))
        assert message.startswith("error [INVALID_INPUT]: ")

    def test_an_empty_passphrase_file_is_refused(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        MODEL.save(tmp_path / "m.npz")
        np.save(tmp_path / "x.npy", X)
        (tmp_path / "pass").write_text("\n")
        model = Model(MODEL.weights, MODEL.standardizer, MODEL.labels, {"preset": "insecure-test", "job": "j"})
        model.save(tmp_path / "m.npz")
        message, _ = error_lines(
            capsys,
            *("predict", "--model", str(tmp_path / "m.npz"), "--features", str(tmp_path / "x.npy"), "--encrypted"),
            *("--server", "127.0.0.1:9", "--keys", "k", "--passphrase-file", str(tmp_path / "pass")),
        )
        assert "no passphrase" in message


class TestPredict:
    def test_json_out_file_and_accuracy(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        MODEL.save(tmp_path / "m.npz")
        truth = np.where(X[:, 0] > 0, "left", "right")
        np.save(tmp_path / "x.npy", X)
        np.save(tmp_path / "y.npy", truth)
        files = ("--model", str(tmp_path / "m.npz"), "--features", str(tmp_path / "x.npy"))
        more = ("--labels", str(tmp_path / "y.npy"), "--out", str(tmp_path / "out.csv"), "--json")
        assert main(["predict", *files, *more]) == 0
        result = json.loads(capsys.readouterr().out)
        assert result == {"labels": truth.tolist(), "accuracy": 1.0, "encrypted": False}
        with (tmp_path / "out.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["label"] for row in rows] == truth.tolist()
        assert all(abs(float(row["p_left"]) + float(row["p_right"]) - 1) < 1e-5 for row in rows)


class TestDemoData:
    @pytest.mark.parametrize("name", sorted(RECIPES))
    def test_split_is_stratified_disjoint_and_7_1_2(self, name: str) -> None:
        data = dataset(name)
        assert data.x_val is not None
        assert data.x_test is not None
        sizes = np.array([len(data.x_train), len(data.x_val), len(data.x_test)])
        np.testing.assert_allclose(sizes / sizes.sum(), [0.7, 0.1, 0.2], atol=0.02)
        assert set(np.unique(data.y_val)) == set(np.unique(data.y_train)) == set(np.unique(data.y_test))


class TestRendering:
    def test_sizes_never_show_a_thousand(self) -> None:
        shown = [size(v) for v in (0, 999, 999.7, 999_999, 2_500_000)]
        assert shown == ["0 B", "999 B", "1 kB", "1 MB", "2.5 MB"]

    def test_durations_never_show_sixty(self) -> None:
        shown = [duration(v) for v in (0.4, 59.7, 95, 3599.9, 7199)]
        assert shown == ["0 s", "1 min 0 s", "1 min 35 s", "1 h 0 min", "2 h 0 min"]
