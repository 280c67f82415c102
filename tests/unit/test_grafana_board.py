"""The Grafana board asks for metrics and labels that the server exports, and leaves none out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hetal.protocol.messages import State
from hetal.server.devices import Device
from hetal.server.health import Check
from hetal.server.metrics import Metrics
from hetal.server.overview import Overview, WorkerUse

ROOT = Path(__file__).resolve().parents[2]
BOARD: dict[str, Any] = json.loads((ROOT / "deploy" / "grafana" / "hetal.json").read_text())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
QUERIES = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
NAME = re.compile(r"\b(?:hetal|process)_\w+")
# Labels that Prometheus adds to what it scrapes.
SCRAPE_LABELS = {"instance", "job"}


def exported() -> dict[str, set[str]]:
    """Labels of each series, with every metric in use."""
    metrics = Metrics()
    metrics.calls.labels("GetJob", "OK").inc()
    metrics.calls_running.labels("GetJob").inc()
    metrics.call_seconds.labels("GetJob").observe(0.1)
    metrics.received.labels("GetJob").inc()
    metrics.sent.labels("GetJob").inc()
    metrics.rejects.labels("JOB_NOT_FOUND").inc()
    metrics.job_ended(State.FAILED, "WORKER_DIED")
    now = Overview(
        unix_s=0.0,
        version="1",
        backend="native",
        workers_max=1,
        jobs=(),
        workers=(WorkerUse("a", 1, 1.0, 1.0),),
        devices=(Device("cpu", 1, 2, 0.5),),
        disk_free_bytes=1,
        disk_total_bytes=2,
        checks=(Check("disk", True),),
    )
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(metrics.text(now).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


EXPORTED = exported()


@pytest.mark.parametrize("title, query", QUERIES)
def test_a_query_names_what_is_exported(title: str, query: str) -> None:
    names = NAME.findall(query)
    assert names and set(names) <= set(EXPORTED), title
    labels = {label for name in names for label in EXPORTED[name]} | SCRAPE_LABELS
    asked = {word for group in re.findall(r"by \(([^)]*)\)", query) for word in re.findall(r"\w+", group)}
    asked |= {word for group in re.findall(r"{([^}]*)}", query) for word in re.findall(r"(\w+)\s*[=!]", group)}
    assert asked <= labels, title
    assert query.count("(") == query.count(")") and query.count('instance=~"$instance"') == len(names)
    # A counter means nothing but by its rate.
    for name in names:
        if name.endswith(("_total", "_bucket", "_sum", "_count")):
            assert re.search(rf"(?:rate|increase)\({name}{{[^}}]*}}\[\w+\]\)", query), title


def test_every_metric_is_on_the_board() -> None:
    shown = {name for _, query in QUERIES for name in NAME.findall(query)}
    own = {name for name in EXPORTED if name.startswith("hetal_")}
    # Sum and count of the durations of calls come with their buckets.
    assert own - shown == {"hetal_rpc_seconds_sum", "hetal_rpc_seconds_count"}


def test_legends_and_layout() -> None:
    for panel in PANELS:
        labels = {label for target in panel["targets"] for n in NAME.findall(target["expr"]) for label in EXPORTED[n]}
        for target in panel["targets"]:
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= labels | SCRAPE_LABELS
        assert panel["datasource"]["uid"] == "${datasource}", "no data source of one installation"
    cells = [(x, y) for p in BOARD["panels"] for x, y in covered(p["gridPos"])]
    assert len(cells) == len(set(cells)), "panels do not overlap"
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])


def covered(place: dict[str, int]) -> list[tuple[int, int]]:
    assert place["x"] + place["w"] <= 24
    columns = range(place["x"], place["x"] + place["w"])
    return [(x, y) for x in columns for y in range(place["y"], place["y"] + place["h"])]


def test_no_label_is_one_that_prometheus_sets_itself() -> None:
    assert not {label for labels in EXPORTED.values() for label in labels} & SCRAPE_LABELS


def test_codes_outside_the_catalogue_make_no_new_series() -> None:
    metrics = Metrics()
    for code in ("EVIL_1", "EVIL_2", "WORKER_DIED"):
        metrics.job_ended(State.FAILED, code)
    codes = {s.labels["code"] for m in metrics.jobs_ended.collect() for s in m.samples}
    assert codes == {"OTHER", "WORKER_DIED"}


def test_the_documents_list_every_metric_and_no_other() -> None:
    text = (ROOT / "docs" / "operating.md").read_text()
    listed = set(re.findall(r"`(hetal_\w+)`", text))
    families = {re.sub(r"_(?:bucket|sum|count)$", "", name) for name in EXPORTED if name.startswith("hetal_")}
    assert listed == families
