"""Packaging: what a source distribution and a wheel hold, and an install where no C++ compiler is."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from hetal._version import __version__

REPOSITORY = Path(__file__).parents[2]
NO_COMPILER = {"CXX": "/bin/false"}
BUILD = "import sys; from scikit_build_core.build import build_{0} as build; print(build(sys.argv[1]))"


def build(kind: str, source: Path, out: Path, environment: Mapping[str, str]) -> Path:
    """Build an ``sdist`` or a ``wheel`` as pip would, with the build requirements of this environment."""
    ran = subprocess.run(
        [sys.executable, "-c", BUILD.format(kind), str(out)],
        cwd=source,
        env={**os.environ, "SKBUILD_BUILD_DIR": str(out / "build"), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return out / ran.stdout.splitlines()[-1]


def source_tree(out: Path) -> Path:
    """The content of a source distribution of this repository."""
    sdist = build("sdist", REPOSITORY, out, {})
    subprocess.run(["tar", "--extract", "--file", str(sdist), "--directory", str(out)], check=True)
    return out / f"hetal-{__version__}"


def install(wheel: Path, site: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)


def start(site: Path, *arguments: str) -> subprocess.Popen[str]:
    """Python with hetal from ``site`` alone; -S keeps this environment's own hetal out."""
    path = os.pathsep.join([str(site), str(Path(pytest.__file__).parents[1])])
    return subprocess.Popen(
        [sys.executable, "-S", *arguments],
        cwd=site,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    with start(site, *arguments) as process:
        out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def test_an_install_without_a_compiler_has_all_but_the_engine(tmp_path: Path) -> None:
    tree = source_tree(tmp_path)
    assert (tree / "hetal/native/CMakeLists.txt").exists()
    assert (tree / "hetal/native/src/variant.cpp").exists()

    wheel = build("wheel", tree, tmp_path, NO_COMPILER)
    site = tmp_path / "site"
    install(wheel, site)
    assert not list(site.rglob("*.so"))
    assert not list(site.rglob("*.cpp"))
    packaged = {path.relative_to(site).as_posix() for path in (site / "hetal").rglob("*") if path.is_file()}
    sources = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "hetal").rglob("*.py*")}
    assert {name for name in sources if name.endswith((".py", ".pyi"))} <= packaged
    assert "hetal/py.typed" in packaged
    metadata = (site / f"hetal-{__version__}.dist-info/METADATA").read_text()
    assert f"\nVersion: {__version__}\n" in metadata

    program = (
        "import hetal.native as n\n"
        "from hetal.errors import BackendError\n"
        "assert not n.available()\n"
        "try:\n    n.load_engine()\n"
        "except BackendError as error:\n    print(error.code, error.hint)\n"
    )
    told = run(site, "-c", program)
    assert told.stdout.startswith("BACKEND"), told.stderr
    assert "compiler" in told.stdout

    serve = ("-m", "hetal.cli.main", "serve", "--listen", "127.0.0.1:0", "--data-dir", str(tmp_path / "data"))
    asked = run(site, *serve, "--backend", "native")
    assert asked.returncode == 2
    assert "not built" in asked.stderr
    with start(site, *serve) as left_to_itself:
        listening = left_to_itself.stdout.readline() if left_to_itself.stdout is not None else ""
        left_to_itself.terminate()
        _, log = left_to_itself.communicate(timeout=60)
    assert listening.startswith("listening on")
    assert [line for line in log.splitlines() if "the native engine is not built" in line and "OpenFHE" in line]


@pytest.mark.full
def test_a_wheel_from_the_source_distribution_computes(tmp_path: Path) -> None:
    wheel = build("wheel", source_tree(tmp_path), tmp_path, {})
    site = tmp_path / "site"
    install(wheel, site)
    told = run(site, "-c", "from hetal.native import load_engine as l; e = l(); print(e.__file__, *e.variants())")
    assert told.stdout.startswith(str(site)), told.stderr
    assert "portable" in told.stdout
