"""The console's server: who gets what, what strangers cannot do, and how it ends."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import zipfile
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from helpers.documents import ROOT
from helpers.nodes import Nodes, assert_no_task_left, until
from seigr_toolset_transmissions.errors import STTListenError
from seigr_toolset_transmissions.seeing import console as module
from seigr_toolset_transmissions.seeing import serve_console
from seigr_toolset_transmissions.seeing.feed import Feed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from helpers.nodes import Pair
    from seigr_toolset_transmissions import STTNode

aiohttp = pytest.importorskip("aiohttp")

HEADERS = {
    "Content-Security-Policy",
    "Cross-Origin-Resource-Policy",
    "Referrer-Policy",
    "X-Content-Type-Options",
    "X-Frame-Options",
}


class Visitor:
    """Asks a console, with a cookie once it has signed in."""

    def __init__(self, url: str, client: Any) -> None:
        parts = urlsplit(url)
        self.root = f"http://{parts.netloc}"
        self.token = parts.fragment
        self.port = parts.port or 0
        self.client = client

    async def get(self, path: str, **headers: str) -> tuple[int, str]:
        async with self.client.get(self.root + path, headers=headers) as answer:
            assert set(answer.headers) >= HEADERS
            assert not any(name.startswith("Access-Control") for name in answer.headers)
            return answer.status, await answer.text()

    async def post(self, path: str, body: object, **headers: str) -> tuple[int, str]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} | headers
        async with self.client.post(self.root + path, data=data, headers=headers) as answer:
            return answer.status, await answer.text()

    async def sign_in(self) -> None:
        assert (await self.post("/session", {"token": self.token}))[0] == 200

    async def raw(self, *lines: str, rest: bytes = b"") -> bytes:
        """Write a request as it is, and return all that comes until the connection ends."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write("".join(f"{line}\r\n" for line in lines).encode() + rest)
        async with asyncio.timeout(20):
            try:
                answer = await reader.read()
            except ConnectionError:
                answer = b""
        writer.close()
        return answer


@asynccontextmanager
async def served(node: STTNode, **options: Any) -> AsyncIterator[Visitor]:
    """Serve a console for the node, and yield a visitor who has not signed in."""
    # To the jar, an address without a name is not safe for cookies otherwise.
    jar = aiohttp.CookieJar(unsafe=True)
    client = aiohttp.ClientSession(cookie_jar=jar)
    async with serve_console(node, **options) as console, client:
        yield Visitor(console.url, client)


async def test_the_token_opens_the_console_and_nothing_else_does() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        secret = pair.dialer.node_id.hex()
        async with served(pair.listener) as visitor:
            for path in ("/live", "/endpoints", "/metrics", "/control", "/nothing"):
                status, text = await visitor.get(path)
                assert status == 401
                assert secret not in text
            for token in ("", "wrong", visitor.token[:-1], 7, None, "\ud800"):
                assert (await visitor.post("/session", {"token": token}))[0] == 401
            for body in (b"", b"{", b"[]", b"[" * 60000, b"\xff"):
                assert (await visitor.post("/session", body))[0] == 400
            assert (await visitor.get("/endpoints"))[0] == 401
            await visitor.sign_in()
            status, text = await visitor.get("/endpoints")
            assert status == 200
            assert json.loads(text)["rows"][0]["id"] == secret
            assert (await visitor.get("/nothing"))[0] == 404
            assert (await visitor.get("/endpoints?sort=nonsense"))[0] == 400
            assert (await visitor.get("/endpoints?selected=x"))[0] == 400


async def test_a_page_of_another_site_gets_nothing() -> None:
    async with Nodes() as nodes, served(await nodes.start()) as visitor:
        await visitor.sign_in()
        assert (await visitor.get("/endpoints", Host="evil.example"))[0] == 421
        assert (await visitor.get("/", Host=f"evil.example:{visitor.port}"))[0] == 421
        for path in ("/", "/endpoints", "/live"):
            assert (await visitor.get(path, Origin="http://evil.example"))[0] == 403
        assert (await visitor.get("/live", **{"Sec-Fetch-Site": "same-site"}))[0] == 403
        token = {"token": visitor.token}
        assert (await visitor.post("/session", token, Origin="null"))[0] == 403
        # A form can send text without asking first.
        sent = await visitor.post("/session", token, **{"Content-Type": "text/plain"})
        assert sent[0] == 415


async def test_only_the_files_of_the_page_are_served() -> None:
    async with Nodes() as nodes, served(await nodes.start()) as visitor:
        status, text = await visitor.get("/")
        assert status == 200
        assert 'src="console.js"' in text
        for name in ("console.js", "console.css", "plot.js", "icon.svg"):
            assert (await visitor.get(f"/{name}"))[0] == 200
        await visitor.sign_in()
        for target in (
            "/../console.py",
            "/%2e%2e/console.py",
            "/..%2fconsole.py",
            "//etc/passwd",
            "/console.js/",
            "/console.js%00",
            "/page/console.js",
            "/index.html",
        ):
            answer = await visitor.raw(
                f"GET {target} HTTP/1.1", f"Host: 127.0.0.1:{visitor.port}", "", ""
            )
            assert answer.split()[1] in (b"400", b"401", b"404"), target
            assert b"import" not in answer


async def test_strangers_are_held_off(monkeypatch: pytest.MonkeyPatch, no_log: None) -> None:
    """Requests that are slow, too large, too many or no requests end; members do not notice."""
    monkeypatch.setitem(module._HTTP_LIMITS, "keepalive_timeout", 0.3)
    monkeypatch.setattr(module, "_BODY_SECONDS", 0.3)
    async with Nodes() as nodes, served(await nodes.start()) as visitor:
        own = f"Host: 127.0.0.1:{visitor.port}"
        post = "POST /session HTTP/1.1", own, "Content-Type: application/json"
        silent, slow, slow_body, long_line, large, many, huge, noise = await asyncio.gather(
            visitor.raw(),
            visitor.raw("GET / HTTP/1.1", own),
            visitor.raw(*post, "Content-Length: 100", "", rest=b'{"token'),
            visitor.raw(f"GET /{'x' * 100_000} HTTP/1.1", own, "", ""),
            visitor.raw("GET / HTTP/1.1", own, f"X: {'x' * 100_000}", "", ""),
            visitor.raw("GET / HTTP/1.1", own, *(f"X{n}: 1" for n in range(1000)), "", ""),
            visitor.raw(*post, "Content-Length: 1000000", "", rest=bytes(1_000_000)),
            visitor.raw("\x16\x03\x01\x02\x00", rest=bytes(range(256)) * 50),
        )
        assert silent == slow == b""
        assert slow_body.startswith(b"HTTP/1.1 408 ")
        for answer in (long_line, large, many, noise):
            assert b" 400 " in answer[:13] or answer == b""
        assert b" 413 " in huge[:13] or huge == b""
        await visitor.sign_in()


async def test_only_so_many_connections_are_open() -> None:
    async with Nodes() as nodes, served(await nodes.start()) as visitor:
        most = module._MOST_CONNECTIONS + module._BACKLOG
        opened = [await asyncio.open_connection("127.0.0.1", visitor.port) for _ in range(most + 5)]
        reads = {asyncio.create_task(reader.read()) for reader, _ in opened}
        await until(lambda: sum(read.done() for read in reads) >= 5)
        assert sum(not read.done() for read in reads) >= module._MOST_CONNECTIONS
        for _, writer in opened:
            writer.close()
        await asyncio.wait(reads)


async def test_only_so_many_pages_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Nodes() as nodes, served(await nodes.start()) as visitor:
        await visitor.sign_in()
        live = f"{visitor.root}/live"
        answers = await asyncio.gather(*(visitor.client.get(live) for _ in range(12)))
        assert sorted(answer.status for answer in answers) == [200] * 8 + [503] * 4
        for answer in answers:
            if answer.status == 200:
                assert await answer.content.readline() == b"event: begin\n"
            answer.close()
        monkeypatch.setattr(module, "_MOST_PAGES", 1)

        async with asyncio.timeout(10):  # pages that have gone make room at the next sample
            while True:
                async with visitor.client.get(live) as answer:
                    if answer.status == 200:
                        break


@pytest.fixture
def given_up(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Let pages be sent more than all buffers hold; set when one is given up."""
    event = asyncio.Event()

    async def endless(_: Feed) -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(1_000_000)
        finally:
            event.set()

    monkeypatch.setattr(Feed, "messages", endless)
    return event


@asynccontextmanager
async def stuck_page(visitor: Visitor) -> AsyncIterator[None]:
    """Open a page that reads nothing but the beginning."""
    reader, writer = await asyncio.open_connection("127.0.0.1", visitor.port, limit=1000)
    lines = (
        "GET /live HTTP/1.1",
        f"Host: 127.0.0.1:{visitor.port}",
        f"Authorization: Bearer {visitor.token}",
    )
    writer.write("\r\n".join([*lines, "", ""]).encode())
    await reader.readuntil(b"\r\n")
    yield
    writer.close()


async def test_a_page_that_reads_nothing_is_given_up(
    monkeypatch: pytest.MonkeyPatch, given_up: asyncio.Event
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.2)
    async with Nodes() as nodes, served(await nodes.start()) as visitor, stuck_page(visitor):
        async with asyncio.timeout(20):
            await given_up.wait()


async def test_a_page_that_reads_nothing_hardly_delays_the_end(given_up: asyncio.Event) -> None:
    async with Nodes() as nodes, AsyncExitStack() as stack:
        node = await nodes.start()
        visitor = await stack.enter_async_context(served(node))
        async with stuck_page(visitor):
            began = asyncio.get_running_loop().time()
            await stack.aclose()
            assert asyncio.get_running_loop().time() - began < 10  # not the patience of 30 s
            assert given_up.is_set()


async def test_pages_are_told_of_the_end_and_hold_nothing_up() -> None:
    async with Nodes() as nodes:
        node = await nodes.start()
        loop, before = asyncio.get_running_loop(), asyncio.all_tasks()
        async with aiohttp.ClientSession() as client:
            async with serve_console(node) as console:
                visitor = Visitor(console.url, client)
                bearer = {"Authorization": f"Bearer {visitor.token}"}
                answer = await client.get(f"{visitor.root}/live", headers=bearer)
                assert await answer.content.readline() == b"event: begin\n"
                reader, writer = await asyncio.open_connection("127.0.0.1", visitor.port)
                writer.write(b"GET /")
                rest = asyncio.gather(answer.read(), reader.read())
                await asyncio.sleep(0)
                began = loop.time()
            assert loop.time() - began < 5
            followed, stuck = await rest
            assert followed.endswith(b'event: end\ndata: "console"\n\n')
            assert stuck == b""
            writer.close()
        await assert_no_task_left(before)


async def test_only_a_console_with_control_does_anything() -> None:
    async with Nodes() as nodes:
        pair = await nodes.pair()
        peer = pair.dialer.node_id.hex()
        async with served(pair.listener) as visitor:
            await visitor.sign_in()
            assert (await visitor.post("/control", {"do": "kick", "endpoint": peer}))[0] == 404
        assert len(pair.listener.sessions) == 1
        async with served(pair.listener, control=True) as visitor:
            kick = {"do": "kick", "endpoint": peer}
            assert (await visitor.post("/control", kick))[0] == 401
            await visitor.sign_in()
            assert (await visitor.post("/control", kick, Origin="http://evil"))[0] == 403
            assert (await visitor.get("/control"))[0] == 404
            assert len(pair.listener.sessions) == 1
            await _use(visitor, pair, peer)


async def _use(visitor: Visitor, pair: Pair, peer: str) -> None:
    async def do(verb: object, **more: object) -> tuple[int, str]:
        return await visitor.post("/control", {"do": verb, "endpoint": peer} | more)

    assert await do("send", text="héllo") == (200, '{"done":"accepted: 6 bytes"}')
    assert await pair.dialer.endpoints.receive_any() == (
        "héllo".encode(),
        pair.listener.node_id,
    )
    for verb, more in (
        ("send", {"text": 7}),
        ("send", {}),
        ("dance", {}),
        (None, {}),
        ("kick", {"endpoint": "zz"}),
        ("kick", {"endpoint": "ab"}),
        ("kick", {"endpoint": None}),
    ):
        status, text = await do(verb, **more)
        assert status == 400
        assert text
    assert (await do("send", text="", endpoint="ab" * 32))[0] == 409  # nobody knows this endpoint
    assert (await do("retry"))[0] == 200
    assert (await do("kick"))[0] == 200
    assert pair.listener.sessions == []
    assert (await do("ban"))[0] == 200
    assert pair.listener.banned == {pair.dialer.node_id}
    assert (await do("unban"))[0] == 200
    assert pair.listener.banned == frozenset()


async def test_what_fails_inside_is_logged_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with Nodes() as nodes, served(await nodes.start()) as visitor:
        await visitor.sign_in()

        def fail(*_: object) -> None:
            raise ZeroDivisionError("a detail")

        monkeypatch.setattr(Feed, "rows", fail)
        for _ in range(3):
            status, text = await visitor.get("/endpoints")
            assert status == 500
            assert "detail" not in text
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert visitor.token not in caplog.text


async def test_the_metrics_are_there_if_their_package_is(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("prometheus_client")
    async with Nodes() as nodes, served(await nodes.start()) as visitor:
        bearer = {"Authorization": f"Bearer {visitor.token}"}
        status, text = await visitor.get("/metrics", **bearer)
        assert status == 200
        assert "\nstt_sessions 0.0\n" in text
        monkeypatch.setitem(sys.modules, "prometheus_client.core", None)
        status, text = await visitor.get("/metrics", **bearer)
        assert status == 404
        assert "[metrics]" in text


async def test_a_console_that_cannot_be_served_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Nodes() as nodes:
        node = await nodes.start()
        async with served(node) as visitor:
            with pytest.raises(
                STTListenError, match=f":{visitor.port}: Address already in use; choose"
            ):
                await serve_console(node, port=visitor.port).__aenter__()
        with pytest.raises(TypeError, match="several names"):
            await serve_console(node, allowed_hosts="stt.example.org").__aenter__()
        monkeypatch.setitem(sys.modules, "aiohttp.web", None)
        with pytest.raises(ModuleNotFoundError, match=r"\[console\]"):
            await serve_console(node).__aenter__()


async def test_a_console_that_others_can_reach_is_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Nodes() as nodes:
        node = await nodes.start()
        async with serve_console(node, "0.0.0.0") as console:  # noqa: S104
            assert console.url.startswith("http://127.0.0.1:")
            assert urlsplit(console.url).fragment not in repr(console)
    [record] = caplog.records
    assert "without encryption" in record.message


def test_the_wheel_has_the_page(tmp_path: Path) -> None:
    builders = pytest.importorskip("hatchling.builders.wheel")
    [wheel] = builders.WheelBuilder(str(ROOT)).build(directory=str(tmp_path))
    packed = set(zipfile.ZipFile(wheel).namelist())
    folder = ROOT / "src/seigr_toolset_transmissions/seeing/page"
    files = {f"seigr_toolset_transmissions/seeing/page/{path.name}" for path in folder.iterdir()}
    assert len(files) >= 8
    assert files <= packed
