"""What both sides ask of TLS before gRPC sees it, whose own complaints name no file and no remedy."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from hetal import limits
from hetal.errors import CertificateError

# Stands in every certificate that `hetal certs` makes.
TEST_ORGANIZATION: Final = "hetal tests - not for production"


@dataclass(frozen=True, slots=True)
class Certificates:
    """Checked PEM texts of one side.

    Attributes:
        authority: whose signatures are accepted on the other side's certificate.
        chain: this side's certificate, and those between it and its authority.
        key: that belongs to the chain's first certificate.
        end: of the first certificate's validity.
        issuer: of the first certificate, as RFC 4514 writes it.
    """

    authority: bytes
    chain: bytes
    key: bytes
    end: datetime
    issuer: str

    def __repr__(self) -> str:
        return f"Certificates(issuer={self.issuer!r}, end={self.end!r})"


def read_certificates(authority: Path, certificate: Path, key: Path) -> Certificates:
    """Read the three files of one side.

    Raises:
        CertificateError: a file is unreadable or not what it should be, a certificate is not valid now, or the key is
            another's.
    """
    own = _read_chain(certificate)[0]
    _check_dates(certificate, own)
    for trusted in _read_chain(authority):
        _check_dates(authority, trusted)
    text = _read(key)
    try:
        private = serialization.load_pem_private_key(text, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"{key} holds no unencrypted private key in PEM form") from error
    if _public(private.public_key()) != _public(own.public_key()):
        raise CertificateError(f"the key in {key} does not belong to the certificate in {certificate}")
    return Certificates(
        _read(authority), _read(certificate), text, own.not_valid_after_utc, own.issuer.rfc4514_string()
    )


def is_loopback(host: str) -> bool:
    """Whether what is sent to this host, or comes in on it, stays on this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            text = file.read(limits.PEM_BYTES_MAX + 1)
    except OSError as error:
        raise CertificateError(f"cannot read {path}: {error.strerror}") from error
    if len(text) > limits.PEM_BYTES_MAX:
        raise CertificateError(f"{path} has over {limits.PEM_BYTES_MAX} bytes")
    return text


def _read_chain(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_read(path))
    except ValueError as error:
        raise CertificateError(f"{path} holds no certificate in PEM form") from error


def _check_dates(path: Path, certificate: x509.Certificate) -> None:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begin <= datetime.now(timezone.utc) < end:
        raise CertificateError(
            f"the certificate in {path} is valid from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC, not now"
        )


def _public(key: object) -> bytes:
    if not hasattr(key, "public_bytes"):
        return b""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return bytes(key.public_bytes(serialization.Encoding.DER, form))
