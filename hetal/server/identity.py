"""Who calls: the name of a client certificate, or the one owner of a server without TLS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from hetal import limits
from hetal.errors import UnauthenticatedError

LOCAL: Final = "local"
FINGERPRINT: Final = "sha256:"


@dataclass(frozen=True, slots=True)
class Caller:
    """One call's caller.

    Attributes:
        owner: of the jobs that it makes: ``cn:NAME``, ``uri:URI`` or ``local``.
        all_owners: whether this call reaches the jobs of others too.
    """

    owner: str
    all_owners: bool = False

    def sees(self, owner: str) -> bool:
        return self.all_owners or owner == self.owner


# Set in the task that gRPC makes for a call, once the call is authorised.
current: Final[ContextVar[Caller | None]] = ContextVar("caller", default=None)


def caller() -> Caller:
    """Who made the present call."""
    found = current.get()
    if found is None:
        raise UnauthenticatedError("the call was not authorised")
    return found


def identify(auth: Mapping[str, Sequence[bytes]]) -> tuple[str, str]:
    """Owner behind gRPC's authentication context, and ``sha256:`` with its certificate's fingerprint, if it has one.

    Raises:
        UnauthenticatedError: no certificate, one past its end, or one that does not name exactly one identity.
    """
    if list(auth.get("transport_security_type", ())) == [b"insecure"]:
        return LOCAL, ""
    certificates = auth.get("x509_pem_cert", ())
    if len(certificates) != 1:
        raise UnauthenticatedError("the call came without a client certificate")
    owner, end, fingerprint = _named(bytes(certificates[0]))
    # TLS looked at the date once, when the connection was made; connections live for days.
    if datetime.now(timezone.utc) >= end:
        raise UnauthenticatedError(f"the client certificate of {owner} ended at {end:%Y-%m-%d %H:%M} UTC")
    return owner, fingerprint


@lru_cache(maxsize=1024)
def _named(pem: bytes) -> tuple[str, datetime, str]:
    """Identity, end and fingerprint of a certificate.

    The identity is its one URI among the alternative names, else its one common name.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        end = certificate.not_valid_after_utc
        common = [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        uris = _uris(certificate)
    except (ValueError, x509.UnsupportedGeneralNameType, x509.DuplicateExtension) as error:
        raise UnauthenticatedError(f"the client certificate is malformed: {error}") from error
    kind, names = ("uri", uris) if uris else ("cn", common)
    if len(names) != 1:
        raise UnauthenticatedError(
            f"the client certificate has {len(uris)} URIs and {len(common)} common names; one of either names the owner"
        )
    owner = f"{kind}:{names[0]}"
    if not names[0] or not owner.isprintable() or len(owner) > limits.OWNER_CHARS_MAX:
        raise UnauthenticatedError(
            f"the name in the client certificate is empty, not printable or over {limits.OWNER_CHARS_MAX} characters"
        )
    return owner, end, FINGERPRINT + certificate.fingerprint(hashes.SHA256()).hex()


def _uris(certificate: x509.Certificate) -> list[str]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return extension.value.get_values_for_type(x509.UniformResourceIdentifier)
