"""One exception tree. Every error a user can meet has a code, a message, a hint and a gRPC status.

The code is the contract: it travels in gRPC trailing metadata and in ``JobFailed`` messages, and the receiving side
rebuilds the same exception class from it (:func:`from_code`). Messages may change; codes do not.
"""

from __future__ import annotations

from typing import ClassVar


class HetalError(Exception):
    """Base of every error hetal raises on purpose.

    Attributes:
        code: stable upper-case identifier.
        status: gRPC status name that carries the error over the wire.
        default_hint: what the user can do about it, in one sentence.
        retryable: whether the same call may succeed later without a change.
        request_id: of the call that failed, as both logs name it; empty where no call was made.
    """

    code: ClassVar[str] = "INTERNAL"
    status: ClassVar[str] = "INTERNAL"
    default_hint: ClassVar[str] = "This is a fault in hetal; please report it with the server's log."
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint if hint is not None else self.default_hint
        self.request_id = ""

    def __str__(self) -> str:
        request = f" (request {self.request_id})" if self.request_id else ""
        return f"[{self.code}] {self.message}{request}"

    def __reduce__(self) -> tuple[object, ...]:
        return (from_code, (self.code, self.message, self.hint))


class InputError(HetalError):
    """The caller's data or options are wrong."""

    code, status = "INVALID_INPUT", "INVALID_ARGUMENT"
    default_hint = "Correct the named value and call again."


class NotFiniteError(InputError):
    """Features, weights or a vector to encrypt hold NaN or infinite values."""

    code = "FEATURES_NOT_FINITE"
    default_hint = "Remove or impute NaN and infinite values before training."


class LabelRangeError(InputError):
    """A label occurs in the validation or test rows and not in the training rows."""

    code = "LABEL_OUT_OF_RANGE"
    default_hint = "Labels of the validation set must all occur in the training set."


class SingleClassError(InputError):
    """There is nothing to tell apart: fewer than two classes."""

    code = "SINGLE_CLASS"
    default_hint = "A classifier needs at least two different labels in the training set."


class EmptyValidationError(InputError):
    """There are no validation rows."""

    code = "EMPTY_VALIDATION"
    default_hint = "Early stopping needs validation rows; pass X_val and y_val, or a validation fraction."


class LayoutError(InputError):
    """The data do not fit the slots of the preset's ciphertexts."""

    code = "LAYOUT_TOO_SMALL"
    default_hint = "Use a preset with a larger ring, fewer classes or fewer features."


class SoftmaxUnavailableError(InputError):
    """No table of this softmax serves so many classes or so wide a range of logits."""

    code = "SOFTMAX_UNAVAILABLE"
    default_hint = "Use another softmax, or fewer classes or smaller logits."


class ShapeError(InputError):
    """An array has another shape than is asked for, or than the job was made with."""

    code = "SHAPE_MISMATCH"
    default_hint = "Features are a 2-d array (samples, features); labels a 1-d array of the same length."


class ParameterError(InputError):
    """A set of CKKS parameters has a field out of its range, or fields that do not fit together."""

    code = "PARAMETERS_INVALID"
    default_hint = "Choose one of the presets, or correct the named field of the parameter spec."


class InsecureParametersError(ParameterError):
    """The CKKS parameters give less than 128 bits of security."""

    code, status = "PARAMETERS_INSECURE", "FAILED_PRECONDITION"
    default_hint = "Use a 128-bit preset; a server runs insecure test sets only when started with --allow-insecure."


class LevelError(HetalError):
    """A circuit needs more levels than the ciphertext or the parameters have."""

    code, status = "LEVELS_EXHAUSTED", "FAILED_PRECONDITION"
    default_hint = "Use a preset with more levels, or a cheaper softmax."


class ScaleError(HetalError):
    """Ciphertexts whose scales differ were to be added."""

    code = "SCALE_MISMATCH"


class DivergedError(HetalError):
    """Decrypted validation logits left the range in which the encrypted computation is valid."""

    code, status = "TRAINING_DIVERGED", "FAILED_PRECONDITION"
    default_hint = "Lower the learning rate, standardise the features, or raise the logit range."


class IntegrityError(HetalError):
    """Bytes from the other side are not what they claim to be."""

    code, status = "DATA_CORRUPT", "DATA_LOSS"
    default_hint = "Send the object again from its beginning."


class FrameError(IntegrityError):
    """A blob does not begin with the head of a frame, or is of another kind or version than is due."""

    code = "FRAME_INVALID"


class TruncatedError(IntegrityError):
    """A blob or an object in it ends before the length that it announces."""

    code = "FRAME_TRUNCATED"


class OversizedError(IntegrityError):
    """An object is longer than a limit allows, or than it was announced."""

    code, status = "OBJECT_TOO_LARGE", "RESOURCE_EXHAUSTED"
    default_hint = "The object exceeds the limit named in the message; check that both sides use the same preset."


class HashMismatchError(IntegrityError):
    """Bytes do not have the SHA-256 that was announced for them."""

    code = "HASH_MISMATCH"


class ChunkOrderError(IntegrityError):
    """A chunk begins at another offset than where the bytes before it end."""

    code, status = "CHUNK_OUT_OF_ORDER", "INVALID_ARGUMENT"
    default_hint = "Ask StatBlobs for the committed offset and go on from there."


class ParameterHashError(IntegrityError):
    """An object carries the digest of other CKKS parameters."""

    code, status = "PARAMETER_HASH_MISMATCH", "FAILED_PRECONDITION"
    default_hint = "The object was made under other CKKS parameters than the job's."


class KeyTagError(IntegrityError):
    """An object carries the tag of another key pair."""

    code, status = "KEY_TAG_MISMATCH", "FAILED_PRECONDITION"
    default_hint = "The object was made under another key than the job's; use one key set per job."


class ResidueError(IntegrityError):
    """A coefficient is not below its modulus."""

    code = "RESIDUE_OUT_OF_RANGE"
    default_hint = "A polynomial holds a residue that is not below its modulus; the object is damaged or forged."


class CiphertextFormatError(IntegrityError):
    """A ciphertext or key does not have the bytes that its parameters prescribe."""

    code = "OBJECT_MALFORMED"
    default_hint = "The object does not have the form that the job's parameters prescribe."


class MissingKeyError(HetalError):
    """The computation needs an evaluation key that was not uploaded."""

    code, status = "EVALUATION_KEY_MISSING", "FAILED_PRECONDITION"
    default_hint = "Upload the named rotation key; the job's plan lists all that are needed."


class StateError(HetalError):
    """A message that is not allowed in the present state of the job."""

    code, status = "ILLEGAL_STATE", "FAILED_PRECONDITION"
    default_hint = "Ask GetJob for the job's state."


class JobNotFoundError(HetalError):
    """There is no job of that id, or it belongs to another owner."""

    code, status = "JOB_NOT_FOUND", "NOT_FOUND"
    default_hint = "List the jobs with ListJobs; a deleted job cannot come back."


class UnauthenticatedError(HetalError):
    """The call comes without a certificate that names exactly one owner and is valid now."""

    code, status = "UNAUTHENTICATED", "UNAUTHENTICATED"
    default_hint = "Use a valid client certificate with one URI among its alternative names, or one common name."


class PermissionDeniedError(HetalError):
    """No rule lets this caller make this call."""

    code, status = "PERMISSION_DENIED", "PERMISSION_DENIED"
    default_hint = "Ask the server's operator; SECURITY.md lists which calls are open to whom."


class AlreadyAttachedError(HetalError):
    """Another training stream is attached to the job."""

    code, status = "JOB_ALREADY_ATTACHED", "ABORTED"
    default_hint = "Another client drives this job; wait for it to disconnect."
    retryable = True


class BlobConflictError(HetalError):
    """A blob of that name is committed with other content."""

    code, status = "BLOB_CONFLICT", "ALREADY_EXISTS"
    default_hint = "A blob of this name with other content is committed already; make a new job for new content."


class UnknownBlobError(HetalError):
    """The job's manifest, or its results, have no blob of that name."""

    code, status = "BLOB_UNKNOWN", "INVALID_ARGUMENT"
    default_hint = "Upload only the blobs that the job's manifest lists."


class MissingBlobError(HetalError):
    """The training cannot start before all blobs of the manifest are uploaded."""

    code, status = "BLOB_MISSING", "FAILED_PRECONDITION"
    default_hint = "Ask StatBlobs which blobs are incomplete and upload them."


class QuotaError(HetalError):
    """A limit of the server on counts or sizes is reached."""

    code, status = "LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED"
    default_hint = "Delete finished jobs, or ask the operator to raise the named limit."


class DiskFullError(HetalError):
    """The server's disk has no room; what was acknowledged before is safe."""

    code, status = "DISK_FULL", "RESOURCE_EXHAUSTED"
    default_hint = "Delete finished jobs or give the server a larger disk, then attach again: nothing is lost."
    retryable = True


class StoreCorruptError(HetalError):
    """The database of a data directory is damaged; the server does not start on it, and changes nothing."""

    code, status = "STORE_CORRUPT", "DATA_LOSS"
    default_hint = (
        "Check the disk, restore the data directory from a backup, or start with another one; clients then train anew."
    )


class OutOfMemoryError(HetalError):
    """The server or a worker ran out of memory; that job ends and others go on."""

    code, status = "OUT_OF_MEMORY", "RESOURCE_EXHAUSTED"
    default_hint = "Raise --worker-memory-gib, use a machine with more memory, or choose a smaller preset or batch."
    retryable = True


class JobTooLargeError(HetalError):
    """A job needs more memory than the server may ever give it."""

    code, status = "JOB_TOO_LARGE", "RESOURCE_EXHAUSTED"
    default_hint = "Choose a smaller preset or a smaller batch, or a server with more memory."


class DamagedCheckpointError(IntegrityError):
    """The checkpoint of a job, and the one before it, do not have the hash that was noted for them."""

    code = "CHECKPOINT_DAMAGED"
    default_hint = "The server's disk lost the job's state; check the disk, and train again with a new job."


class OwnerQuotaError(QuotaError):
    """The owner's share of the server's jobs or bytes is used up."""

    code = "OWNER_QUOTA_EXCEEDED"
    default_hint = "Delete jobs of yours, or ask the operator to raise the named share."


class ComputeQuotaError(OwnerQuotaError):
    """The owner's share of the server's worker minutes is used up."""

    code = "COMPUTE_QUOTA_EXCEEDED"
    default_hint = (
        "Attach again when older minutes count no more, or ask the operator to raise the share; nothing is lost."
    )
    retryable = True


class WorkerDiedError(HetalError):
    """The process that computed a job ended more often than it is restarted."""

    code, status = "WORKER_DIED", "INTERNAL"
    default_hint = (
        "The compute process ended unexpectedly (out of memory?); the job can be resumed from its last epoch."
    )
    retryable = True


class ClientGoneError(HetalError):
    """Nobody answered an epoch's validation logits for as long as the server waits."""

    code, status = "CLIENT_GONE", "DEADLINE_EXCEEDED"
    default_hint = "The job waited for its client longer than the configured time; attach again to resume it."
    retryable = True


class CancelledError(HetalError):
    """The job was cancelled, by its owner or by an operator."""

    code, status = "JOB_CANCELLED", "CANCELLED"
    default_hint = "The job was cancelled on request."


class ConnectionFailedError(HetalError):
    """The server cannot be reached, or does not answer."""

    code, status = "SERVER_UNREACHABLE", "UNAVAILABLE"
    default_hint = "Check the address and that the server runs; `hetal serve` prints the address it listens on."
    retryable = True


class ShuttingDownError(ConnectionFailedError):
    """The server is about to end and takes no more work."""

    code = "SERVER_SHUTTING_DOWN"
    default_hint = "The server is being stopped or restarted; the client goes on by itself when it is back."


class TlsError(HetalError):
    """The two sides reach each other, and do not accept each other's certificates."""

    code, status = "TLS_REFUSED", "UNAUTHENTICATED"
    default_hint = (
        "The server accepts certificates of its --tls-client-ca alone, made for clients and within their dates."
    )


class CertificateError(HetalError):
    """A file of certificates or keys is missing, unreadable or out of date, or does not fit the others."""

    code, status = "CERTIFICATE_INVALID", "FAILED_PRECONDITION"
    default_hint = "Name PEM files that belong together and are valid today; `hetal certs DIR` makes some for tests."


class PlaintextRefusedError(HetalError):
    """The connection would leave this machine without encryption."""

    code, status = "PLAINTEXT_REFUSED", "FAILED_PRECONDITION"
    default_hint = (
        "Give --tls-cert, --tls-key and --tls-client-ca (`hetal certs DIR` makes some for tests), stay on 127.0.0.1, "
        "or pass --allow-plaintext."
    )


class VersionError(HetalError):
    """Client and server speak different versions of the protocol."""

    code, status = "VERSION_MISMATCH", "FAILED_PRECONDITION"
    default_hint = "Install the same release of hetal on both sides."


class KeyFileError(HetalError):
    """A file of saved keys cannot be read, opened or written."""

    code, status = "KEY_FILE_INVALID", "INVALID_ARGUMENT"
    default_hint = "Check the path and the passphrase; the file is never written unless you ask for it."


class BackendError(HetalError):
    """What is to compute or to store is not usable on this machine."""

    code, status = "BACKEND_UNAVAILABLE", "FAILED_PRECONDITION"
    default_hint = "Install a Python for which the OpenFHE wheel imports (see `make test`'s message)."


class DeviceError(HetalError):
    """A device failed, or is not there."""

    code, status = "DEVICE_UNAVAILABLE", "FAILED_PRECONDITION"
    default_hint = "Look at the device with nvidia-smi, or choose --device cpu."


class DeviceMemoryError(DeviceError):
    """A job needs more memory on its device than is free there."""

    code, status = "DEVICE_MEMORY_EXHAUSTED", "RESOURCE_EXHAUSTED"
    default_hint = "Let other jobs of the device end, choose a device with more memory, or --device cpu."
    retryable = True


def _tree(cls: type[HetalError]) -> list[type[HetalError]]:
    return [cls, *(leaf for sub in cls.__subclasses__() for leaf in _tree(sub))]


CATALOGUE: dict[str, type[HetalError]] = {cls.code: cls for cls in _tree(HetalError)}


def from_code(code: str, message: str, hint: str | None = None) -> HetalError:
    """Rebuild the exception that the other side raised; an unknown code becomes a plain :class:`HetalError`."""
    return CATALOGUE.get(code, HetalError)(message, hint=hint)
