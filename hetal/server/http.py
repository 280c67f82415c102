"""A small read-only HTTP server on asyncio: GET and HEAD of fixed paths, one request a connection, all bounded."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from typing import Final

from hetal import limits
from hetal.errors import InputError
from hetal.server.log import event

# The page loads its own style, script and data, and nothing else; nothing may embed it.
HEADERS: Final = {
    "Cache-Control": "no-store",
    "Connection": "close",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
TEXT: Final = "text/plain; charset=utf-8"
LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})


@dataclass(frozen=True, slots=True)
class Response:
    body: bytes
    content_type: str = TEXT
    status: HTTPStatus = HTTPStatus.OK


Handler = Callable[[], Awaitable[Response]]


class HttpServer:
    """Make one with :meth:`start`.

    On loopback only requests that name loopback are answered: else a web page whose name its owner points to 127.0.0.1
    could read the answers in the operator's browser.
    """

    def __init__(self, routes: Mapping[str, Handler], *, loopback: bool) -> None:
        self._routes = routes
        self.loopback = loopback
        self._open: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    @classmethod
    async def start(cls, host: str, port: int, routes: Mapping[str, Handler]) -> HttpServer:
        """Listen.

        Raises:
            InputError: the address cannot be listened on.
        """
        bare = host.strip("[]")
        server = cls(routes, loopback=_is_loopback(bare))
        try:
            server._server = await asyncio.start_server(
                server._connected, bare, port, limit=limits.HTTP_HEAD_BYTES_MAX, backlog=limits.HTTP_CONNECTIONS_MAX
            )
        except OSError as error:
            raise InputError(
                f"cannot listen on {host}:{port} for HTTP", hint="Choose a free port, or 0 for any."
            ) from error
        server.port = server._server.sockets[0].getsockname()[1]
        return server

    async def stop(self) -> None:
        """Listen no more, and break off what runs."""
        if self._server is not None:
            self._server.close()
        for task in self._open:
            task.cancel()
        if self._open:
            await asyncio.wait(self._open)
        if self._server is not None:
            await self._server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._open) >= limits.HTTP_CONNECTIONS_MAX:
            writer.transport.abort()
            return
        self._open.add(task)
        try:
            await asyncio.wait_for(self._serve(reader, writer), limits.HTTP_TIMEOUT_S)
        except (asyncio.TimeoutError, ConnectionError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            # Only stop() cancels; asyncio's streams would log a cancelled handler as a crash.
            pass
        finally:
            self._open.discard(task)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method = ""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            method, target, fields = _parsed(head)
            response = await self._respond(method, target, fields)
        except asyncio.LimitOverrunError:
            response = _plain(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        except ValueError:
            response = _plain(HTTPStatus.BAD_REQUEST)
        headers = {
            **HEADERS,
            "Content-Type": response.content_type,
            "Content-Length": str(len(response.body)),
            **({"Allow": "GET, HEAD"} if response.status is HTTPStatus.METHOD_NOT_ALLOWED else {}),
        }
        first = f"HTTP/1.1 {response.status.value} {response.status.phrase}"
        writer.write("\r\n".join((first, *(f"{name}: {value}" for name, value in headers.items()), "", "")).encode())
        if method != "HEAD":
            writer.write(response.body)
        writer.write_eof()
        # The other side closes once it has everything; aborting before would cut the answer short.
        await writer.drain()
        while await reader.read(limits.HTTP_HEAD_BYTES_MAX):
            pass

    async def _respond(self, method: str, target: str, fields: Mapping[str, str]) -> Response:
        if self.loopback and _host(fields.get("host", "localhost")) not in LOOPBACK_NAMES:
            return _plain(HTTPStatus.MISDIRECTED_REQUEST)
        if method not in ("GET", "HEAD"):
            return _plain(HTTPStatus.METHOD_NOT_ALLOWED)
        handler = self._routes.get(target.partition("?")[0])
        if handler is None:
            return _plain(HTTPStatus.NOT_FOUND)
        try:
            return await handler()
        except Exception as error:
            event("http crashed", level=logging.ERROR, error=error, path=target[:100])
            return _plain(HTTPStatus.INTERNAL_SERVER_ERROR)


def _parsed(head: str) -> tuple[str, str, dict[str, str]]:
    """Method, target and header fields, names in lower case. Raises ValueError where it is no HTTP/1 request."""
    first, *rest = head.removesuffix("\r\n\r\n").split("\r\n")
    method, target, version = first.split(" ")
    if version not in ("HTTP/1.0", "HTTP/1.1") or not target.startswith("/"):
        raise ValueError("no HTTP/1 request")
    fields = {}
    for line in rest:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise ValueError("no header field")
        fields[name.lower()] = value.strip()
    return method, target, fields


def _host(text: str) -> str:
    """A Host field without its port."""
    name, colon, port = text.rpartition(":")
    return (name if colon and port.isdigit() else text).lower()


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _plain(status: HTTPStatus) -> Response:
    return Response(f"{status.phrase}\n".encode(), status=status)
