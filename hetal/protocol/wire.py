"""Manifest messages to checked values and back. Nothing else of the server looks inside a manifest."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, cast

from hetal import limits
from hetal._pb import hetal_pb2 as pb
from hetal.ckks.parameters import Parameters, ParameterSpec, Secret, check
from hetal.errors import HetalError, InputError, InsecureParametersError, ParameterError, ParameterHashError, QuotaError
from hetal.errors import from_code as error_from_code
from hetal.protocol.job import JobSpec, SoftmaxSpec

BLOB_NAME: Final = re.compile(r"[a-z0-9_-]{1,100}(/[a-z0-9_-]{1,100})*")
BLOB_NAME_CHARS_MAX: Final = 100
KEY_TAG: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
SECRETS: Final = ("sparse_encapsulated", "uniform_ternary")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedManifest:
    """A manifest whose every field is in range.

    Attributes:
        job: checked.
        key_tag: OpenFHE's identifier of the client's key pair.
        name: free text.
        blobs: largest allowed size in bytes of every blob that the client will upload.
    """

    job: JobSpec
    key_tag: str
    name: str
    blobs: dict[str, int]


def parameters_to_proto(spec: ParameterSpec) -> pb.CkksParameters:
    return pb.CkksParameters(
        name=spec.name,
        log2_ring_dimension=spec.log2_ring_dimension,
        scale_bits=spec.scale_bits,
        first_modulus_bits=spec.first_modulus_bits,
        levels=spec.levels,
        digits=spec.digits,
        level_budget=spec.level_budget,
        giant_steps=spec.giant_steps,
        correction_factor=spec.correction_factor,
        secret=spec.secret,
    )


def parameters_from_proto(message: pb.CkksParameters) -> Parameters:
    """Checked parameters; raises a :class:`ParameterError` for anything out of range."""
    if not 1 <= len(message.name) <= limits.JOB_NAME_CHARS_MAX:
        raise ParameterError(f"a parameter set's name has 1 to {limits.JOB_NAME_CHARS_MAX} characters")
    if message.secret not in SECRETS:
        raise ParameterError(f"secret {message.secret[:40]!r} is none of {', '.join(SECRETS)}")
    spec = ParameterSpec(
        name=message.name,
        log2_ring_dimension=message.log2_ring_dimension,
        scale_bits=message.scale_bits,
        first_modulus_bits=message.first_modulus_bits,
        levels=message.levels,
        digits=message.digits,
        level_budget=_pair(message.level_budget, "level_budget"),
        giant_steps=_pair(message.giant_steps, "giant_steps"),
        correction_factor=message.correction_factor,
        secret=cast(Secret, message.secret),
    )
    return check(spec)


def manifest_to_proto(job: JobSpec, *, key_tag: str, blobs: dict[str, int], name: str = "") -> pb.Manifest:
    """The manifest that a client sends; ``blobs`` maps names to their largest sizes in bytes."""
    soft = job.softmax
    return pb.Manifest(
        parameters=parameters_to_proto(job.parameters.spec),
        train_samples=job.train_samples,
        validation_samples=job.validation_samples,
        features=job.features,
        classes=job.classes,
        batch_size=job.batch_size,
        epochs_max=job.epochs_max,
        patience=job.patience,
        learning_rate=job.learning_rate,
        nesterov=job.nesterov,
        weight_bound=job.weight_bound,
        method=job.method,
        logits_max=job.logits_max,
        adaptive_range=job.adaptive_range,
        prune_keep=job.prune_keep,
        prune_after=job.prune_after,
        softmax=pb.SoftmaxParameters(
            comparison_g=soft.comparison_g,
            comparison_f=soft.comparison_f,
            extensions=soft.extensions,
            base_range=soft.base_range,
            extension_factor=soft.extension_factor,
            squarings=soft.squarings,
            inverse_range=soft.inverse_range,
            inverse_iterations=soft.inverse_iterations,
        ),
        parameter_digest=job.parameters.digest,
        key_tag=key_tag,
        name=name,
        blobs=[pb.BlobSpec(name=blob, bytes_max=size) for blob, size in blobs.items()],
    )


def manifest_from_proto(message: pb.Manifest, *, allow_insecure: bool) -> CheckedManifest:
    """Check every field of a manifest from the other side.

    Raises:
        ParameterHashError: the digest is not that of the parameters.
        InsecureParametersError: below 128 bits, and ``allow_insecure`` is false.
        InputError, QuotaError: a field is out of its range.
    """
    for field in ("parameters", "softmax"):
        if not message.HasField(field):
            raise InputError(f"the manifest has no {field}")
    parameters = parameters_from_proto(message.parameters)
    if message.parameter_digest != parameters.digest:
        raise ParameterHashError("the manifest's parameter digest is not that of its parameters")
    if not parameters.secure and not allow_insecure:
        raise InsecureParametersError(f"parameter set {parameters.name!r} is not 128-bit secure")
    soft = message.softmax
    job = JobSpec(
        parameters=parameters,
        train_samples=message.train_samples,
        validation_samples=message.validation_samples,
        features=message.features,
        classes=message.classes,
        batch_size=message.batch_size,
        epochs_max=message.epochs_max,
        patience=message.patience,
        learning_rate=message.learning_rate,
        nesterov=message.nesterov,
        weight_bound=message.weight_bound,
        method=message.method,
        logits_max=message.logits_max,
        adaptive_range=message.adaptive_range,
        # Manifests from before there was pruning say nothing of it.
        prune_keep=message.prune_keep or 1.0,
        prune_after=message.prune_after or 1,
        softmax=SoftmaxSpec(
            comparison_g=soft.comparison_g,
            comparison_f=soft.comparison_f,
            extensions=soft.extensions,
            base_range=soft.base_range,
            extension_factor=soft.extension_factor,
            squarings=soft.squarings,
            inverse_range=soft.inverse_range,
            inverse_iterations=soft.inverse_iterations,
        ),
    )
    job.check()
    if not KEY_TAG.fullmatch(message.key_tag):
        raise InputError("a key tag has 1 to 128 letters, digits, '-' or '_'")
    if len(message.name) > limits.JOB_NAME_CHARS_MAX or not message.name.isprintable():
        raise InputError(f"a job's name has at most {limits.JOB_NAME_CHARS_MAX} printable characters")
    return CheckedManifest(job=job, key_tag=message.key_tag, name=message.name, blobs=_blobs(message))


def check_blob_name(name: str) -> str:
    """The name itself, when it is safe as a key and in logs."""
    if len(name) > BLOB_NAME_CHARS_MAX or not BLOB_NAME.fullmatch(name):
        raise InputError(f"{name[:40]!r} is no blob name: a-z 0-9 _ - / up to {BLOB_NAME_CHARS_MAX}")
    return name


def failure_to_proto(error: HetalError) -> pb.Failure:
    return pb.Failure(code=error.code, message=error.message, hint=error.hint)


def failure_from_proto(message: pb.Failure) -> HetalError:
    return error_from_code(message.code, message.message, message.hint or None)


def _blobs(message: pb.Manifest) -> dict[str, int]:
    if not 1 <= len(message.blobs) <= limits.BLOBS_PER_JOB_MAX:
        raise QuotaError(f"the manifest lists {len(message.blobs)} blobs; 1 to {limits.BLOBS_PER_JOB_MAX} are allowed")
    blobs: dict[str, int] = {}
    for blob in message.blobs:
        name = check_blob_name(blob.name)
        if name in blobs:
            raise InputError(f"the manifest lists blob {name} twice")
        if not 1 <= blob.bytes_max <= limits.BLOB_BYTES_MAX:
            raise QuotaError(f"bytes_max = {blob.bytes_max} of blob {name} is outside 1..{limits.BLOB_BYTES_MAX}")
        blobs[name] = blob.bytes_max
    return blobs


def _pair(values: object, name: str) -> tuple[int, int]:
    pair = tuple(cast("list[int]", values))
    if len(pair) != 2:
        raise ParameterError(f"{name} has {len(pair)} entries, not 2")
    return pair
