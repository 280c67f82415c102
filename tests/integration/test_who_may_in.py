"""Who may in: real server processes, real certificates, every call with another owner's job."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from hetal import limits
from hetal._pb import hetal_pb2 as pb
from hetal._pb import hetal_pb2_grpc
from hetal.ckks.presets import preset
from hetal.cli.certs import make_certificates
from hetal.client import Client, Tls
from hetal.errors import HetalError, InputError, PlaintextRefusedError
from hetal.protocol.channel_options import client_options
from hetal.protocol.job import KEYS_MULT, PROTOCOL_VERSION, JobSpec
from hetal.protocol.wire import manifest_to_proto
from hetal.server.app import Server
from hetal.server.authorization import RULES
from hetal.server.config import ServerConfig

SPEC = JobSpec(
    parameters=preset("insecure-test"),
    train_samples=8,
    validation_samples=4,
    features=3,
    classes=2,
    batch_size=8,
    epochs_max=3,
)
BLOBS = {KEYS_MULT: 1 << 20, "train/x/00000": 1 << 20}
DATA = b"ciphertext" * 100
OPERATOR = "cn:ops"


@dataclass(frozen=True, slots=True)
class Certs:
    """What `hetal certs` made, twice: one authority that the server knows, one that it does not."""

    known: Path
    other: Path

    def files(self, name: str, ca: Path | None = None) -> Tls:
        here = self.other if name == "mallory" else self.known
        stem = name if name == "server" else f"client-{name}"
        return Tls(ca=ca or self.known / "ca.pem", cert=here / f"{stem}.pem", key=here / f"{stem}-key.pem")

    def serve_options(self) -> list[str]:
        files = {"--tls-cert": "server.pem", "--tls-key": "server-key.pem", "--tls-client-ca": "ca.pem"}
        return [text for option, name in files.items() for text in (option, str(self.known / name))]


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Certs:
    found = Certs(tmp_path_factory.mktemp("known"), tmp_path_factory.mktemp("other"))
    make_certificates(found.known, [], ["alice", "bob", "ops"], timedelta(days=1))
    make_certificates(found.other, [], ["mallory"], timedelta(days=2))
    return found


@asynccontextmanager
async def serving(data: Path, *options: str, host: str = "127.0.0.1") -> AsyncIterator[str]:
    """Address of a server process that ends with the block."""
    log_path = data.with_suffix(".log")
    with log_path.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "hetal.cli.main", "serve", "--listen", f"{host}:0", "--data-dir", str(data)),
            *("--allow-insecure", *options),
            stdout=subprocess.PIPE,
            stderr=log,
        )
    try:
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        assert line.startswith("listening on "), log_path.read_text()
        yield "127.0.0.1:" + line.strip().rpartition(":")[2]
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await asyncio.wait_for(process.wait(), 30)


@asynccontextmanager
async def stub(address: str, tls: Tls | None) -> AsyncIterator[Any]:
    credentials = tls.credentials() if tls is not None else None
    options = client_options()
    channel = (
        grpc.aio.secure_channel(address, credentials, options=options)
        if credentials is not None
        else grpc.aio.insecure_channel(address, options=options)
    )
    async with channel:
        yield hetal_pb2_grpc.HetalStub(channel)


async def code_of(address: str, tls: Tls | None) -> tuple[str, str]:
    """Code and message with which the client library gives up."""
    with pytest.raises(HetalError) as caught:
        async with Client(address, tls) as client:
            await asyncio.wait_for(client.info(), 30)
    return caught.value.code, caught.value.message


# -- the connection -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "192.0.2.1", "db.example", "127.0.0.1.example", ""])
def test_other_machines_need_certificates(host: str, tmp_path: Path) -> None:
    with pytest.raises(PlaintextRefusedError) as caught:
        ServerConfig(data_dir=tmp_path, host=host).check()
    assert "--tls-cert" in caught.value.hint and "--allow-plaintext" in caught.value.hint
    ServerConfig(data_dir=tmp_path, host=host, allow_plaintext=True).check()
    with pytest.raises(PlaintextRefusedError) as caught:
        Client(f"{host}:7443")
    assert "--ca" in caught.value.hint


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "[::1]", "localhost"])
def test_this_machine_needs_none(host: str, tmp_path: Path) -> None:
    ServerConfig(data_dir=tmp_path, host=host).check()


def test_serve_on_all_addresses_is_refused_with_a_hint(tmp_path: Path, certs: Certs) -> None:
    command = [sys.executable, "-m", "hetal.cli.main", "serve", "--listen", "0.0.0.0:0", "--data-dir", str(tmp_path)]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2
    assert "error [PLAINTEXT_REFUSED]" in refused.stderr and "hint: Give --tls-cert" in refused.stderr
    assert not list(tmp_path.iterdir())
    half = subprocess.run([*command, *certs.serve_options()[:2]], capture_output=True, text=True, timeout=60)
    assert half.returncode == 2
    assert "TLS lacks --tls-key and --tls-client-ca" in half.stderr


async def test_right_certificates_on_all_addresses(tmp_path: Path, certs: Certs) -> None:
    async with serving(tmp_path / "data", *certs.serve_options(), host="0.0.0.0") as address:
        async with Client(address, certs.files("alice")) as client:
            assert (await client.info()).insecure_allowed
        tls = certs.files("alice")
        files = ["--ca", str(tls.ca), "--cert", str(tls.cert), "--key", str(tls.key)]
        listed = await hetal("jobs", "list", "--json", "--server", address, *files)
        assert (listed.returncode, listed.stdout) == (0, "[]\n")
        shares = await hetal("jobs", "shares", "--server", address, *files)
        assert shares.stdout.splitlines()[:2] == ["cn:alice", "unfinished jobs         0 of 100"]
        half = await hetal("jobs", "list", "--server", address, *files[:2])
        assert half.returncode == 2 and "TLS lacks --cert and --key" in half.stderr
    assert '"these certificates are for tests"' in (tmp_path / "data.log").read_text()


async def test_wrong_certificates_say_what_is_wrong(tmp_path: Path, certs: Certs) -> None:
    async with serving(tmp_path / "tls", *certs.serve_options(), host="0.0.0.0") as address:
        code, message = await code_of(address, certs.files("alice", ca=certs.other / "ca.pem"))
        assert code == "TLS_REFUSED" and "certificate of the server" in message and "issuer" in message
        for name in ("mallory", "server"):
            code, message = await code_of(address, certs.files(name))
            assert code == "TLS_REFUSED" and "does not accept the client certificate" in message
        code, message = await code_of(address, None)
        assert code == "TLS_REFUSED" and "speaks TLS" in message
        # A name that the server's certificate does not have.
        code, message = await code_of(address.replace("127.0.0.1", "127.0.0.2"), certs.files("alice"))
        assert code == "TLS_REFUSED" and "mismatch" in message
        # The client library always shows a certificate; others need not.
        await nobody(address, grpc.ssl_channel_credentials((certs.known / "ca.pem").read_bytes()))
        async with Client(address, certs.files("alice")) as client:
            assert (await client.info()).version
    async with serving(tmp_path / "plain") as address:
        code, message = await code_of(address, certs.files("alice"))
        assert code == "TLS_REFUSED" and "speaks no TLS" in message


async def test_certificates_end(tmp_path: Path, certs: Certs) -> None:
    known = tmp_path / "known"
    shutil.copytree(certs.known, known)
    async with serving(tmp_path / "data", *certs.serve_options()) as address:
        life = timedelta(seconds=5)
        make_certificates(known, [], ["late"], life)
        late = Tls(ca=known / "ca.pem", cert=known / "client-late.pem", key=known / "client-late-key.pem")
        credentials = late.credentials()
        channel = grpc.aio.secure_channel(address, credentials)
        calls = hetal_pb2_grpc.HetalStub(channel)
        assert (await calls.GetServerInfo(pb.GetServerInfoRequest())).version
        await asyncio.sleep(life.total_seconds())
        # The open connection does not outlive its certificate, nor does a new one begin with it.
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await calls.GetServerInfo(pb.GetServerInfoRequest())
        assert code_and_text(caught.value)[0] == "UNAUTHENTICATED"
        await channel.close()
        await nobody(address, credentials)
        code, message = await code_of(address, late)
        assert code == "CERTIFICATE_INVALID" and "client-late.pem" in message and "not now" in message


async def test_files_that_do_not_fit_are_named(tmp_path: Path, certs: Certs) -> None:
    alice, bob = certs.files("alice"), certs.files("bob")
    junk = tmp_path / "junk.pem"
    junk.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    huge = tmp_path / "huge.pem"
    huge.write_bytes(bytes(limits.PEM_BYTES_MAX + 1))
    cases = [
        (Tls(ca=alice.ca, cert=alice.cert, key=bob.key), bob.key, "does not belong"),
        (Tls(ca=alice.ca, cert=tmp_path / "none.pem", key=bob.key), tmp_path / "none.pem", "No such file"),
        (Tls(ca=junk, cert=alice.cert, key=alice.key), junk, "no certificate"),
        (Tls(ca=alice.ca, cert=alice.cert, key=alice.cert), alice.cert, "no unencrypted private key"),
        (Tls(ca=huge, cert=alice.cert, key=alice.key), huge, "bytes"),
        (Tls(ca=tmp_path, cert=alice.cert, key=alice.key), tmp_path, "directory"),
    ]
    for tls, path, text in cases:
        code, message = await code_of("192.0.2.1:1", tls)
        assert code == "CERTIFICATE_INVALID" and str(path) in message and text in message, message
        config = ServerConfig(data_dir=tmp_path / "data", tls_cert=tls.cert, tls_key=tls.key, tls_client_ca=tls.ca)
        with pytest.raises(HetalError) as caught:
            await Server.start(config)
        assert caught.value.code == "CERTIFICATE_INVALID" and str(path) in caught.value.message
        assert not (tmp_path / "data").exists()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end_of(path: Path) -> float:
    return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc.timestamp()


async def certificate_end(http: str) -> float:
    """What Prometheus would read."""
    with await asyncio.to_thread(urllib.request.urlopen, f"http://{http}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    (value,) = [line.split()[1] for line in lines if line.startswith("hetal_certificate_end_timestamp_seconds ")]
    return float(value)


async def test_renewed_files_are_taken_up_and_broken_ones_are_not(tmp_path: Path, certs: Certs) -> None:
    mine = Certs(tmp_path / "known", certs.other)
    shutil.copytree(certs.known, mine.known)
    http = f"127.0.0.1:{free_port()}"
    async with serving(tmp_path / "data", *mine.serve_options(), "--http-address", http) as address:
        assert await certificate_end(http) == end_of(certs.known / "server.pem")
        (mine.known / "server-key.pem").write_text("broken")
        async with Client(address, certs.files("alice")) as client:
            assert (await client.info()).version
        # From now on clients of the other authority alone, and a certificate that the old one did not sign.
        for name in ("ca.pem", "server.pem", "server-key.pem"):
            shutil.copy(certs.other / name, mine.known / name)
        async with Client(address, certs.files("mallory", ca=certs.other / "ca.pem")) as client:
            assert (await client.info()).version
        code, _ = await code_of(address, certs.files("alice"))
        assert code == "TLS_REFUSED"
        assert await certificate_end(http) == end_of(certs.other / "server.pem")
    log = (tmp_path / "data.log").read_text()
    assert log.count('"certificates not renewed"') == 1 and '"certificates renewed"' in log


# -- jobs of others -----------------------------------------------------------------------------------------------


def manifest(tag: str = "tag") -> pb.Manifest:
    return manifest_to_proto(SPEC, key_tag=tag, blobs=BLOBS)


def create(key: str = "key", tag: str = "tag") -> pb.CreateJobRequest:
    return pb.CreateJobRequest(idempotency_key=key, manifest=manifest(tag), protocol_version=PROTOCOL_VERSION)


def upload(job_id: str) -> list[pb.UploadBlobRequest]:
    digest = hashlib.sha256(DATA).digest()
    header = pb.UploadHeader(job_id=job_id, name=KEYS_MULT, bytes=len(DATA), sha256=digest)
    return [pb.UploadBlobRequest(header=header), pb.UploadBlobRequest(chunk=pb.UploadChunk(data=DATA))]


async def all_of(stream: Any) -> list[Any]:
    return [message async for message in stream]


def predict(job_id: str) -> list[pb.PredictRequest]:
    header = pb.PredictHeader(job_id=job_id, samples=1, bytes=4, sha256=bytes(32))
    return [pb.PredictRequest(header=header), pb.PredictRequest(chunk=pb.UploadChunk(data=b"data"))]


Call = Callable[[Any, str], Awaitable[Any]]
# Every call that names a job, with a stub and the job's id.
ON_A_JOB: dict[str, Call] = {
    "GetJob": lambda calls, job: calls.GetJob(pb.GetJobRequest(job_id=job)),
    "CancelJob": lambda calls, job: calls.CancelJob(pb.CancelJobRequest(job_id=job)),
    "DeleteJob": lambda calls, job: calls.DeleteJob(pb.DeleteJobRequest(job_id=job)),
    "StatBlobs": lambda calls, job: calls.StatBlobs(pb.StatBlobsRequest(job_id=job)),
    "UploadBlob": lambda calls, job: calls.UploadBlob(iter(upload(job))),
    "Train": lambda calls, job: all_of(calls.Train(iter([pb.TrainRequest(job_id=job, attach=pb.Attach())]))),
    "DownloadModel": lambda calls, job: all_of(calls.DownloadModel(pb.DownloadRequest(job_id=job, blob="model"))),
    "Predict": lambda calls, job: all_of(calls.Predict(iter(predict(job)))),
}
WITHOUT_A_JOB = {"GetServerInfo", "GetShares", "CreateJob", "ListJobs"}
GHOST = "0" * 32


def code_and_text(error: grpc.aio.AioRpcError) -> tuple[Any, str]:
    return dict(error.trailing_metadata() or ()).get("hetal-code"), error.details() or ""


async def outcome(call: Awaitable[Any]) -> tuple[Any, ...]:
    """Everything that a caller sees of a failed call but its request's name; empty for one that succeeds."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        metadata = dict(error.trailing_metadata() or ())
        return error.code(), error.details(), metadata["hetal-code"], metadata["hetal-hint-bin"], sorted(metadata)
    return ()


async def nobody(address: str, credentials: Any) -> None:
    """No call passes with these credentials."""
    async with grpc.aio.secure_channel(address, credentials) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await hetal_pb2_grpc.HetalStub(channel).GetServerInfo(pb.GetServerInfoRequest(), timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_every_call_of_the_service_is_tried() -> None:
    methods = {method.name for method in pb.DESCRIPTOR.services_by_name["Hetal"].methods}
    assert methods == set(ON_A_JOB) | WITHOUT_A_JOB


async def test_another_owners_job_does_not_exist(tmp_path: Path, certs: Certs) -> None:
    options = [*certs.serve_options(), "--operators", OPERATOR]
    async with (
        serving(tmp_path / "data", *options) as address,
        stub(address, certs.files("alice")) as alice,
        stub(address, certs.files("bob")) as bob,
        stub(address, certs.files("ops")) as ops,
    ):
        job = await alice.CreateJob(create())
        assert job.owner == "cn:alice"
        await alice.UploadBlob(iter(upload(job.id)))
        for name, call in ON_A_JOB.items():
            missing = await outcome(call(bob, GHOST))
            assert missing[2] == "JOB_NOT_FOUND", name
            found = await outcome(call(bob, job.id))
            assert tuple(str(part).replace(job.id, GHOST) for part in found) == tuple(map(str, missing)), name
            if name not in ("GetJob", "CancelJob"):
                assert (await outcome(call(ops, job.id)))[2] == "JOB_NOT_FOUND", name
        assert (await bob.ListJobs(pb.ListJobsRequest())).jobs == []

        # The same key and the same content of another owner: a job of its own, and bytes that it has to send.
        twin = await bob.CreateJob(create(tag="other"))
        assert (twin.owner, twin.id != job.id) == ("cn:bob", True)
        assert not (await bob.UploadBlob(iter(upload(twin.id)[:1]))).complete
        assert (await alice.CreateJob(create())).id == job.id
        assert [found.id for found in (await bob.ListJobs(pb.ListJobsRequest())).jobs] == [twin.id]

        # Nothing of that touched alice's job; the operator sees both, and ends one.
        kept = await alice.GetJob(pb.GetJobRequest(job_id=job.id))
        assert (kept.state, kept.bytes_stored) == (pb.JOB_STATE_UPLOADING, len(DATA))
        assert {found.owner for found in (await ops.ListJobs(pb.ListJobsRequest())).jobs} == {"cn:alice", "cn:bob"}
        assert (await ops.GetJob(pb.GetJobRequest(job_id=job.id))).owner == "cn:alice"
        assert (await ops.CancelJob(pb.CancelJobRequest(job_id=twin.id))).state == pb.JOB_STATE_CANCELLED
        assert (await alice.DeleteJob(pb.DeleteJobRequest(job_id=job.id))).bytes_freed == len(DATA)
        # Nor does anybody else learn that there was one.
        for calls in (bob, ops):
            assert (await outcome(ON_A_JOB["DeleteJob"](calls, job.id)))[2] == "JOB_NOT_FOUND"


async def test_owners_do_not_mix_in_simultaneous_calls(tmp_path: Path, certs: Certs) -> None:
    async with (
        serving(tmp_path / "data", *certs.serve_options()) as address,
        stub(address, certs.files("alice")) as alice,
        stub(address, certs.files("bob")) as bob,
    ):
        made = await asyncio.gather(*(who.CreateJob(create(str(n))) for n in range(10) for who in (alice, bob)))
        assert [job.owner for job in made] == ["cn:alice", "cn:bob"] * 10


async def test_blocked_owners_and_certificates(tmp_path: Path, certs: Certs) -> None:
    mine = Certs(tmp_path / "known", certs.other)
    shutil.copytree(certs.known, mine.known)
    stolen = x509.load_pem_x509_certificate((mine.known / "client-bob.pem").read_bytes())
    blocked = ["cn:alice", "sha256:" + stolen.fingerprint(hashes.SHA256()).hex(":").upper()]
    async with serving(tmp_path / "data", *mine.serve_options(), "--blocked", *blocked) as address:
        for name in ("alice", "bob"):
            async with stub(address, mine.files(name)) as calls:
                assert (await outcome(calls.ListJobs(pb.ListJobsRequest())))[1:3] == (
                    f"cn:{name} is blocked",
                    "PERMISSION_DENIED",
                )
        for end in (".pem", "-key.pem"):
            (mine.known / f"client-bob{end}").unlink()
        make_certificates(mine.known, [], ["bob"], timedelta(days=1))
        async with Client(address, mine.files("bob")) as client:
            assert await client.jobs() == []
    log = (tmp_path / "data.log").read_text()
    assert (
        'event="call of a blocked owner" owner=cn:bob' in log
        and "rpc=ListJobs code=PERMISSION_DENIED" in log
        and "rpc=ListJobs owner=cn:bob code=OK" in log
    )


def test_operators_and_blocked_are_identities(tmp_path: Path) -> None:
    for option in ("operators", "blocked"):
        with pytest.raises(InputError, match="'ops' is no identity"):
            ServerConfig(data_dir=tmp_path, **{option: ("cn:a", "ops")}).check()


async def test_a_call_without_a_rule_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = await Server.start(ServerConfig(data_dir=tmp_path, allow_insecure=True))
    monkeypatch.delitem(RULES, "/hetal.v1.Hetal/ListJobs")
    async with stub(f"127.0.0.1:{server.port}", None) as calls:
        assert (await outcome(calls.ListJobs(pb.ListJobsRequest())))[2] == "PERMISSION_DENIED"
        assert (await calls.CreateJob(create())).owner == "local"
    await server.stop(grace_s=1)


# -- the command --------------------------------------------------------------------------------------------------


async def hetal(*arguments: str) -> subprocess.CompletedProcess[str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "hetal.cli.main", *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return subprocess.CompletedProcess(arguments, process.returncode or 0, out.decode(), err.decode())


async def test_certs_writes_what_is_missing(tmp_path: Path) -> None:
    here = tmp_path / "certs"
    first = await hetal("certs", str(here), "--host", "train.example", "--client", "alice")
    assert first.returncode == 0 and "for tests alone" in first.stdout
    stems = ("ca", "server", "client-alice")
    assert {path.name for path in here.iterdir()} == {f"{stem}{end}" for stem in stems for end in (".pem", "-key.pem")}
    assert {path.stat().st_mode & 0o777 for path in here.glob("*-key.pem")} == {0o600}
    before = {path: path.read_bytes() for path in here.iterdir()}
    second = await hetal("certs", str(here), "--client", "alice", "--client", "bob")
    assert [Path(line).name for line in second.stdout.splitlines()[:-1]] == ["client-bob.pem", "client-bob-key.pem"]
    assert all(path.read_bytes() == content for path, content in before.items())
    text = (
        subprocess.run(
            ["openssl", "x509", "-in", str(here / "server.pem"), "-noout", "-text"], capture_output=True, text=True
        )
        if shutil.which("openssl")
        else None
    )
    if text is not None:
        assert "DNS:train.example" in text.stdout and "IP Address:127.0.0.1" in text.stdout
        assert "not for production" in text.stdout
    for wrong in (["--client", "../x"], ["--host", ""], ["--days", "0"], ["--days", "400"]):
        assert "INVALID_INPUT" in (await hetal("certs", str(here), *wrong)).stderr


def test_a_foreign_authority_signs_nothing(tmp_path: Path, certs: Certs) -> None:
    for name in ("ca.pem", "ca-key.pem"):
        shutil.copy((certs.known if name == "ca.pem" else certs.other) / name, tmp_path / name)
    with pytest.raises(HetalError, match="does not belong"):
        make_certificates(tmp_path, [], ["eve"], timedelta(days=1))
    with pytest.raises(InputError):
        make_certificates(tmp_path, [], ["eve" * 30], timedelta(days=1))
    assert sorted(os.listdir(tmp_path)) == ["ca-key.pem", "ca.pem"]
