"""Some mutants of everything that the front process reads. scripts/fuzz_entry_points.py runs a million."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from entry_points import ANSWERED, FAILURE, PURE, RPCS, StoredMetadata, calls, failures, garbage, http, verdict, witness

from hetal._pb import hetal_pb2 as pb
from hetal.errors import StoreCorruptError
from hetal.server.store.metadata import JobRow
from hetal.server.store.store import Store

PURE_RUNS = 1_000
DATABASE_RUNS = 40
CALLS = 60


@pytest.mark.parametrize("name", sorted(PURE))
def test_mutants_are_answered_or_refused(name: str) -> None:
    rng = np.random.default_rng(1)
    counts = Counter(PURE[name](rng) for _ in range(PURE_RUNS))
    assert failures(counts) == 0, counts
    assert len(counts) > 1, "every mutant got the same verdict: the mutations reach nothing"


def test_a_damaged_database_is_told(tmp_path: Path) -> None:
    read, rng = StoredMetadata(tmp_path), np.random.default_rng(2)
    counts = Counter(read(rng) for _ in range(DATABASE_RUNS))
    assert failures(counts) == 0, counts
    assert counts["STORE_CORRUPT"]
    assert counts[ANSWERED]


async def test_calls_are_answered_or_refused_and_other_jobs_stay(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    async with calls(tmp_path / "data", http_address="127.0.0.1:0") as running:
        looks = await witness(running)
        before = await looks()
        for rpc in RPCS:
            counts = Counter([await running.fuzz(rpc, rng) for _ in range(CALLS)])
            assert failures(counts) == 0, (rpc, counts)
            assert len(counts) > 1, rpc
        port = running.server.http_port
        assert port is not None
        counts = Counter([await http(rng, port) for _ in range(CALLS)])
        assert failures(counts) == 0, counts
        counts = Counter([await garbage(rng, running.server.port) for _ in range(CALLS)])
        assert failures(counts) == 0, counts
        assert await looks() == before


async def test_a_handler_that_crashes_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with calls(tmp_path / "data") as running:
        monkeypatch.setattr(running.server._jobs, "seen_by", lambda caller: 1 / 0)
        assert (await running.call("ListJobs", [b""])).startswith(FAILURE)
        assert await running.call("GetServerInfo", [b""]) == ANSWERED
        assert await running.call("GetJob", [pb.GetJobRequest(job_id="none").SerializeToString()]) == "JOB_NOT_FOUND"
    assert verdict(lambda: 1 / 0).startswith(FAILURE)


@pytest.mark.parametrize("job_id", ["../../elsewhere", "nul\0", "", "x" * 100])
def test_a_database_that_names_a_job_like_no_job_is_damaged(tmp_path: Path, job_id: str) -> None:
    store = Store(tmp_path / "data")
    store.metadata.add_job(JobRow(job_id, "local", "key", b"", 1.0, ""))
    store.close()
    with pytest.raises(StoreCorruptError):
        Store(tmp_path / "data")
    (tmp_path / "data" / "hetal.sqlite3").write_bytes(b"no database" * 100)
    with pytest.raises(StoreCorruptError, match="damaged"):
        Store(tmp_path / "data")
