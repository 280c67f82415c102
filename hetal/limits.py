"""Every size, time and count limit of the product, with its unit in its name."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

# Wire
CHUNK_BYTES: Final = 1 * MIB
MESSAGE_BYTES_MAX: Final = 4 * MIB
# Of an upload at most a message and the window that the server opens ahead of it are under way: less than a chunk.
UPLOAD_MESSAGE_BYTES: Final = CHUNK_BYTES // 2
STREAM_WINDOW_BYTES: Final = 448 * KIB
KEEPALIVE_S: Final = 60
KEEPALIVE_TIMEOUT_S: Final = 20
MIN_PING_INTERVAL_S: Final = 30
UNARY_DEADLINE_S: Final = 30
PROBE_S: Final = 5
PEM_BYTES_MAX: Final = 1 * MIB
TEST_CERTIFICATE_DAYS_MAX: Final = 90
UPLOAD_IDLE_S: Final = 120
RECONNECT_BACKOFF_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
REFUSAL_PAUSE_S: Final = 0.5
RECONNECT_ATTEMPTS_MAX: Final = 30

# One job
BLOB_BYTES_MAX: Final = 8 * GIB
BLOBS_PER_JOB_MAX: Final = 20_000
JOB_BYTES_MAX: Final = 64 * GIB
CLASSES_MAX: Final = 1024
FEATURES_MAX: Final = 65_536
SAMPLES_MAX: Final = 10_000_000
EPOCHS_MAX: Final = 1_000
CIPHERTEXTS_PER_BLOB_MAX: Final = 65_536
JOB_NAME_CHARS_MAX: Final = 200
IDEMPOTENCY_KEY_CHARS_MAX: Final = 64
REQUEST_ID_CHARS_MAX: Final = 64

OWNER_CHARS_MAX: Final = 256

# One owner
OWNER_JOBS_MAX: Final = 100
OWNER_JOBS_STORED_MAX: Final = 500
OWNER_BYTES_MAX: Final = 4 * JOB_BYTES_MAX
COMPUTE_WINDOW_DAYS: Final = 30
# Ten workers without a pause.
OWNER_COMPUTE_MINUTES_MAX: Final = 10 * COMPUTE_WINDOW_DAYS * 24 * 60
COMPUTE_TICK_S: Final = 30

# Server
JOBS_MAX: Final = 1_000
JOBS_RUNNING_MAX: Final = 1
THREADS_MAX: Final = 1_024
CLIENT_WAIT_S: Final = 24 * 3600
# A server ends within 30 s: its workers get the first of these times, running calls the second.
DRAIN_S: Final = 20
SHUTDOWN_GRACE_S: Final = 25
WORKER_RESTARTS_MAX: Final = 3
WORKER_NICENESS: Final = 5
WORKER_LINE_BYTES_MAX: Final = 1 * MIB
CHECKPOINT_INTERVAL_S: Final = 60
WORKER_RESTART_BACKOFF_S: Final = (0.5, 2.0, 5.0)
DISK_RESERVE_BYTES: Final = 256 * MIB
DELETION_RESERVE_BYTES: Final = 1 * MIB
DELETED_JOBS_REMEMBERED: Final = 10_000
RETENTION_CHECK_S: Final = 60

OVERVIEW_INTERVAL_S: Final = 1.0
HEALTH_INTERVAL_S: Final = 5.0
SIZE_WAIT_S: Final = 0.02
TRACES_FLUSH_S: Final = 5
HTTP_HEAD_BYTES_MAX: Final = 8 * KIB
HTTP_TIMEOUT_S: Final = 10
HTTP_CONNECTIONS_MAX: Final = 64
STATUS_JOBS_MAX: Final = 100
STATUS_ENDED_JOBS_MAX: Final = 20

# Client
ROTATION_KEYS_PER_BLOB: Final = 4
PLAINTEXT_CACHE_ENTRIES: Final = 256

# Evaluator
PLAINTEXT_CACHE_BYTES: Final = 1 * GIB
