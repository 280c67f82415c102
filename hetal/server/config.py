"""What an operator chooses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hetal import limits, native
from hetal.errors import InputError

BACKENDS: Final = ("native", "openfhe")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Options of one server. :meth:`check` before use.

    Attributes:
        host, port: to listen on; port 0 takes a free one.
        data_dir: jobs, blobs and the database; made when missing.
        allow_insecure: accept parameter sets below 128 bits.
        jobs_running: workers at a time; further jobs queue.
        worker_memory_gib: address space of one worker; None for no limit.
        threads: of one worker; None for one per core.
        backend: one of ``BACKENDS``; None for the native engine where it is built, else OpenFHE.
        client_wait_s: how long an epoch may stay unanswered.
        log_json: log lines as JSON objects.
    """

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = 0
    allow_insecure: bool = False
    jobs_running: int = limits.JOBS_RUNNING_MAX
    worker_memory_gib: float | None = None
    threads: int | None = None
    backend: str | None = None
    client_wait_s: float = limits.CLIENT_WAIT_S
    log_json: bool = False

    def chosen_backend(self) -> str:
        """The backend of this server's workers.

        Raises:
            BackendError: the native engine was asked for and is not built.
        """
        if self.backend is None:
            return "native" if native.available() else "openfhe"
        if self.backend == "native":
            native.load_engine()
        return self.backend

    def check(self) -> None:
        """Raise an :class:`InputError` where an option is out of its range."""
        if self.backend not in (None, *BACKENDS):
            raise InputError(f"no backend {self.backend!r}; there are {', '.join(BACKENDS)}")
        if not 0 <= self.port <= 65_535:
            raise InputError(f"port {self.port} is outside 0..65535")
        if not 1 <= self.jobs_running <= 1_000:
            raise InputError(f"jobs running = {self.jobs_running} is outside 1..1000")
        if self.worker_memory_gib is not None and not self.worker_memory_gib > 0:
            raise InputError(f"worker memory of {self.worker_memory_gib} GiB is not positive")
        if self.threads is not None and not 1 <= self.threads <= 1_024:
            raise InputError(f"threads = {self.threads} is outside 1..1024")
        if not self.client_wait_s > 0:
            raise InputError(f"a client wait of {self.client_wait_s} s is not positive")


def parse_address(text: str) -> tuple[str, int]:
    """Split HOST:PORT; an IPv6 host stands in brackets. Raises an :class:`InputError`."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit():
        raise InputError(f"{text!r} is not HOST:PORT")
    return host, int(port)
