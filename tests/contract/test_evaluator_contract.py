"""What every backend owes to the kernels: one suite, run on the NumPy oracle, on OpenFHE and on the native engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hetal.ckks.framing import Kind, unframe
from hetal.ckks.parameters import Parameters
from hetal.ckks.presets import TEST_PRESET, preset
from hetal.client.keys import KeySet
from hetal.errors import BackendError, LevelError, ShapeError
from hetal.kernels.backends.native import NativeEvaluator
from hetal.kernels.backends.openfhe import OpenFheEvaluator
from hetal.kernels.backends.plain import PlainEvaluator
from hetal.kernels.evaluator import Ciphertext, Evaluator, Refresh, level_model

STEPS = (1, 3, 64, -1)
PRECISION = 2.0**-25
BOOTSTRAP_PRECISION = 1e-4
Complex = NDArray[np.complex128]


class Plain:
    """The oracle, with the ways in and out that a client would have."""

    def __init__(self, params: Parameters) -> None:
        self.params = params
        self.ev = PlainEvaluator(level_model(params))

    def encrypt(self, vector: NDArray[np.float64], level: int) -> Ciphertext:
        return self.ev.encrypt(vector, level)

    def decrypt(self, ct: Ciphertext) -> Complex:
        return self.ev.decrypt(ct)

    def true_level(self, ct: Ciphertext) -> int:
        return ct.level


class Real:
    """A backend under encryption, with a client's keys of the test preset."""

    def __init__(self, client: Client, make: Callable[[Parameters, str, int], RealEvaluator]) -> None:
        self.params = client.params
        self.keys = client.keys
        self.ev = make(client.params, client.keys.key_tag, 2)
        for kind, payload in client.payloads:
            self.ev.load_key(kind, payload)
        self.ev.finish_keys(STEPS)

    def encrypt(self, vector: NDArray[np.float64], level: int) -> Ciphertext:
        return self.ev.load(self.keys.encrypt(vector, level))

    def decrypt(self, ct: Ciphertext) -> Complex:
        # OpenFHE decrypts real parts only, so the imaginary part is made real first.
        ct = self.ev.relinearize(ct)
        conjugate = self.ev.conjugate(ct)
        double_real = self.keys.decrypt(self.ev.dump(self.ev.add(ct, conjugate)))
        double_imaginary = self.keys.decrypt(self.ev.dump(self.ev.mul_i(self.ev.sub(conjugate, ct))))
        return cast(Complex, (double_real + 1j * double_imaginary) / 2)

    def true_level(self, ct: Ciphertext) -> int:
        value = ct.payload.value
        if isinstance(self.ev, NativeEvaluator):
            return int(value.parts[0].q_limbs - value.degree)
        return int(self.params.top_level + 1 - value.GetLevel() - value.GetNoiseScaleDeg())


class Client:
    """One client's keys, as the payloads that a server gets."""

    def __init__(self, params: Parameters) -> None:
        self.params = params
        self.keys = KeySet.generate(params)
        blobs = [(Kind.MULT_KEY, self.keys.mult_key_blob())]
        blobs += [(Kind.ROTATION_KEYS, blob) for _, blob in self.keys.rotation_key_blobs(STEPS)]
        self.payloads = [(kind, bytes(unframe(blob, kind, params.digest))) for kind, blob in blobs]


Backend = Plain | Real
RealEvaluator = OpenFheEvaluator | NativeEvaluator
REAL: dict[str, Callable[[Parameters, str, int], RealEvaluator]] = {
    "native": NativeEvaluator,
    "native on a device": partial(NativeEvaluator, device="emulated"),
    "openfhe": OpenFheEvaluator,
}
BACKENDS = ("plain", *REAL)


@pytest.fixture(scope="module")
def backends() -> Iterator[dict[str, Backend]]:
    client = Client(preset(TEST_PRESET))
    real = {name: Real(client, make) for name, make in REAL.items()}
    yield {"plain": Plain(client.params), **real}
    for backend in real.values():
        backend.ev.close()


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, backends: dict[str, Backend]) -> Backend:
    chosen = backends[request.param]
    chosen.ev.counts.clear()
    chosen.ev.schedule = {}
    return chosen


@pytest.fixture
def x(backend: Backend) -> NDArray[np.float64]:
    return np.random.default_rng(1).uniform(-1, 1, backend.params.slots)


@pytest.fixture
def y(backend: Backend) -> NDArray[np.float64]:
    return np.random.default_rng(2).uniform(-1, 1, backend.params.slots)


def same(
    backend: Backend,
    ct: Ciphertext,
    slots: NDArray[Any],
    level: int,
    counts: dict[str, int] | None = None,
    tolerance: float = PRECISION,
) -> None:
    """The slots, the level (claimed and real) and the operations counted."""
    if counts is not None:
        counted: Counter[str] = Counter()
        for (operation, _), times in backend.ev.counts.items():
            counted[operation] += times
        assert dict(counted) == counts
    assert (ct.level, backend.true_level(ct)) == (level, level)
    assert np.abs(backend.decrypt(ct) - slots).max() < tolerance


# -- free operations --------------------------------------------------------------------------------------------------


def test_sums_of_different_levels_are_at_the_lower(backend: Backend, x: Any, y: Any) -> None:
    a, b = backend.encrypt(x, 12), backend.encrypt(y, 9)
    same(backend, backend.ev.add(a, b), x + y, 9, {"add": 1})
    same(backend, backend.ev.sub(b, a), y - x, 9)
    same(backend, backend.ev.negate(a), -x, 12)
    same(backend, backend.ev.sum([a, b, a]), 2 * x + y, 9)


@pytest.mark.parametrize("level", [0, 7, 23])
def test_fresh_ciphertexts_at_any_level(backend: Backend, x: Any, level: int) -> None:
    same(backend, backend.encrypt(x, level), x, level)


def test_sums_of_products_and_fresh_ciphertexts(backend: Backend, x: Any, y: Any) -> None:
    ev = backend.ev
    a, b = backend.encrypt(x, 12), backend.encrypt(y, 11)
    product = ev.mul(a, b)
    same(backend, ev.add(product, a), x * y + x, 10)
    same(backend, ev.sub(a, product), x - x * y, 10)
    same(backend, ev.add(product, backend.encrypt(x, 10)), x * y + x, 10)
    same(backend, ev.add(ev.mul(product, product), product), (x * y) ** 2 + x * y, 9)


def test_plain_and_scalar_sums_are_free(backend: Backend, x: Any, y: Any) -> None:
    ev = backend.ev
    a = backend.encrypt(x, 6)
    square = ev.square(a)
    same(backend, ev.add_plain(a, y), x + y, 6)
    same(backend, ev.add_plain(square, y - 2j * x), x * x + y - 2j * x, 5)
    same(backend, ev.add_scalar(a, -0.75), x - 0.75, 6)
    same(backend, ev.add_scalar(square, 3.0), x * x + 3.0, 5)


@pytest.mark.parametrize("factor", [0, 1, -1, 3, -7, 1024, -1000])
def test_integer_products_are_free(backend: Backend, x: Any, factor: int) -> None:
    a = backend.encrypt(x, 6)
    tolerance = PRECISION * max(1, abs(factor))
    same(backend, backend.ev.mul_integer(a, factor), factor * x, 6, {}, tolerance)
    same(backend, backend.ev.mul_integer(backend.ev.square(a), factor), factor * x * x, 5, tolerance=tolerance)


@pytest.mark.parametrize("exponent", [0, 1, 5, 512, 1024, 3071, -3])
def test_monomial_products_follow_their_definition(backend: Backend, x: Any, exponent: int) -> None:
    slots = backend.params.slots
    zeta = [np.exp(1j * np.pi * (exponent * pow(5, j, 4 * slots) % (4 * slots)) / (2 * slots)) for j in range(slots)]
    ev = backend.ev
    a = backend.encrypt(x, 6)
    same(backend, ev.mul_monomial(a, exponent), x * np.array(zeta), 6, {})
    same(backend, ev.mul_monomial(ev.square(a), exponent), x * x * np.array(zeta), 5)


def test_the_imaginary_unit(backend: Backend, x: Any) -> None:
    ev = backend.ev
    once = ev.mul_i(backend.encrypt(x, 6))
    same(backend, once, 1j * x, 6, {})
    same(backend, ev.mul_i(once), -x, 6)


@pytest.mark.parametrize("level", [11, 4, 0])
def test_dropped_ciphertexts_add_precisely_to_computed_ones(backend: Backend, x: Any, y: Any, level: int) -> None:
    ev = backend.ev
    a, b = backend.encrypt(x, 23), backend.encrypt(y, level + 1)
    dropped = ev.drop(a, level)
    same(backend, dropped, x, level, {})
    same(backend, ev.add(dropped, ev.mul(b, b)), x + y * y, level)
    same(backend, ev.sub(ev.drop(ev.square(a), level), dropped), x * x - x, level)
    assert ev.drop(dropped, level) is dropped
    with pytest.raises(LevelError):
        ev.drop(dropped, level + 1)


# -- products ---------------------------------------------------------------------------------------------------------


def test_products_cost_one_level(backend: Backend, x: Any, y: Any) -> None:
    ev = backend.ev
    a, b = backend.encrypt(x, 12), backend.encrypt(y, 9)
    same(backend, ev.mul(a, b), x * y, 8, {"mul": 1, "relin": 1})
    same(backend, ev.mul_plain(a, y), x * y, 11)
    same(backend, ev.mul_plain(a, y - 0.5j), x * (y - 0.5j), 11)
    same(backend, ev.mul_scalar(a, -0.3), x * -0.3, 11)


def test_products_down_to_the_last_level(backend: Backend, x: Any, y: Any) -> None:
    ev = backend.ev
    ct, want = backend.encrypt(x, 6), x
    for step in range(6):
        ct = [
            lambda c: ev.mul(c, backend.encrypt(y, 9)),
            lambda c: ev.mul_plain(c, y),
            lambda c: ev.mul_scalar(c, 0.9),
        ][step % 3](ct)
        want = want * (0.9 if step % 3 == 2 else y)
    same(backend, ct, want, 0)
    for product in (lambda: ev.mul(ct, ct), lambda: ev.mul_plain(ct, y), lambda: ev.mul_scalar(ct, 2.0)):
        with pytest.raises(LevelError):
            product()


def test_complex_slots_multiply(backend: Backend, x: Any, y: Any) -> None:
    ev = backend.ev
    z = ev.add(backend.encrypt(x, 8), ev.mul_i(backend.encrypt(y, 8)))
    same(backend, ev.mul(z, z), (x + 1j * y) ** 2, 7)
    same(backend, ev.mul(z, ev.conjugate(z)), x**2 + y**2, 7)


def test_lazy_relinearisation(backend: Backend, x: Any, y: Any) -> None:
    ev = backend.ev
    a, b = backend.encrypt(x, 12), backend.encrypt(y, 12)
    total = ev.sum([ev.mul_no_relin(a, b), ev.mul_no_relin(a, a), ev.mul_no_relin(b, b)])
    assert total.parts == 3
    relinearised = ev.relinearize(total)
    assert relinearised.parts == 2
    assert ev.relinearize(relinearised) is relinearised
    same(backend, relinearised, x * y + x * x + y * y, 11, {"mul": 3, "add": 2, "relin": 1})


def test_three_part_ciphertexts(backend: Backend, x: Any, y: Any) -> None:
    ev = backend.ev
    a, b = backend.encrypt(x, 12), backend.encrypt(y, 12)
    three = ev.mul_no_relin(a, b)
    for ct, want, level in (
        (ev.add(three, a), x * y + x, 11),
        (ev.sub(a, three), x - x * y, 11),
        (ev.negate(three), -x * y, 11),
        (ev.mul_plain(three, x - 0.5j), x * y * (x - 0.5j), 10),
        (ev.mul_scalar(three, -0.4), x * y * -0.4, 10),
        (ev.add_plain(three, x), x * y + x, 11),
        (ev.mul_integer(three, 5), 5 * x * y, 11),
        (ev.drop(three, 3), x * y, 3),
    ):
        assert ct.parts == 3
        same(backend, ct, want, level)
    for refused in (
        lambda: ev.mul(three, a),
        lambda: ev.rotate(three, 1),
        lambda: ev.rotate_many(three, [1]),
        lambda: ev.conjugate(three),
        lambda: ev.bootstrap(three),
    ):
        with pytest.raises(LevelError):
            refused()


# -- key switches -----------------------------------------------------------------------------------------------------


def test_rotations(backend: Backend, x: Any) -> None:
    ev = backend.ev
    a = backend.encrypt(x, 6)
    for steps in STEPS:
        same(backend, ev.rotate(a, steps), np.roll(x, -steps), 6)
    assert ev.rotate(a, backend.params.slots) is a


def test_hoisted_rotations_equal_single_ones(backend: Backend, x: Any) -> None:
    ev = backend.ev
    for a, want, level in ((backend.encrypt(x, 6), x, 6), (ev.square(backend.encrypt(x, 6)), x * x, 5)):
        ev.counts.clear()
        rotated = ev.rotate_many(a, [0, *STEPS])
        assert ev.total("rotate_hoisted") == len(STEPS)
        for ct, steps in zip(rotated, (0, *STEPS), strict=True):
            same(backend, ct, np.roll(want, -steps), level)
            same(backend, ev.rotate(a, steps), np.roll(want, -steps), level)
    assert ev.rotate_many(a, [0])[0] is a


def test_conjugation(backend: Backend, x: Any, y: Any) -> None:
    ev = backend.ev
    z = ev.mul_plain(backend.encrypt(x, 6), 0.5 - 1j * y)
    ev.counts.clear()
    same(backend, ev.conjugate(z), x * (0.5 + 1j * y), 5, {"conjugate": 1})


def test_an_operand_can_be_used_again(backend: Backend, x: Any, y: Any) -> None:
    """A backend may rescale an operand in place; neither its slots nor its level may change by that."""
    ev = backend.ev
    a = ev.mul(backend.encrypt(x, 8), backend.encrypt(y, 8))
    for _ in range(2):
        ev.mul(a, a), ev.mul_plain(a, y), ev.rotate_many(a, [1]), ev.mul_integer(a, 2), ev.drop(a, 3), ev.add(a, a)
        same(backend, a, x * y, 7)


# -- bootstrapping ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [3, 4, 23])
def test_bootstrap_from_any_level(backend: Backend, x: Any, level: int) -> None:
    refreshed = backend.ev.bootstrap(backend.encrypt(x, level))
    same(backend, refreshed, x, backend.params.bootstrap_output_level, {"bootstrap": 1}, BOOTSTRAP_PRECISION)


def test_all_levels_of_a_bootstrap_are_usable(backend: Backend, x: Any) -> None:
    ev, params = backend.ev, backend.params
    ct = ev.bootstrap(backend.encrypt(x, params.bootstrap_input_level))
    while ct.level > params.bootstrap_input_level:
        ct = ev.mul_scalar(ct, 1.0)
    same(backend, ev.bootstrap(ct), x, params.bootstrap_output_level, tolerance=BOOTSTRAP_PRECISION)


def test_bootstrap_takes_the_real_parts(backend: Backend, x: Any, y: Any) -> None:
    ev = backend.ev
    level = backend.params.bootstrap_input_level
    z = ev.mul_plain(ev.mul_i(backend.encrypt(x, level + 1)), y - 0.5j)
    same(backend, ev.bootstrap(z), 0.5 * x, backend.params.bootstrap_output_level, tolerance=BOOTSTRAP_PRECISION)


def test_bootstrap_below_its_input_level(backend: Backend, x: Any) -> None:
    with pytest.raises(LevelError):
        backend.ev.bootstrap(backend.encrypt(x, backend.params.bootstrap_input_level - 1))


@pytest.mark.parametrize("bound", [1.0, 5.0])
def test_checkpoint_bootstraps_and_drops(backend: Backend, x: Any, bound: float) -> None:
    backend.ev.schedule = {"stage/name": Refresh(bootstrap=True, level=7)}
    refreshed = backend.ev.checkpoint(backend.encrypt(bound * x, 5), "stage/name", bound)
    counts = {"bootstrap": 1} | ({"mul_scalar": 1} if bound > 1 else {})
    same(backend, refreshed, bound * x, 7, counts, 8 * BOOTSTRAP_PRECISION)


def test_checkpoint_without_bootstrap(backend: Backend, x: Any) -> None:
    ev = backend.ev
    ev.schedule = {"drops": Refresh(bootstrap=False, level=4), "above": Refresh(bootstrap=False, level=20)}
    a = backend.encrypt(x, 9)
    same(backend, ev.checkpoint(a, "drops"), x, 4, {})
    assert ev.checkpoint(a, "above") is a
    assert ev.checkpoint(a, "not in the plan") is a


# -- execution --------------------------------------------------------------------------------------------------------


def test_map_keeps_order_and_nests(backend: Backend, x: Any) -> None:
    ev = backend.ev
    a = backend.encrypt(x, 6)

    def inner(factor: int) -> list[Ciphertext]:
        return ev.map(lambda k: ev.mul_scalar(ev.rotate(a, 1), factor + k / 4), [0, 1])

    for factor, pair in enumerate(ev.map(inner, list(range(6)))):
        for k, ct in enumerate(pair):
            same(backend, ct, np.roll(x, -1) * (factor + k / 4), 5, tolerance=8 * PRECISION)


def test_map_raises_what_the_function_raises(backend: Backend, x: Any) -> None:
    a = backend.encrypt(x, 0)
    with pytest.raises(LevelError):
        backend.ev.map(lambda factor: backend.ev.mul_scalar(a, factor), [1.0, 2.0])


def test_plain_operands_of_a_wrong_shape(backend: Backend, x: Any) -> None:
    with pytest.raises(ShapeError):
        backend.ev.mul_plain(backend.encrypt(x, 6), x[:-1])


# -- random circuits --------------------------------------------------------------------------------------------------

UNARY: dict[str, Callable[[Evaluator, Ciphertext], Ciphertext]] = {
    "negate": lambda ev, a: ev.negate(a),
    "scalar": lambda ev, a: ev.mul_scalar(a, -0.7),
    "integer": lambda ev, a: ev.mul_integer(a, -1),
    "mask": lambda ev, a: ev.mul_plain(a, np.arange(ev.slots) % 2 - 0.25j),
    "shift": lambda ev, a: ev.add_scalar(a, 0.1),
    "offset": lambda ev, a: ev.add_plain(a, 0.2j * np.cos(np.arange(ev.slots))),
    "monomial": lambda ev, a: ev.mul_monomial(a, 77),
    "rotate": lambda ev, a: ev.rotate(a, 3),
    "hoist": lambda ev, a: ev.sum(ev.rotate_many(a, [1, 64])),
    "conjugate": lambda ev, a: ev.conjugate(a),
    "drop": lambda ev, a: ev.drop(a, a.level - 1),
}
BINARY: dict[str, Callable[[Evaluator, Ciphertext, Ciphertext], Ciphertext]] = {
    "add": lambda ev, a, b: ev.add(a, b),
    "sub": lambda ev, a, b: ev.sub(a, b),
    "mul": lambda ev, a, b: ev.mul(a, b),
    "lazy": lambda ev, a, b: ev.relinearize(ev.sub(ev.mul_no_relin(a, b), ev.mul_no_relin(b, b))),
}
INSTRUCTION = st.tuples(st.sampled_from([*UNARY, *BINARY]), st.integers(0, 99), st.integers(0, 99))


@pytest.mark.parametrize("name", REAL)
@settings(max_examples=15)
@given(program=st.lists(INSTRUCTION, min_size=1, max_size=12), levels=st.tuples(st.integers(3, 23), st.integers(3, 23)))
def test_random_circuits_agree(
    backends: dict[str, Backend], name: str, program: list[tuple[str, int, int]], levels: tuple[int, int]
) -> None:
    oracle, other = backends["plain"], backends[name]
    rng = np.random.default_rng(5)
    vectors = [rng.uniform(-1, 1, oracle.params.slots) for _ in levels]
    values: dict[Backend, list[Ciphertext]] = {}
    counts: dict[Backend, dict[tuple[str, int], int]] = {}
    for backend in (oracle, other):
        ev = backend.ev
        ev.counts.clear()
        values[backend] = cts = [backend.encrypt(v, level) for v, level in zip(vectors, levels, strict=True)]
        for operation, i, j in program:
            a, b = cts[i % len(cts)], cts[j % len(cts)]
            if min(a.level, b.level) < 1:
                continue
            result = UNARY[operation](ev, a) if operation in UNARY else BINARY[operation](ev, a, b)
            # Growth without bound would measure the message space and not the agreement.
            cts.append(ev.mul_scalar(result, 0.5) if result.level else result)
        counts[backend] = dict(ev.counts)
    assert counts[oracle] == counts[other]
    for exact, ct in zip(values[oracle], values[other], strict=True):
        want = oracle.decrypt(exact)
        if np.abs(want).max() < 4:
            same(other, ct, want, exact.level)


@pytest.mark.parametrize("period", [2.2, 1e5, 1e-2])
def test_the_phase_of_real_slots(backend: Backend, period: float) -> None:
    """Of slots up to half a period, as the softmax takes it."""
    if isinstance(backend.ev, OpenFheEvaluator):
        with pytest.raises(BackendError):
            backend.ev.phase(backend.encrypt(np.ones(4), backend.ev.model.bootstrap_input_level), period)
        return
    model = backend.ev.model
    x = np.random.default_rng(3).uniform(-period / 2, period / 2, backend.params.slots)
    z = backend.ev.phase(backend.encrypt(x, model.bootstrap_input_level), period)
    assert z.level == model.phase_output_level == backend.true_level(z)
    assert np.abs(backend.decrypt(z) - np.exp(2j * np.pi * x / period)).max() < BOOTSTRAP_PRECISION
    with pytest.raises(LevelError):
        backend.ev.phase(backend.encrypt(x, model.bootstrap_input_level - 1), period)


def test_bootstraps_to_other_levels(backend: Backend) -> None:
    """A level more for some bits less where the backend can; never above that of a phase."""
    model = backend.ev.model
    x = np.random.default_rng(4).uniform(-1.0, 1.0, backend.params.slots)
    ct = backend.encrypt(x, model.bootstrap_input_level)
    high = model.bootstrap_output_level + 1
    if isinstance(backend.ev, OpenFheEvaluator):
        with pytest.raises(LevelError):
            backend.ev.bootstrap(ct, level=high)
        return
    refreshed = backend.ev.bootstrap(ct, level=high)
    assert refreshed.level == high == backend.true_level(refreshed)
    assert np.abs(backend.decrypt(refreshed) - x).max() < BOOTSTRAP_PRECISION
    with pytest.raises(LevelError):
        backend.ev.bootstrap(ct, level=model.phase_output_level + 1)


def test_linear_combinations(backend: Backend) -> None:
    """Of ciphertexts at several levels, times numbers and vectors; more terms than one pass takes."""
    rng = np.random.default_rng(5)
    slots, top = backend.params.slots, 6
    vectors = [rng.uniform(-1.0, 1.0, slots) for _ in range(3)]
    cts = [backend.encrypt(vector, top - index) for index, vector in enumerate(vectors)]
    mask = np.tile(np.arange(64) % 3 == 0, slots // 64) + 0.0
    factors = [0.3, mask, -2.5]
    result = backend.ev.combine(cts, factors)
    assert result.level == top - 3 == backend.true_level(result)
    expected = 0.3 * vectors[0] + mask * vectors[1] - 2.5 * vectors[2]
    assert np.abs(backend.decrypt(result) - expected).max() < PRECISION
    many = backend.ev.combine([cts[0]] * 70, [float(k) / 70 for k in range(70)])
    assert np.abs(backend.decrypt(many) - sum(range(70)) / 70 * vectors[0]).max() < 70 * PRECISION
    pending = backend.ev.combine([backend.ev.mul_plain(cts[0], mask), cts[1]], [1.0, 1.0])
    assert np.abs(backend.decrypt(pending) - mask * vectors[0] - vectors[1]).max() < PRECISION
    with pytest.raises(ShapeError):
        backend.ev.combine(cts, factors[:2])
    with pytest.raises(LevelError):
        backend.ev.combine([backend.encrypt(vectors[0], 0)], [1.0])


def test_inner_products(backend: Backend) -> None:
    """Of ciphertexts at several levels, and of more terms than one pass takes."""
    rng = np.random.default_rng(6)
    vectors = [rng.uniform(-1.0, 1.0, backend.params.slots) for _ in range(4)]
    a, b, c, d = (backend.encrypt(vector, 6 - index) for index, vector in enumerate(vectors))
    result = backend.ev.relinearize(backend.ev.inner_product([a, b], [c, d]))
    assert result.level == 2 == backend.true_level(result)
    expected = vectors[0] * vectors[2] + vectors[1] * vectors[3]
    assert np.abs(backend.decrypt(result) - expected).max() < PRECISION
    many = backend.ev.relinearize(backend.ev.inner_product([a] * 35, [c] * 35))
    assert np.abs(backend.decrypt(many) - 35 * vectors[0] * vectors[2]).max() < 35 * PRECISION
    with pytest.raises(ShapeError):
        backend.ev.inner_product([a], [b, c])
    with pytest.raises(LevelError):
        backend.ev.inner_product([a], [backend.encrypt(vectors[0], 0)])
