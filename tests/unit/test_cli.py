"""The command line: errors as two lines, exit codes, plain progress."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hetal.cli.main import COMMANDS, build_parser, main
from hetal.cli.render import duration, progress_output
from hetal.client import Progress
from hetal.units import size


def test_errors_have_code_message_and_hint(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["predict", "--model", str(tmp_path / "none.npz"), "--features", "x.npy"]) == 2
    err = capsys.readouterr().err.splitlines()
    assert err[0].startswith("error [INVALID_INPUT]: ")
    assert err[1].startswith("hint: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["train"],
        ["train", "--features", "a.npz", "--texts", "b.txt"],
        ["train", "--texts", "b.txt"],
        ["train", "--features", "absent.npz"],
    ],
)
def test_wrong_sources(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "error [INVALID_INPUT]" in capsys.readouterr().err


def test_encoder_without_the_extra_names_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    (tmp_path / "t.txt").write_text("hello\n")
    np.save(tmp_path / "y.npy", np.array([1]))
    status = main(
        ["train", "--texts", str(tmp_path / "t.txt"), "--encoder", "any", "--labels", str(tmp_path / "y.npy")]
    )
    assert status == 2
    assert "hetal[features]" in capsys.readouterr().err


def test_unknown_commands_and_options_exit_with_2() -> None:
    for arguments in (["fly"], ["train", "--presett", "default"], ["jobs", "show", "--server", "x"], []):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        with pytest.raises(SystemExit) as caught:
            build_parser().parse_args([command, "--help"])
        assert caught.value.code == 0
        assert "usage: hetal" in capsys.readouterr().out


def test_plain_progress_is_one_line_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_output() as report:
        report(Progress("keys and data", 1, 10, 90.0, "keys/mult"))
        report(Progress("keys and data", 2, 10, 80.0, "skipped: too soon"))
        report(Progress("epoch", 1, 3, 0.0, "loss 0.5"))
        report(Progress("epoch", 2, 3, 0.0, "loss 0.4"))
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["keys and data 1/10: keys/mult, 1 min 30 s left", "epoch 1/3: loss 0.5", "epoch 2/3: loss 0.4"]


def test_units() -> None:
    assert [duration(s) for s in (5, 65, 7260)] == ["5 s", "1 min 5 s", "2 h 1 min"]
    assert [size(b) for b in (12, 2_500_000, 3e13)] == ["12 B", "2.5 MB", "30 TB"]
