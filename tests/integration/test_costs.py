"""Cost tables: measured, kept, offered by a server, and what they predict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hetal._pb import hetal_pb2 as pb
from hetal.ckks.presets import preset
from hetal.cli.bench_iteration import Shape, job_of, measured
from hetal.cli.local_server import local_server
from hetal.cli.main import build_parser, main
from hetal.cli.measure_costs import measure_costs
from hetal.cli.plan import _server_costs
from hetal.errors import InputError
from hetal.kernels import cost_store
from hetal.kernels.cost import OPERATIONS, CostTable
from hetal.kernels.forecast import forecast
from hetal.kernels.plan import plan

PARAMS = preset("insecure-test")
TABLE = CostTable("a test", {name: {2.0: 0.25, 20.0: 0.5} for name in OPERATIONS})
JOB = ("--samples", "60", "--features", "8", "--classes", "3", "--preset", "insecure-test")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HETAL_COST_CACHE", str(tmp_path / "costs"))
    return tmp_path / "costs"


def planned(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    assert main(["plan", *JOB, *options, "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_a_kept_table_is_that_of_its_threads_and_parameters() -> None:
    cost_store.save(PARAMS, 2, TABLE)
    assert cost_store.load(PARAMS, 2) == TABLE
    assert cost_store.load(PARAMS, 3) is None
    assert cost_store.load(preset("deep"), 2) is None


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"source": "x", "points": {}}', '{"source": "x", "points": [1]}'])
def test_a_damaged_file_is_no_table(damage: str) -> None:
    cost_store.save(PARAMS, 1, TABLE).write_text(damage)
    assert cost_store.load(PARAMS, 1) is None


def test_a_table_crosses_the_wire() -> None:
    message = cost_store.to_proto(PARAMS, TABLE)
    received = pb.CostTable.FromString(message.SerializeToString())
    assert cost_store.from_proto([received], PARAMS) == TABLE
    assert cost_store.from_proto([received], preset("deep")) is None


def test_malformed_tables_of_a_server_are_refused() -> None:
    message = cost_store.to_proto(PARAMS, TABLE)
    point = pb.CostPoint(operation="add", level=1, seconds=1.0)
    spoilt = [
        pb.CostTable(parameter_digest=PARAMS.digest, source="x", points=[point]),
        pb.CostTable(parameter_digest=PARAMS.digest, source="x", points=[point] * 10_000),
        pb.CostTable(parameter_digest=PARAMS.digest, source="\x1b[2J", points=message.points),
        pb.CostTable(parameter_digest=PARAMS.digest, source="", points=message.points),
    ]
    message.points[0].seconds = float("inf")
    for table in (*spoilt, message):
        with pytest.raises(InputError, match="cost table"):
            cost_store.from_proto([table], PARAMS)
    with pytest.raises(InputError, match="cost tables"):
        cost_store.from_proto([cost_store.to_proto(PARAMS, TABLE)] * 17, PARAMS)


async def test_a_server_offers_what_was_measured_there() -> None:
    cost_store.save(PARAMS, 1, TABLE)
    for threads, offered in ((1, TABLE), (2, None)):
        async with local_server(allow_insecure=True, backend="native", threads=threads) as address:
            args = build_parser().parse_args(["plan", *JOB, "--server", address])
            assert await _server_costs(args, PARAMS) == offered
    async with local_server(allow_insecure=True, backend="openfhe", threads=1) as address:
        args = build_parser().parse_args(["plan", *JOB, "--server", address])
        assert await _server_costs(args, PARAMS) is None


def test_measured_once_used_ever_after(capsys: pytest.CaptureFixture[str], cache: Path) -> None:
    assert planned(capsys, "--threads", "1")["costs"] == "the built-in model"
    first = planned(capsys, "--threads", "1", "--measure")
    assert first["costs"].startswith("measured on ")
    assert len(list(cache.iterdir())) == 1
    assert planned(capsys, "--threads", "1") == first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--threads", "0"), "threads = 0"),
        (("--server", "127.0.0.1:1", "--measure"), "--server has its own costs"),
    ],
)
def test_wrong_options_are_told(capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str) -> None:
    assert main(["plan", *JOB, *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("method", ["pairwise", "hetal"])
def test_predicted_and_measured_seconds_are_of_one_size(method: str) -> None:
    """Other programs may slow down either of the two, so the bound is loose."""
    chosen = plan(job_of(PARAMS, Shape(60, 9, 3), method))
    found = measured(chosen, threads=1, repeats=2)
    predicted = forecast(chosen, measure_costs(PARAMS, 1)).iteration_s
    assert 0.1 < predicted / found["seconds"] < 10
    assert found["weights_error"] < 1e-2
