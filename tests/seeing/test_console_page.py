"""The console's page, in a real browser."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from time import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from helpers.nodes import Nodes, until

pytest.importorskip("aiohttp")

from helpers.browser import Browser, Page, find_browser
from seigr_toolset_transmissions.node import figures
from seigr_toolset_transmissions.seeing import monitor, serve_console

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from seigr_toolset_transmissions import STTNode

pytestmark = pytest.mark.once

MARKUP = '<img src=x onerror="document.title=1"><b>bold</b>'

CONTRASTS = """(() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const [r, g, b] = channels(color).map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if (!color.startsWith("rgba") || channels(color)[3] === 1) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || element.disabled || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const text = element.closest("svg") ? style.fill : style.color;
    const [one, other] = [light(text), light(ground(element))].sort((a, b) => b - a);
    if ((one + 0.05) / (other + 0.05) < 4.5) poor.push(`${element.outerHTML} ${text}`);
  }
  return poor;
})()"""


@pytest.fixture(scope="module")
def anyio_backend() -> Any:
    return ("asyncio", {})


@pytest.fixture(scope="module")
async def browser(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    program = find_browser()
    if program is None:
        assert "STT_REQUIRE_ALL" not in os.environ, "there is no Chromium: install it"
        pytest.skip("this machine has no Chromium")
    async with Browser(program, tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(autouse=True)
def samples_come_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "_INTERVAL", 0.2)


@asynccontextmanager
async def shown(
    browser: Browser, node: STTNode, *, control: bool = False, **look: Any
) -> AsyncIterator[Page]:
    """Show a node in the browser; check that the page breaks no rule and asks nobody else."""
    async with serve_console(node, control=control) as console:
        page = await browser.open(console.url, **look)
        await page.until("document.getElementById('state').dataset.state === 'live'")
        yield page
        assert page.complaints == []
        root = console.url.partition("#")[0]
        assert [url for url in page.requested if not url.startswith(root)] == []
        await page.go("about:blank")


async def text_of(page: Page, selector: str) -> Any:
    return await page.run(f"document.querySelector({selector!r}).textContent")


async def test_names_and_events_with_markup_are_text(browser: Browser) -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        pair.listener.endpoints.update_endpoint(pair.dialer.node_id, metadata={"name": MARKUP})
        async with shown(browser, pair.listener) as page:
            await page.until("document.querySelector('#endpoints .name')?.textContent")
            assert await text_of(page, "#endpoints .name") == MARKUP
            await pair.listener.events.emit("hub_lost", hub=MARKUP)
            await page.until("document.querySelector('#log .what')")
            assert await text_of(page, "#log .what") == MARKUP
            await page.run("document.querySelector('#endpoints .name').click()")
            await page.until("document.querySelector('#details dd')")
            assert await text_of(page, "#details-title") == MARKUP
            assert await page.run("document.querySelectorAll('main img, main b > b').length") == 0
            assert (await page.run("document.title")).endswith("STT console")


async def test_the_token_leaves_the_address_and_a_page_without_one_says_so(
    browser: Browser,
) -> None:
    async with Nodes() as nodes:
        node = await nodes.start()
        async with shown(browser, node) as page:
            assert await page.run("location.hash + document.cookie") == ""
            await page.run("location.reload()")
            await page.until("document.getElementById('state').dataset.state === 'live'")
        async with serve_console(node) as console:
            for url in (console.url.partition("#")[0], console.url[:-1]):
                page = await browser.open(url)
                await page.until("document.getElementById('state').dataset.state === 'denied'")
                assert "open the address" in await text_of(page, "#notice")
                fragment = urlsplit(console.url).fragment
                await page.run(f"location.hash = {fragment!r}")
                await page.until("document.getElementById('state').dataset.state === 'live'")


async def test_ten_thousand_endpoints_are_sorted_filtered_and_paged(browser: Browser) -> None:
    async with Nodes() as nodes:
        node = await nodes.start()
        for number in range(10_000):
            await node.endpoints.add_endpoint(
                number.to_bytes(2) + bytes(30), None, metadata={"name": f"peer-{9999 - number:04}"}
            )
        async with shown(browser, node) as page:

            async def seen(first: str, span: str) -> None:
                await page.until(
                    f"document.querySelector('#endpoints .name').textContent === {first!r}"
                    f" && document.getElementById('range').textContent === {span!r}"
                )

            await seen("peer-9999", "1\u201325 of 10,000")
            await page.run("document.querySelector('#endpoints thead button').click()")
            await seen("peer-0000", "1\u201325 of 10,000")
            sorted_by = "document.querySelector('#endpoints [aria-sort]')"
            assert await page.run(f"{sorted_by}.textContent") == "Endpoint"
            assert await page.run(f"{sorted_by}.ariaSort") == "ascending"
            await page.run("document.querySelector('[data-go=last]').click()")
            await seen("peer-9975", "9,976\u201310,000 of 10,000")
            await page.run(
                "document.getElementById('endpoint-filter').value = 'PEER-012';"
                "document.getElementById('endpoint-filter').dispatchEvent(new Event('input'))"
            )
            await seen("peer-0120", "1\u201310 of 10")
            await page.run("document.querySelector('#endpoints .name').focus()")
            await page.press("Enter")
            await page.until("document.querySelector('#details dd')")
            assert await text_of(page, "#details-title") == "peer-0120"
            await page.press("Escape")
            await page.until("!document.getElementById('details').open")
            assert await page.run("document.activeElement.textContent") == "peer-0120"
            await page.run(
                "document.getElementById('endpoint-state').value = 'suspended';"
                "document.getElementById('endpoint-state').dispatchEvent(new Event('change'))"
            )
            await page.until("document.querySelector('#endpoints td.none')")


async def test_events_are_filtered(browser: Browser) -> None:
    async with Nodes() as nodes:
        node = await nodes.start()
        async with shown(browser, node) as page:
            for name in ("north", "south"):
                await node.events.emit("hub_joined", hub=name)
            await node.events.emit("error", error_type="session_lost", details={"reason": "cut"})
            await page.until("document.querySelectorAll('#log time').length === 3")
            assert await text_of(page, "#log .event") == "error"  # the newest is at the top
            for field, event, value, expected in (
                ("event-kind", "change", "hub", "southnorth"),
                ("event-filter", "input", "NORTH", "north"),
                ("event-kind", "change", "error", ""),
                ("event-filter", "input", "cut", "session_lostcut"),
            ):
                await page.run(
                    f"document.getElementById({field!r}).value = {value!r};"
                    f"document.getElementById({field!r}).dispatchEvent(new Event({event!r}))"
                )
                texts = "[...document.querySelectorAll('#log .what')].map((e) => e.textContent)"
                found = await page.run(f"{texts}.join('').replaceAll(' ', '')")
                assert found == expected


async def test_the_page_says_when_the_node_is_gone_and_when_it_is_back(browser: Browser) -> None:
    async with Nodes() as nodes:
        node = await nodes.start()
        state = "document.getElementById('state').dataset.state"
        notice = "document.getElementById('notice')"
        async with shown(browser, node) as page:
            await node.events.emit("hub_lost", hub="north")
            await page.until("document.querySelector('#log time')")
            await node.stop()
            await page.until(f"{state} === 'gone' && !{notice}.hidden")
            assert "does not run" in await text_of(page, "#notice")
            await node.start()
            await page.run("fetch('live').then(() => true)")  # as another page, which is sooner
            await node.events.emit("hub_lost", hub="south")  # its number is 1 again
            await page.until(f"{state} === 'live' && {notice}.hidden")
            await page.until("document.querySelector('#log .what')?.textContent === 'south'")
        async with serve_console(node) as console:
            page = await browser.open(console.url)
            await page.until(f"{state} === 'live'")
        await page.until(f"{state} === 'gone'")
        assert "was closed" in await text_of(page, "#notice")
        await page.until(f"{notice}.textContent.includes('does not answer')")
        assert await page.run("document.title") == "Gone \u2013 STT console"


async def test_a_plot_can_be_read_with_the_keyboard(browser: Browser) -> None:
    async with Nodes() as nodes, shown(browser, await nodes.start()) as page:
        await page.until(
            "document.querySelector('#sessions .line').getAttribute('d').includes('L')"
        )
        await page.run("document.querySelector('#sessions svg').focus()")
        await page.press("ArrowLeft")
        await page.until("document.querySelector('#sessions [aria-live]').textContent")
        assert "all 0, suspended 0" in await text_of(page, "#sessions [aria-live]")
        label = await page.run("document.querySelector('#throughput svg').ariaLabel")
        assert label.startswith("Throughput: in 0 B/s, out 0 B/s")


async def test_the_page_goes_by_the_clock_of_the_node_even_if_that_is_set_back(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "document.querySelector('#sessions .line').getAttribute('d')"
    count = f"{line}.match(/[ML]/g).length"
    monkeypatch.setattr(figures, "time", lambda: time() + 7200)
    async with Nodes() as nodes:
        pair = await nodes.pair()
        await pair.far.send(b"a message")
        async with shown(browser, pair.listener) as page:
            await page.until("document.querySelector('#endpoints td:last-child')")
            assert await text_of(page, "#endpoints td:last-child") == "2 h 0 min ago"
            await page.until(f"{count} > 10")
            monkeypatch.setattr(figures, "time", time)
            await page.until(f"{count} < 5")
            await page.until(f"{count} > 5")
            await page.go(await page.run("location.href"))  # the console has points of both times
            await page.until(f"{count} > 5")
            first = f"{line}.match(/M([-0-9.]+)/)[1]"
            assert await page.run(f"{first} < document.querySelector('#sessions svg').clientWidth")


async def test_a_console_with_control_sends_and_kicks(browser: Browser) -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        async with shown(browser, pair.listener) as page:
            assert await page.run("document.getElementById('control').hidden")
        async with shown(browser, pair.listener, control=True) as page:
            await page.until("document.querySelector('#endpoints .name')?.textContent")
            await page.run("document.querySelector('#endpoints .name').click()")
            await page.run("document.getElementById('send-text').value = 'hello'")
            await page.run("document.querySelector('[data-do=send]').click()")
            async with asyncio.timeout(10):
                assert (await pair.dialer.endpoints.receive_any())[0] == b"hello"
            outcome = "document.getElementById('outcome').textContent"
            await page.until(f"{outcome} === 'accepted: 5 bytes'")
            await page.run("document.querySelector('[data-do=ban]').click()")
            assert await text_of(page, "[data-do=ban]") == "Really ban?"
            await page.run("document.querySelector('#endpoints .name').click()")
            assert await text_of(page, "[data-do=ban]") == "Ban"  # it may be another endpoint now
            await page.run("document.querySelector('[data-do=ban]').click()")
            assert pair.listener.banned == frozenset()
            await page.run("document.querySelector('[data-do=ban]').click()")
            await until(lambda: pair.listener.banned)
            await page.until("document.querySelector('#banned button')")
            await page.run("document.querySelector('#banned button').click()")
            await until(lambda: not pair.listener.banned)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_the_page_fits_can_be_read_and_each_control_has_a_name(
    browser: Browser, dark: bool
) -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        async with shown(browser, pair.listener, control=True, dark=dark) as page:
            await pair.listener.events.emit("error", error_type="session_lost", details={})
            await pair.listener.events.emit("session_suspended", session_id=b"x" * 16)
            await pair.listener.events.emit("peer_connected", peer_node_id=b"x" * 32)
            await page.until("document.querySelector('#log li + li + li')")
            assert await page.run(CONTRASTS) == []
            await page.run("document.querySelector('#endpoints .name').click()")
            await page.until("document.querySelector('#details dd')")
            assert await page.run(CONTRASTS) == []
            await page.press("Escape")
            tree = (await page.call("Accessibility.getFullAXTree"))["nodes"]
            roles = {"button", "searchbox", "textbox", "combobox", "table", "region", "image"}
            named = [
                (node["role"]["value"], node.get("name", {}).get("value"))
                for node in tree
                if not node["ignored"] and node.get("role", {}).get("value") in roles
            ]
            assert {role for role, _ in named} >= {"button", "searchbox", "combobox", "table"}
            assert [role for role, name in named if not name] == []
            for width in (1280, 400):
                await page.resize(width, 900)
                await page.until(f"innerWidth === {width}")
                assert await page.run("document.documentElement.scrollWidth <= innerWidth")
