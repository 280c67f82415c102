"""What a server shows over HTTP: whether it lives, whether it can take work, its metrics and its status page."""

from __future__ import annotations

from http import HTTPStatus

from hetal.server.http import Handler, Response
from hetal.server.lookout import Lookout
from hetal.server.metrics import CONTENT_TYPE, Metrics
from hetal.server.threads import in_thread


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
        return Response(await in_thread(metrics.text, await lookout.overview()), CONTENT_TYPE)

    return {"/healthz": healthz, "/readyz": readyz, "/metrics": scraped}
