"""Owners from certificates: exactly one name, whatever else a certificate holds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hetal import limits
from hetal._pb import hetal_pb2
from hetal.errors import UnauthenticatedError
from hetal.server.authorization import RULES, Reach
from hetal.server.identity import LOCAL, Caller, caller, identify

KEY = ec.generate_private_key(ec.SECP256R1())


def auth(
    commons: Sequence[str] = (), uris: Sequence[str] = (), age: timedelta = timedelta(0)
) -> dict[str, list[bytes]]:
    """What gRPC tells of a connection with such a certificate, valid for an hour from ``age`` ago on."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common) for common in commons])
    begin = datetime.now(timezone.utc) - age - timedelta(minutes=1)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(KEY.public_key())
    builder = builder.serial_number(7).not_valid_before(begin).not_valid_after(begin + timedelta(hours=1))
    others: list[x509.GeneralName] = [x509.DNSName("localhost"), x509.RFC822Name("a@b.example")]
    names = [*others, *(x509.UniformResourceIdentifier(uri) for uri in uris)]
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    pem = builder.sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    return {"transport_security_type": [b"ssl"], "x509_pem_cert": [pem]}


@pytest.mark.parametrize(
    ("commons", "uris", "owner"),
    [
        (["alice"], [], "cn:alice"),
        (["Ünal & Söhne"], [], "cn:Ünal & Söhne"),
        ([], ["spiffe://lab.example/alice"], "uri:spiffe://lab.example/alice"),
        (["bob"], ["spiffe://lab.example/alice"], "uri:spiffe://lab.example/alice"),
        (["bob", "carol"], ["urn:alice"], "uri:urn:alice"),
        (["local"], [], "cn:local"),
        (["uri:urn:alice"], [], "cn:uri:urn:alice"),
    ],
)
def test_one_name_is_the_owner(commons: list[str], uris: list[str], owner: str) -> None:
    assert identify(auth(commons, uris))[0] == owner


@pytest.mark.parametrize(
    ("commons", "uris"),
    [
        ([], []),
        (["alice", "bob"], []),
        (["alice"], ["urn:alice", "urn:bob"]),
        (["new\nline"], []),
        ([], ["urn:" + "x" * limits.OWNER_CHARS_MAX]),
    ],
)
def test_no_name_or_several_are_nobody(commons: list[str], uris: list[str]) -> None:
    with pytest.raises(UnauthenticatedError):
        identify(auth(commons, uris))


def test_a_certificate_past_its_end_is_nobody() -> None:
    with pytest.raises(UnauthenticatedError, match="ended at"):
        identify(auth(["alice"], age=timedelta(hours=2)))


def test_only_an_insecure_connection_is_local() -> None:
    assert identify({"transport_security_type": [b"insecure"]}) == (LOCAL, "")
    pem = auth(["alice"])["x509_pem_cert"]
    for context in (
        {},
        {"transport_security_type": [b"ssl"]},
        {"transport_security_type": [b"ssl"], "x509_pem_cert": [b"?"]},
        {"transport_security_type": [b"ssl"], "x509_pem_cert": pem * 2},
        {"transport_security_type": [b"insecure", b"ssl"]},
    ):
        with pytest.raises(UnauthenticatedError):
            identify(context)


def test_an_owner_sees_its_own_and_an_operator_all() -> None:
    assert Caller("cn:alice").sees("cn:alice")
    assert not Caller("cn:alice").sees("cn:Alice")
    assert Caller("cn:ops", all_owners=True).sees("cn:alice")


def test_outside_a_call_nobody_calls() -> None:
    with pytest.raises(UnauthenticatedError):
        caller()


def test_every_call_has_a_rule_and_operators_only_look_and_cancel() -> None:
    service = hetal_pb2.DESCRIPTOR.services_by_name["Hetal"]
    assert {f"/{service.full_name}/{method.name}" for method in service.methods} == {
        name for name in RULES if name.startswith("/hetal.")
    }
    wide = {name.rpartition("/")[2] for name, reach in RULES.items() if reach is Reach.OWN_OR_OPERATOR}
    assert wide == {"GetJob", "ListJobs", "CancelJob"}
