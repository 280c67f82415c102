"""Which call reaches whose jobs. Every call passes here before its method runs; a method without a rule is refused."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import aclosing
from enum import Enum
from typing import Any, Final

from hetal.errors import PermissionDeniedError
from hetal.server.identity import FINGERPRINT, Caller, current, identify
from hetal.server.interceptors import Interceptor, around
from hetal.server.log import event


class Reach(Enum):
    """How far a method reaches."""

    NO_JOB = "touches no job"
    OWN = "the caller's own jobs"
    OWN_OR_OPERATOR = "the caller's own jobs; all jobs where an operator calls"


RULES: Final = {
    "/hetal.v1.Hetal/GetServerInfo": Reach.NO_JOB,
    "/hetal.v1.Hetal/GetShares": Reach.OWN,
    "/hetal.v1.Hetal/CreateJob": Reach.OWN,
    "/hetal.v1.Hetal/UploadBlob": Reach.OWN,
    "/hetal.v1.Hetal/StatBlobs": Reach.OWN,
    "/hetal.v1.Hetal/Train": Reach.OWN,
    "/hetal.v1.Hetal/DownloadModel": Reach.OWN,
    "/hetal.v1.Hetal/Predict": Reach.OWN,
    "/hetal.v1.Hetal/GetJob": Reach.OWN_OR_OPERATOR,
    "/hetal.v1.Hetal/ListJobs": Reach.OWN_OR_OPERATOR,
    "/hetal.v1.Hetal/CancelJob": Reach.OWN_OR_OPERATOR,
    "/hetal.v1.Hetal/DeleteJob": Reach.OWN,
    "/grpc.health.v1.Health/Check": Reach.NO_JOB,
    "/grpc.health.v1.Health/Watch": Reach.NO_JOB,
}


class AuthorizationInterceptor(Interceptor):
    """Refuses calls of nobody, of who is blocked, and calls without a rule; lets ``caller()`` tell the others' owner.

    Args:
        operators: owners whose calls may reach the jobs of all.
        blocked: owners, and ``sha256:`` with the fingerprints of certificates, that are let in no more.
    """

    def __init__(self, operators: Collection[str], blocked: Collection[str] = ()) -> None:
        self._operators = frozenset(operators)
        self._blocked = frozenset(_plain(name) for name in blocked)

    async def intercept_service(self, continuation: Callable[..., Awaitable[Any]], details: Any) -> Any:
        return around(await continuation(details), details.method, self._coroutine, self._generator)

    def authorize(self, name: str, context: Any) -> Caller:
        """The caller of method ``name``.

        Raises:
            UnauthenticatedError: the connection names no owner.
            PermissionDeniedError: the owner or its certificate is blocked, or the method has no rule.
        """
        owner, fingerprint = identify(context.auth_context())
        if self._blocked & {owner, fingerprint}:
            event("call of a blocked owner", level=logging.WARNING, owner=owner, certificate=fingerprint)
            raise PermissionDeniedError(f"{owner} is blocked", hint="Ask the server's operator for a new certificate.")
        rule = RULES.get(name)
        if rule is None:
            raise PermissionDeniedError(f"no rule lets anybody call {name[:100]}")
        return Caller(owner, rule is Reach.OWN_OR_OPERATOR and owner in self._operators)

    def _coroutine(self, method: Any, name: str) -> Any:
        async def call(request: Any, context: Any) -> Any:
            current.set(self.authorize(name, context))
            return await method(request, context)

        return call

    def _generator(self, method: Any, name: str) -> Any:
        async def call(request: Any, context: Any) -> AsyncIterator[Any]:
            current.set(self.authorize(name, context))
            async with aclosing(method(request, context)) as responses:
                async for response in responses:
                    yield response

        return call


def _plain(name: str) -> str:
    """A fingerprint as :func:`identify` writes it; OpenSSL's has capitals and colons."""
    return name.replace(":", "").lower().replace("sha256", FINGERPRINT, 1) if name.startswith(FINGERPRINT) else name
