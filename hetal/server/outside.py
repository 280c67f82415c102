"""What a server shows over HTTP: whether it lives, whether it can take work, its metrics and its status page."""

from __future__ import annotations

from http import HTTPStatus

from hetal.server.http import Handler, Response
from hetal.server.lookout import Lookout
from hetal.server.metrics import CONTENT_TYPE, Metrics
from hetal.server.status_page import HTML_TYPE, JSON_TYPE, as_json, assets, page
from hetal.server.threads import read_in_thread


def routes(lookout: Lookout, metrics: Metrics) -> dict[str, Handler]:
    """A handler for each path."""

    async def healthz() -> Response:
        return Response(b"ok\n")

    async def readyz() -> Response:
        now = await lookout.overview()
        lines = [f"{'ok' if check.ok else 'no'} {check.name} {check.detail}".rstrip() for check in now.checks]
        status = HTTPStatus.OK if now.ready else HTTPStatus.SERVICE_UNAVAILABLE
        return Response(("\n".join(lines) + "\n").encode(), status=status)

    async def scraped() -> Response:
        return Response(await read_in_thread(metrics.text, await lookout.overview()), CONTENT_TYPE)

    async def status() -> Response:
        return Response(await read_in_thread(page, await lookout.overview()), HTML_TYPE)

    async def status_json() -> Response:
        return Response(await read_in_thread(as_json, await lookout.overview()), JSON_TYPE)

    def file(body: bytes, kind: str) -> Handler:
        async def handler() -> Response:
            return Response(body, kind)

        return handler

    files = {path: file(body, kind) for path, (body, kind) in assets().items()}
    return {
        "/": status,
        "/status.json": status_json,
        "/healthz": healthz,
        "/readyz": readyz,
        "/metrics": scraped,
        **files,
    }
