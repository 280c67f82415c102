"""Options of `hetal serve` from flags, environment and file: precedence, origins, and errors that name the culprit."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from hetal.cli.main import EXIT_ERROR, build_parser, main
from hetal.errors import InputError
from hetal.server.config import ServerConfig
from hetal.server.settings import COMMAND_DEFAULTS, load, option_types, options, to_toml, variable


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "hetal.toml"
    path.write_text(text)
    return path


def test_flags_go_before_the_environment_before_the_file_before_defaults(tmp_path: Path) -> None:
    file = written(tmp_path, 'jobs_running = 2\nthreads = 3\nhost = "127.0.0.2"\n')
    settings = load({"jobs_running": 5}, file=file, environment={"HETAL_JOBS_RUNNING": "4", "HETAL_THREADS": "6"})
    config = settings.config
    assert (config.jobs_running, config.threads, config.host, config.port) == (5, 6, "127.0.0.2", 7443)
    assert settings.origins["jobs_running"] == "flag"
    assert settings.origins["threads"] == "environment HETAL_THREADS"
    assert settings.origins["host"] == f"file {file}"
    assert settings.origins["port"] == "default"


def test_without_anything_the_defaults_are_those_of_the_type() -> None:
    assert load({}, file=Path(os.devnull), environment={}).config == ServerConfig(**COMMAND_DEFAULTS)


def test_every_option_has_a_meaning_a_flag_and_a_variable(tmp_path: Path) -> None:
    help_text = subprocess.run(
        [sys.executable, "-m", "hetal.cli.main", "serve", "--help"], capture_output=True, text=True, timeout=60
    ).stdout
    assert (
        {option.name for option in options()} == {field.name for field in fields(ServerConfig)} == set(option_types())
    )
    for option in options():
        assert option.metadata["meaning"]
        assert option.name in ("host", "port") or "--" + option.name.replace("_", "-") in help_text
        assert variable(option.name) == "HETAL_" + option.name.upper()


@pytest.mark.parametrize(
    ("text", "environment", "culprits"),
    [
        ("jobs_runing = 2\n", {}, ("jobs_runing", "did you mean jobs_running", "hetal.toml")),
        ("port = 'many'\n", {}, ("port", "'many'", "hetal.toml")),
        ("[tables]\nport = 1\n", {}, ("tables is not an option",)),
        ("port = \n", {}, ("is not TOML",)),
        ("\xff", {}, ("is not TOML",)),
        ("jobs_running = 0\n", {}, ("jobs running = 0",)),
        ("", {"HETAL_LOG_JSON": "perhaps"}, ("log_json", "'perhaps'", "HETAL_LOG_JSON")),
        ("", {"HETAL_PORT": "tcp://10.0.0.1:7443"}, ("port", "HETAL_PORT")),
        ("", {"HETAL_BACKEND": "abacus"}, ("abacus",)),
    ],
)
def test_what_is_wrong_is_named_with_its_origin(
    tmp_path: Path, text: str, environment: dict[str, str], culprits: tuple[str, ...]
) -> None:
    file = tmp_path / "hetal.toml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError) as caught:
        load({}, file=file, environment=environment)
    assert all(culprit in caught.value.message for culprit in culprits), caught.value.message


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no configuration file"):
        load({}, file=tmp_path / "none.toml", environment={})


def test_a_foreign_variable_is_told_and_not_refused() -> None:
    settings = load({}, file=Path(os.devnull), environment={"HETAL_THREDS": "2", "HETAL_THREADS": "", "PATH": "/bin"})
    assert settings.strangers == ("HETAL_THREDS is not an option; did you mean HETAL_THREADS?",)
    assert settings.config.threads is None


@pytest.mark.parametrize("value", ["cn:a, cn:b", '["cn:a", "cn:b"]'])
def test_a_list_in_a_variable_has_commas_or_is_json(value: str) -> None:
    settings = load({}, file=Path(os.devnull), environment={"HETAL_OPERATORS": value})
    assert settings.config.operators == ("cn:a", "cn:b")


def test_what_print_config_prints_is_read_back(tmp_path: Path) -> None:
    flags = {"data_dir": Path('a "quoted" \\ path\x7f'), "threads": 2, "log_json": True, "operators": ("cn:a",)}
    first = load(flags, file=Path(os.devnull), environment={})
    second = load({}, file=written(tmp_path, to_toml(first)), environment={})
    assert second.config == first.config


def test_print_config_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, "allow_insecure = true\nthreads = 2\n")
    arguments = ["serve", "--config", str(file), "--print-config", "--listen", "[::1]:9", "--no-allow-insecure"]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {'host = "[::1]"  # flag', "port = 9  # flag", "allow_insecure = false  # flag"} <= set(lines)
    assert f"threads = 2  # file {file}" in lines
    assert "# worker_memory_gib =  # default" in lines


def test_a_wrong_file_ends_the_command_with_its_two_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--config", str(written(tmp_path, "bogus = 1\n"))]) == EXIT_ERROR
    assert "bogus is not an option" in capsys.readouterr().err


def test_only_given_flags_count() -> None:
    args = build_parser(["serve"]).parse_args(["serve", "--threads", "2"])
    assert args.threads == 2
    assert not hasattr(args, "log_json")
