"""Make the pictures of README and docs from the real programs: `python docs/make_pictures.py`.

In a virtual environment with the project and its extra `dev`, from the repository's root. It takes
about two minutes; name pictures to make only those. Chromium draws the pictures of the console.
"""

from __future__ import annotations

import asyncio
import io
import random
import re
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers.browser import Browser, find_browser
from seigr_toolset_transmissions import STTNode, generate_seed
from seigr_toolset_transmissions.cli.demo.single import run_demo
from seigr_toolset_transmissions.cli.top.app import TopApp
from seigr_toolset_transmissions.seeing import serve_console, serve_monitor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DOCS = Path(__file__).resolve().parent
COLUMNS = 80

# -- the demo ---------------------------------------------------------------------------------

SHOWN = ("6 of 7", "checks passed")
"""Where the parts that are shown begin: a step, and the verdict. Each ends with the next step."""
WEB_FONTS = re.compile(r"@font-face \{+.*?\}+\n", re.DOTALL)
"""Fonts from another host: the reader's own will do."""


def recorder() -> Console:
    """Return a console that writes nowhere and can be drawn."""
    return Console(file=io.StringIO(), record=True, force_terminal=True, width=COLUMNS)


async def draw_demo() -> None:
    """Play the demo and draw some of it."""
    demo = recorder()
    if await run_demo(demo, fast=False):
        raise SystemExit("the demo has failed:\n" + demo.export_text())
    picture = recorder()
    shown = False
    for line in demo.export_text(styles=True).splitlines():
        text = Text.from_ansi(line)
        if any(mark in text.plain for mark in SHOWN):
            shown = True
        elif " of 7 " in text.plain:
            shown = False
        if shown:
            picture.print(text)
    frame = WEB_FONTS.sub("", CONSOLE_SVG_FORMAT)
    picture.save_svg(str(DOCS / "demo.svg"), title="stt demo", code_format=frame)


# -- a node to look at ------------------------------------------------------------------------

ROOMS = ("attic", "bath", "cellar", "garage", "greenhouse", "hall", "kitchen", "library", "porch")
THINGS = ("camera", "thermometer")
WATCHED_SECONDS = 60


@asynccontextmanager
async def busy_hub() -> AsyncIterator[STTNode]:
    """Run a hub with the devices of a house, which say more or less."""
    shared = generate_seed()
    hub = STTNode(generate_seed(), shared, "127.0.0.1", 0)
    chance = random.Random(1)  # noqa: S311 - so that the pictures differ in their times only

    async def measure(device: STTNode, size: int, pause: float) -> None:
        while True:
            await device.endpoints.send_to_endpoint(hub.node_id, bytes(size))
            await asyncio.sleep(chance.uniform(0.5, 1.5) * pause)

    async def switch(name: str) -> None:
        """Come and go."""
        seed = generate_seed()
        while True:
            async with STTNode(seed, shared) as device:
                await device.endpoints.add_endpoint(hub.node_id, hub.address)
                await device.endpoints.send_to_endpoint(hub.node_id, b"here I am")
                hub.endpoints.update_endpoint(device.node_id, metadata={"name": name})
                await asyncio.sleep(chance.uniform(5, 9))
            await asyncio.sleep(chance.uniform(1, 3))

    async def take() -> None:
        while True:
            data, sender = await hub.endpoints.receive_any()
            if sender in hub.endpoints and chance.random() < 0.2:
                await hub.endpoints.send_to_endpoint(sender, data[:100])

    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        await stack.enter_async_context(hub.listening())
        tasks = [group.create_task(take())]
        for room in ROOMS:
            for thing in THINGS:
                device = await stack.enter_async_context(STTNode(generate_seed(), shared))
                await device.endpoints.add_endpoint(hub.node_id, hub.address)
                await device.endpoints.send_to_endpoint(hub.node_id, b"here I am")
                name = f"{room} {thing}"
                hub.endpoints.update_endpoint(device.node_id, metadata={"name": name})
                size, pause = (60_000, 0.05) if thing == "camera" else (40, 0.5)
                tasks.append(
                    group.create_task(measure(device, int(size * chance.uniform(0.2, 1)), pause))
                )
        names = ("ada's phone", "ben's laptop")
        tasks.extend(group.create_task(switch(name)) for name in names)
        yield hub
        for task in tasks:
            task.cancel()


async def draw_top() -> None:
    """Draw `stt top`."""
    with TemporaryDirectory() as folder:
        socket = Path(folder, "hub.sock")
        async with (
            busy_hub() as hub,
            serve_monitor(hub, socket),
            TopApp(socket).run_test(size=(110, 34)) as pilot,
        ):
            await asyncio.sleep(WATCHED_SECONDS)
            await pilot.press("s", "s", "s")
            await pilot.pause(1)
            picture = pilot.app.export_screenshot(title="stt top hub.sock")
    (DOCS / "top.svg").write_text(WEB_FONTS.sub("", picture), encoding="utf-8")


async def draw_console() -> None:
    """Draw the console in its light and its dark colours."""
    program = find_browser()
    if program is None:
        raise SystemExit("the pictures of the console need Chromium: no `chromium` is on the PATH")
    with TemporaryDirectory() as profile:
        async with (
            busy_hub() as hub,
            serve_console(hub) as console,
            Browser(program, Path(profile)) as browser,
        ):
            light = await browser.open(console.url)
            dark = await browser.open(console.url, dark=True)
            for page in (light, dark):
                await page.call("Emulation.setScrollbarsHidden", hidden=True)
            await asyncio.sleep(WATCHED_SECONDS)
            await light.picture(DOCS / "console.png")
            await dark.picture(DOCS / "console-dark.png")


PICTURES = {"demo": draw_demo, "top": draw_top, "console": draw_console}

if __name__ == "__main__":
    for chosen in sys.argv[1:] or PICTURES:
        if chosen not in PICTURES:
            raise SystemExit(f"no picture is called {chosen!r}: there are {', '.join(PICTURES)}")
        asyncio.run(PICTURES[chosen]())
