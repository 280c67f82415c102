"""``hetal certs``: an authority, a server's and clients' certificates for tests. Production brings its own."""

from __future__ import annotations

import argparse
import ipaddress
import os
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hetal import limits
from hetal.errors import CertificateError, InputError
from hetal.protocol.transport_security import TEST_ORGANIZATION, read_certificates

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Subparsers = Any

DAYS: Final = 7
HOSTS: Final = ("localhost", "127.0.0.1", "::1")
CLIENTS: Final = ("client",)
# Clocks of two machines differ.
BEGIN_EARLIER: Final = timedelta(minutes=5)
AUTHORITY, SERVER, CLIENT = "ca", "server", "client-{}"
NAME_CHARS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_@")


@dataclass(frozen=True, slots=True)
class Issuer:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "certs",
        help="make certificates for tests",
        description="Make an authority, a server's certificate and clients' certificates in DIR, for tests alone: the "
        "authority's key lies beside them. Where DIR has an authority already, it signs what is missing.",
    )
    parser.add_argument("dir", type=Path, metavar="DIR")
    parser.add_argument(
        "--host",
        action="append",
        default=[],
        metavar="NAME",
        help=f"name or address that clients connect to, besides {', '.join(HOSTS)}; may be repeated",
    )
    parser.add_argument(
        "--client",
        action="append",
        default=[],
        metavar="NAME",
        help=f"common name of a client's certificate; may be repeated (default {CLIENTS[0]})",
    )
    parser.add_argument("--days", type=float, default=DAYS, metavar="N", help=f"of validity (default {DAYS})")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    made = make_certificates(args.dir, args.host, args.client or CLIENTS, timedelta(days=args.days))
    for path in made:
        print(path)
    print("for tests alone: whoever reads the authority's key can make certificates of any name")
    return 0


def make_certificates(
    directory: Path, hosts: list[str], clients: list[str] | tuple[str, ...], validity: timedelta
) -> list[Path]:
    """Write what is missing of ``ca``, ``server`` and ``client-NAME``, each a ``.pem`` and a ``-key.pem`` of mode 0600.

    Returns the files written.

    Raises:
        InputError: a name or the validity is unusable.
        CertificateError: the directory's authority is unusable.
    """
    if not timedelta(0) < validity <= timedelta(days=limits.TEST_CERTIFICATE_DAYS_MAX):
        raise InputError(f"a validity of {validity} is not within {limits.TEST_CERTIFICATE_DAYS_MAX} days")
    for name in (*hosts, *clients):
        if not 1 <= len(name) <= 64 or not (set(name) <= NAME_CHARS or _is_address(name)):
            raise InputError(f"{name!r} is no name: 1 to 64 letters, digits and signs of .-_@")
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    made: list[Path] = []
    if (directory / f"{AUTHORITY}.pem").exists():
        issuer = _load(directory)
    else:
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = Issuer(_certificate("hetal test authority", key, None, validity, []), key)
        made += _write(directory, AUTHORITY, issuer.certificate, key)
    names = [(SERVER, "hetal test server", [_host(name) for name in dict.fromkeys([*HOSTS, *hosts])])]
    names += [(CLIENT.format(name), name, []) for name in dict.fromkeys(clients)]
    for stem, common, alternatives in names:
        if not (directory / f"{stem}.pem").exists():
            key = ec.generate_private_key(ec.SECP256R1())
            made += _write(directory, stem, _certificate(common, key, issuer, validity, alternatives), key)
    return made


def _certificate(
    common: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: Issuer | None,
    validity: timedelta,
    alternatives: list[x509.GeneralName],
) -> x509.Certificate:
    """An authority without ``issuer``, a server with ``alternatives``, else a client."""
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, TEST_ORGANIZATION),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )
    now = datetime.now(timezone.utc)
    end = now + validity
    if issuer is not None:
        end = min(end, issuer.certificate.not_valid_after_utc)
    signer = issuer.key if issuer is not None else key
    authority = issuer is None
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer is not None else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BEGIN_EARLIER)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=0 if authority else None), critical=True)
        .add_extension(_usage(authority), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
            critical=False,
        )
    )
    if not authority:
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if alternatives else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    return builder.sign(signer, hashes.SHA256())


def _usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _host(name: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_address(name)) if _is_address(name) else x509.DNSName(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _load(directory: Path) -> Issuer:
    certificate, key = directory / f"{AUTHORITY}.pem", directory / f"{AUTHORITY}-key.pem"
    found = read_certificates(certificate, certificate, key)
    private = serialization.load_pem_private_key(found.key, password=None)
    if not isinstance(private, ec.EllipticCurvePrivateKey) or TEST_ORGANIZATION not in found.issuer:
        raise CertificateError(f"{certificate} is no authority that `hetal certs` made")
    return Issuer(x509.load_pem_x509_certificate(found.chain), private)


def _write(directory: Path, stem: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> list[Path]:
    secret, public = directory / f"{stem}-key.pem", directory / f"{stem}.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    # A key without its certificate is left over from a run that broke off.
    secret.unlink(missing_ok=True)
    with os.fdopen(os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(private)
    public.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return [public, secret]
