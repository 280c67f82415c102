"""The client's side of a training as a pure machine: ``handle(message) -> effects``.

It survives any number of broken streams: after each :class:`Connected` it attaches, and the server repeats the last
event that was not answered. A decision once made is repeated word for word, never made anew, so the server learns one
bit an epoch however often the stream breaks.
"""

from __future__ import annotations

from enum import Enum

from hetal.errors import StateError
from hetal.protocol.early_stopping import Decision
from hetal.protocol.messages import (
    ClientEffect,
    ClientMessage,
    Complete,
    Connected,
    Decided,
    Disconnected,
    Evaluate,
    Fail,
    Finished,
    Queued,
    Report,
    SendAttach,
    SendContinue,
    SendStop,
    Validation,
    WorkerProgress,
)


class ClientState(str, Enum):
    DETACHED = "DETACHED"
    ATTACHED = "ATTACHED"
    FINISHED = "FINISHED"
    FAILED = "FAILED"


class ClientJob:
    """One training as the client sees it.

    Attributes:
        state: of the connection, or the end.
        epoch: last epoch that was decided.
        evaluating: epoch whose logits are being judged, or None.
    """

    def __init__(self, decisions: dict[int, Decision] | None = None) -> None:
        self.state = ClientState.DETACHED
        self.decisions: dict[int, Decision] = dict(decisions or {})
        self.evaluating: int | None = None

    @property
    def epoch(self) -> int:
        return max(self.decisions, default=0)

    def handle(self, message: ClientMessage) -> list[ClientEffect]:
        """Effects to carry out in order.

        Raises:
            StateError: the message is not allowed here; the machine is unchanged.
        """
        if isinstance(message, Decided):
            return self._decided(message)
        if self.state in (ClientState.FINISHED, ClientState.FAILED):
            if isinstance(message, Disconnected):
                return []
            raise self._illegal(message)
        if isinstance(message, Connected):
            if self.state is ClientState.ATTACHED:
                raise self._illegal(message)
            self.state = ClientState.ATTACHED
            return [SendAttach()]
        if isinstance(message, Disconnected):
            self.state = ClientState.DETACHED
            return []
        if self.state is ClientState.DETACHED:
            raise self._illegal(message)
        if isinstance(message, (Queued, WorkerProgress)):
            return [Report(message)]
        if isinstance(message, Validation):
            return self._validation(message)
        if isinstance(message, Finished):
            return self._finished(message)
        self.state = ClientState.FAILED
        self.evaluating = None
        return [Fail(message.failure)]

    def _validation(self, message: Validation) -> list[ClientEffect]:
        known = self.decisions.get(message.epoch)
        if known is not None:
            if message.epoch != self.epoch:
                raise StateError(f"the server asks again for epoch {message.epoch}, and epoch {self.epoch} is answered")
            return [_answer(message.epoch, known)]
        if message.epoch != self.epoch + 1 or (self.epoch and self.decisions[self.epoch].stop):
            raise StateError(f"the server sent logits of epoch {message.epoch} after epoch {self.epoch}")
        if self.evaluating == message.epoch:
            return []
        self.evaluating = message.epoch
        return [Evaluate(message)]

    def _decided(self, message: Decided) -> list[ClientEffect]:
        if self.evaluating != message.epoch:
            raise StateError(f"no logits of epoch {message.epoch} are being judged")
        self.evaluating = None
        self.decisions[message.epoch] = message.decision
        # Without a stream the answer waits for the server to ask again after the next attach.
        return [_answer(message.epoch, message.decision)] if self.state is ClientState.ATTACHED else []

    def _finished(self, message: Finished) -> list[ClientEffect]:
        if self.evaluating is not None or message.epochs != self.epoch:
            raise StateError(f"the server finished after {message.epochs} epochs, and {self.epoch} are answered")
        self.state = ClientState.FINISHED
        return [Complete(message)]

    def _illegal(self, message: ClientMessage) -> StateError:
        return StateError(f"{type(message).__name__} is not allowed while the client is {self.state.value}")


def _answer(epoch: int, decision: Decision) -> ClientEffect:
    if decision.stop:
        return SendStop(epoch, decision.best)
    return SendContinue(epoch, decision.best, decision.logits_max, decision.kept)
