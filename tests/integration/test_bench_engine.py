"""``hetal bench engine``: both backends measured, results checked, operations counted. No time is asserted."""

from __future__ import annotations

import json

import pytest

from hetal.cli.main import main
from hetal.native import load_engine
from hetal.native.roofline import counting, counts_of


def test_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--preset", "insecure-test", "--threads", "1", "--repeats", "1", "--bootstraps", "1", "--json"]
    assert main(["bench", "engine", *options]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["machine"]["cores"] >= 1 and report["ring_dimension"] == 2048
    native, openfhe = report["runs"]
    assert (native["backend"], openfhe["backend"]) == ("native", "openfhe")
    for run in (native, openfhe):
        assert set(run["seconds"]) == set(native["seconds"])
        assert all(s > 0 for levels in run["seconds"].values() for s in levels.values())
        assert run["precision"]["mul"]["max"] < 2.0**-25 and run["precision"]["rotate"]["max"] < 2.0**-25
        assert run["peak_bytes"] > run["key_bytes"] > 0
    assert native["precision"]["bootstrap"]["max"] <= openfhe["precision"]["bootstrap"]["max"]
    assert set(report["ratios"]["1"]) == {*native["seconds"], "peak_bytes"}
    assert native["kernels"]["peak"] > 0 and native["kernels"]["read"] > 0
    for floors in native["roofline"].values():
        assert 0 < floors["share_of_peak"] < 1


def test_counts_are_those_of_the_algorithm() -> None:
    """A hybrid key switch of l limbs in digits of a: l inverse transforms, and a forward one of each converted limb."""
    from hetal.ckks.chain import chain_of, engine_primes
    from hetal.ckks.presets import preset

    params = preset("insecure-test")
    chain, special = chain_of(params), engine_primes(params)
    ring = counting(load_engine()).Ring(11, chain.q, special, (), 5)
    limbs, k = 12, len(special)
    key_bytes = bytes(8 * 2048)
    offsets = [[[0] * (len(chain.q) + k) for _ in range(5)] for _ in range(2)]
    key = ring.read_key(key_bytes, offsets, len(chain.q), k)
    a = ring.zeros(limbs)
    switch = counts_of(ring, lambda: ring.switch(a, [key, key], [1, 5]))
    digits = [5, 5, 2]
    assert switch["ntt"] == limbs + sum(limbs + k - digit for digit in digits)
    assert switch["convert"] == sum(digit * (limbs + k - digit) for digit in digits)
    assert switch["mac"] == 2 * 2 * len(digits) * (limbs + k)
    division = counts_of(ring, lambda: ring.mod_down(ring.zeros(limbs, k), 1))
    assert division["ntt"] == k + 1 + limbs - 1
    assert division["convert"] == (k + 1) * (limbs - 1)
