"""What `hetal doctor` looks at, one function a subject. Each gives a finding and raises nothing.

Packages that may fail to import are imported inside the function that tells about them.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import psutil

from hetal import limits, native
from hetal.cli import gpu_driver
from hetal.errors import CertificateError
from hetal.protocol.transport_security import TEST_ORGANIZATION, is_loopback, read_certificates
from hetal.server.config import ServerConfig, parse_http_address

GLIBC_NEEDED: Final = {(3, 10): (2, 35), (3, 12): (2, 39)}
MEMORY_MIN_GIB: Final = 4
CERTIFICATE_DAYS_MIN: Final = 3
# Peak of client, front and worker together at the preset `default` (README, "Measured"), and of the worker alone.
MEMORY_DEFAULT_PRESET_GIB: Final = 12
DISK_DEFAULT_PRESET_GIB: Final = 10
GXX_MAJOR_MIN: Final = 11
SERVER_TIMEOUT_S: Final = 10
CODE_TIMEOUT_S: Final = 60


class Verdict(str, Enum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one subject.

    Attributes:
        remedy: what to do about it; empty where all is well.
    """

    subject: str
    verdict: Verdict
    text: str
    remedy: str = ""

    @classmethod
    def ok(cls, subject: str, text: str) -> Finding:
        return cls(subject, Verdict.OK, text)

    @classmethod
    def warn(cls, subject: str, text: str, remedy: str) -> Finding:
        return cls(subject, Verdict.WARN, text, remedy)

    @classmethod
    def fail(cls, subject: str, text: str, remedy: str) -> Finding:
        return cls(subject, Verdict.FAIL, text, remedy)


def of_machine() -> Iterator[Finding]:
    """Everything that does not depend on a configuration."""
    yield python()
    yield c_library()
    yield openfhe()
    yield cpu()
    yield compiler()
    yield engine()
    yield gpu()
    yield memory()


def of_server(config: ServerConfig) -> Iterator[Finding]:
    """What a server of this configuration needs."""
    yield certificates(config)
    yield disk(config.data_dir)
    yield port("port", config.host, config.port)
    if config.http_address is not None:
        yield port("http port", *parse_http_address(config.http_address))


def python() -> Finding:
    found = sys.version_info[:2]
    text = f"{platform.python_implementation()} {platform.python_version()} on {platform.system()} {platform.machine()}"
    if platform.python_implementation() != "CPython" or found not in GLIBC_NEEDED:
        return Finding.fail("python", text, "Install CPython 3.10 or 3.12: OpenFHE has binaries for these alone.")
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "AMD64"):
        return Finding.fail("python", text, "Use an x86-64 Linux machine: OpenFHE has binaries for these alone.")
    return Finding.ok("python", text)


def c_library(name_and_release: str | None = None) -> Finding:
    """``name_and_release``: such as "glibc 2.35"; None to ask the system."""
    try:
        text = name_and_release or os.confstr("CS_GNU_LIBC_VERSION") or ""
        release = tuple(int(part) for part in text.split()[1].split(".")[:2])
    except (OSError, ValueError, IndexError):
        return Finding.fail("glibc", "the C library is not glibc", "Use a distribution with glibc 2.35 or newer.")
    needed = GLIBC_NEEDED.get(sys.version_info[:2], (2, 35))
    if release < needed:
        due = ".".join(map(str, needed))
        return Finding.fail("glibc", text, f"Use a distribution with glibc {due} or newer, such as Ubuntu 24.04.")
    return Finding.ok("glibc", text)


def openfhe() -> Finding:
    remedy = "Run `make .venv` in the checkout: it finds a Python for which the OpenFHE wheel imports."
    try:
        found = version("openfhe")
    except PackageNotFoundError:
        return Finding.fail("openfhe", "not installed", remedy)
    _, reason = _in_process("import openfhe")
    if reason:
        return Finding.fail("openfhe", f"{found} does not import: {reason}", remedy)
    return Finding.ok("openfhe", f"{found} imports")


def cpu(features: frozenset[str] | None = None) -> Finding:
    """``features``: flags of the processor; None to read them."""
    flags = _cpu_flags() if features is None else features
    cores = f"{len(os.sched_getaffinity(0))} cores"
    if {"avx512f", "avx512dq", "avx512vl", "avx512bw"} <= flags:
        return Finding.ok("cpu", f"AVX-512, {cores}")
    if {"avx2", "fma"} <= flags:
        return Finding.ok("cpu", f"AVX2, no AVX-512, {cores}")
    return Finding.warn(
        "cpu",
        f"neither AVX2 nor AVX-512, {cores}",
        "The engine's portable code is several times slower; use a newer processor, or pass the host's to the guest.",
    )


def compiler() -> Finding:
    """Needed by an install, not by a server that runs."""
    remedy = "Install g++ 11 or newer (on Debian and Ubuntu: apt install g++), then run `make native`."
    named = shlex.split(os.environ.get("CXX", ""))
    found_first = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    command = named or ([found_first] if found_first else [])
    if not command:
        return Finding.warn("compiler", "no C++ compiler", remedy)
    try:
        done = subprocess.run([*command, "-dumpfullversion"], capture_output=True, text=True, timeout=CODE_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding.warn("compiler", f"{shlex.join(command)} does not run: {error}", remedy)
    path, found = shlex.join(command), done.stdout.strip()
    if found.split(".")[0].isdigit() and int(found.split(".")[0]) < GXX_MAJOR_MIN:
        return Finding.warn("compiler", f"{path} {found}", remedy)
    if not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        return Finding.warn(
            "compiler", f"{path} {found}, without Python's headers", "Install them (python3.10-dev or python3.12-dev)."
        )
    return Finding.ok("compiler", f"{path} {found}")


def engine() -> Finding:
    if not native.available():
        return Finding.warn(
            "native engine",
            "not built; servers compute with OpenFHE, many times slower",
            "Install a C++ compiler and run `make native`.",
        )
    variants, reason = _in_process("from hetal.native.selftest import self_test; print(*self_test(), sep=', ')")
    if reason:
        return Finding.fail(
            "native engine",
            f"built, and its self-test fails: {reason}",
            "Build it again on this machine (make native); until then choose --backend openfhe.",
        )
    return Finding.ok("native engine", f"built; {variants} compute as the reference does")


def gpu() -> Finding:
    try:
        driver = gpu_driver.query()
    except gpu_driver.DriverError as error:
        return Finding.warn("gpu", str(error), "Check `nvidia-smi`; reinstall the driver, or restart the machine.")
    if driver is None or not driver.devices:
        if gpu_driver.hardware_present():
            remedy = "Install the NVIDIA driver, and in a container pass the device through; servers then see it."
            return Finding.warn("gpu", "a GPU of NVIDIA without a driver that answers", remedy)
        return Finding.ok("gpu", "none; the processor computes")
    names = ", ".join(
        f"{device.name} ({device.memory_bytes / limits.GIB:.0f} GiB, capability {'.'.join(map(str, device.compute))})"
        for device in driver.devices
    )
    text = f"{names}; driver for CUDA {driver.cuda[0]}.{driver.cuda[1]}"
    # CUDA's compiler may end the process that loads it, where it does not fit the machine.
    architectures = [f"sm_{device.compute[0]}{device.compute[1]}" for device in driver.devices]
    version, reason = _in_process(
        "from hetal.native.cuda.nvrtc import find; compiler = find(); "
        "print(compiler.version if compiler else '') ; "
        f"compiler and [compiler.architecture_for(one) for one in {architectures!r}]"
    )
    if reason:
        return Finding.warn("gpu", f"{text}; {reason}", "Until that is mended choose --device cpu.")
    if not version:
        remedy = "Install hetal[gpu]: servers compile their kernels for the device that they find."
        return Finding.warn("gpu", f"{text}; NVIDIA's run-time compiler is missing", remedy)
    text = f"{text}; NVRTC {version}"
    return Finding.ok("gpu", text)


def memory(total_gib: float | None = None, available_gib: float | None = None) -> Finding:
    """Of the machine, or of the control group where that grants less."""
    state = psutil.virtual_memory()
    bound = min(state.total, _cgroup_memory_bytes() or state.total)
    total = bound / limits.GIB if total_gib is None else total_gib
    free = min(bound, state.available) / limits.GIB if available_gib is None else available_gib
    text = f"{total:.1f} GiB, {free:.1f} GiB available"
    if total < MEMORY_MIN_GIB:
        remedy = f"Give it {MEMORY_MIN_GIB} GiB for tests, {MEMORY_DEFAULT_PRESET_GIB} GiB to work."
        return Finding.fail("memory", text, remedy)
    if free < MEMORY_DEFAULT_PRESET_GIB:
        remedy = f"The preset `default` takes up to {MEMORY_DEFAULT_PRESET_GIB} GiB: close programs, or add memory."
        return Finding.warn("memory", text, remedy)
    return Finding.ok("memory", text)


def certificates(config: ServerConfig) -> Finding:
    """Whether the server's certificate and key can be used, and for how long."""
    files = config.tls()
    if files is None:
        where = "on this machine alone" if is_loopback(config.host) else "with --allow-plaintext"
        return Finding.ok("certificates", f"none: plaintext {where}")
    try:
        found = read_certificates(files.client_ca, files.cert, files.key)
    except CertificateError as error:
        return Finding.fail("certificates", error.message, error.hint)
    text = f"{files.cert} is valid until {found.end:%Y-%m-%d %H:%M} UTC"
    if TEST_ORGANIZATION in found.issuer:
        return Finding.warn(
            "certificates", f"{text}, for tests", "Use certificates of your own authority in production."
        )
    if found.end - datetime.now(timezone.utc) < timedelta(days=CERTIFICATE_DAYS_MIN):
        return Finding.warn(
            "certificates", text, "Renew it in place; a running server takes the new files up by itself."
        )
    return Finding.ok("certificates", text)


def disk(data_dir: Path) -> Finding:
    """Whether the data directory, or the folder it will be made in, can be written, and what is free there."""
    place = data_dir.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        remedy = "Choose another --data-dir, or give this user the right to write there."
        return Finding.fail("disk", f"{place} cannot be written", remedy)
    free = shutil.disk_usage(place).free
    text = f"{free / limits.GIB:.1f} GiB free for {data_dir}"
    if free < limits.DISK_RESERVE_BYTES:
        return Finding.fail("disk", text, "Free some space, or choose another --data-dir: jobs are refused there.")
    if free < DISK_DEFAULT_PRESET_GIB * limits.GIB:
        return Finding.warn("disk", text, f"A job at the preset `default` takes up to {DISK_DEFAULT_PRESET_GIB} GiB.")
    return Finding.ok("disk", text)


def port(subject: str, host: str, number: int) -> Finding:
    """Whether a server could listen there now."""
    text = f"{host}:{number}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        remedy = "Choose another --listen, or end what listens there, unless it is the hetal server itself."
        return Finding.warn(subject, f"{text} cannot be listened on: {error.strerror or error}", remedy)
    return Finding.ok(subject, f"{text} is free")


def _in_process(code: str) -> tuple[str, str]:
    """Run Python code in a process of its own, for a library that does not fit may end it: (output, why it failed)."""
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=CODE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return "", f"no end within {CODE_TIMEOUT_S} s"
    if done.returncode == 0:
        return done.stdout.strip(), ""
    return "", (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]


def _cpu_flags() -> frozenset[str]:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    return frozenset()


def _cgroup_memory_bytes() -> int | None:
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
