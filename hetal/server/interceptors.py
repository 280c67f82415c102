"""Turns exceptions into gRPC statuses, and reports every call. The only place of the server that knows both sides."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn

import grpc

from hetal import request_id
from hetal.errors import HetalError
from hetal.server.log import event
from hetal.server.resources import shortage
from hetal.server.telemetry import OK, Call, Telemetry

CODE_KEY: Final = "hetal-code"
HINT_KEY: Final = "hetal-hint-bin"
INTERNAL_TEXT: Final = "internal error; the server's log has the details"


# Generic in its stubs alone.
if TYPE_CHECKING:
    Interceptor = grpc.aio.ServerInterceptor[Any, Any]
else:
    Interceptor = grpc.aio.ServerInterceptor


def around(
    handler: Any,
    name: str,
    coroutine: Callable[[Any, str], Any],
    generator: Callable[[Any, str], Any],
    codecs: tuple[Any, Any] | None = None,
) -> Any:
    """The handler with its method wrapped, by ``generator`` where the method is one; None stays None.

    ``codecs`` replaces its deserialiser and its serialiser.
    """
    if handler is None:
        return None
    kinds = {
        (False, False): (handler.unary_unary, grpc.unary_unary_rpc_method_handler),
        (False, True): (handler.unary_stream, grpc.unary_stream_rpc_method_handler),
        (True, False): (handler.stream_unary, grpc.stream_unary_rpc_method_handler),
        (True, True): (handler.stream_stream, grpc.stream_stream_rpc_method_handler),
    }
    method, make = kinds[bool(handler.request_streaming), bool(handler.response_streaming)]
    wrap = generator if inspect.isasyncgenfunction(method) else coroutine
    return make(wrap(method, name), *(codecs or (handler.request_deserializer, handler.response_serializer)))


class ErrorInterceptor(Interceptor):
    """A :class:`HetalError` travels with its status, code and hint; anything else as INTERNAL with a public text."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    async def intercept_service(self, continuation: Callable[..., Awaitable[Any]], details: Any) -> Any:
        handler = await continuation(details)
        if handler is None:
            return None
        name = details.method.rpartition("/")[2]
        return around(
            handler,
            name,
            partial(_coroutine, telemetry=self._telemetry),
            partial(_generator, telemetry=self._telemetry),
            self._telemetry.counted(name, handler),
        )


def _coroutine(method: Any, name: str, telemetry: Telemetry) -> Any:
    async def call(request: Any, context: Any) -> Any:
        with telemetry.call(name, _metadata(context)) as known:
            try:
                response = await method(request, context)
            except (asyncio.CancelledError, grpc.aio.AbortError):
                raise
            except Exception as error:
                await _abort(context, known, name, error)
            known.code = OK
            return response

    return call


def _generator(method: Any, name: str, telemetry: Telemetry) -> Any:
    async def call(request: Any, context: Any) -> AsyncIterator[Any]:
        with telemetry.call(name, _metadata(context)) as known:
            try:
                async with aclosing(method(request, context)) as responses:
                    async for response in responses:
                        yield response
            except (asyncio.CancelledError, grpc.aio.AbortError, GeneratorExit):
                raise
            except Exception as error:
                await _abort(context, known, name, error)
            known.code = OK

    return call


async def _abort(context: Any, call: Call, name: str, error: Exception) -> NoReturn:
    short = shortage(error)
    if short is not None:
        error = short
    if isinstance(error, HetalError):
        known, text = error, error.message
    else:
        known, text = HetalError(INTERNAL_TEXT), INTERNAL_TEXT
        event("rpc crashed", level=logging.ERROR, error=error, rpc=name)
    call.code = known.code
    request = request_id.current.get()
    metadata = ((CODE_KEY, known.code), (HINT_KEY, known.hint.encode()), (request_id.REQUEST_ID_KEY, request))
    await context.abort(grpc.StatusCode[known.status], text, trailing_metadata=metadata)
    raise known


def _metadata(context: Any) -> dict[str, Any]:
    return dict(context.invocation_metadata() or ())
