"""Looks at the built site in headless Chromium, on a desktop and on a phone.

    python docs/check_site.py [DIRECTORY FOR SCREENSHOTS]

Every link and anchor leads somewhere, every image has loaded and is large enough to be read, no
page is wider than the screen, nothing is fetched from elsewhere, no script fails, a click on a
heading sorts the leaderboard, and the search finds a word.
"""

import asyncio
import base64
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag

import aiohttp

SITE = Path(__file__).parents[1] / "site"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}

# What is read of a page. Labels of figures have 10 points: at six tenths of their size 8 pixels.
LOOK = """(async () => {
  const images = [...document.querySelectorAll("article img")];
  images.forEach((image) => (image.loading = "eager"));
  await Promise.all(images.map((image) => image.decode().catch(() => {})));
  const scrolls = (element) => {
    for (; element !== document.body; element = element.parentElement)
      if (["auto", "scroll"].includes(getComputedStyle(element).overflowX)) return true;
    return false;
  };
  const wide = [...document.querySelectorAll("article *")].filter((element) =>
    element.getBoundingClientRect().right > innerWidth + 1 && !scrolls(element));
  return {
    page: document.documentElement.scrollWidth > innerWidth,
    wide: wide.map((element) => element.outerHTML.slice(0, 100)),
    missing: images.filter((image) => !image.naturalWidth).map((image) => image.src),
    small: images.filter((image) => image.width < 0.6 * image.naturalWidth).map((i) => i.src),
    links: [...document.querySelectorAll("a[href]")].map((link) => link.href),
    anchors: [...document.querySelectorAll("[id]")].map((element) => element.id),
  };
})()"""

# What may be wrong with a part of a page, as LOOK names it.
FAULTS = {"wide": "wider than the screen", "missing": "not loaded", "small": "too small to read"}

# Two clicks on the heading of the first leaderboard that has a loss.
SORT = """(() => {
  const heading = [...document.querySelectorAll("th")].find((th) => th.innerText.includes("MSE"));
  const column = heading.cellIndex;
  const cells = () => [...heading.closest("table").tBodies[0].rows]
    .map((row) => parseFloat(row.cells[column].innerText.replaceAll(",", "")));
  heading.querySelector("button").click();
  const up = cells();
  heading.querySelector("button").click();
  return [up, cells()];
})()"""

OPEN_SEARCH = 'document.querySelector(".md-search__button").click()'
# Whether the search has found a page: its results are in a shadow tree.
FOUND = """[...document.querySelectorAll("body > div")].some((element) =>
  [...(element.shadowRoot?.querySelectorAll("a") ?? [])].some((link) =>
    link.href.includes("solvers.html")))"""


class Quiet(SimpleHTTPRequestHandler):
    """Serves files without a line for each."""

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextmanager
def served() -> Iterator[str]:
    """The address of the site, on loopback."""
    handler = functools.partial(Quiet, directory=str(SITE))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@contextmanager
def browser() -> Iterator[str]:
    """The address of a browser that listens to its devtools protocol."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        sys.exit(f"no browser: install one of {', '.join(BROWSERS)}")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless", "--remote-debugging-port=0", f"--user-data-dir={profile}"]
        if os.geteuid() == 0:
            options.append("--no-sandbox")  # there is none for root
        process = subprocess.Popen([program, *options, "about:blank"], stderr=subprocess.DEVNULL)
        port = Path(profile) / "DevToolsActivePort"
        try:
            for _ in range(300):
                if port.exists() and (lines := port.read_text().splitlines()):
                    yield f"http://127.0.0.1:{lines[0]}"
                    return
                time.sleep(0.1)
            sys.exit(f"{program} does not start")
        finally:
            process.terminate()
            process.wait()


class Tab:
    """A page of the browser, spoken to in the devtools protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.number = 0
        self.events: list[dict[str, Any]] = []

    async def receive(self) -> dict[str, Any]:
        message: dict[str, Any] = await self.socket.receive_json(timeout=60)
        if "method" in message:
            self.events.append(message)
        return message

    async def call(self, method: str, **params: object) -> dict[str, Any]:
        self.number += 1
        await self.socket.send_json({"id": self.number, "method": method, "params": params})
        while (message := await self.receive()).get("id") != self.number:
            pass
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']}")
        result: dict[str, Any] = message["result"]
        return result

    async def open(self, address: str) -> None:
        self.events.clear()
        await self.call("Page.navigate", url=address)
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            await self.receive()

    async def evaluate(self, expression: str) -> Any:
        answer = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def faults(self, address: str) -> Iterator[str]:
        """What went wrong on the page by itself."""
        for event in self.events:
            params = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                yield f"a script fails: {params['exceptionDetails']['text']}"
            elif event["method"] == "Network.requestWillBeSent":
                url = params["request"]["url"]
                if not url.startswith((address, "data:", "blob:")):
                    yield f"fetched from elsewhere: {url}"


async def finds(tab: Tab, address: str, word: str) -> bool:
    """Whether somebody who types the word is led to the page of solvers."""
    await tab.open(f"{address}/index.html")
    await tab.evaluate(OPEN_SEARCH)
    await asyncio.sleep(1)  # until the field has the focus
    await tab.call("Input.insertText", text=word)
    for _ in range(60):
        if await tab.evaluate(FOUND):
            return True
        await asyncio.sleep(0.5)
    return False


async def look(address: str, devtools: str, screenshots: Path | None) -> list[str]:
    """What is wrong with the site."""
    found: list[str] = []
    links: dict[str, set[str]] = {}
    anchors: dict[str, set[str]] = {}
    names = sorted(page.name for page in SITE.glob("*.html") if page.name != "404.html")
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{devtools}/json") as answer:
            targets = await answer.json()
        (target,) = [each for each in targets if each["type"] == "page"]
        async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            tab = Tab(socket)
            for domain in ("Page", "Runtime", "Network"):
                await tab.call(f"{domain}.enable")
            for name in names:
                await tab.open(f"{address}/{name}")
                for device, (width, height) in WIDTHS.items():
                    size = {"width": width, "height": height, "mobile": device == "phone"}
                    metrics = "Emulation.setDeviceMetricsOverride"
                    await tab.call(metrics, **size, deviceScaleFactor=1)
                    seen = await tab.evaluate(LOOK)
                    wrong = ["the page is wider than the screen"] if seen["page"] else []
                    for key, text in FAULTS.items():
                        wrong += [f"{text}: {item}" for item in seen[key]]
                    found += [f"{name}, {device}: {fault}" for fault in wrong]
                    if screenshots is not None:
                        shot = await tab.call("Page.captureScreenshot")
                        path = screenshots / f"{Path(name).stem}_{device}.png"
                        path.write_bytes(base64.b64decode(shot["data"]))
                found += [f"{name}: {fault}" for fault in tab.faults(address)]
                links[name], anchors[name] = set(seen["links"]), set(seen["anchors"])
            await tab.open(f"{address}/zoo.html")
            up, down = await tab.evaluate(SORT)
            if up != sorted(up) or down != sorted(up, reverse=True) or len({*up}) < 3:
                found.append(f"zoo.html: a click on a heading does not sort: {up}, {down}")
            if not await finds(tab, address, "longhorn"):
                found.append("index.html: the search finds nothing")
    for name, targets in links.items():
        for link in sorted(targets):
            url, anchor = urldefrag(link)
            if not url.startswith(address):
                continue
            path = unquote(url.removeprefix(address)).lstrip("/") or "index.html"
            if not (SITE / path).is_file():
                found.append(f"{name}: a link leads nowhere: {path}")
            elif anchor and path in anchors and unquote(anchor) not in anchors[path]:
                found.append(f"{name}: a link leads to no heading: {path}#{anchor}")
    print(f"{len(names)} pages, {sum(map(len, links.values()))} links, {len(found)} errors")
    return found


def main() -> None:
    """Prints what is wrong and exits with 1, or says that nothing is."""
    screenshots = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    if screenshots is not None:
        screenshots.mkdir(parents=True, exist_ok=True)
    with served() as address, browser() as devtools:
        found = asyncio.run(look(address, devtools, screenshots))
    for fault in found:
        print(fault)
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
