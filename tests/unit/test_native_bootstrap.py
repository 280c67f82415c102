"""The bootstrap: its constants, its parts, and the whole within the error that its noise makes."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from native_client import Client, small_parameters
from numpy.typing import NDArray

from hetal.ckks.presets import PRESETS, preset
from hetal.errors import LevelError, MissingKeyError, ParameterError
from hetal.native import load_engine, reference
from hetal.native.bootstrap import Bootstrapper
from hetal.native.encapsulation import raise_encapsulated, raise_modulus
from hetal.native.evalmod import (
    FREQUENCY_MAX,
    LARGEST_ERROR,
    SPARSE_RANGE,
    SPARSE_WEIGHT,
    Reduction,
    phase,
    reduction_of,
    sine,
)
from hetal.native.scheme import Ct
from hetal.native.transforms import bootstrap_automorphisms, coeffs_to_slots

PARAMS = small_parameters()


def make_client(engine: Any, seed: int = 0, **changes: Any) -> Client:
    params = small_parameters(**changes)
    client = Client(engine, params, seed)
    client.make_keys(bootstrap_automorphisms(params), low_limbs=params.bootstrap_input_level)
    return client


@pytest.fixture(scope="module")
def client() -> Client:
    return make_client(load_engine())


@pytest.fixture(scope="module")
def bootstrapper(client: Client) -> Bootstrapper:
    return Bootstrapper(client.scheme, client.params)


def error_bound(params: Any, reduction: Reduction) -> float:
    """The largest error of a slot: the noise of t, magnified, and what the sines leave of theta."""
    size, spec = params.ring_dimension, params.spec
    rescaling = reduction.bound * math.sqrt(size * (2 * size / 3 + 1) / 24) / 2.0**spec.scale_bits
    # Diagonals of CoeffsToSlots: coefficients rounded by 0.29, of slots scaled by as much as is left after the gain.
    stages = coeffs_to_slots(params)
    gain = 2.0 ** (spec.scale_bits - spec.first_modulus_bits) / (params.slots * reduction.bound)
    coefficients = math.prod(2.0 ** (stage.high + 1) for stage in stages) ** (0.5 / len(stages))
    rounding = 0.29 * coefficients / (2.0**spec.scale_bits * gain ** (1 / len(stages)))
    noise = math.hypot(rescaling, math.sqrt(len(stages)) * rounding * reduction.bound / 8)
    bits = reduction.message_bits
    theta = 2 * math.pi * np.linspace(-1, 1, 1001) / 2.0**bits
    made = sum(b * np.sin((k + 1) * theta) for k, b in enumerate(reduction.weights))
    left = float(np.abs(made - theta).max()) * 2.0**bits / (2 * math.pi)
    return LARGEST_ERROR * noise * 2.0**bits + left


def real_slots(client: Client, seed: int = 0) -> NDArray[np.float64]:
    x = np.random.default_rng(seed).uniform(-1, 1, client.params.slots)
    x[:3] = (-1.0, 1.0, 0.0)
    return x


# -- constants --------------------------------------------------------------------------------------------------------


def test_the_range_is_exceeded_with_negligible_probability() -> None:
    """|t| is a sum of 33 uniform numbers of [-1/2, 1/2]: its tail, exactly (Irwin-Hall)."""
    terms = SPARSE_WEIGHT + 1
    rest = Fraction(terms, 2) - SPARSE_RANGE
    tail = sum((-1) ** j * math.comb(terms, j) * (rest - j) ** terms for j in range(math.floor(rest) + 1))
    assert math.log2(2 * tail / math.factorial(terms)) < -78


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("sines", [1, 2, 3])
def test_constants_of_the_presets(name: str, sines: int) -> None:
    params = preset(name)
    reduction = reduction_of(params, sines)
    assert 2 * math.pi * reduction.bound / 2**reduction.squarings <= FREQUENCY_MAX
    assert (reduction.bound, reduction.phase_levels, reduction.levels) == (14, 8, 7 + sines)
    # Whatever else is chosen is predicted to be no better.
    bits = reduction.message_bits
    least = {1: 2.0**-13.5, 2: 2.0**-16.5, 3: 2.0**-17.5}[sines]
    assert error_bound(params, reduction) < least
    assert 2 <= bits <= 12


def test_more_sines_take_bits_off_the_message() -> None:
    bits = [reduction_of(PARAMS, sines).message_bits for sines in (1, 2, 3)]
    assert bits == sorted(bits, reverse=True) and len(set(bits)) == 3
    with pytest.raises(ParameterError, match="1 to 3 sines, not 4"):
        reduction_of(PARAMS, 4)


# -- parts ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reduced_slots(client: Client) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(integers, messages)."""
    rng = np.random.default_rng(3)
    return rng.integers(-12, 13, client.params.slots).astype(float), real_slots(client)


def test_phases(client: Client, reduced_slots: Any) -> None:
    reduction = reduction_of(PARAMS, 2)
    integers, y = reduced_slots
    scheme = client.scheme
    t = client.encrypt((integers + y) / reduction.bound, reduction.phase_levels + 1)
    scale = scheme.canonical_scale(2)
    z = phase(scheme, t, reduction, scale)
    assert (z.level, z.degree) == (1, 1)
    assert z.scale == pytest.approx(scale, rel=1e-12)
    assert np.abs(client.decrypt(z) - np.exp(2j * np.pi * y)).max() < 2.0**-20
    low = client.encrypt(y, reduction.phase_levels - 1)
    with pytest.raises(LevelError, match="needs 8 levels, and its operand has 7"):
        phase(scheme, low, reduction, scale)
    with pytest.raises(LevelError, match="needs 9 levels, and its operand has 7"):
        sine(scheme, low, reduction, scale)


@pytest.mark.parametrize("sines", [1, 2, 3])
@pytest.mark.parametrize("shrink", [0, 7])
def test_sines(client: Client, reduced_slots: Any, sines: int, shrink: int) -> None:
    reduction = reduction_of(PARAMS, sines)
    integers, y = reduced_slots
    scheme = client.scheme
    t = client.encrypt((integers + y / 2**reduction.message_bits) / reduction.bound, reduction.levels + 1)
    z = sine(scheme, t, reduction, scheme.canonical_scale(2), shrink)
    assert (z.level, z.degree, z.scale) == (1, 1, scheme.canonical_scale(2))
    error = np.abs(2 * client.decrypt(z).imag - y / 2**shrink).max()
    # A fresh encryption has less noise than a rescaling.
    assert error < error_bound(PARAMS, reduction) / 2**shrink + 2.0**-30


def test_the_ephemeral_secret_keeps_multiples_of_the_modulus_small(client: Client) -> None:
    scheme, ring = client.scheme, client.ring
    q_0 = client.q[0]
    message = np.rint(np.random.default_rng(5).uniform(-(2.0**40), 2.0**40, client.size))
    pair = client.encrypt_coefficients(message, 1)
    overflows = []
    for encapsulated in (True, False):
        if encapsulated:
            assert scheme.encapsulation is not None
            back = scheme.automorphisms[2 * client.size - 2]
            raised = raise_encapsulated(ring, pair, 4, scheme.encapsulation, back)
        else:
            raised = raise_modulus(ring, pair, 4)
        assert {part.q_limbs for part in raised} == {4}
        coefficients = client.coefficients(raised)
        multiples = np.rint(coefficients / q_0)
        # Of the key switches.
        assert np.abs(coefficients - multiples * q_0 - message).max() < 2.0**16
        overflows.append(np.abs(multiples).max())
    assert overflows[0] <= SPARSE_RANGE < overflows[1]


# -- the whole --------------------------------------------------------------------------------------------------------


def test_the_twin_bootstraps_too() -> None:
    client = make_client(reference)
    x = real_slots(client)
    bootstrapper = Bootstrapper(client.scheme, client.params)
    result = bootstrapper.bootstrap(client.encrypt(x, PARAMS.bootstrap_input_level))
    assert np.abs(client.decrypt(result).real - x).max() < error_bound(PARAMS, bootstrapper.reduction)


@pytest.mark.parametrize("sines", [1, 2, 3])
def test_real_slots(client: Client, sines: int) -> None:
    bootstrapper = Bootstrapper(client.scheme, client.params, sines=sines)
    x = real_slots(client)
    result = bootstrapper.bootstrap(client.encrypt(x, PARAMS.bootstrap_input_level))
    assert (result.level, result.degree, len(result.parts)) == (PARAMS.bootstrap_output_level, 1, 2)
    assert result.scale == client.scheme.canonical_scale(result.limbs)
    error = np.abs(client.decrypt(result) - x)
    assert error.max() < error_bound(PARAMS, bootstrapper.reduction)
    # Nothing but the noise of the last conjugation is left in the imaginary parts.
    assert np.abs(client.decrypt(result).imag).max() < 2.0**-30


def test_twenty_random_keys() -> None:
    errors = []
    for seed in range(1, 21):
        client = make_client(load_engine(), seed)
        bootstrapper = Bootstrapper(client.scheme, client.params)
        x = real_slots(client, seed)
        result = bootstrapper.bootstrap(client.encrypt(x, PARAMS.bootstrap_input_level))
        errors.append(np.abs(client.decrypt(result).real - x).max())
        assert errors[-1] < error_bound(PARAMS, bootstrapper.reduction)
    assert min(errors) > 0.0


def test_imaginary_parts_are_lost(client: Client, bootstrapper: Bootstrapper) -> None:
    x, y = real_slots(client), real_slots(client, 1)
    result = bootstrapper.bootstrap(client.encrypt(x + 1j * y, 5))
    assert np.abs(client.decrypt(result) - x).max() < error_bound(PARAMS, bootstrapper.reduction)


@pytest.mark.parametrize("level", [PARAMS.bootstrap_input_level, 7, PARAMS.top_level])
def test_any_level_above_the_least_may_enter(client: Client, bootstrapper: Bootstrapper, level: int) -> None:
    x = real_slots(client)
    bound = error_bound(PARAMS, bootstrapper.reduction)
    result = bootstrapper.bootstrap(client.encrypt(x, level))
    assert np.abs(client.decrypt(result).real - x).max() < bound
    if level < PARAMS.top_level:
        pending = client.scheme.multiply_constant(client.encrypt(x, level + 1), 1.0)
        assert (pending.degree, pending.level) == (2, level)
        assert np.abs(client.decrypt(bootstrapper.bootstrap(pending)).real - x).max() < bound


def test_complex_slots(client: Client, bootstrapper: Bootstrapper) -> None:
    z = real_slots(client) + 1j * real_slots(client, 1)
    result = bootstrapper.bootstrap_complex(client.encrypt(z, PARAMS.bootstrap_input_level))
    assert result.level == PARAMS.bootstrap_output_level
    error = client.decrypt(result) - z
    bound = error_bound(PARAMS, bootstrapper.reduction)
    assert np.abs(error.real).max() < bound and np.abs(error.imag).max() < bound


def test_two_ciphertexts_at_once(client: Client, bootstrapper: Bootstrapper) -> None:
    x, y = real_slots(client), real_slots(client, 1)
    results = bootstrapper.bootstrap_pair(client.encrypt(x, 3), client.encrypt(y, 9))
    for result, expected in zip(results, (x, y), strict=True):
        assert result.level == PARAMS.bootstrap_output_level
        assert np.abs(client.decrypt(result) - expected).max() < error_bound(PARAMS, bootstrapper.reduction)


def test_two_iterations_take_the_error_off(client: Client, bootstrapper: Bootstrapper) -> None:
    x, y = real_slots(client), real_slots(client, 1)
    bound = error_bound(PARAMS, bootstrapper.reduction)
    real = bootstrapper.bootstrap(client.encrypt(x, 4), iterations=2)
    both = bootstrapper.bootstrap_complex(client.encrypt(x + 1j * y, 4), iterations=2)
    assert real.level == both.level == PARAMS.bootstrap_output_level
    assert np.abs(client.decrypt(real).real - x).max() < bound / 2**9
    assert np.abs(client.decrypt(both) - x - 1j * y).max() < bound / 2**9
    with pytest.raises(ParameterError, match="1 or 2 iterations, not 3"):
        bootstrapper.bootstrap(client.encrypt(x, 4), iterations=3)


@pytest.mark.parametrize(("spread", "period"), [(1.0, 3.0), (50.0, 110.0), (0.01, 0.011), (100.0, 20.0)])
def test_phases_of_slots(client: Client, bootstrapper: Bootstrapper, spread: float, period: float) -> None:
    x = spread * real_slots(client)
    result = bootstrapper.phase(client.encrypt(x, 5), period)
    assert result.level == bootstrapper.phase_level == PARAMS.bootstrap_output_level + 2
    assert result.scale == pytest.approx(client.scheme.canonical_scale(result.limbs), rel=1e-12)
    assert np.abs(client.decrypt(result) - np.exp(2j * np.pi * x / period)).max() < 2.0**-22


def test_a_dense_secret_needs_more_levels(client: Client) -> None:
    dense = make_client(load_engine(), secret="uniform_ternary", levels=28)
    with pytest.raises(ParameterError, match=r"consumes 13 levels: from 28 .* cannot leave at level 16"):
        Bootstrapper(dense.scheme, dense.params)
    bootstrapper = Bootstrapper(dense.scheme, dense.params, output_level=14)
    assert bootstrapper.reduction.sines == 2
    assert bootstrapper.reduction.bound > 4 * SPARSE_RANGE
    x = real_slots(dense)
    result = bootstrapper.bootstrap(dense.encrypt(x, 5))
    assert result.level == 14
    assert np.abs(dense.decrypt(result).real - x).max() < error_bound(dense.params, bootstrapper.reduction)


def test_stages_use_the_smallest_keys(client: Client, bootstrapper: Bootstrapper) -> None:
    small = engine_key_sizes(bootstrapper._down)
    large = engine_key_sizes(bootstrapper._up)
    assert max(small) == PARAMS.bootstrap_input_level
    assert min(large) == PARAMS.top_level + 1
    assert bootstrapper.nbytes == sum(stage.nbytes for stage, _ in (*bootstrapper._down, *bootstrapper._up))


def engine_key_sizes(stages: Any) -> set[int]:
    return {key.q_limbs for _, keys in stages for key in keys.values()}


# -- errors -----------------------------------------------------------------------------------------------------------


def test_a_low_or_unrelinearised_ciphertext_is_refused(client: Client, bootstrapper: Bootstrapper) -> None:
    x = real_slots(client)
    low = client.encrypt(x, PARAMS.bootstrap_input_level - 1)
    for function in (bootstrapper.bootstrap, bootstrapper.bootstrap_complex):
        with pytest.raises(LevelError, match="entered at level 3, not 2"):
            function(low)
    with pytest.raises(LevelError, match="entered at level 3, not 2"):
        bootstrapper.bootstrap_pair(client.encrypt(x, 5), low)
    with pytest.raises(LevelError, match="entered at level 3, not 2"):
        bootstrapper.phase(low, 3.0)
    a = client.encrypt(x, 6)
    with pytest.raises(LevelError, match="relinearise"):
        bootstrapper.bootstrap(client.scheme.tensor(a, a))


@pytest.mark.parametrize("period", [0.0, -1.0, math.inf, math.nan])
def test_a_period_is_positive(client: Client, bootstrapper: Bootstrapper, period: float) -> None:
    with pytest.raises(ParameterError, match="period"):
        bootstrapper.phase(client.encrypt(real_slots(client), 5), period)


def test_missing_keys_are_named() -> None:
    client = make_client(load_engine())
    scheme, order = client.scheme, 2 * client.size
    relinearization, scheme.relinearization = scheme.relinearization, None
    with pytest.raises(MissingKeyError, match="relinearisation"):
        Bootstrapper(scheme, PARAMS)
    scheme.relinearization = relinearization
    encapsulation, scheme.encapsulation = scheme.encapsulation, None
    with pytest.raises(MissingKeyError, match=f"automorphism {order - 4} "):
        Bootstrapper(scheme, PARAMS)
    scheme.encapsulation = encapsulation
    for index in (5, order - 2, order - 1):
        kept = scheme.automorphisms.pop(index)
        with pytest.raises(MissingKeyError, match=f"automorphism {index} "):
            Bootstrapper(scheme, PARAMS)
        scheme.automorphisms[index] = kept
    scheme.automorphisms[5], scheme.reduced[5] = scheme.reduced[5][0], []
    with pytest.raises(LevelError, match="do not all serve level"):
        Bootstrapper(scheme, PARAMS)


def test_levels_that_the_chain_does_not_have_are_refused(client: Client) -> None:
    with pytest.raises(ParameterError, match=r"consumes 10 levels: from 22 .* cannot leave at level 13"):
        Bootstrapper(client.scheme, client.params, output_level=13)
    with pytest.raises(ParameterError, match=r"consumes 12 levels: from 22 .* cannot leave at level 12"):
        Bootstrapper(client.scheme, client.params, output_level=12, sines=3)
    with pytest.raises(ParameterError, match="cannot leave at level -1"):
        Bootstrapper(client.scheme, client.params, output_level=-1)
    sines = [Bootstrapper(client.scheme, client.params, output_level=n).reduction.sines for n in (12, 11, 10, 9)]
    assert sines == [1, 2, 3, 3]
    lower = Bootstrapper(client.scheme, client.params, output_level=5)
    x = real_slots(client)
    result: Ct = lower.bootstrap(client.encrypt(x, 4))
    assert result.level == 5
    assert np.abs(client.decrypt(result).real - x).max() < error_bound(PARAMS, lower.reduction)
