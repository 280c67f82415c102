"""The status page without a server: what it shows, in which order, and that nothing filled in becomes markup."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

from hetal import limits
from hetal.server.devices import Device, Devices
from hetal.server.health import Check
from hetal.server.overview import PHASES, JobView, Overview, WorkerUse, worker_phase
from hetal.server.status_page import ASSET_TYPES, Html, as_json, assets, fill, page, span, summary
from hetal.units import size

JOB = JobView(
    id="a" * 32,
    phase="training",
    epoch=3,
    epochs_max=10,
    iteration=27,
    iterations_max=100,
    seconds_per_iteration=80.0,
    queue_position=0,
    failure="",
    created_unix_s=1_000_000.0,
    device="cuda:0",
    pid=17,
)
NOW = Overview(
    unix_s=1_003_700.0,
    version="1.2.3",
    backend="native",
    workers_max=2,
    jobs=(JOB,),
    workers=(WorkerUse(JOB.id, 9_200_000_000, 100.0, 3.9),),
    devices=(Device("cpu", 10, 20, 0.5),),
    disk_free_bytes=3_000_000_000,
    disk_total_bytes=10_000_000_000,
    checks=(Check("disk", True), Check("serving", True)),
)
VOID = {"meta", "link"}


class Tree(HTMLParser):
    """Checks that tags are closed in order; collects tags, attributes and the text of each table row."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.rows: list[list[str]] = []
        self.feed(markup)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data.strip("\n")


def tree(now: Overview) -> Tree:
    return Tree(page(now).decode())


def row(now: Overview, job: JobView) -> list[str]:
    return next([cell.strip() for cell in cells] for cells in tree(now).rows if cells[0] == job.id)


def test_a_job_that_trains() -> None:
    cells = row(NOW, JOB)
    assert cells[1:] == [
        "training",
        "3 of 10",
        "27 of 100",
        "80 s",
        "1 h 37 min",
        "cuda:0",
        "9.2 GB",
        "3.9",
        "1 h 1 min",
    ]
    assert ("progress", "aria-label", "training, 27 of 100") in tree(NOW).attributes


def test_who_works_comes_first_then_the_queue_then_the_others() -> None:
    others = (
        replace(JOB, id="b" * 32, phase="uploading", created_unix_s=1.0),
        replace(JOB, id="d" * 32, phase="queued", queue_position=2, created_unix_s=2.0),
        replace(JOB, id="c" * 32, phase="queued", queue_position=1, created_unix_s=3.0),
        replace(JOB, id="e" * 32, phase="failed", failure="WORKER_DIED"),
    )
    now = replace(NOW, jobs=(*others, JOB))
    order = [cells[0][0] for cells in tree(now).rows if len(cells[0]) == 32]
    assert "".join(order) == "acdbe"
    assert row(now, others[2])[1] == "queued, place 1"
    assert row(now, others[3])[1:] == ["failed", "3", "WORKER_DIED", "1 h 1 min"]
    assert summary(now) == "1 of 2 workers running, 2 waiting, 1 uploading"


def test_a_long_list_is_cut_behind_those_that_work() -> None:
    waiting = tuple(
        replace(JOB, id=f"{n:032d}", phase="queued", queue_position=n) for n in range(1, limits.STATUS_JOBS_MAX + 3)
    )
    rows = [cells[0] for cells in tree(replace(NOW, jobs=(*waiting, JOB))).rows]
    assert JOB.id in rows and f"{1:032d}" in rows and waiting[-1].id not in rows and "and 3 more" in rows


def test_only_the_latest_ended_jobs_are_listed() -> None:
    count = limits.STATUS_ENDED_JOBS_MAX + 5
    jobs = tuple(replace(JOB, id=f"{n:032d}", phase="finished", created_unix_s=float(n)) for n in range(count))
    rows = [cells[0] for cells in tree(replace(NOW, jobs=jobs, workers=())).rows]
    assert f"{count - 1:032d}" in rows and f"{4:032d}" not in rows
    assert "and 5 more" in rows and "No jobs." in rows


def test_conditions_that_do_not_hold_are_told() -> None:
    assert ("ul", "hidden", None) in tree(NOW).attributes
    full = replace(NOW, checks=(Check("disk", False, "0.1 GB are free"),))
    assert "<li>disk: 0.1 GB are free</li>" in page(full).decode() and "not ready" in page(full).decode()
    assert ("ul", "hidden", None) not in tree(full).attributes


def test_nothing_that_is_filled_in_becomes_markup() -> None:
    evil = "\"><img src=x onerror=alert(1)>'&lt;"
    tags = set(tree(NOW).tags)
    hostile = Overview(
        unix_s=1.0,
        version=evil,
        backend=evil,
        workers_max=1,
        jobs=(replace(JOB, id=evil, phase=evil, failure=evil), replace(JOB, id=evil, phase="failed", failure=evil)),
        workers=(),
        devices=(Device(evil, 1, 2, 0.5),),
        disk_free_bytes=0,
        disk_total_bytes=0,
        checks=(Check(evil, False, evil),),
    )
    found = tree(hostile)
    assert set(found.tags) <= tags | {"li"}
    assert not [name for _, name, _ in found.attributes if name.startswith("on") or name == "style"]
    assert json.loads(as_json(hostile))["jobs"][0]["id"] == evil
    assert fill("{a}{b}", a="<b>", b=Html("<b>")) == "&lt;b&gt;<b>"


def test_the_page_loads_nothing_from_elsewhere_and_holds_no_inline_code() -> None:
    found = tree(NOW)
    loaded = {value for _, name, value in found.attributes if name in ("src", "href")}
    assert loaded == {*(f"/{name}" for name in ASSET_TYPES), "/status.json", "/metrics", "/readyz"}
    assert "style" not in found.tags and "</script>" in page(NOW).decode().split("defer>")[1][:10]
    for path, (body, _) in assets().items():
        assert b"http" not in body.replace(b"http://www.w3.org/2000/svg", b""), path


def test_tables_and_regions_have_names() -> None:
    found = tree(NOW)
    ids = {value for _, name, value in found.attributes if name == "id"}
    named = {value for _, name, value in found.attributes if name == "aria-labelledby"}
    assert named and named <= ids
    assert found.tags.count("th") == sum(name == "scope" for _, name, _ in found.attributes)
    assert ("html", "lang", "en") in found.attributes


def test_json_has_what_the_page_has_and_no_process_ids() -> None:
    told: dict[str, Any] = json.loads(as_json(NOW))
    assert (told["ready"], told["jobs"][0]["phase"], told["jobs"][0]["iteration"]) == (True, "training", 27)
    assert "pid" not in told["jobs"][0]


def test_phases_of_a_worker_are_a_closed_set() -> None:
    assert worker_phase("loading keys") == "loading keys"
    assert worker_phase("<b>") == "other"
    assert len(set(PHASES)) == len(PHASES) and "training" in PHASES and "awaiting client" in PHASES


def test_units() -> None:
    assert [size(n) for n in (0, 999, 9_999, 2_500_000, 1e13)] == ["0 B", "999 B", "10 kB", "2.5 MB", "10 TB"]
    assert [span(n) for n in (-1, 59.4, 90, 7_260, 200_000)] == ["0 s", "59 s", "1 min", "2 h 1 min", "2 days"]


def test_devices_of_this_machine() -> None:
    first, *others = Devices().look()
    assert first.name == "cpu" and 0 < first.memory_used_bytes < first.memory_total_bytes
    assert all(device.name.startswith("gpu") and device.memory_total_bytes > 0 for device in others)
