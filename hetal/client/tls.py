"""The client's side of TLS, and why a server that answers could not be talked to."""

from __future__ import annotations

import asyncio
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from hetal import limits
from hetal.errors import HetalError, PlaintextRefusedError, TlsError
from hetal.protocol.transport_security import is_loopback, read_certificates


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Files in PEM form.

    Attributes:
        ca: authority that signed the server's certificate.
        cert: the client's certificate, whose name owns the jobs.
        key: that belongs to ``cert``.
    """

    ca: Path
    cert: Path
    key: Path

    def credentials(self) -> grpc.ChannelCredentials:
        """Raises a :class:`CertificateError` where a file is unusable."""
        found = read_certificates(self.ca, self.cert, self.key)
        return grpc.ssl_channel_credentials(found.authority, found.key, found.chain)


def open_channel(address: str, tls: Tls | None, *, allow_plaintext: bool, options: Any) -> grpc.aio.Channel:
    """A channel with TLS, or without it to this machine.

    Raises:
        CertificateError: a file is unusable.
        PlaintextRefusedError: the server is elsewhere, and nothing says how to protect the connection.
    """
    if tls is not None:
        return grpc.aio.secure_channel(address, tls.credentials(), options=options)
    if not allow_plaintext and not is_loopback(_split(address)[0]):
        raise PlaintextRefusedError(
            f"no certificates for the connection to {address}",
            hint="Pass --ca, --cert and --key (in Python tls=Tls(...)); --allow-plaintext goes without protection.",
        )
    return grpc.aio.insecure_channel(address, options=options)


async def refusal(address: str, tls: Tls | None) -> HetalError | None:
    """Why TLS keeps the two sides apart; None where it does not, or where nobody answers.

    gRPC tells of a handshake that failed on the server's side only that the socket was closed. So this makes one
    handshake of its own, and waits for the first bytes that a server sends.
    """
    return await asyncio.to_thread(_refusal, address, tls)


def _refusal(address: str, tls: Tls | None) -> HetalError | None:
    host, port = _split(address)
    found: HetalError | None = None
    # A server that ends at this moment looks like one that refuses; it does not do so twice.
    for _ in range(2):
        try:
            with socket.create_connection((host.strip("[]"), port), limits.PROBE_S) as connection:
                found = _shake(connection, host.strip("[]"), address, tls)
        except OSError:
            return None
        if found is None:
            return None
    return found


def _shake(connection: socket.socket, host: str, address: str, tls: Tls | None) -> HetalError | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    if tls is None:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    else:
        context.load_verify_locations(tls.ca)
        context.load_cert_chain(tls.cert, tls.key)
    try:
        with context.wrap_socket(connection, server_hostname=host) as secure:
            if tls is None:
                return TlsError(
                    f"the server at {address} speaks TLS",
                    hint="Pass --ca, --cert and --key (in Python tls=Tls(...)).",
                )
            if secure.recv(1):
                return None
    except ssl.SSLCertVerificationError as error:
        return TlsError(
            f"the certificate of the server at {address} is not accepted: {error.verify_message}",
            hint="--ca must hold the authority that signed it, and it must name the host that you connect to.",
        )
    except ssl.SSLError as error:
        if tls is None:
            return None
        if error.reason == "WRONG_VERSION_NUMBER":
            return TlsError(
                f"the server at {address} speaks no TLS",
                hint="Start it with --tls-cert, --tls-key and --tls-client-ca, or leave --ca, --cert and --key out.",
            )
    except ConnectionResetError:
        pass
    return None if tls is None else TlsError(f"the server at {address} does not accept the client certificate")


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port) if port.isdigit() else 0
