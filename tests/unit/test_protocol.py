"""Both state machines: every message in every state, and the stories that matter."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetal import limits
from hetal.errors import (
    AlreadyAttachedError,
    DivergedError,
    HetalError,
    InputError,
    IntegrityError,
    MissingBlobError,
    StateError,
    UnknownBlobError,
)
from hetal.protocol import messages as m
from hetal.protocol.client_machine import ClientJob, ClientState
from hetal.protocol.early_stopping import Decision, EarlyStopping, adapted_range
from hetal.protocol.messages import State
from hetal.protocol.server_machine import ServerJob, Snapshot

EPOCHS_MAX = 3
BLOBS = frozenset({"a", "b"})
SHA = bytes(range(32))


def ref(name: str) -> m.BlobRef:
    return m.BlobRef(name, 10, SHA)


def epoch_done(epoch: int) -> m.WorkerEpochDone:
    return m.WorkerEpochDone(epoch, ref(f"logits/{epoch}"), ref(f"model/{epoch}"))


PROGRESS = m.WorkerProgress("training", 1, 1, 9, 0.5)
FAILURE = m.FailureInfo("FRAME_INVALID", "bad", "hint")

UPLOAD = [m.BlobCommitted("a"), m.BlobCommitted("b")]
TRAIN = [*UPLOAD, m.SlotGranted()]
WAIT = [*TRAIN, m.Attach("c"), epoch_done(1)]
STORIES: dict[str, list[m.ServerMessage]] = {
    "uploading": [m.BlobCommitted("a")],
    "queued": UPLOAD,
    "training": TRAIN,
    "training attached": [*TRAIN, m.Attach("c")],
    "training epoch 2": [*WAIT, m.Continue("c", 1, True)],
    "awaiting": WAIT,
    "awaiting session": [*TRAIN, m.Attach("c", "s"), epoch_done(1)],
    "awaiting detached": [*WAIT, m.Detach("c")],
    "awaiting no worker": [*WAIT, m.WorkerDied("x")],
    "finished": [*WAIT, m.Stop("c", 1, True)],
    "failed": [*TRAIN, m.Attach("c"), m.WorkerFailed(FAILURE)],
    "failed gone": [*WAIT, m.ClientGone()],
    "cancelled": [*TRAIN, m.Cancel()],
}
MESSAGES: dict[str, m.ServerMessage] = {
    "blob a": m.BlobCommitted("a"),
    "blob b": m.BlobCommitted("b"),
    "blob z": m.BlobCommitted("z"),
    "attach c": m.Attach("c"),
    "attach d": m.Attach("d"),
    "attach d of session": m.Attach("d", "s"),
    "detach c": m.Detach("c"),
    "detach d": m.Detach("d"),
    "slot": m.SlotGranted(),
    "progress": PROGRESS,
    "epoch 1": epoch_done(1),
    "epoch 2": epoch_done(2),
    "continue 1 best": m.Continue("c", 1, True),
    "continue 1": m.Continue("c", 1, False),
    "continue 2": m.Continue("c", 2, False),
    "continue 1 of d": m.Continue("d", 1, True),
    "stop 1 best": m.Stop("c", 1, True),
    "stop 2": m.Stop("c", 2, False),
    "died": m.WorkerDied("x"),
    "worker failed": m.WorkerFailed(FAILURE),
    "shortage": m.Shortage(FAILURE),
    "cancel": m.Cancel(),
    "gone": m.ClientGone(),
    "restarted": m.ServerRestarted(),
}


def machine(story: str) -> ServerJob:
    job = ServerJob(BLOBS, EPOCHS_MAX)
    for message in STORIES[story]:
        job.handle(message)
    return job


def outcome(story: str, message: str) -> str:
    """``STATE: effects`` or ``! error``; checks that an error leaves the machine as it was."""
    job = machine(story)
    before = (job.snapshot.to_json(), job.client, job.worker, set(job.missing))
    try:
        effects = job.handle(MESSAGES[message])
    except HetalError as error:
        assert (job.snapshot.to_json(), job.client, job.worker, set(job.missing)) == before
        return f"! {type(error).__name__}"
    names = [
        f"{type(e).__name__}({type(e.event).__name__})" if isinstance(e, m.Emit) else type(e).__name__ for e in effects
    ]
    if job.snapshot.to_json() != before[0]:
        assert names[0] == "Persist", "a durable change must be on disk before anyone sees it"
    return f"{job.state.value}: {' '.join(names)}".strip()


TABLE: dict[str, dict[str, list[str]]] = {
    "uploading": {
        "UPLOADING:": [
            "shortage",
            "blob a",
            "detach c",
            "detach d",
            "progress",
            "epoch 1",
            "epoch 2",
            "died",
            "worker failed",
            "gone",
            "restarted",
        ],
        "QUEUED: Persist Enqueue": ["blob b"],
        "! UnknownBlobError": ["blob z"],
        "! MissingBlobError": ["attach c", "attach d", "attach d of session"],
        "UPLOADING: StopWorker": ["slot"],
        "! StateError": ["continue 1 best", "continue 1", "continue 2", "continue 1 of d", "stop 1 best", "stop 2"],
        "CANCELLED: Persist StopClientTimer StopWorker": ["cancel"],
    },
    "queued": {
        "FAILED: Persist StopClientTimer StopWorker": ["shortage"],
        "! StateError": [
            "blob a",
            "blob b",
            "continue 1 best",
            "continue 1",
            "continue 2",
            "continue 1 of d",
            "stop 1 best",
            "stop 2",
        ],
        "! UnknownBlobError": ["blob z"],
        "QUEUED: Emit(Queued)": ["attach c", "attach d", "attach d of session"],
        "QUEUED:": ["detach c", "detach d", "progress", "epoch 1", "epoch 2", "died", "worker failed", "gone"],
        "TRAINING: Persist StartWorker": ["slot"],
        "CANCELLED: Persist StopClientTimer StopWorker": ["cancel"],
        "QUEUED: Enqueue": ["restarted"],
    },
    "training": {
        "! StateError": [
            "blob a",
            "blob b",
            "continue 1 best",
            "continue 1",
            "continue 2",
            "continue 1 of d",
            "stop 1 best",
            "stop 2",
        ],
        "! UnknownBlobError": ["blob z"],
        "TRAINING:": [
            "attach c",
            "attach d",
            "attach d of session",
            "detach c",
            "detach d",
            "slot",
            "progress",
            "gone",
        ],
        "AWAITING_CLIENT: Persist StartClientTimer": ["epoch 1"],
        "FAILED: Persist StopClientTimer StopWorker": ["shortage", "epoch 2", "worker failed"],
        "TRAINING: StartWorker": ["died"],
        "CANCELLED: Persist StopClientTimer StopWorker": ["cancel"],
        "QUEUED: Persist Enqueue": ["restarted"],
    },
    "training attached": {
        "! StateError": [
            "blob a",
            "blob b",
            "continue 1 best",
            "continue 1",
            "continue 2",
            "continue 1 of d",
            "stop 1 best",
            "stop 2",
        ],
        "! UnknownBlobError": ["blob z"],
        "TRAINING:": ["attach c", "detach c", "detach d", "slot", "gone"],
        "! AlreadyAttachedError": ["attach d", "attach d of session"],
        "TRAINING: Emit(WorkerProgress)": ["progress"],
        "AWAITING_CLIENT: Persist StartClientTimer Emit(Validation)": ["epoch 1"],
        "FAILED: Persist StopClientTimer StopWorker Emit(Failed) CloseClient": ["shortage", "epoch 2", "worker failed"],
        "TRAINING: StartWorker": ["died"],
        "CANCELLED: Persist StopClientTimer StopWorker Emit(Failed) CloseClient": ["cancel"],
        "QUEUED: Persist Enqueue": ["restarted"],
    },
    "training epoch 2": {
        "! StateError": ["blob a", "blob b", "continue 1", "continue 2", "stop 1 best", "stop 2"],
        "! UnknownBlobError": ["blob z"],
        "TRAINING:": ["attach c", "detach c", "detach d", "slot", "continue 1 best", "continue 1 of d", "gone"],
        "! AlreadyAttachedError": ["attach d", "attach d of session"],
        "TRAINING: Emit(WorkerProgress)": ["progress"],
        "FAILED: Persist StopClientTimer StopWorker Emit(Failed) CloseClient": ["shortage", "epoch 1", "worker failed"],
        "AWAITING_CLIENT: Persist StartClientTimer Emit(Validation)": ["epoch 2"],
        "TRAINING: StartWorker": ["died"],
        "CANCELLED: Persist StopClientTimer StopWorker Emit(Failed) CloseClient": ["cancel"],
        "QUEUED: Persist Enqueue": ["restarted"],
    },
    "awaiting": {
        "! StateError": ["blob a", "blob b", "continue 2", "continue 1 of d", "stop 2"],
        "! UnknownBlobError": ["blob z"],
        "AWAITING_CLIENT: Emit(Validation) StartClientTimer": ["attach c"],
        "! AlreadyAttachedError": ["attach d", "attach d of session"],
        "AWAITING_CLIENT: StartClientTimer": ["detach c", "restarted"],
        "AWAITING_CLIENT:": ["detach d", "slot", "progress", "epoch 1", "epoch 2"],
        "TRAINING: Persist StopClientTimer KeepModel WorkerContinue": ["continue 1 best", "continue 1"],
        "FINISHED: Persist StopClientTimer StopWorker KeepModel Emit(Finished) CloseClient": ["stop 1 best"],
        "AWAITING_CLIENT: StopWorker": ["died"],
        "FAILED: Persist StopClientTimer StopWorker Emit(Failed) CloseClient": ["shortage", "worker failed", "gone"],
        "CANCELLED: Persist StopClientTimer StopWorker Emit(Failed) CloseClient": ["cancel"],
    },
    "awaiting session": {
        "! StateError": ["blob a", "blob b", "continue 2", "continue 1 of d", "stop 2"],
        "! UnknownBlobError": ["blob z"],
        "AWAITING_CLIENT: Emit(Validation) StartClientTimer": ["attach c"],
        "! AlreadyAttachedError": ["attach d"],
        "AWAITING_CLIENT: CloseClient Emit(Validation) StartClientTimer": ["attach d of session"],
        "AWAITING_CLIENT: StartClientTimer": ["detach c", "restarted"],
        "AWAITING_CLIENT:": ["detach d", "slot", "progress", "epoch 1", "epoch 2"],
        "TRAINING: Persist StopClientTimer KeepModel WorkerContinue": ["continue 1 best", "continue 1"],
        "FINISHED: Persist StopClientTimer StopWorker KeepModel Emit(Finished) CloseClient": ["stop 1 best"],
        "AWAITING_CLIENT: StopWorker": ["died"],
        "FAILED: Persist StopClientTimer StopWorker Emit(Failed) CloseClient": ["shortage", "worker failed", "gone"],
        "CANCELLED: Persist StopClientTimer StopWorker Emit(Failed) CloseClient": ["cancel"],
    },
    "awaiting detached": {
        "! StateError": [
            "blob a",
            "blob b",
            "continue 1 best",
            "continue 1",
            "continue 2",
            "continue 1 of d",
            "stop 1 best",
            "stop 2",
        ],
        "! UnknownBlobError": ["blob z"],
        "AWAITING_CLIENT: Emit(Validation) StartClientTimer": ["attach c", "attach d", "attach d of session"],
        "AWAITING_CLIENT:": ["detach c", "detach d", "slot", "progress", "epoch 1", "epoch 2"],
        "AWAITING_CLIENT: StopWorker": ["died"],
        "FAILED: Persist StopClientTimer StopWorker": ["shortage", "worker failed", "gone"],
        "CANCELLED: Persist StopClientTimer StopWorker": ["cancel"],
        "AWAITING_CLIENT: StartClientTimer": ["restarted"],
    },
    "awaiting no worker": {
        "! StateError": ["blob a", "blob b", "continue 2", "continue 1 of d", "stop 2"],
        "! UnknownBlobError": ["blob z"],
        "AWAITING_CLIENT: Emit(Validation) StartClientTimer": ["attach c"],
        "! AlreadyAttachedError": ["attach d", "attach d of session"],
        "AWAITING_CLIENT: StartClientTimer": ["detach c", "restarted"],
        "AWAITING_CLIENT:": ["detach d", "progress", "epoch 1", "epoch 2", "died", "worker failed"],
        "AWAITING_CLIENT: StopWorker": ["slot"],
        "QUEUED: Persist StopClientTimer KeepModel Enqueue Emit(Queued)": ["continue 1 best", "continue 1"],
        "FINISHED: Persist StopClientTimer StopWorker KeepModel Emit(Finished) CloseClient": ["stop 1 best"],
        "CANCELLED: Persist StopClientTimer StopWorker Emit(Failed) CloseClient": ["cancel"],
        "FAILED: Persist StopClientTimer StopWorker Emit(Failed) CloseClient": ["shortage", "gone"],
    },
    "finished": {
        "! StateError": [
            "blob a",
            "blob b",
            "continue 1 best",
            "continue 1",
            "continue 2",
            "continue 1 of d",
            "stop 2",
            "cancel",
        ],
        "! UnknownBlobError": ["blob z"],
        "FINISHED: Emit(Finished) CloseClient": ["attach c", "attach d", "attach d of session"],
        "FINISHED:": [
            "shortage",
            "detach c",
            "detach d",
            "progress",
            "epoch 1",
            "epoch 2",
            "stop 1 best",
            "died",
            "worker failed",
            "gone",
            "restarted",
        ],
        "FINISHED: StopWorker": ["slot"],
    },
    "failed": {
        "! StateError": [
            "blob a",
            "blob b",
            "continue 1 best",
            "continue 1",
            "continue 2",
            "continue 1 of d",
            "stop 1 best",
            "stop 2",
            "cancel",
        ],
        "! UnknownBlobError": ["blob z"],
        "FAILED: Emit(Failed) CloseClient": ["attach c", "attach d", "attach d of session"],
        "FAILED:": [
            "shortage",
            "detach c",
            "detach d",
            "progress",
            "epoch 1",
            "epoch 2",
            "died",
            "worker failed",
            "gone",
            "restarted",
        ],
        "FAILED: StopWorker": ["slot"],
    },
    "failed gone": {
        "! StateError": [
            "blob a",
            "blob b",
            "continue 1 best",
            "continue 1",
            "continue 2",
            "continue 1 of d",
            "stop 1 best",
            "stop 2",
            "cancel",
        ],
        "! UnknownBlobError": ["blob z"],
        "AWAITING_CLIENT: Persist Emit(Validation) StartClientTimer": ["attach c", "attach d", "attach d of session"],
        "FAILED:": [
            "shortage",
            "detach c",
            "detach d",
            "progress",
            "epoch 1",
            "epoch 2",
            "died",
            "worker failed",
            "gone",
            "restarted",
        ],
        "FAILED: StopWorker": ["slot"],
    },
    "cancelled": {
        "! StateError": [
            "blob a",
            "blob b",
            "continue 1 best",
            "continue 1",
            "continue 2",
            "continue 1 of d",
            "stop 1 best",
            "stop 2",
        ],
        "! UnknownBlobError": ["blob z"],
        "CANCELLED: Emit(Failed) CloseClient": ["attach c", "attach d", "attach d of session"],
        "CANCELLED:": [
            "shortage",
            "detach c",
            "detach d",
            "progress",
            "epoch 1",
            "epoch 2",
            "died",
            "worker failed",
            "cancel",
            "gone",
            "restarted",
        ],
        "CANCELLED: StopWorker": ["slot"],
    },
}


@pytest.mark.parametrize("story", STORIES)
def test_every_message_in_every_state(story: str) -> None:
    expected = {message: result for result, names in TABLE[story].items() for message in names}
    assert expected.keys() == MESSAGES.keys()
    assert {message: outcome(story, message) for message in MESSAGES} == expected


def test_the_stories_cover_every_state() -> None:
    assert {machine(story).state for story in STORIES} == set(State)


def test_a_stream_that_was_taken_over_says_no_more() -> None:
    job = machine("awaiting session")
    job.handle(m.Attach("d", "s"))
    assert job.handle(m.Detach("c")) == []
    assert isinstance(job.handle(m.Continue("d", 1, True))[0], m.Persist)


def test_a_machine_returns_to_where_it_was() -> None:
    for story in STORIES:
        for message in MESSAGES.values():
            job = machine(story)
            saved, before = job.copy(), job.snapshot.to_json()
            with suppress(HetalError):
                job.handle(message)
            assert saved.snapshot.to_json() == before
            assert (saved.client, saved.worker) == (machine(story).client, machine(story).worker)


def test_a_job_that_could_not_be_queued_is_when_its_client_attaches() -> None:
    job = machine("uploading")
    saved = job.copy()
    job.handle(m.BlobCommitted("b"))
    assert saved.state is State.UPLOADING and not saved.missing
    assert saved.handle(m.Attach("c")) == [m.Persist(), m.Enqueue(), m.Emit("c", m.Queued())]


def test_reattach_repeats_the_unanswered_epoch() -> None:
    job = machine("awaiting")
    job.handle(m.Detach("c"))
    effects = job.handle(m.Attach("d"))
    assert m.Emit("d", m.Validation(1, ref("logits/1"))) in effects


def test_best_epoch_decides_the_model_and_what_is_kept() -> None:
    job = machine("awaiting")
    assert m.KeepModel((1,)) in job.handle(m.Continue("c", 1, True))
    job.handle(epoch_done(2))
    effects = job.handle(m.Stop("c", 2, False))
    assert m.KeepModel((1,)) in effects
    finished = next(e.event for e in effects if isinstance(e, m.Emit))
    assert finished == m.Finished(2, 1, m.BlobRef("model", 10, SHA))


def test_no_best_epoch_gives_the_last_model() -> None:
    job = machine("awaiting")
    job.handle(m.Continue("c", 1, False))
    job.handle(epoch_done(2))
    job.handle(m.Stop("c", 2, False))
    assert job.snapshot.best_epoch == 2


def test_continue_at_the_last_epoch_finishes() -> None:
    job = machine("awaiting")
    for epoch in range(1, EPOCHS_MAX):
        job.handle(m.Continue("c", epoch, True))
        assert job.state is State.TRAINING
        job.handle(epoch_done(epoch + 1))
    job.handle(m.Continue("c", EPOCHS_MAX, False))
    assert (job.state, job.snapshot.best_epoch) == (State.FINISHED, EPOCHS_MAX - 1)


def test_worker_deaths_are_bounded_and_progress_forgives_them() -> None:
    job = machine("training attached")
    for attempt in range(1, limits.WORKER_RESTARTS_MAX + 1):
        assert job.handle(m.WorkerDied("x")) == [m.StartWorker(attempt)]
    job.handle(epoch_done(1))
    job.handle(m.Continue("c", 1, True))
    for attempt in range(1, limits.WORKER_RESTARTS_MAX + 1):
        assert job.handle(m.WorkerDied("x")) == [m.StartWorker(attempt)]
    job.handle(m.WorkerDied("x"))
    assert job.snapshot.failure is not None and job.snapshot.failure.code == "WORKER_DIED"
    assert m.Enqueue() in job.handle(m.Attach("c"))
    assert (job.state, job.answered_epoch) == (State.QUEUED, 1)


def test_restart_keeps_what_was_recorded() -> None:
    for story in STORIES:
        job = machine(story)
        again = ServerJob(BLOBS, EPOCHS_MAX, BLOBS - job.missing, Snapshot.from_json(job.snapshot.to_json()))
        assert again.snapshot == job.snapshot
        again.handle(m.ServerRestarted())
        assert again.snapshot.decisions == job.snapshot.decisions
        assert (again.client, again.worker) == (None, False)


def test_restart_after_the_last_commit_queues_the_job() -> None:
    job = ServerJob(BLOBS, EPOCHS_MAX, BLOBS)
    assert job.handle(m.ServerRestarted()) == [m.Persist(), m.Enqueue()]


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"state": "NONE"}'])
def test_damaged_snapshot(text: str) -> None:
    with pytest.raises(IntegrityError):
        Snapshot.from_json(text)


@given(st.lists(st.sampled_from(sorted(MESSAGES)), max_size=30))
def test_any_sequence_keeps_the_invariants(names: list[str]) -> None:
    job = ServerJob(BLOBS, EPOCHS_MAX)
    ended = False
    for name in names:
        try:
            job.handle(MESSAGES[name])
        except HetalError:
            continue
        snap = job.snapshot
        assert Snapshot.from_json(snap.to_json()) == snap
        assert snap.best_epoch <= snap.epoch <= EPOCHS_MAX
        assert (snap.failure is not None) == (job.state in (State.FAILED, State.CANCELLED))
        assert not (job.worker and job.state in (State.UPLOADING, State.QUEUED, State.FINISHED, State.CANCELLED))
        assert job.answered_epoch in (snap.epoch, snap.epoch - 1)
        # Finished and cancelled are for ever.
        assert not ended or job.state in (State.FINISHED, State.CANCELLED)
        ended = job.state in (State.FINISHED, State.CANCELLED)


# -- the client's machine -----------------------------------------------------------------------------------------

VALIDATION = {epoch: m.Validation(epoch, ref(f"logits/{epoch}")) for epoch in (1, 2)}
GO, BEST, END = Decision(False, False), Decision(False, True), Decision(True, False)
C_STORIES: dict[str, list[m.ClientMessage]] = {
    "detached": [],
    "attached": [m.Connected()],
    "evaluating": [m.Connected(), VALIDATION[1]],
    "evaluating detached": [m.Connected(), VALIDATION[1], m.Disconnected()],
    "answered": [m.Connected(), VALIDATION[1], m.Decided(1, BEST)],
    "stopped": [m.Connected(), VALIDATION[1], m.Decided(1, END)],
    "finished": [m.Connected(), VALIDATION[1], m.Decided(1, END), m.Finished(1, 1, ref("model"))],
    "failed": [m.Connected(), m.Failed(FAILURE)],
}
C_MESSAGES: dict[str, m.ClientMessage] = {
    "connected": m.Connected(),
    "disconnected": m.Disconnected(),
    "queued": m.Queued(1),
    "progress": PROGRESS,
    "validation 1": VALIDATION[1],
    "validation 2": VALIDATION[2],
    "decided 1": m.Decided(1, GO),
    "decided 2": m.Decided(2, GO),
    "finished 1": m.Finished(1, 1, ref("model")),
    "failed": m.Failed(FAILURE),
}


def client(story: str) -> ClientJob:
    job = ClientJob()
    for message in C_STORIES[story]:
        job.handle(message)
    return job


def client_outcome(story: str, message: str) -> str:
    job = client(story)
    before = (job.state, dict(job.decisions), job.evaluating)
    try:
        effects = job.handle(C_MESSAGES[message])
    except HetalError as error:
        assert (job.state, job.decisions, job.evaluating) == before
        return f"! {type(error).__name__}"
    return f"{job.state.value}: {' '.join(type(e).__name__ for e in effects)}".strip()


C_TABLE: dict[str, dict[str, list[str]]] = {
    "detached": {
        "ATTACHED: SendAttach": ["connected"],
        "DETACHED:": ["disconnected"],
        "! StateError": [
            "queued",
            "progress",
            "validation 1",
            "validation 2",
            "decided 1",
            "decided 2",
            "finished 1",
            "failed",
        ],
    },
    "attached": {
        "! StateError": ["connected", "validation 2", "decided 1", "decided 2", "finished 1"],
        "DETACHED:": ["disconnected"],
        "ATTACHED: Report": ["queued", "progress"],
        "ATTACHED: Evaluate": ["validation 1"],
        "FAILED: Fail": ["failed"],
    },
    "evaluating": {
        "! StateError": ["connected", "validation 2", "decided 2", "finished 1"],
        "DETACHED:": ["disconnected"],
        "ATTACHED: Report": ["queued", "progress"],
        "ATTACHED:": ["validation 1"],
        "ATTACHED: SendContinue": ["decided 1"],
        "FAILED: Fail": ["failed"],
    },
    "evaluating detached": {
        "ATTACHED: SendAttach": ["connected"],
        "DETACHED:": ["disconnected", "decided 1"],
        "! StateError": ["queued", "progress", "validation 1", "validation 2", "decided 2", "finished 1", "failed"],
    },
    "answered": {
        "! StateError": ["connected", "decided 1", "decided 2"],
        "DETACHED:": ["disconnected"],
        "ATTACHED: Report": ["queued", "progress"],
        "ATTACHED: SendContinue": ["validation 1"],
        "ATTACHED: Evaluate": ["validation 2"],
        "FINISHED: Complete": ["finished 1"],
        "FAILED: Fail": ["failed"],
    },
    "stopped": {
        "! StateError": ["connected", "validation 2", "decided 1", "decided 2"],
        "DETACHED:": ["disconnected"],
        "ATTACHED: Report": ["queued", "progress"],
        "ATTACHED: SendStop": ["validation 1"],
        "FINISHED: Complete": ["finished 1"],
        "FAILED: Fail": ["failed"],
    },
    "finished": {
        "! StateError": [
            "connected",
            "queued",
            "progress",
            "validation 1",
            "validation 2",
            "decided 1",
            "decided 2",
            "finished 1",
            "failed",
        ],
        "FINISHED:": ["disconnected"],
    },
    "failed": {
        "! StateError": [
            "connected",
            "queued",
            "progress",
            "validation 1",
            "validation 2",
            "decided 1",
            "decided 2",
            "finished 1",
            "failed",
        ],
        "FAILED:": ["disconnected"],
    },
}


@pytest.mark.parametrize("story", C_STORIES)
def test_every_message_in_every_client_state(story: str) -> None:
    expected = {message: result for result, names in C_TABLE[story].items() for message in names}
    assert expected.keys() == C_MESSAGES.keys()
    assert {message: client_outcome(story, message) for message in C_MESSAGES} == expected


def test_an_answer_lost_on_the_way_is_repeated_word_for_word() -> None:
    job = client("answered")
    job.handle(m.Disconnected())
    job.handle(m.Connected())
    assert job.handle(VALIDATION[1]) == [m.SendContinue(1, True)]


def test_a_verdict_reached_while_detached_waits_for_the_question() -> None:
    job = client("evaluating detached")
    assert job.handle(m.Decided(1, END)) == []
    job.handle(m.Connected())
    assert job.handle(VALIDATION[1]) == [m.SendStop(1, False)]


def test_resumed_client_goes_on_after_its_last_decision() -> None:
    job = ClientJob({1: BEST})
    job.handle(m.Connected())
    assert job.handle(VALIDATION[2]) == [m.Evaluate(VALIDATION[2])]
    assert job.state is ClientState.ATTACHED


# -- early stopping -----------------------------------------------------------------------------------------------


def verdicts(losses: list[float], patience: int = 3, epochs_max: int = 10) -> list[tuple[bool, bool]]:
    stopping = EarlyStopping(patience, epochs_max)
    decisions = [stopping.update(loss) for loss in losses]
    return [(decision.stop, decision.best) for decision in decisions]


def test_patience_counts_epochs_without_a_lower_loss() -> None:
    assert verdicts([3, 2, 2, 2.5, 2]) == [(False, True), (False, True), (False, False), (False, False), (True, False)]


def test_a_lower_loss_restarts_the_patience() -> None:
    assert verdicts([3, 4, 4, 2, 5, 5])[-3:] == [(False, True), (False, False), (False, False)]


def test_epochs_max_stops_even_at_the_best_epoch() -> None:
    assert verdicts([3, 2], epochs_max=2) == [(False, True), (True, True)]


def test_giving_up_keeps_the_best_so_far() -> None:
    stopping = EarlyStopping(3, 10)
    stopping.update(1.0)
    assert stopping.give_up() == Decision(stop=True, best=False)
    assert (stopping.epoch, stopping.best_epoch) == (2, 1)
    with pytest.raises(StateError):
        stopping.give_up()


@pytest.mark.parametrize(
    ("largest", "most", "named"), [(1, 128, 16), (8, 128, 16), (9, 128, 32), (99, 64, 64), (1, 8, 0)]
)
def test_adapted_ranges(largest: float, most: float, named: float) -> None:
    assert adapted_range(largest, most) == named


def test_the_range_that_an_answer_names_reaches_the_worker_and_outlives_it() -> None:
    job = machine("awaiting")
    effects = job.handle(m.Continue("c", job.snapshot.epoch, best=True, logits_max=32.0))
    assert m.WorkerContinue(job.snapshot.epoch, 32.0) in effects
    assert job.ranges == {job.snapshot.epoch: 32.0}
    assert Snapshot.from_json(job.snapshot.to_json()).decisions == job.snapshot.decisions


def test_early_stopping_refuses_nonsense() -> None:
    with pytest.raises(DivergedError):
        EarlyStopping(3, 10).update(float("nan"))
    with pytest.raises(InputError):
        EarlyStopping(0, 10)
    done = EarlyStopping(1, 1)
    done.update(1.0)
    with pytest.raises(StateError):
        done.update(0.5)


def test_errors_name_their_cause() -> None:
    with pytest.raises(MissingBlobError, match="b"):
        machine("uploading").handle(m.Attach("c"))
    with pytest.raises(UnknownBlobError, match="z"):
        machine("uploading").handle(m.BlobCommitted("z"))
    with pytest.raises(AlreadyAttachedError):
        machine("awaiting").handle(m.Attach("d"))
