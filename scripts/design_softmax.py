"""Makes the tables of the softmaxes (hetal/kernels/tables/*.json): by linear programs, and by trying all degrees.

    python scripts/design_softmax.py [--only pairwise|sigmoid|normalise] [--out hetal/kernels/tables]

E is a Fourier series that follows e^v up to 0.35 of a cap and lies between 0.7 of the cap and the cap beyond; F a
Chebyshev series in ((kappa - D) / (kappa - low))^(2^squarings) that follows 1/D and bends to 0. Errors are measured on
the hard set (uniform logits, near ties, ties of several classes, clusters at the ends of the range, outliers) with the
noise of 2^-17 in the angles of phases and in the bootstrap. Needs SciPy, and about an hour of one core.

The normalising softmax: of all degrees of its steps those with the fewest bootstraps, then levels, and a last inverse
within LAST_ERROR. Errors are those of the hard set, with noise of 2^-20 on every bootstrap.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Iterable
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from hetal.kernels.evaluator import LevelModel
from hetal.kernels.normalise import checkpoints, exponential, inverse_polynomials, schedule
from hetal.kernels.tables import NormaliseSpec

Array = NDArray[np.float64]

CLASSES: Final = (2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24)
# At the widest range, where a series takes minutes.
CLASSES_WIDE: Final = (5, 10, 16)
# Range of logits: (degree of E, squarings). Together they use the levels between a phase and the next bootstrap.
CIRCUITS: Final = {16: (39, 3), 32: (39, 3), 64: (103, 2), 128: (103, 2), 256: (199, 1)}
SIGMOID_RANGES: Final = (32, 64, 128, 256, 512)
DEGREE_F: Final = 55
# The period exceeds the differences of logits in range by this.
GAP: Final = 1.1
# Largest 1/F that F need not reach on a margin below D = 1, for noise.
LOW: Final = 0.88
NOISE: Final = 2.0**-17
SAMPLES: Final = 24_000
DIGITS: Final = 10

NORMALISE_CLASSES: Final = (2, 3, 5, 10, 16, 32, 64)
NORMALISE_RANGES: Final = (8, 32, 128, 256)
NORMALISE_NOISE: Final = 2.0**-20
EXPONENTIAL_DEGREE: Final = 15
LAST_ERROR: Final = 3e-4
# The presets' levels, and that of the result.
MODEL: Final = LevelModel(1 << 15, 26, 4, 13, 15)
RESULT_LEVEL: Final = 8


def cap_of(classes: int, squarings: int) -> float:
    """Where E saturates: as high as F's resolution allows. Found by trial."""
    base = {1: 130.0, 2: 190.0, 3: 220.0}[squarings]
    return round(base * min(1.0, 4.0 / classes) ** 0.25)


# -- linear programs ----------------------------------------------------------------------------------------------


def fourier_basis(v: Array, degree: int, period: float) -> Array:
    angles = np.outer(2 * np.pi * v / period, np.arange(1, degree + 1))
    return np.hstack([np.ones((len(v), 1)), np.cos(angles), np.sin(angles)])


def smooth(x: Array) -> Array:
    x = np.clip(x, 0.0, 1.0)
    return np.asarray(x * x * (3 - 2 * x))


def band(v: Array, classes: int, cap: float) -> tuple[Array, Array, Array]:
    """Least and largest E(v), and by what a unit of error counts."""
    floor, bend, near, far = 1.0 / cap, 0.35 * cap, 0.6, 0.3
    e = np.exp(np.clip(v, -80.0, 80.0))
    slack = floor * smooth((np.log(np.maximum(e, 1e-30)) - np.log(bend)) / np.log(3.0))
    p = 1.0 / (1.0 + e)
    least = 1.0 / (p + slack) - 1.0
    most = np.where(p - slack > 1 / (1 + cap), 1.0 / np.maximum(p - slack, 1 / (1 + cap)) - 1.0, cap)
    most = np.minimum(most, cap)
    capped = np.minimum(e, bend)
    return np.minimum(least, most), most, far / max(classes - 1, 1) + near * (2 * capped + capped**2)


def solve(
    cost: Array, upper: Array, bounds: Array, scale: Array, equal: Array | None = None, value: Array | None = None
) -> Array:
    """Minimise cost . x with upper x <= bounds, equal x = value; x and the last variable's sign as given by scale."""
    free = len(cost) - 1
    result = linprog(
        cost,
        A_ub=upper * scale,
        b_ub=bounds,
        A_eq=None if equal is None else equal * scale,
        b_eq=value,
        bounds=[(None, None)] * free + [(0, None)],
        method="highs-ipm",
        options={"time_limit": 900},
    )
    if result.x is None:
        raise ValueError(f"a linear program has no solution: {result.message}")
    return np.asarray(result.x * scale)


def design_e(degree: int, classes: int, cap: float, reach: float, period: float) -> Array:
    """constant, cosines, sines; E(0) = 1."""
    grid = np.concatenate(
        [
            np.linspace(-14.0, np.log(cap) + 6.0, 500),
            np.linspace(-reach, reach, (8 if degree <= 103 else 6) * degree),
            -reach * np.cos(np.linspace(0, np.pi, 60)),
        ]
    )
    v = np.unique(np.clip(grid, -reach, reach))
    least, most, weight = band(v, classes, cap)
    basis, w = fourier_basis(v, degree, period), weight[:, None]
    gap = np.linspace(reach, period - reach, int(max(120, 40 * degree * (period - 2 * reach) / period)))[1:-1]
    outside, zero = fourier_basis(gap, degree, period), np.zeros((len(gap), 1))
    upper = np.vstack(
        [
            np.hstack([basis, -w]),
            np.hstack([-basis, -w]),
            np.hstack([basis, 0 * w]),
            np.hstack([outside, zero]),
            np.hstack([-outside, zero]),
        ]
    )
    # Beyond the range E is free, but bounded and positive, with room for what it does between the points.
    room = 0.005 * cap * smooth((period - reach - gap) / (0.4 * (period - 2 * reach)))
    bounds = np.concatenate([most, -least, np.full(len(v), 1.3 * cap), np.full(len(gap), cap), -room])
    count = basis.shape[1]
    cost = np.append(np.zeros(count), 1.0)
    scale = np.append(np.full(count, cap), 1.0)
    at_zero = np.hstack([fourier_basis(np.zeros(1), degree, period), [[0.0]]])
    return solve(cost, upper, bounds, scale, at_zero, np.ones(1))[:-1]


def design_f(kappa: float, cap: float, squarings: int) -> Array:
    """Chebyshev coefficients of F in 2 ((kappa - D) / (kappa - LOW))^(2^squarings) - 1."""
    start, stop = 0.15 * cap, 0.6 * cap
    even = 0.985 + (kappa - 0.985) * (1 - np.cos(np.linspace(0, np.pi, 900))) / 2
    grid = np.unique(np.concatenate([np.geomspace(0.985, kappa, 900), even]))
    bent = smooth((np.log(grid) - np.log(start)) / (np.log(stop) - np.log(start))) / cap
    wanted = np.where(grid < 1, 1 / grid, np.maximum(0.0, 1 / grid - bent))
    margin = np.linspace(LOW, 0.985, 25)

    def basis(D: Array) -> Array:
        return np.polynomial.chebyshev.chebvander(2 * ((kappa - D) / (kappa - LOW)) ** (2**squarings) - 1, DEGREE_F)

    inside, near = basis(grid), basis(margin)
    one, zero = np.ones((len(grid), 1)), np.zeros((len(margin), 1))
    upper = np.vstack(
        [np.hstack([inside, -one]), np.hstack([-inside, -one]), np.hstack([near, zero]), np.hstack([-near, zero])]
    )
    bounds = np.concatenate([wanted, -wanted, np.full(len(margin), 1.15), np.full(len(margin), -0.9)])
    cost = np.append(np.zeros(DEGREE_F + 1), 1.0)
    return solve(cost, upper, bounds, np.ones(DEGREE_F + 2))[:-1]


def design_s(degree: int, reach: float, period: float) -> Array:
    """constant, cosines, sines of a sigmoid on [-reach, reach]."""
    v = np.unique(np.concatenate([np.linspace(-12.0, 12.0, 600), np.linspace(0.0, reach, 6 * degree)]))
    v = v[(v >= 0) & (v <= reach)]
    # sigmoid - 1/2 is odd: sines alone.
    angles = np.outer(2 * np.pi * v / period, np.arange(1, degree + 1))
    gap = np.linspace(reach, period / 2, 4 * degree)
    outside = np.sin(np.outer(2 * np.pi * gap / period, np.arange(1, degree + 1)))
    basis, one, zero = np.sin(angles), np.ones((len(v), 1)), np.zeros((len(gap), 1))
    wanted = 1 / (1 + np.exp(-v)) - 0.5
    upper = np.vstack(
        [np.hstack([basis, -one]), np.hstack([-basis, -one]), np.hstack([outside, zero]), np.hstack([-outside, zero])]
    )
    bounds = np.concatenate([wanted, -wanted, np.full(2 * len(gap), 0.6)])
    x = solve(np.append(np.zeros(degree), 1.0), upper, bounds, np.ones(degree + 1))
    return np.concatenate([[0.5], np.zeros(degree), x[:-1]])


# -- measured errors ----------------------------------------------------------------------------------------------


def softmax(x: Array) -> Array:
    y = np.exp(x - x.max(axis=1, keepdims=True))
    return np.asarray(y / y.sum(axis=1, keepdims=True))


def hard_logits(count: int, classes: int, reach: float, rng: np.random.Generator) -> Array:
    m = count // 6
    shift = rng.uniform(-reach, reach, (m, 1))
    top = np.full((m, classes), -reach) + rng.uniform(0, reach / 4, (m, classes))
    tied = rng.integers(1, classes + 1, (m, 1))
    top = np.where(np.arange(classes) < tied, reach - rng.exponential(3, (m, classes)), top)
    special = rng.choice([-reach, reach, 0.0, reach - 3, reach - 5, 3.0, 5.0], size=(m, classes))
    outliers = rng.choice([0.0, 2.0, 4.0, 5.0, -2 * reach], size=(m, classes))
    rows = [
        rng.uniform(-reach, reach, (m, classes)),
        shift + rng.normal(0, 2, (m, classes)),
        rng.normal(0, 4, (m, classes)) + shift,
        top,
        special + rng.normal(0, 0.3, (m, classes)),
        outliers + rng.normal(0, 0.5, (m, classes)) + rng.uniform(-reach / 3, reach / 3, (m, 1)),
    ]
    return np.clip(np.vstack(rows), -reach, reach)


def series_at(coefficients: Array, degree: int, period: float, v: Array) -> Array:
    z = np.exp(2j * np.pi * v / period)
    terms = coefficients[1 : degree + 1] - 1j * coefficients[degree + 1 :]
    total = np.zeros(v.shape, dtype=np.complex128)
    for term in terms[::-1]:
        total = (total + term) * z
    return np.asarray(total.real + coefficients[0])


def tabulated(coefficients: Array, degree: int, period: float) -> tuple[Array, Array]:
    v = np.linspace(0.0, period, 1 << 18)
    return v, series_at(coefficients, degree, period, v)


def f_at(inverse: Array, kappa: float, squarings: int, D: Array, noise: Array | float = 0.0) -> Array:
    w = ((kappa - D) / (kappa - LOW)) ** (2**squarings)
    return np.asarray(np.polynomial.chebyshev.chebval(2 * w - 1 + noise, inverse))


def errors(table: dict[str, Any], classes: int, rng: np.random.Generator) -> tuple[float, float]:
    """Largest and mean error of a row on the hard set, with both bootstraps' noise."""
    e = np.concatenate([[table["constant"]], table["cosines"], table["sines"]])
    degree, period, reach = len(table["cosines"]), table["period"], float(table["range"])
    grid, values = tabulated(e, degree, period)
    x = hard_logits(SAMPLES, classes, reach, rng)
    noisy = x + NOISE * period / (2 * np.pi) * rng.normal(size=x.shape)
    D = np.ones(x.shape)
    for a in range(classes):
        for b in range(classes):
            if a != b:
                D[:, a] += np.interp((noisy[:, b] - noisy[:, a]) % period, grid, values)
    inverse = np.asarray(table["inverse"])
    p = f_at(inverse, table["kappa"], table["squarings"], D, NOISE * rng.normal(size=x.shape))
    worst = np.abs(p - softmax(x)).max(axis=1)
    return float(worst.max()), float(worst.mean())


def rounded(values: Iterable[float]) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values]


def pairwise_table(job: tuple[int, int, int]) -> dict[str, Any]:
    """The table for up to ``classes`` classes, more than ``fewer``."""
    fewer, classes, reach = job
    degree, squarings = CIRCUITS[reach]
    cap = cap_of(classes, squarings)
    period = round(4 * reach * GAP, 6)
    kappa = round(1 + (classes - 1) * 1.06 * cap, 6)
    e = design_e(degree, classes, cap, 2.0 * reach, period)
    table: dict[str, Any] = {
        "classes": classes,
        "range": reach,
        "period": period,
        "cap": cap,
        "kappa": kappa,
        "low": LOW,
        "squarings": squarings,
        "constant": rounded(e[:1])[0],
        "cosines": rounded(e[1 : degree + 1]),
        "sines": rounded(e[degree + 1 :]),
        "inverse": rounded(design_f(kappa, cap, squarings)),
    }
    found = [errors(table, c, np.random.default_rng((c, reach))) for c in range(fewer + 1, classes + 1)]
    # Every value that D can take: sections hold classes - 1 terms, slots outside up to half as many more.
    _, values = tabulated(e, degree, period)
    terms = (classes - 1) + (classes - 1) // 2
    least, most = 1 + terms * min(0.0, float(values.min())), 1 + terms * float(values.max())
    reached = np.concatenate([np.linspace(least, most, 200_001), np.geomspace(max(least, 1e-3), most, 200_001)])
    table["max_error"] = float(f"{max(worst for worst, _ in found):.3g}")
    table["mean_error"] = float(f"{max(mean for _, mean in found):.3g}")
    table["bound"] = float(f"{np.abs(f_at(np.asarray(table['inverse']), kappa, squarings, reached)).max():.3g}")
    print(
        f"{fewer + 1}..{classes} classes, {reach}: cap {cap:g}, kappa {kappa:g}, max {table['max_error']:.2g},"
        f" mean {table['mean_error']:.2g}, bound {table['bound']:.3g}, D from {least:.3f}",
        flush=True,
    )
    return table


def sigmoid_table(reach: int) -> dict[str, Any]:
    period = round(2 * reach * GAP, 6)
    s = design_s(103, float(reach), period)
    v, values = tabulated(s, 103, period)
    v = np.where(v > period / 2, v - period, v)
    error = np.abs(values - 1 / (1 + np.exp(-np.clip(v, -700.0, 700.0))))[np.abs(v) <= reach].max()
    table = {
        "range": reach,
        "period": period,
        "sines": rounded(s[104:]),
        "max_error": float(f"{error:.3g}"),
        "bound": float(f"{np.abs(values).max():.3g}"),
    }
    print(f"sigmoid of a difference up to {reach}: max {error:.2g}, bound {table['bound']:.3g}", flush=True)
    return table


# -- the normalising softmax --------------------------------------------------------------------------------------


def bootstrapped(spec: NormaliseSpec) -> list[str]:
    return [name for name, refresh in schedule(spec, MODEL, RESULT_LEVEL).items() if refresh.bootstrap]


def normalise_errors(spec: NormaliseSpec, rng: np.random.Generator) -> tuple[float, float]:
    x = hard_logits(SAMPLES, spec.classes, spec.logit_range, rng)
    x -= x.mean(axis=1, keepdims=True)
    x = x[np.abs(x).max(axis=1) <= spec.logit_range]
    chosen = bootstrapped(spec)
    t = x / spec.logit_range + NORMALISE_NOISE * rng.normal(size=x.shape)
    y = np.polynomial.chebyshev.chebval(t, exponential(spec, spec.classes, spec.logit_range))
    for name, inverse in zip(checkpoints(spec)[1:], inverse_polynomials(spec, spec.classes), strict=True):
        y = y + NORMALISE_NOISE * rng.normal(size=y.shape) * (name in chosen)
        square = y * y
        total = inverse.stretch * square.sum(axis=1, keepdims=True) - inverse.shift
        y = square * np.polynomial.chebyshev.chebval(total, inverse.series)
    worst = np.abs(y - softmax(x)).max(axis=1)
    return float(worst.max()), float(worst.mean())


def normalise_row(job: tuple[int, int]) -> dict[str, Any]:
    classes, reach = job
    best: tuple[tuple[int, int, int], NormaliseSpec] | None = None
    # The exponential is accurate enough on [-2, 2].
    halvings = int(math.log2(reach)) - 1
    for steps in (halvings, halvings + 1):
        for degrees in itertools.product(*[(3, 7, 15, 31)] * (steps - 1), (7, 15, 31, 63)):
            spec = NormaliseSpec(classes, reach, EXPONENTIAL_DEGREE, degrees, 0.0, 0.0)
            cost = len(bootstrapped(spec)), sum(spec.levels), sum(degrees)
            if best is None or cost < best[0]:
                found = [inverse.error for inverse in inverse_polynomials(spec, classes)]
                if found[-1] <= LAST_ERROR and max(found) < 0.5:
                    best = cost, spec
    if best is None:
        raise ValueError(f"no degrees serve {classes} classes in +-{reach}")
    (count, levels, _), spec = best
    worst, mean = normalise_errors(spec, np.random.default_rng((classes, reach)))
    print(
        f"{classes} classes, {reach}: {spec.degrees}, {levels} levels, {count} bootstraps, max {worst:.2g}", flush=True
    )
    return {
        "classes": classes,
        "range": reach,
        "exponential_degree": EXPONENTIAL_DEGREE,
        "degrees": spec.degrees,
        "max_error": float(f"{worst:.3g}"),
        "mean_error": float(f"{mean:.3g}"),
    }


def merge(path: Path, tables: Iterable[dict[str, Any]]) -> None:
    """Write each table when it is there, in the place of an older one for the same classes and range."""

    def key(table: dict[str, Any]) -> tuple[int, int]:
        return table.get("classes", 1), table["range"]

    known = {key(table): table for table in (json.loads(path.read_text()) if path.exists() else [])}
    for table in tables:
        known[key(table)] = table
        lines = ",\n".join(json.dumps(known[k], separators=(",", ":")) for k in sorted(known))
        path.write_text(f"[\n{lines}\n]\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the tables of the softmaxes.")
    parser.add_argument("--only", choices=("pairwise", "sigmoid", "normalise"))
    parser.add_argument("--out", type=Path, default=Path("hetal/kernels/tables"))
    parser.add_argument("--ranges", type=int, nargs="*", choices=list(CIRCUITS), default=list(CIRCUITS))
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    if args.only in (None, "sigmoid"):
        merge(args.out / "sigmoid.json", (sigmoid_table(reach) for reach in SIGMOID_RANGES))
    if args.only in (None, "normalise"):
        pairs = itertools.product(NORMALISE_CLASSES, NORMALISE_RANGES)
        merge(args.out / "normalise.json", (normalise_row(pair) for pair in pairs))
    if args.only in (None, "pairwise"):
        jobs: list[tuple[int, int, int]] = []
        for reach in args.ranges:
            served = CLASSES_WIDE if reach == max(CIRCUITS) else CLASSES
            jobs += [(fewer, most, reach) for fewer, most in zip((1, *served), served, strict=False)]
        with get_context("spawn").Pool(args.processes) as pool:
            merge(args.out / "pairwise.json", pool.imap(pairwise_table, jobs))


if __name__ == "__main__":
    main()
