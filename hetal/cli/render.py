"""Progress for people: a rich bar on a terminal, plain lines elsewhere. Always on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

from hetal.client.session import Progress

# Plain output gets one line per this many seconds and phase, and one for each epoch.
PLAIN_INTERVAL_S = 5.0


@contextmanager
def progress_output() -> Iterator[Callable[[Progress], None]]:
    """A progress callback for :meth:`hetal.client.Client.train`."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Plain()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Bars(*columns, console=console) as bars:
        yield _Rich(bars, console)


class _Plain:
    def __init__(self) -> None:
        self._last: tuple[str, float] = ("", 0.0)

    def __call__(self, step: Progress) -> None:
        now = time.monotonic()
        phase, at = self._last
        if step.phase == phase and step.phase != "epoch" and step.done < step.total and now - at < PLAIN_INTERVAL_S:
            return
        self._last = (step.phase, now)
        count = f" {step.done}/{step.total}" if step.total else ""
        print(f"{step.phase}{count}{_note(step)}", file=sys.stderr, flush=True)


class _Rich:
    def __init__(self, bars: Bars, console: Console) -> None:
        self._bars = bars
        self._console = console
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, step: Progress) -> None:
        if step.phase == "epoch":
            self._console.print(f"epoch {step.done}/{step.total}: {step.text}")
            return
        if step.phase not in self._tasks:
            self._tasks[step.phase] = self._bars.add_task(step.phase, total=step.total or None, note="")
        self._bars.update(self._tasks[step.phase], completed=step.done, total=step.total or None, note=_note(step))


def _note(step: Progress) -> str:
    parts = [step.text] if step.text else []
    if step.remaining_s >= 1.0:
        parts.append(f"{duration(step.remaining_s)} left")
    return ": " + ", ".join(parts) if parts else ""


def duration(seconds: float) -> str:
    """``95`` -> ``1 min 35 s``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"
