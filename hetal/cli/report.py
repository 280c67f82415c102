"""Reports of benchmarks, for machines or for people."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any


def show(report: dict[str, Any], as_json: bool, tell: Callable[[dict[str, Any]], None]) -> None:
    """One JSON object on standard output, or what ``tell`` prints."""
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        tell(report)
