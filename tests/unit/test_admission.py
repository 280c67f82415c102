"""The estimate of a job's memory, and the sum that says who may start."""

from __future__ import annotations

import psutil
import pytest

from hetal import limits
from hetal.ckks.presets import preset
from hetal.errors import JobTooLargeError
from hetal.protocol.job import KEYS_MULT, VALIDATION_X, JobSpec, batch_x_blob, rotation_keys_blob
from hetal.protocol.wire import CheckedManifest
from hetal.server.admission import HELD_CIPHERTEXTS, PROCESS_BYTES, Memory, memory_bytes


def manifest(preset_name: str, rotation_blobs: int, **data: int) -> CheckedManifest:
    job = JobSpec(
        parameters=preset(preset_name),
        train_samples=400,
        validation_samples=60,
        features=30,
        classes=2,
        batch_size=400,
        epochs_max=5,
    )
    blobs = {KEYS_MULT: 1} | {rotation_keys_blob(i): 1 for i in range(rotation_blobs)} | data
    return CheckedManifest(job=job, key_tag="tag", name="", blobs=blobs)


def test_the_parts_of_the_estimate() -> None:
    params = preset("insecure-test")
    base = memory_bytes(manifest("insecure-test", 0))
    assert base == PROCESS_BYTES + params.key_bytes() + HELD_CIPHERTEXTS * params.ciphertext_bytes(params.top_level)
    keys = 3 * limits.ROTATION_KEYS_PER_BLOB * params.key_bytes()
    data = {batch_x_blob(0): 1_000, batch_x_blob(1): 2_000, VALIDATION_X: 70}
    assert memory_bytes(manifest("insecure-test", 3, **data)) == base + keys + 2 * 2_000 + 70


def test_a_job_of_the_default_preset_fits_a_machine_of_16_gib_and_not_one_of_4() -> None:
    need = memory_bytes(manifest("default", 10))
    assert 4 * limits.GIB < need < 0.9 * 16 * limits.GIB


def test_what_can_never_fit_is_refused() -> None:
    memory = Memory(1_000)
    memory.check(1_000)
    with pytest.raises(JobTooLargeError, match="GiB"):
        memory.check(1_001)


def test_the_sum_decides_who_starts() -> None:
    memory = Memory(1_000)
    assert memory.fits(2_000), "admitted under another limit: alone it may try"
    memory.take(600)
    assert memory.fits(400) and not memory.fits(401)
    memory.give(600)
    assert memory.fits(1_000)


def test_without_a_limit_the_machine_is_one() -> None:
    assert 0 < Memory(None).total_bytes < psutil.virtual_memory().total
