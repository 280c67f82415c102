"""The server's side of TLS: both ends show a certificate, and renewed files are taken up without a restart."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

import grpc

from hetal.errors import CertificateError
from hetal.protocol.transport_security import TEST_ORGANIZATION, Certificates, read_certificates
from hetal.server.config import ServerConfig, TlsFiles
from hetal.server.log import event

Stamp = tuple[tuple[int, int, int], ...]


def server_credentials(config: ServerConfig, on_read: Callable[[Certificates], None]) -> Any:
    """gRPC's credentials, or None for a server without TLS. ``on_read`` hears of every set of files taken into use.

    Raises:
        CertificateError: a file is unusable.
    """
    files = config.tls()
    if files is None:
        return None
    renewal = _Renewal(files, on_read)
    return grpc.dynamic_ssl_server_credentials(renewal.first(), renewal.fetch, require_client_authentication=True)


class _Renewal:
    """Looks at the files at every handshake, which asks from a thread of gRPC's own. Unusable ones change nothing."""

    def __init__(self, files: TlsFiles, on_read: Callable[[Certificates], None]) -> None:
        self._files = files
        self._on_read = on_read
        self._stamp: Stamp = ()

    def first(self) -> Any:
        self._stamp = self._stamped()
        return self._configuration("certificates read")

    def fetch(self) -> Any:
        try:
            stamp = self._stamped()
            if stamp == self._stamp:
                return None
            # Whatever is wrong with these files is told once, not at every handshake.
            self._stamp = stamp
            return self._configuration("certificates renewed")
        except CertificateError as error:
            event("certificates not renewed", level=logging.ERROR, code=error.code, reason=error.message)
            return None

    def _configuration(self, what: str) -> Any:
        found = read_certificates(self._files.client_ca, self._files.cert, self._files.key)
        event(what, issuer=found.issuer, end=f"{found.end:%Y-%m-%dT%H:%M:%SZ}")
        if TEST_ORGANIZATION in found.issuer:
            event("these certificates are for tests", level=logging.WARNING)
        self._on_read(found)
        return _configuration(found)

    def _stamped(self) -> Stamp:
        try:
            stats = [os.stat(path) for path in (self._files.client_ca, self._files.cert, self._files.key)]
        except OSError as error:
            raise CertificateError(f"cannot read {error.filename}: {error.strerror}") from error
        return tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats)


def _configuration(found: Certificates) -> Any:
    return grpc.ssl_server_certificate_configuration([(found.key, found.chain)], found.authority)
