from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class JobState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    JOB_STATE_UNSPECIFIED: _ClassVar[JobState]
    JOB_STATE_UPLOADING: _ClassVar[JobState]
    JOB_STATE_QUEUED: _ClassVar[JobState]
    JOB_STATE_TRAINING: _ClassVar[JobState]
    JOB_STATE_AWAITING_CLIENT: _ClassVar[JobState]
    JOB_STATE_FINISHED: _ClassVar[JobState]
    JOB_STATE_FAILED: _ClassVar[JobState]
    JOB_STATE_CANCELLED: _ClassVar[JobState]
JOB_STATE_UNSPECIFIED: JobState
JOB_STATE_UPLOADING: JobState
JOB_STATE_QUEUED: JobState
JOB_STATE_TRAINING: JobState
JOB_STATE_AWAITING_CLIENT: JobState
JOB_STATE_FINISHED: JobState
JOB_STATE_FAILED: JobState
JOB_STATE_CANCELLED: JobState

class GetServerInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ServerInfo(_message.Message):
    __slots__ = ("version", "protocol_version", "backend", "presets", "insecure_allowed", "chunk_bytes", "blob_bytes_max", "job_bytes_max", "costs")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    PRESETS_FIELD_NUMBER: _ClassVar[int]
    INSECURE_ALLOWED_FIELD_NUMBER: _ClassVar[int]
    CHUNK_BYTES_FIELD_NUMBER: _ClassVar[int]
    BLOB_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    JOB_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    COSTS_FIELD_NUMBER: _ClassVar[int]
    version: str
    protocol_version: int
    backend: str
    presets: _containers.RepeatedScalarFieldContainer[str]
    insecure_allowed: bool
    chunk_bytes: int
    blob_bytes_max: int
    job_bytes_max: int
    costs: _containers.RepeatedCompositeFieldContainer[CostTable]
    def __init__(self, version: _Optional[str] = ..., protocol_version: _Optional[int] = ..., backend: _Optional[str] = ..., presets: _Optional[_Iterable[str]] = ..., insecure_allowed: _Optional[bool] = ..., chunk_bytes: _Optional[int] = ..., blob_bytes_max: _Optional[int] = ..., job_bytes_max: _Optional[int] = ..., costs: _Optional[_Iterable[_Union[CostTable, _Mapping]]] = ...) -> None: ...

class CostTable(_message.Message):
    __slots__ = ("parameter_digest", "source", "points")
    PARAMETER_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    POINTS_FIELD_NUMBER: _ClassVar[int]
    parameter_digest: bytes
    source: str
    points: _containers.RepeatedCompositeFieldContainer[CostPoint]
    def __init__(self, parameter_digest: _Optional[bytes] = ..., source: _Optional[str] = ..., points: _Optional[_Iterable[_Union[CostPoint, _Mapping]]] = ...) -> None: ...

class CostPoint(_message.Message):
    __slots__ = ("operation", "level", "seconds")
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    operation: str
    level: int
    seconds: float
    def __init__(self, operation: _Optional[str] = ..., level: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class GetSharesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Shares(_message.Message):
    __slots__ = ("owner", "unfinished_jobs", "unfinished_jobs_max", "jobs", "jobs_max", "bytes", "bytes_max", "compute_minutes", "compute_minutes_max", "compute_days")
    OWNER_FIELD_NUMBER: _ClassVar[int]
    UNFINISHED_JOBS_FIELD_NUMBER: _ClassVar[int]
    UNFINISHED_JOBS_MAX_FIELD_NUMBER: _ClassVar[int]
    JOBS_FIELD_NUMBER: _ClassVar[int]
    JOBS_MAX_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_MINUTES_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_MINUTES_MAX_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_DAYS_FIELD_NUMBER: _ClassVar[int]
    owner: str
    unfinished_jobs: int
    unfinished_jobs_max: int
    jobs: int
    jobs_max: int
    bytes: int
    bytes_max: int
    compute_minutes: float
    compute_minutes_max: float
    compute_days: int
    def __init__(self, owner: _Optional[str] = ..., unfinished_jobs: _Optional[int] = ..., unfinished_jobs_max: _Optional[int] = ..., jobs: _Optional[int] = ..., jobs_max: _Optional[int] = ..., bytes: _Optional[int] = ..., bytes_max: _Optional[int] = ..., compute_minutes: _Optional[float] = ..., compute_minutes_max: _Optional[float] = ..., compute_days: _Optional[int] = ...) -> None: ...

class CkksParameters(_message.Message):
    __slots__ = ("name", "log2_ring_dimension", "scale_bits", "first_modulus_bits", "levels", "digits", "level_budget", "giant_steps", "correction_factor", "secret")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LOG2_RING_DIMENSION_FIELD_NUMBER: _ClassVar[int]
    SCALE_BITS_FIELD_NUMBER: _ClassVar[int]
    FIRST_MODULUS_BITS_FIELD_NUMBER: _ClassVar[int]
    LEVELS_FIELD_NUMBER: _ClassVar[int]
    DIGITS_FIELD_NUMBER: _ClassVar[int]
    LEVEL_BUDGET_FIELD_NUMBER: _ClassVar[int]
    GIANT_STEPS_FIELD_NUMBER: _ClassVar[int]
    CORRECTION_FACTOR_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    name: str
    log2_ring_dimension: int
    scale_bits: int
    first_modulus_bits: int
    levels: int
    digits: int
    level_budget: _containers.RepeatedScalarFieldContainer[int]
    giant_steps: _containers.RepeatedScalarFieldContainer[int]
    correction_factor: int
    secret: str
    def __init__(self, name: _Optional[str] = ..., log2_ring_dimension: _Optional[int] = ..., scale_bits: _Optional[int] = ..., first_modulus_bits: _Optional[int] = ..., levels: _Optional[int] = ..., digits: _Optional[int] = ..., level_budget: _Optional[_Iterable[int]] = ..., giant_steps: _Optional[_Iterable[int]] = ..., correction_factor: _Optional[int] = ..., secret: _Optional[str] = ...) -> None: ...

class SoftmaxParameters(_message.Message):
    __slots__ = ("comparison_g", "comparison_f", "extensions", "base_range", "extension_factor", "squarings", "inverse_range", "inverse_iterations")
    COMPARISON_G_FIELD_NUMBER: _ClassVar[int]
    COMPARISON_F_FIELD_NUMBER: _ClassVar[int]
    EXTENSIONS_FIELD_NUMBER: _ClassVar[int]
    BASE_RANGE_FIELD_NUMBER: _ClassVar[int]
    EXTENSION_FACTOR_FIELD_NUMBER: _ClassVar[int]
    SQUARINGS_FIELD_NUMBER: _ClassVar[int]
    INVERSE_RANGE_FIELD_NUMBER: _ClassVar[int]
    INVERSE_ITERATIONS_FIELD_NUMBER: _ClassVar[int]
    comparison_g: int
    comparison_f: int
    extensions: int
    base_range: float
    extension_factor: float
    squarings: int
    inverse_range: float
    inverse_iterations: int
    def __init__(self, comparison_g: _Optional[int] = ..., comparison_f: _Optional[int] = ..., extensions: _Optional[int] = ..., base_range: _Optional[float] = ..., extension_factor: _Optional[float] = ..., squarings: _Optional[int] = ..., inverse_range: _Optional[float] = ..., inverse_iterations: _Optional[int] = ...) -> None: ...

class Manifest(_message.Message):
    __slots__ = ("parameters", "train_samples", "validation_samples", "features", "classes", "batch_size", "epochs_max", "patience", "learning_rate", "nesterov", "weight_bound", "softmax", "parameter_digest", "key_tag", "name", "blobs", "method", "logits_max", "adaptive_range", "prune_keep", "prune_after")
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    TRAIN_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_MAX_FIELD_NUMBER: _ClassVar[int]
    PATIENCE_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    NESTEROV_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_BOUND_FIELD_NUMBER: _ClassVar[int]
    SOFTMAX_FIELD_NUMBER: _ClassVar[int]
    PARAMETER_DIGEST_FIELD_NUMBER: _ClassVar[int]
    KEY_TAG_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    LOGITS_MAX_FIELD_NUMBER: _ClassVar[int]
    ADAPTIVE_RANGE_FIELD_NUMBER: _ClassVar[int]
    PRUNE_KEEP_FIELD_NUMBER: _ClassVar[int]
    PRUNE_AFTER_FIELD_NUMBER: _ClassVar[int]
    parameters: CkksParameters
    train_samples: int
    validation_samples: int
    features: int
    classes: int
    batch_size: int
    epochs_max: int
    patience: int
    learning_rate: float
    nesterov: bool
    weight_bound: float
    softmax: SoftmaxParameters
    parameter_digest: bytes
    key_tag: str
    name: str
    blobs: _containers.RepeatedCompositeFieldContainer[BlobSpec]
    method: str
    logits_max: float
    adaptive_range: bool
    prune_keep: float
    prune_after: int
    def __init__(self, parameters: _Optional[_Union[CkksParameters, _Mapping]] = ..., train_samples: _Optional[int] = ..., validation_samples: _Optional[int] = ..., features: _Optional[int] = ..., classes: _Optional[int] = ..., batch_size: _Optional[int] = ..., epochs_max: _Optional[int] = ..., patience: _Optional[int] = ..., learning_rate: _Optional[float] = ..., nesterov: _Optional[bool] = ..., weight_bound: _Optional[float] = ..., softmax: _Optional[_Union[SoftmaxParameters, _Mapping]] = ..., parameter_digest: _Optional[bytes] = ..., key_tag: _Optional[str] = ..., name: _Optional[str] = ..., blobs: _Optional[_Iterable[_Union[BlobSpec, _Mapping]]] = ..., method: _Optional[str] = ..., logits_max: _Optional[float] = ..., adaptive_range: _Optional[bool] = ..., prune_keep: _Optional[float] = ..., prune_after: _Optional[int] = ...) -> None: ...

class BlobSpec(_message.Message):
    __slots__ = ("name", "bytes_max")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    name: str
    bytes_max: int
    def __init__(self, name: _Optional[str] = ..., bytes_max: _Optional[int] = ...) -> None: ...

class CreateJobRequest(_message.Message):
    __slots__ = ("idempotency_key", "manifest", "protocol_version")
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    idempotency_key: str
    manifest: Manifest
    protocol_version: int
    def __init__(self, idempotency_key: _Optional[str] = ..., manifest: _Optional[_Union[Manifest, _Mapping]] = ..., protocol_version: _Optional[int] = ...) -> None: ...

class Job(_message.Message):
    __slots__ = ("id", "state", "manifest", "epoch", "best_epoch", "blobs", "failure", "created_unix_s", "bytes_stored", "owner")
    ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    BEST_EPOCH_FIELD_NUMBER: _ClassVar[int]
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    CREATED_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    BYTES_STORED_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    id: str
    state: JobState
    manifest: Manifest
    epoch: int
    best_epoch: int
    blobs: _containers.RepeatedScalarFieldContainer[str]
    failure: Failure
    created_unix_s: float
    bytes_stored: int
    owner: str
    def __init__(self, id: _Optional[str] = ..., state: _Optional[_Union[JobState, str]] = ..., manifest: _Optional[_Union[Manifest, _Mapping]] = ..., epoch: _Optional[int] = ..., best_epoch: _Optional[int] = ..., blobs: _Optional[_Iterable[str]] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ..., created_unix_s: _Optional[float] = ..., bytes_stored: _Optional[int] = ..., owner: _Optional[str] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("code", "message", "hint")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    hint: str
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ..., hint: _Optional[str] = ...) -> None: ...

class UploadBlobRequest(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: UploadHeader
    chunk: UploadChunk
    def __init__(self, header: _Optional[_Union[UploadHeader, _Mapping]] = ..., chunk: _Optional[_Union[UploadChunk, _Mapping]] = ...) -> None: ...

class UploadHeader(_message.Message):
    __slots__ = ("job_id", "name", "bytes", "sha256", "offset")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    name: str
    bytes: int
    sha256: bytes
    offset: int
    def __init__(self, job_id: _Optional[str] = ..., name: _Optional[str] = ..., bytes: _Optional[int] = ..., sha256: _Optional[bytes] = ..., offset: _Optional[int] = ...) -> None: ...

class UploadChunk(_message.Message):
    __slots__ = ("offset", "data")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    offset: int
    data: bytes
    def __init__(self, offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class BlobStatus(_message.Message):
    __slots__ = ("name", "committed_bytes", "complete", "sha256")
    NAME_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_BYTES_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    name: str
    committed_bytes: int
    complete: bool
    sha256: bytes
    def __init__(self, name: _Optional[str] = ..., committed_bytes: _Optional[int] = ..., complete: _Optional[bool] = ..., sha256: _Optional[bytes] = ...) -> None: ...

class StatBlobsRequest(_message.Message):
    __slots__ = ("job_id", "names")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, job_id: _Optional[str] = ..., names: _Optional[_Iterable[str]] = ...) -> None: ...

class StatBlobsResponse(_message.Message):
    __slots__ = ("blobs",)
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    blobs: _containers.RepeatedCompositeFieldContainer[BlobStatus]
    def __init__(self, blobs: _Optional[_Iterable[_Union[BlobStatus, _Mapping]]] = ...) -> None: ...

class TrainRequest(_message.Message):
    __slots__ = ("job_id", "attach", "stop")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    ATTACH_FIELD_NUMBER: _ClassVar[int]
    CONTINUE_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    attach: Attach
    stop: Stop
    def __init__(self, job_id: _Optional[str] = ..., attach: _Optional[_Union[Attach, _Mapping]] = ..., stop: _Optional[_Union[Stop, _Mapping]] = ..., **kwargs) -> None: ...

class Attach(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: str
    def __init__(self, session: _Optional[str] = ...) -> None: ...

class Continue(_message.Message):
    __slots__ = ("epoch", "best", "logits_max", "kept")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    BEST_FIELD_NUMBER: _ClassVar[int]
    LOGITS_MAX_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    best: bool
    logits_max: float
    kept: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, epoch: _Optional[int] = ..., best: _Optional[bool] = ..., logits_max: _Optional[float] = ..., kept: _Optional[_Iterable[int]] = ...) -> None: ...

class Stop(_message.Message):
    __slots__ = ("epoch", "best")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    BEST_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    best: bool
    def __init__(self, epoch: _Optional[int] = ..., best: _Optional[bool] = ...) -> None: ...

class TrainEvent(_message.Message):
    __slots__ = ("queued", "progress", "validation", "finished", "failed")
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    queued: Queued
    progress: Progress
    validation: ValidationLogits
    finished: Finished
    failed: Failure
    def __init__(self, queued: _Optional[_Union[Queued, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., validation: _Optional[_Union[ValidationLogits, _Mapping]] = ..., finished: _Optional[_Union[Finished, _Mapping]] = ..., failed: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...

class Queued(_message.Message):
    __slots__ = ("jobs_ahead",)
    JOBS_AHEAD_FIELD_NUMBER: _ClassVar[int]
    jobs_ahead: int
    def __init__(self, jobs_ahead: _Optional[int] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("phase", "epoch", "iteration", "iterations_max", "seconds_per_iteration")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ITERATION_FIELD_NUMBER: _ClassVar[int]
    ITERATIONS_MAX_FIELD_NUMBER: _ClassVar[int]
    SECONDS_PER_ITERATION_FIELD_NUMBER: _ClassVar[int]
    phase: str
    epoch: int
    iteration: int
    iterations_max: int
    seconds_per_iteration: float
    def __init__(self, phase: _Optional[str] = ..., epoch: _Optional[int] = ..., iteration: _Optional[int] = ..., iterations_max: _Optional[int] = ..., seconds_per_iteration: _Optional[float] = ...) -> None: ...

class ValidationLogits(_message.Message):
    __slots__ = ("epoch", "blob", "bytes", "sha256")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    blob: str
    bytes: int
    sha256: bytes
    def __init__(self, epoch: _Optional[int] = ..., blob: _Optional[str] = ..., bytes: _Optional[int] = ..., sha256: _Optional[bytes] = ...) -> None: ...

class Finished(_message.Message):
    __slots__ = ("epochs", "best_epoch", "blob", "bytes", "sha256")
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    BEST_EPOCH_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    epochs: int
    best_epoch: int
    blob: str
    bytes: int
    sha256: bytes
    def __init__(self, epochs: _Optional[int] = ..., best_epoch: _Optional[int] = ..., blob: _Optional[str] = ..., bytes: _Optional[int] = ..., sha256: _Optional[bytes] = ...) -> None: ...

class DownloadRequest(_message.Message):
    __slots__ = ("job_id", "blob", "offset")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    blob: str
    offset: int
    def __init__(self, job_id: _Optional[str] = ..., blob: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class DownloadChunk(_message.Message):
    __slots__ = ("offset", "total_bytes", "data")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    offset: int
    total_bytes: int
    data: bytes
    def __init__(self, offset: _Optional[int] = ..., total_bytes: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class PredictRequest(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: PredictHeader
    chunk: UploadChunk
    def __init__(self, header: _Optional[_Union[PredictHeader, _Mapping]] = ..., chunk: _Optional[_Union[UploadChunk, _Mapping]] = ...) -> None: ...

class PredictHeader(_message.Message):
    __slots__ = ("job_id", "samples", "bytes", "sha256")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    samples: int
    bytes: int
    sha256: bytes
    def __init__(self, job_id: _Optional[str] = ..., samples: _Optional[int] = ..., bytes: _Optional[int] = ..., sha256: _Optional[bytes] = ...) -> None: ...

class PredictResponse(_message.Message):
    __slots__ = ("progress", "chunk")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    progress: Progress
    chunk: DownloadChunk
    def __init__(self, progress: _Optional[_Union[Progress, _Mapping]] = ..., chunk: _Optional[_Union[DownloadChunk, _Mapping]] = ...) -> None: ...

class GetJobRequest(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class ListJobsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListJobsResponse(_message.Message):
    __slots__ = ("jobs",)
    JOBS_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[Job]
    def __init__(self, jobs: _Optional[_Iterable[_Union[Job, _Mapping]]] = ...) -> None: ...

class CancelJobRequest(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class DeleteJobRequest(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class DeleteJobResponse(_message.Message):
    __slots__ = ("bytes_freed",)
    BYTES_FREED_FIELD_NUMBER: _ClassVar[int]
    bytes_freed: int
    def __init__(self, bytes_freed: _Optional[int] = ...) -> None: ...
