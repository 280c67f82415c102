"""The journal names what left the client: sizes, hashes, kinds, readers, job by job."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hetal._pb import hetal_pb2 as pb
from hetal._pb.hetal_pb2_grpc import HetalStub
from hetal.ckks.framing import Kind, frame
from hetal.client.journal import CLIENT, EVERYBODY, READERS, UNKNOWN, Journal, JournalledChannel, Search, wire_messages
from hetal.errors import InputError

FRAMED = frame(Kind.CIPHERTEXTS, bytes(32), b"payload" * 10)


class Channel:
    """Takes bytes, as gRPC does without a serialiser, and keeps them."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        def method(path: str, **options: Any) -> Any:
            assert "request_serializer" not in options

            async def call(request: Any, **_: Any) -> None:
                if isinstance(request, bytes):
                    self.sent.append(request)
                else:
                    self.sent.extend([part async for part in request])

            return call

        return method


async def parts(name: str, data: bytes, offset: int = 0) -> AsyncIterator[pb.UploadBlobRequest]:
    yield pb.UploadBlobRequest(header=pb.UploadHeader(job_id="job", name=name, bytes=len(data), offset=offset))
    yield pb.UploadBlobRequest(chunk=pb.UploadChunk(offset=offset, data=data))


async def test_every_message_is_noted_as_it_was_sent(tmp_path: Path) -> None:
    channel, journal = Channel(), Journal(tmp_path / "journal", tmp_path / "wire")
    stub = HetalStub(JournalledChannel(channel, journal))
    await stub.GetJob(pb.GetJobRequest(job_id="job"))
    await stub.UploadBlob(parts("train/x/00000", FRAMED))
    entries, searches = journal.read("job")
    assert searches == []
    assert [(e.rpc, e.kind, e.name) for e in entries] == [
        ("GetJob", "request", ""),
        ("UploadBlob", "blob header", "train/x/00000"),
        ("UploadBlob", "encrypted features", "train/x/00000"),
    ]
    assert [e.readers for e in entries] == [EVERYBODY, EVERYBODY, CLIENT]
    assert [(e.size_bytes, e.sha256) for e in entries] == [
        (len(data), hashlib.sha256(data).hexdigest()) for data in channel.sent
    ]
    wire = journal.wire_file("job")
    assert wire is not None
    assert wire.read_bytes() == b"".join(channel.sent)
    assert [whole for _, whole in wire_messages(wire, entries)] == [True] * 3
    wire.write_bytes(b"\0" + wire.read_bytes()[1:])
    assert [whole for _, whole in wire_messages(wire, entries)] == [False, True, True]


@pytest.mark.parametrize(
    ("name", "data", "offset", "kind"),
    [
        ("keys/mult", frame(Kind.MULT_KEY, bytes(32), b"k"), 0, "evaluation keys"),
        ("train/y/00001", FRAMED, 0, "encrypted labels"),
        ("initial/weights", FRAMED, 0, "encrypted weights"),
        ("train/x/00000", FRAMED, 4, "encrypted features"),
        ("train/x/00000", b"in the clear" * 20, 0, UNKNOWN),
        ("train/x/00000", b"", 0, UNKNOWN),
        ("keys/mult", FRAMED, 0, UNKNOWN),
        ("other", FRAMED, 0, UNKNOWN),
    ],
)
async def test_a_blob_is_what_its_bytes_say(tmp_path: Path, name: str, data: bytes, offset: int, kind: str) -> None:
    journal = Journal(tmp_path)
    await HetalStub(JournalledChannel(Channel(), journal)).UploadBlob(parts(name, data, offset))
    chunk = journal.read("job")[0][-1]
    assert chunk.kind == kind
    assert chunk.readers.startswith("anybody") == (kind == UNKNOWN)


async def test_a_training_and_a_prediction_are_told_apart(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    stub = HetalStub(JournalledChannel(Channel(), journal))

    async def answers() -> AsyncIterator[pb.TrainRequest]:
        attach = pb.TrainRequest(job_id="job")
        attach.attach.SetInParent()
        yield attach
        yield pb.TrainRequest(stop=pb.Stop(epoch=1))

    async def features() -> AsyncIterator[pb.PredictRequest]:
        yield pb.PredictRequest(header=pb.PredictHeader(job_id="job"))
        yield pb.PredictRequest(chunk=pb.UploadChunk(data=FRAMED))

    await stub.Train(answers())
    await stub.Predict(features())
    assert [e.kind for e in journal.read("job")[0]] == [
        "attach",
        "continue or stop",
        "blob header",
        "encrypted features",
    ]


async def test_a_job_gets_its_name_when_the_server_has_given_it_one(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", tmp_path / "wire")
    stub = HetalStub(JournalledChannel(Channel(), journal))
    await stub.CreateJob(pb.CreateJobRequest(idempotency_key="key", protocol_version=1))
    journal.named("key", "job")
    await stub.GetJob(pb.GetJobRequest(job_id="job"))
    await stub.ListJobs(pb.ListJobsRequest())
    entries, _ = journal.read("job")
    assert [entry.kind for entry in entries] == ["manifest", "request"]
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        *("job.jsonl", "job.wire", "others.jsonl", "others.wire"),
    ]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in tmp_path.rglob("*.*"))


def test_a_job_named_like_a_path_stays_in_the_folder(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.sent("../../etc/passwd", "GetJob", "request", "", b"x")
    assert len(list((tmp_path / "journal").iterdir())) == 1
    assert len(journal.read("../../etc/passwd")[0]) == 1


def test_searches_are_kept(tmp_path: Path) -> None:
    journal, search = Journal(tmp_path), Search(1.0, 7, 100, ("features as <f8 at byte 3",))
    journal.searched("job", search)
    assert journal.read("job") == ([], [search])


def test_what_cannot_be_written_is_not_sent(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write the journal"):
        Journal(tmp_path / "file").sent("job", "GetJob", "request", "", b"x")


@pytest.mark.parametrize("text", ["nonsense\n", '{"what": "message"}\n', "[]\n", '{"what": "search", "found": 1}\n'])
def test_a_damaged_journal_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "job.jsonl").write_text(text)
    with pytest.raises(InputError, match="is no journal"):
        Journal(tmp_path).read("job")
    with pytest.raises(InputError, match="no journal of job"):
        Journal(tmp_path).read("absent")


def test_every_kind_has_readers() -> None:
    assert set(READERS.values()) == {EVERYBODY, CLIENT}
    assert all(kind.startswith("encrypted") == (readers == CLIENT) for kind, readers in READERS.items())
