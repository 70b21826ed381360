"""Debian's Chromium without a window, driven by its DevTools protocol: opens a page, asks it, takes pictures of it."""

import base64
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)


class Tab:
    """One page. `complaints` are its console's errors, uncaught exceptions and what its policy refused."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0
        self.complaints: list[str] = []
        self.requested: list[str] = []

    async def call(self, method: str, **arguments: object) -> dict[str, Any]:
        """One command of the protocol."""
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": arguments})
        while True:
            said = await self._socket.receive_json(timeout=60)
            if said.get("id") == self._number:
                assert "error" not in said, said
                result: dict[str, Any] = said["result"]
                return result
            self._note(said)

    def _note(self, said: dict[str, Any]) -> None:
        told = said.get("params", {})
        match said.get("method"):
            case "Runtime.exceptionThrown":
                self.complaints.append(str(told["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if told["type"] in ("error", "warning"):
                self.complaints.append(str(told["args"]))
            case "Log.entryAdded" if told["entry"]["source"] in ("security", "javascript"):
                self.complaints.append(told["entry"]["text"])
            case "Network.requestWillBeSent":
                self.requested.append(told["request"]["url"])

    async def open(self, url: str) -> None:
        for domain in ("Runtime", "Log", "Network", "Page"):
            await self.call(f"{domain}.enable")
        await self.call("Page.navigate", url=url)
        await self.until("location.protocol === 'http:' && document.readyState === 'complete'")

    async def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        said = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in said, said
        return said["result"].get("value")

    async def until(self, expression: str, *, timeout_s: float = 60.0) -> None:
        """Wait for the page to become so; an element is no answer, `!!` makes it one."""
        for _ in range(int(timeout_s * 10)):
            if await self.ask(expression):
                return
            await anyio.sleep(0.1)
        text = await self.ask("document.body ? document.body.innerText : ''")
        raise AssertionError(f"never: {expression}\ncomplaints: {self.complaints}\nthe page says:\n{text}")

    async def until_it_says(self, text: str) -> None:
        await self.until(f"document.body && document.body.innerText.includes({text!r})")

    async def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            text = {"text": key} if kind == "keyDown" and len(key) == 1 else {}
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, **text)

    async def look(self, *, width: int, height: int, scheme: str = "light") -> None:
        """The size of the window (CSS pixels) and the colours that the person likes."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 700
        )
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    async def picture(self, path: Path) -> None:
        taken = await self.call("Page.captureScreenshot", format="png")
        await anyio.Path(path).write_bytes(base64.b64decode(taken["data"]))


@asynccontextmanager
async def tab(folder: Path) -> AsyncIterator[Tab]:
    """A new browser with one empty page; its profile goes into `folder`."""
    program = shutil.which("chromium")
    if program is None:
        pytest.fail("no 'chromium' on PATH: run tests/tools/chromium.sh")
    profile = folder / "chromium"
    with (folder / "chromium.log").open("wb") as log:
        child = subprocess.Popen(  # noqa: ASYNC220 - starting it takes no time
            [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(folder)},
        )
    try:
        port = await _port(anyio.Path(profile / "DevToolsActivePort"), child)
        async with aiohttp.ClientSession() as session:
            url = await _page(session, port)
            async with session.ws_connect(url, max_msg_size=0) as socket:
                yield Tab(socket)
    finally:
        child.terminate()
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(child.wait)


async def _page(session: aiohttp.ClientSession, port: int) -> str:
    """The address of the one page, which is there a little later than the port."""
    for _ in range(600):
        async with session.get(f"http://127.0.0.1:{port}/json/list") as response:
            pages = [each["webSocketDebuggerUrl"] for each in await response.json() if each["type"] == "page"]
        if pages:
            [url] = pages
            return str(url)
        await anyio.sleep(0.1)
    raise AssertionError("chromium never opened a page")


async def _port(file: anyio.Path, child: "subprocess.Popen[bytes]") -> int:
    for _ in range(600):
        assert child.poll() is None, "chromium ended at once: see chromium.log"
        if await file.exists() and (lines := (await file.read_text()).splitlines()):
            return int(lines[0])
        await anyio.sleep(0.1)
    raise AssertionError("chromium never opened its DevTools port")
