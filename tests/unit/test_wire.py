"""Manifests: what a client says comes back as the same checked value, and nothing unchecked gets through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from hetal._pb import hetal_pb2 as pb
from hetal.ckks.presets import PRESETS, preset
from hetal.errors import (
    EmptyValidationError,
    HetalError,
    InputError,
    InsecureParametersError,
    ParameterError,
    ParameterHashError,
    QuotaError,
    SingleClassError,
)
from hetal.limits import BLOB_BYTES_MAX
from hetal.protocol.job import JobSpec, SoftmaxSpec
from hetal.protocol.wire import (
    check_blob_name,
    failure_from_proto,
    failure_to_proto,
    manifest_from_proto,
    manifest_to_proto,
    parameters_from_proto,
    parameters_to_proto,
)

JOB = JobSpec(
    parameters=preset("insecure-test"),
    train_samples=100,
    validation_samples=20,
    features=7,
    classes=3,
    batch_size=32,
    epochs_max=9,
    patience=2,
    learning_rate=0.7,
    nesterov=False,
    logits_max=64.0,
    adaptive_range=True,
    weight_bound=8.0,
    softmax=SoftmaxSpec(extensions=4, inverse_range=50.0),
)


@pytest.mark.parametrize("answered", [0.0, 16.0, 64.0])
def test_ranges_that_an_answer_may_name(answered: float) -> None:
    JOB.check_range(answered)


@pytest.mark.parametrize("answered", [1.0, 128.0, -16.0, float("nan")])
def test_ranges_that_an_answer_may_not_name(answered: float) -> None:
    with pytest.raises(InputError):
        JOB.check_range(answered)
    with pytest.raises(InputError):
        replace(JOB, adaptive_range=False).check_range(16.0)


def test_the_range_of_hetals_softmax_is_fixed() -> None:
    with pytest.raises(InputError):
        replace(JOB, method="hetal").check()


BLOBS = {"keys/mult": 100, "train/x/00000": 5}


def manifest(job: JobSpec = JOB) -> pb.Manifest:
    return manifest_to_proto(job, key_tag="tag-1", blobs=BLOBS, name="a name")


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_survive_the_wire(name: str) -> None:
    sent = pb.CkksParameters.FromString(parameters_to_proto(PRESETS[name]).SerializeToString())
    assert parameters_from_proto(sent) == preset(name)


def test_manifest_survives_the_wire() -> None:
    checked = manifest_from_proto(pb.Manifest.FromString(manifest().SerializeToString()), allow_insecure=True)
    assert checked.job == JOB
    assert (checked.key_tag, checked.name, checked.blobs) == ("tag-1", "a name", BLOBS)


def test_insecure_is_refused_unless_allowed() -> None:
    with pytest.raises(InsecureParametersError):
        manifest_from_proto(manifest(), allow_insecure=False)
    secure = manifest(replace(JOB, parameters=preset("default")))
    assert manifest_from_proto(secure, allow_insecure=False).job.parameters.secure


def set_field(name: str, value: object) -> Callable[[pb.Manifest], None]:
    def change(message: pb.Manifest) -> None:
        target: object = message
        *path, last = name.split(".")
        for part in path:
            target = getattr(target, part)
        setattr(target, last, value)

    return change


def add_blob(name: str, bytes_max: int = 1) -> Callable[[pb.Manifest], None]:
    def change(message: pb.Manifest) -> None:
        message.blobs.add(name=name, bytes_max=bytes_max)

    return change


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (set_field("parameter_digest", bytes(32)), ParameterHashError),
        (set_field("parameters.scale_bits", 46), ParameterHashError),
        (set_field("parameters.scale_bits", 0), ParameterError),
        (set_field("parameters.log2_ring_dimension", 2**31), ParameterError),
        (set_field("parameters.secret", "none"), ParameterError),
        (set_field("parameters.name", ""), ParameterError),
        (lambda message: message.parameters.level_budget.append(1), ParameterError),
        (lambda message: message.ClearField("parameters"), InputError),
        (lambda message: message.ClearField("softmax"), InputError),
        (lambda message: message.ClearField("blobs"), QuotaError),
        (set_field("classes", 1), SingleClassError),
        (set_field("validation_samples", 0), EmptyValidationError),
        (set_field("train_samples", 2**32 - 1), InputError),
        (set_field("learning_rate", float("nan")), InputError),
        (set_field("weight_bound", float("inf")), InputError),
        (set_field("softmax.inverse_range", float("nan")), InputError),
        (set_field("softmax.extensions", 2**32 - 1), InputError),
        (set_field("key_tag", ""), InputError),
        (set_field("key_tag", "../x"), InputError),
        (set_field("name", "a\nb"), InputError),
        (set_field("name", "x" * 201), InputError),
        (add_blob("keys/mult"), InputError),
        (add_blob("../../etc/passwd"), InputError),
        (add_blob("ok", 0), QuotaError),
        (add_blob("ok", BLOB_BYTES_MAX + 1), QuotaError),
    ],
)
def test_nothing_unchecked_gets_through(change: Callable[[pb.Manifest], None], error: type[HetalError]) -> None:
    message = manifest()
    change(message)
    with pytest.raises(HetalError) as caught:
        manifest_from_proto(message, allow_insecure=True)
    assert type(caught.value) is error


@pytest.mark.parametrize("name", ["", "/a", "a/", "a//b", "A", "a b", ".", "..", "a/../b", "a\n", "x" * 101])
def test_unsafe_blob_names(name: str) -> None:
    with pytest.raises(InputError):
        check_blob_name(name)


@pytest.mark.parametrize("name", ["a", "keys/rotation/000", "x" * 100, "a-b_c/0"])
def test_safe_blob_names(name: str) -> None:
    assert check_blob_name(name) == name


def test_failures_survive_the_wire() -> None:
    error = failure_from_proto(failure_to_proto(InsecureParametersError("no", hint="so")))
    assert isinstance(error, InsecureParametersError)
    assert (error.message, error.hint) == ("no", "so")
