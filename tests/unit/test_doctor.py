"""`hetal doctor`: what is wrong is told with a remedy, and nothing on the way raises."""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from hetal.cli import checks, gpu_driver
from hetal.cli.certs import make_certificates
from hetal.cli.checks import Finding, Verdict
from hetal.cli.doctor import _findings, server
from hetal.cli.main import build_parser, main
from hetal.errors import BackendError
from hetal.native import reference, selftest
from hetal.server.app import Server
from hetal.server.config import ServerConfig

# The calls of the driver that hetal makes, for machines without one.
DRIVER = r"""
#include <cstring>
#include <cstddef>
extern "C" {
int cuInit(unsigned) { return FAILS; }
int cuDriverGetVersion(int *v) { *v = 12040; return 0; }
int cuDeviceGetCount(int *n) { *n = 1; return 0; }
int cuDeviceGet(int *d, int i) { *d = i + 7; return 0; }
int cuDeviceGetName(char *s, int n, int d) { std::strncpy(s, d == 7 ? "Test GPU" : "?", n); return 0; }
int cuDeviceTotalMem_v2(size_t *b, int) { *b = 5ull << 30; return 0; }
int cuDeviceGetAttribute(int *v, int a, int) { *v = a == 75 ? 9 : 0; return 0; }
}
"""


def driver_library(tmp_path: Path, *, fails: int) -> str:
    source, library = tmp_path / "driver.cpp", tmp_path / "libdriver.so"
    source.write_text(DRIVER)
    subprocess.run(["c++", "-shared", "-fPIC", f"-DFAILS={fails}", source, "-o", library], check=True, timeout=60)
    return str(library)


def test_this_machine_passes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "hetal.toml").write_text(f'port = 0\ndata_dir = "{tmp_path}"\n')
    assert main(["doctor", "--json", "--config", str(tmp_path / "hetal.toml")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ok"]
    subjects = [finding["subject"] for finding in told["checks"]]
    machine = ["hetal", "python", "glibc", "openfhe", "cpu", "compiler", "native engine", "gpu", "memory"]
    assert subjects == [*machine, "configuration", "certificates", "disk", "port"]
    assert all(bool(f["remedy"]) == (f["verdict"] != "ok") for f in told["checks"])


def test_a_failure_gives_status_1_and_its_remedy(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "hetal.toml").write_text("colour = 'red'\n")
    assert main(["doctor", "--config", str(tmp_path / "hetal.toml")]) == 1
    lines = capsys.readouterr().out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("fail  configuration"))
    assert "colour is not an option" in lines[at]
    assert lines[at + 1].strip().startswith("->")


def asked(address: str) -> argparse.Namespace:
    return build_parser(["doctor"]).parse_args(["doctor", "--server", address])


async def test_a_server_that_answers(tmp_path: Path) -> None:
    running = await Server.start(ServerConfig(data_dir=tmp_path / "data"))
    try:
        finding = await server(asked(f"127.0.0.1:{running.port}"))
        assert finding.verdict is Verdict.OK
        assert "default" in finding.text
    finally:
        await running.stop()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "192.0.2.1:7443"])
async def test_an_address_that_cannot_be_asked_is_a_failure(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr(checks, "SERVER_TIMEOUT_S", 0.5)
    finding = await server(asked(address))
    assert finding.verdict is Verdict.FAIL
    assert finding.remedy


@pytest.mark.parametrize(
    ("finding", "verdict"),
    [
        (checks.c_library("glibc 2.17"), Verdict.FAIL),
        (checks.c_library("musl"), Verdict.FAIL),
        (checks.cpu(frozenset({"sse2"})), Verdict.WARN),
        (checks.cpu(frozenset({"avx2", "fma"})), Verdict.OK),
        (checks.memory(2.0, 1.0), Verdict.FAIL),
        (checks.memory(16.0, 3.0), Verdict.WARN),
        (checks.memory(64.0, 60.0), Verdict.OK),
        (checks.disk(Path("/proc/hetal-data")), Verdict.FAIL),
        (checks.port("port", "no such host", 1), Verdict.WARN),
    ],
)
def test_each_lack_is_told_with_a_remedy(finding: Finding, verdict: Verdict) -> None:
    assert finding.verdict is verdict
    assert bool(finding.remedy) == (verdict is not Verdict.OK)


def test_a_taken_port_is_told() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert checks.port("port", "127.0.0.1", other.getsockname()[1]).verdict is Verdict.WARN


@pytest.mark.parametrize("value", ["", "/nonexistent/c++"])
def test_without_a_compiler_a_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", value)
    finding = checks.compiler()
    assert finding.verdict is Verdict.WARN
    assert "g++" in finding.remedy


def test_a_device_wants_the_run_time_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_driver, "DRIVER_LIBRARY", driver_library(tmp_path, fails=0))
    finding = checks.gpu()
    assert "Test GPU (5 GiB, capability 9.0); driver for CUDA 12.4" in finding.text
    if finding.verdict is Verdict.OK:
        assert "NVRTC" in finding.text
    else:
        assert "hetal[gpu]" in finding.remedy
    monkeypatch.setattr(gpu_driver, "DRIVER_LIBRARY", driver_library(tmp_path, fails=999))
    assert checks.gpu().verdict is Verdict.WARN


def test_variables_that_are_no_options_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HETAL_THREDS", "2")
    monkeypatch.setenv("HETAL_DATA_DIR", str(tmp_path))
    args = build_parser(["doctor"]).parse_args(["doctor", "--config", os.devnull])
    (finding,) = [finding for finding in _findings(args) if finding.subject == "configuration"]
    assert finding.verdict is Verdict.WARN
    assert "did you mean HETAL_THREADS" in finding.text


def test_the_driver_is_asked_for_its_devices(tmp_path: Path) -> None:
    driver = gpu_driver.query(driver_library(tmp_path, fails=0))
    assert driver == gpu_driver.Driver((12, 4), (gpu_driver.Device("Test GPU", 5 << 30, (9, 0)),))


def test_a_driver_that_fails_is_told(tmp_path: Path) -> None:
    with pytest.raises(gpu_driver.DriverError, match="cuInit failed with CUDA error 999"):
        gpu_driver.query(driver_library(tmp_path, fails=999))


def test_without_a_driver_there_is_none(tmp_path: Path) -> None:
    assert gpu_driver.query(str(tmp_path / "none.so")) is None


def test_the_self_test_covers_every_instruction_set_and_notices_a_wrong_result(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "portable" in selftest.self_test()
    monkeypatch.setattr(reference.Ring, "multiply", reference.Ring.add)
    with pytest.raises(BackendError, match="multiplication is wrong"):
        selftest.self_test()


def test_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_certificates(tmp_path, [], [], timedelta(days=2))
    files = {"tls_cert": tmp_path / "server.pem", "tls_client_ca": tmp_path / "ca.pem"}
    config = ServerConfig(data_dir=tmp_path, tls_key=tmp_path / "server-key.pem", **files)
    found = checks.certificates(config)
    assert found.verdict is Verdict.WARN and "own authority" in found.remedy
    monkeypatch.setattr(checks, "TEST_ORGANIZATION", "another")
    found = checks.certificates(config)
    assert found.verdict is Verdict.WARN and "Renew" in found.remedy
    monkeypatch.setattr(checks, "CERTIFICATE_DAYS_MIN", 1)
    assert checks.certificates(config).verdict is Verdict.OK
    found = checks.certificates(ServerConfig(data_dir=tmp_path, tls_key=tmp_path / "ca-key.pem", **files))
    assert found.verdict is Verdict.FAIL and "does not belong" in found.text and found.remedy
    assert "on this machine alone" in checks.certificates(ServerConfig(data_dir=tmp_path)).text
