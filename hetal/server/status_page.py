"""The status page: an overview as HTML that works without a script, and as JSON. All that is filled in is escaped."""

from __future__ import annotations

import html
import json
import time
from dataclasses import asdict
from importlib import resources
from typing import Any, Final

from hetal import limits
from hetal.server.devices import Device
from hetal.server.overview import WORKER_PHASES, JobView, Overview, WorkerUse
from hetal.units import size

HTML_TYPE: Final = "text/html; charset=utf-8"
JSON_TYPE: Final = "application/json"
ASSET_TYPES: Final = {
    "status.css": "text/css; charset=utf-8",
    "status.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}

PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>hetal: {title}</title>
<link rel="icon" href="/icon.svg">
<link rel="stylesheet" href="/status.css">
<script src="/status.js" defer></script>
</head>
<body>
<header>
<h1>hetal</h1>
<p id="server" data-live>version {version}, {backend} backend</p>
<p id="ready" data-live><span class="badge {ready_class}">{ready}</span></p>
<p class="updated"><span id="time" data-live>{time} UTC</span>
<button type="button" id="pause" aria-pressed="false" hidden>Pause updates</button></p>
</header>
<main>
<p id="lost" class="alert" role="alert" hidden>The server does not answer. These are its last words.</p>
<noscript><p class="alert">Without JavaScript this page does not update itself. Reload it.</p></noscript>
<p id="summary" role="status" data-live>{title}</p>
<ul id="checks" class="alert" data-live{checks_hidden}>{checks}</ul>
<h2 id="jobs-title">Jobs</h2>
<div class="scroll" role="region" aria-labelledby="jobs-title" tabindex="0">
<table>
<thead><tr><th scope="col">Job</th><th scope="col">Phase</th><th scope="col">Epoch</th><th scope="col">Progress</th>
<th scope="col" class="number">Per iteration</th><th scope="col" class="number">Left, at most</th>
<th scope="col">Device</th><th scope="col" class="number">Memory</th><th scope="col" class="number">Cores</th>
<th scope="col" class="number">Age</th></tr></thead>
<tbody id="jobs" data-live>{jobs}</tbody>
</table>
</div>
<h2 id="ended-title">Ended</h2>
<div class="scroll" role="region" aria-labelledby="ended-title" tabindex="0">
<table>
<thead><tr><th scope="col">Job</th><th scope="col">Phase</th><th scope="col">Epochs</th><th scope="col">Error</th>
<th scope="col" class="number">Age</th></tr></thead>
<tbody id="ended" data-live>{ended}</tbody>
</table>
</div>
<h2 id="devices-title">Devices</h2>
<div class="scroll" role="region" aria-labelledby="devices-title" tabindex="0">
<table>
<thead><tr><th scope="col">Device</th><th scope="col">In use</th><th scope="col">At work</th></tr></thead>
<tbody id="devices" data-live>{devices}</tbody>
</table>
</div>
</main>
<footer><p>Read-only. Also here: <a href="/status.json">JSON</a>, <a href="/metrics">metrics</a>,
<a href="/readyz">readiness</a>.</p></footer>
</body>
</html>
"""
JOB: Final = """
<tr><th scope="row"><code>{id}</code></th><td><span class="badge {tone}">{phase}</span></td><td>{epoch}</td>
<td>{progress}</td><td class="number">{seconds}</td><td class="number">{left}</td><td>{device}</td>
<td class="number">{memory}</td><td class="number">{cores}</td><td class="number">{age}</td></tr>"""
ENDED: Final = """
<tr><th scope="row"><code>{id}</code></th><td><span class="badge {tone}">{phase}</span></td><td>{epoch}</td>
<td>{failure}</td><td class="number">{age}</td></tr>"""
DEVICE: Final = """
<tr><th scope="row">{name}</th><td>{used}</td><td>{busy}</td></tr>"""
PROGRESS: Final = '<progress max="{total}" value="{done}" aria-label="{label}"></progress> {text}'
METER: Final = '<meter min="0" max="1" high="0.9" value="{value:.3f}" aria-label="{label}"></meter> {text}'
EMPTY: Final = """
<tr><td colspan="{columns}" class="none">{text}</td></tr>"""
TONES: Final = {"failed": "bad", "cancelled": "bad", "finished": "good", **dict.fromkeys(WORKER_PHASES, "busy")}


class Html(str):
    """Markup; every other string is text."""

    __slots__ = ()


def fill(template: str, **values: object) -> Html:
    """The template with its values: markup as it is, numbers formatted, all else escaped."""
    return Html(
        template.format_map(
            {
                name: value if isinstance(value, (Html, int, float)) else html.escape(str(value))
                for name, value in values.items()
            }
        )
    )


def page(now: Overview) -> bytes:
    workers = {worker.job_id: worker for worker in now.workers}
    active = [job for job in now.jobs if not job.ended]
    # Who works comes first, then who waits, in the order of their turns.
    active.sort(key=lambda job: (job.id not in workers, job.queue_position or len(now.jobs), job.created_unix_s))
    ended = [job for job in reversed(now.jobs) if job.ended]
    rows = [_job(job, workers.get(job.id), now) for job in active[: limits.STATUS_JOBS_MAX]]
    ended_rows = [_ended(job, now) for job in ended[: limits.STATUS_ENDED_JOBS_MAX]]
    failing = [check for check in now.checks if not check.ok]
    return fill(
        PAGE,
        title=summary(now),
        version=now.version,
        backend=now.backend,
        ready="ready" if now.ready else "not ready",
        ready_class="good" if now.ready else "bad",
        time=time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(now.unix_s)),
        checks=Html("".join(fill("<li>{name}: {detail}</li>", name=c.name, detail=c.detail) for c in failing)),
        checks_hidden=Html("" if failing else " hidden"),
        jobs=_table(rows, len(active), columns=10, none="No jobs."),
        ended=_table(ended_rows, len(ended), columns=5, none="None yet."),
        devices=Html("".join(map(_device, now.devices)) + _disk(now)),
    ).encode()


def as_json(now: Overview) -> bytes:
    values: dict[str, Any] = asdict(now)
    for job in values["jobs"]:
        del job["pid"]
    return json.dumps({**values, "ready": now.ready, "summary": summary(now)}).encode()


def assets() -> dict[str, tuple[bytes, str]]:
    """Content and type of the files that the page loads, by path."""
    folder = resources.files("hetal.server") / "assets"
    return {f"/{name}": ((folder / name).read_bytes(), kind) for name, kind in ASSET_TYPES.items()}


def summary(now: Overview) -> str:
    """One sentence, which changes only when a job does."""
    waiting = sum(job.queue_position > 0 for job in now.jobs)
    uploading = sum(job.phase == "uploading" for job in now.jobs)
    parts = [f"{len(now.workers)} of {now.workers_max} workers running", f"{waiting} waiting", f"{uploading} uploading"]
    return ", ".join(parts)


def _job(job: JobView, worker: WorkerUse | None, now: Overview) -> Html:
    left = job.seconds_per_iteration * (job.iterations_max - job.iteration)
    return fill(
        JOB,
        id=job.id,
        tone=TONES.get(job.phase, "calm"),
        phase=f"queued, place {job.queue_position}" if job.queue_position else job.phase,
        epoch=f"{job.epoch} of {job.epochs_max}",
        progress=_progress(job),
        seconds=f"{job.seconds_per_iteration:.3g} s" if job.seconds_per_iteration else "",
        left=span(left) if job.seconds_per_iteration and job.iterations_max else "",
        device=job.device,
        memory=size(worker.resident_bytes) if worker is not None else "",
        cores=f"{worker.cores:.1f}" if worker is not None else "",
        age=span(now.unix_s - job.created_unix_s),
    )


def _table(rows: list[Html], count: int, *, columns: int, none: str) -> Html:
    """The rows, and a last one that says how many of all ``count`` are left out."""
    left_out = count - len(rows)
    text = f"and {left_out} more" if left_out else none
    return Html("".join(rows) + (fill(EMPTY, columns=columns, text=text) if left_out or not rows else ""))


def _progress(job: JobView) -> Html:
    if not job.iterations_max:
        return Html()
    text = f"{job.iteration} of {job.iterations_max}"
    return fill(PROGRESS, total=job.iterations_max, done=job.iteration, label=f"{job.phase}, {text}", text=text)


def _ended(job: JobView, now: Overview) -> Html:
    return fill(
        ENDED,
        id=job.id,
        tone=TONES.get(job.phase, "calm"),
        phase=job.phase,
        epoch=job.epoch,
        failure=job.failure,
        age=span(now.unix_s - job.created_unix_s),
    )


def _device(device: Device) -> Html:
    memory = device.memory_used_bytes / max(1, device.memory_total_bytes)
    text = f"{size(device.memory_used_bytes)} of {size(device.memory_total_bytes)} memory"
    busy = device.utilisation
    return fill(
        DEVICE,
        name=device.name,
        used=fill(METER, value=memory, label=f"memory of {device.name}", text=text),
        busy=fill(METER, value=busy, label=f"work of {device.name}", text=f"{busy:.0%}") if busy is not None else "",
    )


def _disk(now: Overview) -> Html:
    used = now.disk_total_bytes - now.disk_free_bytes
    text = f"{size(used)} of {size(now.disk_total_bytes)}, {size(now.disk_free_bytes)} free"
    meter = fill(METER, value=used / max(1, now.disk_total_bytes), label="disk", text=text)
    return fill(DEVICE, name="disk", used=meter, busy="")


def span(seconds: float) -> str:
    """``7_260`` -> ``2 h 1 min``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} days"
