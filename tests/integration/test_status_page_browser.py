"""The status page in a real browser: live, without complaints, by keyboard, by screen reader, light and dark."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path

import pytest
from chromium import BROWSER, NAMES, Page, chromium
from test_status_page import JOB, NOW

from hetal.ckks.presets import TEST_PRESET
from hetal.cli.demo import dataset
from hetal.client import Client
from hetal.server.app import Server
from hetal.server.config import ServerConfig
from hetal.server.http import HttpServer, Response
from hetal.server.overview import Overview
from hetal.server.status_page import HTML_TYPE, assets, page

pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser: none of {', '.join(NAMES)} is installed")

DATA = dataset("wine")
# The smallest contrast of any text with what is painted behind it.
CONTRAST = """
(() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const luminance = (color) => {
    const [r, g, b] = channels(color).slice(0, 3).map((c) => c / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor;
      if ((channels(color)[3] ?? 1) > 0) return color;
    }
    return "rgb(255, 255, 255)";
  };
  let least = [21, ""];
  for (const e of document.body.querySelectorAll("*")) {
    const text = [...e.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data.trim()).join("");
    if (!text || !e.checkVisibility()) continue;
    const [low, high] = [luminance(getComputedStyle(e).color), luminance(behind(e))].sort((a, b) => a - b);
    const contrast = (high + 0.05) / (low + 0.05);
    if (contrast < least[0]) least = [contrast, text];
  }
  return least;
})()
"""


@pytest.fixture
async def tab() -> AsyncIterator[Page]:
    async with chromium() as tab:
        yield tab


class Shown:
    """A page of values that a test may change, behind the real HTTP front."""

    def __init__(self) -> None:
        self.now: Overview | None = NOW

    async def start(self) -> None:
        async def status() -> Response:
            if self.now is None:
                return Response(b"", status=HTTPStatus.INTERNAL_SERVER_ERROR)
            return Response(page(self.now), HTML_TYPE)

        async def file(path: str) -> Response:
            return Response(*assets()[path])

        files = {path: (lambda path=path: file(path)) for path in assets()}
        self.server = await HttpServer.start("127.0.0.1", 0, {"/": status, **files})
        self.url = f"http://127.0.0.1:{self.server.port}/"


@pytest.fixture
async def shown() -> AsyncIterator[Shown]:
    shown = Shown()
    await shown.start()
    yield shown
    await shown.server.stop()


async def test_a_training_can_be_followed_without_touching_the_page(tab: Page, tmp_path: Path) -> None:
    config = ServerConfig(data_dir=tmp_path, allow_insecure=True, threads=1, http_address="127.0.0.1:0")
    server = await Server.start(config)
    origin = f"http://127.0.0.1:{server.http_port}/"
    await tab.go(origin)
    assert await tab.run("document.querySelector('#jobs').textContent.trim()") == "No jobs."

    async def train() -> str:
        async with Client(f"127.0.0.1:{server.port}") as client:
            job = await client.train(
                *(DATA.x_train, DATA.y_train, DATA.x_val, DATA.y_val),
                preset_name=TEST_PRESET,
                epochs=2,
                batch_size=40,
                weight_bound=4.0,
                logits_max=32.0,
                name="a name that only its owner knows",
            )
            return job.id

    training = asyncio.create_task(train())
    await tab.until("document.querySelector('#jobs progress')", 60)
    row = await tab.run("document.querySelector('#jobs tr').textContent")
    job_id = await training
    assert job_id in row
    await tab.until("document.querySelector('#ended').textContent.includes('finished')")
    assert job_id in await tab.run("document.querySelector('#ended').textContent")
    assert await tab.run("document.title") == "hetal: 0 of 1 workers running, 0 waiting, 0 uploading"
    assert "only its owner" not in await tab.run("document.documentElement.outerHTML")
    assert tab.complaints() == []
    assert tab.requested() and all(url.startswith(origin) for url in tab.requested())
    await server.stop(grace_s=1)
    await tab.until("!document.querySelector('#lost').hidden")


async def test_keyboard_pauses_and_resumes(tab: Page, shown: Shown) -> None:
    await tab.go(shown.url)
    await tab.press("Tab", 9)
    assert await tab.run("document.activeElement.id") == "pause"
    await tab.press(" ", 32, " ")
    assert await tab.run("document.activeElement.getAttribute('aria-pressed')") == "true"
    shown.now = replace(NOW, version="9.9.9")
    await asyncio.sleep(2.5)
    assert "9.9.9" not in await tab.run("document.body.textContent")
    await tab.press("Enter", 13, "\r")
    await tab.until("document.body.textContent.includes('9.9.9')")
    assert await tab.run("document.activeElement.id") == "pause", "an update leaves the focus where it is"
    reached = []
    for _ in range(3):
        await tab.press("Tab", 9)
        reached.append(await tab.run("document.activeElement.getAttribute('aria-labelledby')"))
    assert reached == ["jobs-title", "ended-title", "devices-title"], "tables too wide for a screen scroll by keyboard"


async def test_a_lost_server_is_told_and_forgotten_when_it_is_back(tab: Page, shown: Shown) -> None:
    await tab.go(shown.url)
    assert await tab.run("document.querySelector('#lost').hidden")
    shown.now = None
    await tab.until("!document.querySelector('#lost').hidden")
    assert JOB.id in await tab.run("document.querySelector('#jobs').textContent")
    shown.now = NOW
    await tab.until("document.querySelector('#lost').hidden")


async def test_a_screen_reader_hears_names_and_values(tab: Page, shown: Shown) -> None:
    await tab.go(shown.url)
    nodes = (await tab.command("Accessibility.getFullAXTree"))["nodes"]
    heard = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n.get("ignored")]
    assert {("heading", "hetal"), ("heading", "Jobs"), ("heading", "Ended"), ("heading", "Devices")} <= set(heard)
    assert {("region", "Jobs"), ("button", "Pause updates"), ("progressbar", "training, 27 of 100")} <= set(heard)
    assert {("columnheader", "Phase"), ("rowheader", JOB.id), ("meter", "memory of cpu")} <= set(heard)
    assert any(role == "status" for role, _ in heard)
    assert not [
        role for role, name in heard if role in ("button", "link", "progressbar", "meter", "region") and not name
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_text_is_readable_and_narrow_screens_do_not_scroll_sideways(tab: Page, shown: Shown, scheme: str) -> None:
    await tab.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    phases = ("training", "failed", "finished", "queued")
    shown.now = replace(NOW, jobs=tuple(replace(JOB, id=f"{p:>32}", phase=p, failure="WORKER_DIED") for p in phases))
    for width in (1280, 360):
        await tab.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False
        )
        await tab.go(shown.url)
        least, text = await tab.run(CONTRAST)
        assert least >= 4.5, text
        assert await tab.run("document.documentElement.scrollWidth") <= width
    paper = await tab.run("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")


async def test_markup_in_a_value_stays_text(tab: Page, shown: Shown) -> None:
    evil = '<img src=x onerror="document.title=1"><script>document.title=2</script>'
    shown.now = replace(NOW, version=evil, jobs=(replace(JOB, id=evil, phase=evil),))
    await tab.go(shown.url)
    await tab.until("document.querySelector('#jobs').textContent.includes('onerror')")
    await asyncio.sleep(2.5)
    assert await tab.run("document.querySelectorAll('img, main script').length") == 0
    assert (await tab.run("document.title")).startswith("hetal")
    # Were the escaping wrong, the policy would still stop it.
    await tab.run("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"document.title=3\">')")
    await asyncio.sleep(0.5)
    assert (await tab.run("document.title")).startswith("hetal")
    for _ in range(60):
        if any("Content Security Policy" in text for text in tab.complaints()):
            break
        # A busy machine's browser takes its time to tell.
        await asyncio.sleep(0.5)
    assert any("Content Security Policy" in text for text in tab.complaints())
