#!/usr/bin/env python3
"""Checks and measures the native engine on a GPU, in less than eight minutes, and writes one JSON file.

Runs in a bare checkout, with Python 3.10 or newer and NumPy: nothing is installed or compiled but the kernels. For
these, NVIDIA's run-time compiler must be there: of a CUDA toolkit, or of the wheel nvidia-cuda-nvrtc (56 MiB) unpacked
somewhere on PYTHONPATH. Without it, ``--make-kernels DIR`` on another machine makes a directory (8 MiB) that serves in
its place, with HETAL_KERNEL_CACHE=DIR.

Stages, in order: every operation, whose residues must be those that the CPU gives (tests/unit/device_residues.json); a
bootstrap, against the message and against its own replay; operations and bootstrap at the default preset; keys that do
not all fit; a training iteration; the products of the paper's table. Each adds to the file, so that a machine that goes
away loses one stage.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "unit")]

import numpy as np  # noqa: E402
from native_client import Client, small_parameters  # noqa: E402
from ring_program import RESIDUES, digests, programs  # noqa: E402

from hetal.ckks.presets import DEFAULT_PRESET, TEST_PRESET, preset  # noqa: E402
from hetal.cli.device_work import Bench, engine_report, keys_report, matmul_report, training_report  # noqa: E402
from hetal.cli.matmul_work import PAPER  # noqa: E402
from hetal.errors import HetalError  # noqa: E402
from hetal.native.bootstrap import Bootstrapper  # noqa: E402
from hetal.native.cuda import nvrtc  # noqa: E402
from hetal.native.cuda.code import DIRECTORY  # noqa: E402
from hetal.native.cuda.engine import open_engine  # noqa: E402
from hetal.native.transforms import bootstrap_automorphisms  # noqa: E402
from hetal.protocol.job import JobSpec  # noqa: E402

BUDGET_S = 460
REPEATS = 20
QUERY = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.draw,temperature.gpu,memory.total"
BOOTSTRAP_ERROR_MAX = 1e-3

Report = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--driver", choices=("cuda", "emulated"), default="cuda", help="emulated: the script's own test"
    )
    parser.add_argument("--number", type=int, default=0, metavar="N", help="of the device")
    parser.add_argument("--out", type=Path, default=Path("measure_gpu.json"), metavar="FILE")
    parser.add_argument("--budget-s", type=float, default=BUDGET_S, metavar="S", help="no stage begins after it")
    parser.add_argument("--make-kernels", type=Path, metavar="DIR", help="only compile, for all architectures")
    args = parser.parse_args()
    if args.make_kernels is not None:
        return make_kernels(args.make_kernels)
    try:
        return measure(args)
    except HetalError as error:
        print(error, error.hint, sep="\n", file=sys.stderr)
        return 1


def make_kernels(directory: Path) -> int:
    os.environ[DIRECTORY] = str(directory)
    for architecture in nvrtc.ARCHITECTURES:
        for log2 in range(6, 18):
            print(architecture, log2, len(nvrtc.cubin(architecture, log2)), flush=True)
    return 0


def measure(args: argparse.Namespace) -> int:
    emulated = args.driver == "emulated"
    device = f"{args.driver}:{args.number}"
    params = preset(TEST_PRESET if emulated else DEFAULT_PRESET)
    repeats = 1 if emulated else REPEATS
    shapes = {} if emulated else PAPER

    def bench() -> Bench:
        return Bench(params, device, None, repeats)

    samples, features, classes = (16, 7, 2) if emulated else (1024, 768, 10)
    job = JobSpec(
        parameters=params,
        train_samples=samples,
        validation_samples=samples,
        features=features,
        classes=classes,
        batch_size=samples,
        epochs_max=1,
    )
    stages: dict[str, Callable[[], Report]] = {
        "residues": lambda: residues(device, 11 if emulated else 16),
        "bootstrap_check": lambda: bootstrap_check(device),
        "engine": lambda: engine_report(bench(), repeats),
        "keys": lambda: keys_report(bench()),
        "training": lambda: training_report(Bench(params, device, None, min(repeats, 5)), job),
        "matmul": lambda: matmul_report(Bench(params, device, None, min(repeats, 5)), shapes),
    }
    began = time.monotonic()
    report: Report = {"command": sys.argv, "facts": facts(device), "stages": {}}
    failed = False
    for name, stage in stages.items():
        if time.monotonic() - began > args.budget_s:
            report["stages"][name] = {"skipped": f"the budget of {args.budget_s:.0f} s is used up"}
            continue
        started = time.monotonic()
        try:
            result = stage()
        except Exception as error:
            result = {"error": repr(error), "traceback": traceback.format_exc()}
        failed = failed or "error" in result or result.get("passed") is False
        report["stages"][name] = {"wall_s": round(time.monotonic() - started, 2), **result}
        report["clocks_after"] = clocks(args)
        report["passed"] = not failed
        write(args.out, report)
        state = "FAILED" if "error" in result or result.get("passed") is False else "done"
        print(f"{name}: {state} in {time.monotonic() - started:.1f} s", flush=True)
    return 1 if failed else 0


def residues(device: str, log2_max: int) -> Report:
    """Every operation, on all kinds of moduli, against what the CPU gave."""
    due = json.loads(RESIDUES.read_text())
    engine = open_engine(device)
    wrong, count = [], 0
    for name, program in programs():
        if program.log2_dimension > log2_max:
            continue
        got = digests(program.run(program.ring(engine)))
        count += len(got)
        wrong += [f"{name}: {what}" for what, digest in got.items() if due[name][what] != digest]
    engine.close()
    return {"passed": not wrong, "compared": count, "different": wrong}


def bootstrap_check(device: str) -> Report:
    """The message comes back, and a replayed graph gives what single launches gave."""
    engine = open_engine(device)
    params = small_parameters()
    client = Client(engine, params)
    client.make_keys(bootstrap_automorphisms(params), low_limbs=params.bootstrap_input_level)
    bootstrapper = Bootstrapper(client.scheme, params)
    x = np.random.default_rng(1).uniform(-1, 1, params.slots)
    entered = client.encrypt(x, params.bootstrap_input_level + 1)
    results = [bootstrapper.bootstrap(entered) for _ in range(4)]
    first, *others = [[client.ring.residues(part) for part in result.parts] for result in results]
    error = float(np.abs(client.decrypt(results[-1]).real - x).max())
    same = all((a == b).all() for other in others for a, b in zip(first, other, strict=True))
    replays = engine.device.counts["replays"]
    engine.close()
    passed = same and error < BOOTSTRAP_ERROR_MAX and replays == 3
    return {"passed": passed, "replays_agree": same, "max_error": error, "replays": replays}


def facts(device: str) -> Report:
    """What a reader needs to place the figures."""
    engine = open_engine(device)
    found = engine.device.driver.facts
    integers = engine.device.integers
    engine.close()
    compiler = nvrtc.find()
    git = shutil.which("git")
    commit = ""
    if git and (ROOT / ".git").exists():
        commit = subprocess.run(
            [git, "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True
        ).stdout.strip()
    return {
        "device": found.name,
        "architecture": found.architecture,
        "memory_bytes": found.total_bytes,
        "driver_cuda": found.version,
        "integers": integers,
        "nvrtc": compiler.version if compiler else None,
        "nvidia_smi": clocks(None),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "cores": len(os.sched_getaffinity(0)),
        "commit": commit,
    }


def clocks(args: argparse.Namespace | None) -> Report | None:
    """What the management tool says, where it is."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"]
    if args is not None:
        command.append(f"--id={args.number}")
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip().splitlines()
    return (
        dict(zip(QUERY.split(","), (field.strip() for field in lines[0].split(",")), strict=False)) if lines else None
    )


def write(path: Path, report: Report) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(report, indent=1) + "\n")
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main())
