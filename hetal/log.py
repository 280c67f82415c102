"""Structured logs of both sides: one line an event, as key=value or as JSON. Names and sizes, never data."""

from __future__ import annotations

import json
import logging
import time
from typing import Final

from hetal import request_id

Value = str | int | float | bool | None


class Log:
    """Events of one side. What happens on behalf of a request names it.

    Attributes:
        common: fields of every event.
    """

    def __init__(self, name: str) -> None:
        self.logger: Final = logging.getLogger(name)
        self.common: dict[str, Value] = {}

    def event(
        self, name: str, *, level: int = logging.INFO, error: BaseException | None = None, **fields: Value
    ) -> None:
        """Log one event; ``error`` adds its traceback."""
        if not self.logger.isEnabledFor(level):
            return
        request = request_id.current.get()
        if request:
            fields.setdefault("request", request)
        self.logger.log(level, name, extra={"fields": {**self.common, **fields}}, exc_info=error)

    def send_to(self, handler: logging.Handler, *, as_json: bool, level: int = logging.INFO) -> None:
        """Send the events there and nowhere else."""
        handler.setFormatter(Formatter(as_json=as_json))
        self.logger.handlers[:] = [handler]
        self.logger.setLevel(level)
        self.logger.propagate = False


class Formatter(logging.Formatter):
    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        values: dict[str, Value] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "event": record.getMessage(),
        }
        values.update({k: v for k, v in getattr(record, "fields", {}).items() if v is not None})
        if record.exc_info:
            values["traceback"] = self.formatException(record.exc_info)
        if self._as_json:
            return json.dumps(values)
        return " ".join(f"{key}={_quoted(value)}" for key, value in values.items())


def _quoted(value: Value) -> str:
    text = str(value)
    return json.dumps(text) if any(c.isspace() or c in '"=' for c in text) or not text else text
