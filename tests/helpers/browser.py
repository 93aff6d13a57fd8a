"""A headless Chromium, driven through its debugging protocol."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

import aiohttp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path
    from types import TracebackType

__all__ = ["OPTIONS", "Browser", "Page", "find_browser"]

OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]

UNTIL = """new Promise((resolve, reject) => {
  const end = Date.now() + %d;
  const look = () => {
    let found = null;
    try { found = %s; } catch (error) { found = null; }
    if (found) resolve(found);
    else if (Date.now() > end) reject(new Error("it did not happen"));
    else setTimeout(look, 15);
  };
  look();
})"""


def find_browser() -> str | None:
    """Return the path of Chromium or Chrome; None if there is none."""
    return shutil.which("chromium") or shutil.which("google-chrome")


class Browser:
    """A browser process. Use it as ``async with Browser(program, folder) as browser:``.

    Args:
        program: Its path.
        folder: An empty folder for its profile.

    """

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._folder = folder
        self._number = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._trace: list[dict[str, Any]] = []
        self._traced = asyncio.Event()
        self.pages: dict[str, Page] = {}

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            self._program,
            *OPTIONS,
            "--remote-debugging-port=0",
            f"--user-data-dir={self._folder}",
            "about:blank",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(30):
                address = await self._address()
                self._client = aiohttp.ClientSession()
                self._socket = await self._client.ws_connect(address, max_msg_size=0)
        except BaseException:
            await self._end()
            raise
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._reading.cancel()
        await asyncio.wait({self._reading})
        await self._socket.close()
        await self._end()

    async def open(
        self, url: str, *, width: int = 1280, height: int = 900, dark: bool = False
    ) -> Page:
        """Open a page, in a profile of its own, and return at once."""
        context = (await self.call("Target.createBrowserContext"))["browserContextId"]
        target = await self.call("Target.createTarget", url="about:blank", browserContextId=context)
        attached = await self.call(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        page = self.pages[attached["sessionId"]] = Page(self, attached["sessionId"])
        for domain in ("Runtime", "Log", "Page", "Network"):
            await page.call(f"{domain}.enable")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await page.call("Emulation.setEmulatedMedia", features=[scheme])
        await page.resize(width, height)
        await page.go(url)
        return page

    async def call(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        """Call a method of the protocol, and return its result."""
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_str(json.dumps(message))
        async with asyncio.timeout(40):
            return await self._waiting[number]

    @asynccontextmanager
    async def traced(self) -> AsyncIterator[list[dict[str, Any]]]:
        """Record what the browser does in a block; the list is filled at its end."""
        self._trace = []
        self._traced.clear()
        config = {"includedCategories": ["toplevel", "devtools.timeline"]}
        await self.call("Tracing.start", traceConfig=config, transferMode="ReportEvents")
        found: list[dict[str, Any]] = []
        yield found
        await self.call("Tracing.end")
        async with asyncio.timeout(60):
            await self._traced.wait()
        found += self._trace

    async def _address(self) -> str:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            if line.startswith(b"DevTools listening on "):
                return line.split()[-1].decode()
        raise RuntimeError("the browser has ended")

    async def _read(self) -> None:
        async for received in self._socket:
            message = json.loads(received.data)
            waiting = self._waiting.pop(message.get("id", 0), None)
            if message.get("method") == "Tracing.dataCollected":
                self._trace += message["params"]["value"]
            elif message.get("method") == "Tracing.tracingComplete":
                self._traced.set()
            elif waiting is None:
                page = self.pages.get(message.get("sessionId", ""))
                if page is not None:
                    page.heard(message["method"], message["params"])
            elif "error" in message:
                waiting.set_exception(RuntimeError(message["error"]["message"]))
            elif not waiting.done():
                waiting.set_result(message["result"])

    async def _end(self) -> None:
        with suppress(AttributeError):
            await self._client.close()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        # Its pipe would stay open until the loop's end otherwise.
        await self._process.communicate()


class Page:
    """One page."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self.complaints: list[str] = []
        """What the browser's console says: errors, exceptions, breaches of the policy."""
        self.requested: list[str] = []
        """The addresses that were asked for."""

    async def call(self, method: str, **parameters: Any) -> Any:
        """Call a method of the protocol for this page."""
        return await self._browser.call(method, self._session, **parameters)

    async def go(self, url: str) -> None:
        """Load another address."""
        await self.call("Page.navigate", url=url)

    async def resize(self, width: int, height: int) -> None:
        """Give the page this size."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    async def run(self, script: str) -> Any:
        """Evaluate an expression in the page, wait for its promise, and return its value."""
        done = await self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in done:
            raise AssertionError(
                f"{script}: {done['exceptionDetails'].get('exception', {}).get('description')}"
            )
        return done["result"].get("value")

    async def until(self, condition: str, seconds: float = 20) -> Any:
        """Wait until an expression is true in the page, and return its value."""
        try:
            return await self.run(UNTIL % (seconds * 1000, condition))
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.complaints}") from None

    async def press(self, key: str) -> None:
        """Press a key and release it."""
        code = {"Enter": 13, "Tab": 9, "Escape": 27, "ArrowLeft": 37}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            await self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                **(text if kind == "keyDown" else {}),
            )

    async def picture(self, path: Path) -> None:
        """Write what the page looks like to a file: ``.png``, ``.jpeg`` or ``.webp``."""
        await self.call("Emulation.setScrollbarsHidden", hidden=True)
        taken = await self.call(
            "Page.captureScreenshot", format=path.suffix.removeprefix("."), quality=85
        )
        path.write_bytes(base64.b64decode(taken["data"]))  # noqa: ASYNC240 - nothing else runs

    def heard(self, method: str, told: dict[str, Any]) -> None:
        """Note what the browser tells of the page."""
        read: Callable[[], str] | None = {
            "Runtime.exceptionThrown": lambda: str(told["exceptionDetails"]),
            "Log.entryAdded": lambda: f"{told['entry']['text']} {told['entry'].get('url', '')}",
            "Runtime.consoleAPICalled": lambda: str(told["args"]),
        }.get(method)
        if read is not None:
            self.complaints.append(read())
        if method == "Network.requestWillBeSent":
            self.requested.append(told["request"]["url"])
