"""A headless Chromium, driven over its own protocol through a pipe. Needs nothing but the browser."""

from __future__ import annotations

import asyncio
import base64
import fcntl
import itertools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

NAMES: Final = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
BROWSER: Final = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
)
ANSWER_BYTES_MAX: Final = 64 << 20
# The browser speaks on descriptors 3 and 4, which the parent needs itself.
LAUNCH: Final = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)


class Page:
    """One tab. ``events`` holds what the browser said of it on its own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._ids = itertools.count(1)
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []

    async def open(self) -> None:
        target = await self.command("Target.createTarget", url="about:blank")
        attached = await self.command("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.command(f"{domain}.enable")

    async def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._ids)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._writer.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = await self._next()
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return dict(answer["result"])

    async def go(self, url: str) -> None:
        """Load a page and wait until it has loaded."""
        self.events.clear()
        await self.command("Page.navigate", url=url)
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            await self._next()

    async def run(self, script: str) -> Any:
        """The value of an expression of the page; a promise is awaited."""
        answer = await self.command("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    async def until(self, script: str, timeout_s: float = 20.0) -> None:
        """Wait until an expression is truthy to the browser."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_s
        while not await self.run(f"Boolean({script})"):
            if loop.time() > end:
                raise TimeoutError(script)
            await asyncio.sleep(0.05)

    async def press(self, key: str, code: int, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            parameters: dict[str, Any] = {"type": kind, "key": key, "windowsVirtualKeyCode": code}
            if text and kind == "keyDown":
                parameters["text"] = text
            await self.command("Input.dispatchKeyEvent", **parameters)

    async def screenshot(self, path: Path) -> None:
        shot = await self.command("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def complaints(self) -> list[str]:
        """Errors of scripts, of loading, and of the content security policy."""
        found = []
        for event in self.events:
            match event["method"]:
                case "Runtime.exceptionThrown":
                    found.append(str(event["params"]["exceptionDetails"]))
                case "Log.entryAdded" if event["params"]["entry"]["level"] in ("error", "warning"):
                    found.append(str(event["params"]["entry"]["text"]))
                case "Network.loadingFailed":
                    found.append(str(event["params"]["errorText"]))
        return found

    def requested(self) -> list[str]:
        """Addresses that the page asked for."""
        return [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]

    async def _next(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads((await asyncio.wait_for(self._reader.readuntil(b"\0"), 60))[:-1])
        if "method" in message:
            self.events.append(message)
        return message


@asynccontextmanager
async def chromium() -> AsyncIterator[Page]:
    """A tab of a fresh browser, which ends with the block."""
    if BROWSER is None:
        raise RuntimeError("no browser")
    theirs_in, ours_out = _pipe()
    ours_in, theirs_out = _pipe()
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", LAUNCH, str(theirs_in), str(theirs_out), BROWSER, *FLAGS),
            f"--user-data-dir={profile}",
            pass_fds=(theirs_in, theirs_out),
            stderr=asyncio.subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=ANSWER_BYTES_MAX)
        reading, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours_in, "rb")
        )
        writing, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, os.fdopen(ours_out, "wb"))
        page = Page(reader, asyncio.StreamWriter(writing, protocol, None, loop))
        try:
            await page.open()
            yield page
        finally:
            writing.close()
            reading.close()
            try:
                await asyncio.wait_for(process.wait(), 10)
            except asyncio.TimeoutError:
                process.kill()
                await process.wait()


def _pipe() -> list[int]:
    """Both ends of a pipe, out of the way of descriptors 3 and 4."""
    low = os.pipe()
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in low]
    for fd in low:
        os.close(fd)
    return high
