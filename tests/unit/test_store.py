"""The store: what it says it has survives a restart, and a deletion frees the bytes and no others'."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from hetal.errors import BackendError, BlobConflictError
from hetal.server.store.files import tree_bytes, write_atomically
from hetal.server.store.metadata import MIGRATIONS, BlobRow, JobRow
from hetal.server.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "data")
    yield store
    store.close()


def add_job(store: Store, job_id: str, owner: str = "cn:alice") -> None:
    store.files.make_job(job_id)
    store.metadata.add_job(JobRow(job_id, owner, f"key of {job_id}", b"manifest", 1.5, "{}"))


def put(store: Store, job_id: str, name: str, data: bytes) -> BlobRow:
    row = BlobRow(hashlib.sha256(data).digest(), len(data))
    store.metadata.set_partial(job_id, name, row.sha256)
    store.files.partial(job_id, name).write_bytes(data)
    store.commit(job_id, name, row)
    return row


def test_jobs_and_blobs_survive_a_restart(tmp_path: Path) -> None:
    store = Store(tmp_path)
    add_job(store, "j")
    row = put(store, "j", "x", b"data")
    store.metadata.save_snapshot("j", "snapshot")
    store.close()
    again = Store(tmp_path)
    assert again.metadata.jobs() == [JobRow("j", "cn:alice", "key of j", b"manifest", 1.5, "snapshot")]
    assert again.metadata.blobs("j") == {"x": row}
    assert again.files.object(row.sha256).read_bytes() == b"data"
    again.close()


def test_an_idempotency_key_names_one_job_of_its_owner(store: Store) -> None:
    add_job(store, "j")
    found = store.metadata.add_job(JobRow("other", "cn:alice", "key of j", b"other", 2.0, "{}"))
    assert found.id == "j"
    assert len(store.metadata.jobs()) == 1
    assert store.metadata.add_job(JobRow("third", "cn:bob", "key of j", b"other", 2.0, "{}")).id == "third"


def test_a_directory_of_the_first_release_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "jobs/j/partial").mkdir(parents=True)
    data, row = b"data", BlobRow(hashlib.sha256(b"data").digest(), 4)
    with sqlite3.connect(tmp_path / "hetal.sqlite3") as old:
        old.executescript(MIGRATIONS[0])
        old.execute("INSERT INTO jobs VALUES ('j', 'key', x'00', 1.5, 'snapshot')")
        old.execute("INSERT INTO blobs VALUES ('j', 'x', ?, 4)", (row.sha256,))
        old.execute("INSERT INTO partials VALUES ('j', 'y', ?)", (bytes(32),))
    old.close()
    for _ in range(2):
        store = Store(tmp_path)
        assert store.metadata.jobs() == [JobRow("j", "local", "key", b"\0", 1.5, "snapshot")]
        assert store.metadata.blobs("j") == {"x": row}
        assert store.metadata.partial("j", "y") == bytes(32)
        store.close()
    store = Store(tmp_path)
    put(store, "j", "y", data)
    store.delete_job("j")
    assert store.metadata.blobs("j") == {} and store.metadata.partials() == []
    store.close()


def test_a_directory_of_a_later_release_is_refused(tmp_path: Path) -> None:
    Store(tmp_path).close()
    later = sqlite3.connect(tmp_path / "hetal.sqlite3")
    later.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    later.close()
    with pytest.raises(BackendError, match="newer release"):
        Store(tmp_path)


def test_commit_is_idempotent_and_conflicts_are_refused(store: Store) -> None:
    add_job(store, "j")
    row = put(store, "j", "x", b"data")
    store.commit("j", "x", row)
    with pytest.raises(BlobConflictError):
        store.commit("j", "x", BlobRow(bytes(32), 4))
    assert store.metadata.partial("j", "x") is None


def test_known_content_is_linked_and_unknown_is_not(store: Store) -> None:
    add_job(store, "j")
    add_job(store, "k")
    row = put(store, "j", "x", b"data")
    assert store.link("k", "y", row)
    assert store.metadata.blob("k", "y") == row
    assert not store.link("k", "z", BlobRow(bytes(32), 4))
    assert not store.link("k", "z", BlobRow(row.sha256, 5))


def test_content_of_another_owner_is_not_linked(store: Store) -> None:
    add_job(store, "j")
    add_job(store, "k", owner="cn:bob")
    row = put(store, "j", "x", b"data")
    assert not store.link("k", "y", row)
    assert put(store, "k", "y", b"data") == row
    assert store.delete_job("j") == 0
    assert store.files.object(row.sha256).read_bytes() == b"data"


def test_a_crash_before_the_commit_keeps_the_upload(tmp_path: Path) -> None:
    store = Store(tmp_path)
    add_job(store, "j")
    row = BlobRow(hashlib.sha256(b"data").digest(), 4)
    store.metadata.set_partial("j", "x", row.sha256)
    store.files.partial("j", "x").write_bytes(b"data")
    store.files.promote(store.files.partial("j", "x"), row.sha256)
    store.close()
    again = Store(tmp_path)
    assert again.files.partial_bytes("j", "x") == 4
    again.commit("j", "x", row)
    assert again.files.object(row.sha256).read_bytes() == b"data"
    assert again.files.partial_bytes("j", "x") == 0
    again.close()


def test_delete_frees_bytes_and_keeps_shared_objects(store: Store) -> None:
    add_job(store, "j")
    add_job(store, "k")
    shared, own = put(store, "j", "x", b"shared" * 100), put(store, "j", "y", b"own" * 1000)
    store.link("k", "x", shared)
    write_atomically(store.files.result("j", "logits/00001"), b"r" * 70)
    before = tree_bytes(store.files.root / "objects") + tree_bytes(store.files.jobs)
    freed = store.delete_job("j")
    after = tree_bytes(store.files.root / "objects") + tree_bytes(store.files.jobs)
    assert freed == before - after == 3000 + 70
    assert store.files.object(shared.sha256).exists() and not store.files.object(own.sha256).exists()
    assert store.delete_job("k") == 600
    assert tree_bytes(store.files.root / "objects") == 0


def test_leftovers_of_a_crash_are_swept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    add_job(store, "j")
    kept = put(store, "j", "x", b"kept")
    orphan, announced = hashlib.sha256(b"orphan").digest(), hashlib.sha256(b"announced").digest()
    for sha256 in (orphan, announced):
        store.files.object(sha256).parent.mkdir(exist_ok=True)
        store.files.object(sha256).write_bytes(b"?")
    store.metadata.set_partial("j", "y", announced)
    (store.files.jobs / "ghost").mkdir()
    store.files.partial("j", "x").write_bytes(b"kept")
    (store.files.scratch / "left").write_bytes(b"?")
    store.close()
    again = Store(tmp_path)
    assert set(again.files.object_hashes()) == {kept.sha256, announced}
    assert [path.name for path in again.files.jobs.iterdir()] == ["j"]
    assert again.files.partial_bytes("j", "x") == 0
    assert not list(again.files.scratch.iterdir())
    again.close()


def test_bytes_of_an_owner_count_a_shared_content_once(store: Store) -> None:
    for job_id, owner in (("j", "cn:alice"), ("k", "cn:alice"), ("l", "cn:bob")):
        add_job(store, job_id, owner)
    put(store, "j", "x", b"shared" * 100)
    put(store, "k", "x", b"shared" * 100)
    put(store, "l", "x", b"bob's")
    store.files.partial("j", "y").write_bytes(b"coming")
    store.files.partial("k", "y").write_bytes(b"elsewhere")
    manifests = 2 * len(b"manifest")
    assert store.owner_bytes("cn:alice") == manifests + 600 + 6 + 9
    assert store.owner_bytes("cn:alice", [store.files.partial("j", "y"), store.files.partial("l", "y")]) == (
        manifests + 600 + 9
    )
    assert store.owner_bytes("cn:carol") == 0


def test_compute_time_adds_up_and_old_days_are_forgotten(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for owner, day, seconds in (("a", 100, 5.0), ("a", 100, 2.5), ("a", 101, 10.0), ("b", 101, 1.0)):
        store.metadata.add_compute(owner, day, seconds, oldest_day=90)
    store.close()
    store = Store(tmp_path)
    assert [store.metadata.compute_seconds("a", day) for day in (100, 101, 102)] == [17.5, 10.0, 0.0]
    store.metadata.add_compute("b", 131, 1.0, oldest_day=101)
    assert store.metadata.compute_seconds("a", 0) == 10.0
    assert store.metadata.compute_seconds("b", 0) == 2.0
    store.close()


def test_one_server_per_directory(store: Store) -> None:
    with pytest.raises(BackendError):
        Store(store.files.root)


def test_atomic_write_replaces_the_whole_file(tmp_path: Path) -> None:
    write_atomically(tmp_path / "f", b"long content")
    write_atomically(tmp_path / "f", b"short")
    assert (tmp_path / "f").read_bytes() == b"short"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
