// Fetches the page again and takes over what changed. The server alone knows how to render it.
"use strict";

const INTERVAL_MS = 2000;
const pause = document.getElementById("pause");
const lost = document.getElementById("lost");

async function update() {
  try {
    const response = await fetch("/", { signal: AbortSignal.timeout(10000) });
    if (!response.ok) throw new Error(response.statusText);
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
    if (paused()) return;
    for (const old of document.querySelectorAll("[data-live]")) {
      const now = fresh.getElementById(old.id);
      if (!now) continue;
      old.hidden = now.hidden;
      if (old.innerHTML !== now.innerHTML) old.replaceChildren(...now.childNodes);
    }
    document.title = fresh.title;
    lost.hidden = true;
  } catch {
    lost.hidden = false;
  }
}

function paused() {
  return pause.getAttribute("aria-pressed") === "true";
}

async function run() {
  for (;;) {
    await new Promise((wake) => setTimeout(wake, INTERVAL_MS));
    if (!paused() && !document.hidden) await update();
  }
}

pause.hidden = false;
pause.addEventListener("click", () => pause.setAttribute("aria-pressed", String(!paused())));
run();
