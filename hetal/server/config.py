"""What an operator chooses."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hetal import limits, native
from hetal.errors import InputError, PlaintextRefusedError
from hetal.native.cuda import device_count
from hetal.protocol.transport_security import is_loopback
from hetal.server.identity import FINGERPRINT, LOCAL
from hetal.server.placement import device_names

BACKENDS: Final = ("native", "openfhe")


def meaning(text: str) -> dict[str, str]:
    """What an option is for, in half a sentence: shown by ``--help`` and ``--print-config``."""
    return {"meaning": text}


@dataclass(frozen=True, slots=True)
class TlsFiles:
    cert: Path
    key: Path
    client_ca: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Options of one server. :meth:`check` before use.

    From each field follow a key of the configuration file, a variable HETAL_NAME and a flag --name
    (:mod:`hetal.server.settings`); its metadata say what it is for.
    """

    data_dir: Path = field(metadata=meaning("jobs, keys and ciphertexts"))
    host: str = field(default="127.0.0.1", metadata=meaning("the address to listen on"))
    port: int = field(default=0, metadata=meaning("the port to listen on; 0 takes a free one"))
    tls_cert: Path | None = field(default=None, metadata=meaning("the server's certificate chain, PEM"))
    tls_key: Path | None = field(default=None, metadata=meaning("the key of --tls-cert, PEM, unencrypted"))
    tls_client_ca: Path | None = field(default=None, metadata=meaning("the authority whose clients are let in, PEM"))
    allow_plaintext: bool = field(
        default=False, metadata=meaning("listen beyond this machine without certificates; everybody is one owner")
    )
    allow_insecure: bool = field(default=False, metadata=meaning("accept parameter sets below 128 bits"))
    jobs_running: int = field(
        default=limits.JOBS_RUNNING_MAX, metadata=meaning("workers at a time; further jobs queue")
    )
    worker_memory_gib: float | None = field(
        default=None, metadata=meaning("address space of one worker; without it no limit")
    )
    memory_gib: float | None = field(
        default=None,
        metadata=meaning("memory of all workers together; without it 90 % of the machine's"),
    )
    worker_restarts: int = field(
        default=limits.WORKER_RESTARTS_MAX,
        metadata=meaning("how often a worker may die in one epoch and start again from its checkpoint"),
    )
    retention_s: float | None = field(
        default=None, metadata=meaning("seconds after which a job at its end is deleted; without it never")
    )
    threads: int | None = field(default=None, metadata=meaning("threads of one worker; without it one per core"))
    backend: str | None = field(
        default=None, metadata=meaning("native or openfhe; without it native where it is built")
    )
    device: str = field(
        default="cpu",
        metadata=meaning("of the native backend: cpu, cuda:N, several with commas, or auto for all GPUs, else cpu"),
    )
    client_wait_s: float = field(
        default=limits.CLIENT_WAIT_S, metadata=meaning("seconds that an epoch may stay unanswered")
    )
    operators: tuple[str, ...] = field(
        default=(), metadata=meaning("identities that may list and cancel the jobs of all, such as cn:ops")
    )
    blocked: tuple[str, ...] = field(
        default=(), metadata=meaning("identities, or sha256:FINGERPRINT of certificates, that are let in no more")
    )
    owner_jobs_max: int = field(default=limits.OWNER_JOBS_MAX, metadata=meaning("unfinished jobs of one owner"))
    owner_jobs_stored_max: int = field(
        default=limits.OWNER_JOBS_STORED_MAX, metadata=meaning("jobs of one owner, finished ones among them")
    )
    owner_bytes_max: int = field(default=limits.OWNER_BYTES_MAX, metadata=meaning("bytes on disk of one owner"))
    owner_compute_minutes_max: float = field(
        default=limits.OWNER_COMPUTE_MINUTES_MAX,
        metadata=meaning(f"minutes of workers of one owner in {limits.COMPUTE_WINDOW_DAYS} days"),
    )
    log_json: bool = field(default=False, metadata=meaning("log lines as JSON objects"))
    traces: bool = field(
        default=False, metadata=meaning("send OpenTelemetry traces; needs the extra otel and OTEL_ variables")
    )
    http_address: str | None = field(
        default=None,
        metadata=meaning("HOST:PORT of status page, metrics and health; PORT alone means loopback; without it none"),
    )

    def chosen_backend(self) -> str:
        """The backend of this server's workers.

        Raises:
            BackendError: the native engine was asked for and is not built.
        """
        if self.chosen_devices() != ("cpu",):
            return "native"
        if self.backend is None:
            return "native" if native.available() else "openfhe"
        if self.backend == "native":
            native.load_engine()
        return self.backend

    def chosen_devices(self) -> tuple[str, ...]:
        """Names of the devices that workers compute on."""
        names = device_names(self.device)
        if names != ("auto",):
            return names
        count = 0 if self.backend == "openfhe" else device_count()
        return tuple(f"cuda:{number}" for number in range(count)) or ("cpu",)

    def tls(self) -> TlsFiles | None:
        """The files of TLS, or None for a server without it.

        Raises:
            InputError: some of them are not given.
            PlaintextRefusedError: none is, and others than this machine could connect.
        """
        files = {"--tls-cert": self.tls_cert, "--tls-key": self.tls_key, "--tls-client-ca": self.tls_client_ca}
        if self.tls_cert is not None and self.tls_key is not None and self.tls_client_ca is not None:
            return TlsFiles(self.tls_cert, self.tls_key, self.tls_client_ca)
        missing = [name for name, path in files.items() if path is None]
        if len(missing) < len(files):
            raise InputError(f"TLS lacks {' and '.join(missing)}", hint="Give all three files, or none.")
        if not self.allow_plaintext and not is_loopback(self.host):
            raise PlaintextRefusedError(f"a server at {self.host} needs certificates")
        return None

    def check(self) -> None:
        """Raise an :class:`InputError` where an option is out of its range, and what :meth:`tls` raises."""
        self.tls()
        if device_names(self.device)[0] not in ("auto", "cpu") and self.backend == "openfhe":
            raise InputError(f"device = {self.device!r} with backend 'openfhe', which computes on the cpu alone")
        if self.backend not in (None, *BACKENDS):
            raise InputError(f"no backend {self.backend!r}; there are {', '.join(BACKENDS)}")
        if not 0 <= self.port <= 65_535:
            raise InputError(f"port {self.port} is outside 0..65535")
        if not 1 <= self.jobs_running <= 1_000:
            raise InputError(f"jobs running = {self.jobs_running} is outside 1..1000")
        if self.worker_memory_gib is not None and not self.worker_memory_gib > 0:
            raise InputError(f"worker memory of {self.worker_memory_gib} GiB is not positive")
        if self.memory_gib is not None and not self.memory_gib > 0:
            raise InputError(f"memory of {self.memory_gib} GiB is not positive")
        if not 0 <= self.worker_restarts <= 1_000:
            raise InputError(f"worker restarts = {self.worker_restarts} is outside 0..1000")
        if self.retention_s is not None and not self.retention_s >= 0:
            raise InputError(f"a retention of {self.retention_s} s is negative")
        if self.threads is not None and not 1 <= self.threads <= limits.THREADS_MAX:
            raise InputError(f"threads = {self.threads} is outside 1..{limits.THREADS_MAX}")
        for name in (*self.operators, *self.blocked):
            if not name.startswith(("cn:", "uri:", FINGERPRINT)) and name != LOCAL:
                raise InputError(f"{name!r} is no identity; there are cn:NAME, uri:URI, sha256:FINGERPRINT and {LOCAL}")
        for name in ("owner_jobs_max", "owner_jobs_stored_max", "owner_bytes_max", "owner_compute_minutes_max"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} = {getattr(self, name)} is not positive")
        if not self.client_wait_s > 0:
            raise InputError(f"a client wait of {self.client_wait_s} s is not positive")
        if self.http_address is not None:
            parse_http_address(self.http_address)


def parse_address(text: str) -> tuple[str, int]:
    """Split HOST:PORT; an IPv6 host stands in brackets. Raises an :class:`InputError`."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit():
        raise InputError(f"{text!r} is not HOST:PORT")
    return host, int(port)


def parse_http_address(text: str) -> tuple[str, int]:
    """Like :func:`parse_address`; a port alone means loopback."""
    host, port = parse_address(f"127.0.0.1:{text}" if text.isdigit() else text)
    if port > 65_535:
        raise InputError(f"port {port} is outside 0..65535")
    return host, port
