"""Which call reaches whose jobs. Every call passes here before its method runs; a method without a rule is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import aclosing
from contextvars import ContextVar
from enum import Enum
from typing import Any, Final

from hetal.errors import PermissionDeniedError, UnauthenticatedError
from hetal.server.identity import Caller, owner_of
from hetal.server.interceptors import Interceptor, around


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

_caller: ContextVar[Caller] = ContextVar("caller")


def caller() -> Caller:
    """Who made the present call."""
    try:
        return _caller.get()
    except LookupError:
        raise UnauthenticatedError("the call was not authorised") from None


class AuthorizationInterceptor(Interceptor):
    """Refuses calls of nobody and calls without a rule; lets :func:`caller` tell the others' owner and reach."""

    def __init__(self, operators: Collection[str]) -> None:
        self._operators = frozenset(operators)

    async def intercept_service(self, continuation: Callable[..., Awaitable[Any]], details: Any) -> Any:
        return around(await continuation(details), details.method, self._coroutine, self._generator)

    def authorize(self, name: str, context: Any) -> Caller:
        """The caller of method ``name``.

        Raises:
            UnauthenticatedError: the connection names no owner.
            PermissionDeniedError: the method has no rule.
        """
        owner = owner_of(context.auth_context())
        rule = RULES.get(name)
        if rule is None:
            raise PermissionDeniedError(f"no rule lets anybody call {name[:100]}")
        return Caller(owner, rule is Reach.OWN_OR_OPERATOR and owner in self._operators)

    def _coroutine(self, method: Any, name: str) -> Any:
        async def call(request: Any, context: Any) -> Any:
            _caller.set(self.authorize(name, context))
            return await method(request, context)

        return call

    def _generator(self, method: Any, name: str) -> Any:
        async def call(request: Any, context: Any) -> AsyncIterator[Any]:
            _caller.set(self.authorize(name, context))
            async with aclosing(method(request, context)) as responses:
                async for response in responses:
                    yield response

        return call
