"""gRPC channel arguments of both sides. gRPC ignores unknown names silently, so no other module spells one."""

from __future__ import annotations

from hetal import limits

Options = list[tuple[str, int | str]]


def _common() -> Options:
    return [
        ("grpc.max_send_message_length", limits.MESSAGE_BYTES_MAX),
        ("grpc.max_receive_message_length", limits.MESSAGE_BYTES_MAX),
        ("grpc.keepalive_time_ms", limits.KEEPALIVE_S * 1000),
        ("grpc.keepalive_timeout_ms", limits.KEEPALIVE_TIMEOUT_S * 1000),
        # Of a ping that was sent for another reason, after which gRPC sends none for keepalive. Its own is a minute.
        ("grpc.http2.ping_timeout_ms", limits.KEEPALIVE_TIMEOUT_S * 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        # Ciphertexts do not compress.
        ("grpc.default_compression_algorithm", 0),
    ]


def client_options() -> Options:
    """Arguments of a client's channel. Retries are the client's own affair: it resumes at an offset."""
    return [
        *_common(),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.enable_retries", 0),
        # gRPC's own pauses between connections would grow to two minutes, whatever the client's are.
        ("grpc.initial_reconnect_backoff_ms", int(limits.RECONNECT_BACKOFF_S[0] * 1000)),
        ("grpc.max_reconnect_backoff_ms", int(limits.RECONNECT_BACKOFF_S[-1] * 1000)),
    ]


def server_options() -> Options:
    """Arguments of the server. Without the ping interval it would drop clients that keep a quiet stream alive."""
    return [
        *_common(),
        ("grpc.http2.min_ping_interval_without_data_ms", limits.MIN_PING_INTERVAL_S * 1000),
        ("grpc.http2.max_ping_strikes", 5),
        # Two servers on one port would share its connections at random.
        ("grpc.so_reuseport", 0),
        # The probe lets every stream's window grow with the speed of the connection: 32 uploads on a fast one then hold
        # twice the memory (benchmarks/uploads.py), and more is under way, and sent again, when a connection breaks.
        # Without it one stream passes about a chunk a round trip: 10 MB/s over 100 ms.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", limits.STREAM_WINDOW_BYTES),
    ]
