"""A TCP proxy that breaks connections in the ways of real networks, and counts what passes."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

PIECE = 16 * 1024
# A close with this option sends a reset instead of an orderly end.
ABORT = struct.pack("ii", 1, 0)


@dataclass(eq=False)
class _Link:
    """One client's connection and the proxy's own to the server."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    dead: bool = False


@dataclass(eq=False)
class Proxy:
    """Between clients and the server on ``target`` (a port of this machine).

    Attributes:
        sent, received: bytes that clients have sent to the proxy, and it to them.
        connections: made so far.
        bytes_per_s: in each direction of each connection; None without limit.
        on_sent: called with ``sent`` after each piece from a client.
    """

    target: int
    sent: int = 0
    received: int = 0
    connections: int = 0
    bytes_per_s: float | None = None
    on_sent: Callable[[int], None] | None = None
    _links: set[_Link] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _flowing: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aenter__(self) -> Proxy:
        self._flowing.set()
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=PIECE)
        self.port = int(self._listener.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *error: object) -> None:
        self._listener.close()
        self.reset()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    # -- faults -------------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Both sides of every connection get a reset."""
        for link in list(self._links):
            for writer in (link.client, link.server):
                connection = writer.get_extra_info("socket")
                with suppress(OSError):
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
                writer.transport.abort()

    def half_open(self) -> None:
        """The present connections swallow all that comes, and neither side hears of it. New ones work."""
        for link in self._links:
            link.dead = True

    def cut_server(self) -> None:
        """The server's side of every connection gets a reset; the client's swallows what comes."""
        for link in self._links:
            link.dead = True
            with suppress(OSError):
                link.server.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
            link.server.transport.abort()

    async def stall(self, seconds: float) -> None:
        """Nothing passes for a while; then all of it does."""
        self._flowing.clear()
        await asyncio.sleep(seconds)
        self._flowing.set()

    # -- work ---------------------------------------------------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target, limit=PIECE)
        except OSError:
            writer.transport.abort()
            return
        self.connections += 1
        link = _Link(writer, far_writer)
        self._links.add(link)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await asyncio.gather(
                self._pass(link, reader, far_writer, up=True), self._pass(link, far_reader, writer, up=False)
            )
        finally:
            self._links.discard(link)
            self._tasks.discard(task)
            for end in (writer, far_writer):
                end.close()

    async def _pass(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        with suppress(ConnectionError, OSError):
            while data := await reader.read(PIECE):
                if up:
                    self.sent += len(data)
                    if self.on_sent is not None:
                        self.on_sent(self.sent)
                else:
                    self.received += len(data)
                await self._flowing.wait()
                if self.bytes_per_s is not None:
                    await asyncio.sleep(len(data) / self.bytes_per_s)
                if not link.dead:
                    writer.write(data)
                    await writer.drain()
        if not link.dead:
            writer.close()
