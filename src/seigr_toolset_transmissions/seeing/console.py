"""`serve_console`: a web page that shows a node.

It needs the package aiohttp (the extra ``console``), and imports it only when a console is served.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.resources
import json
import logging
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

from ..errors import STTError, STTListenError, reason_of
from ..foundation.repeats import Repeats
from .feed import Feed, dumps
from .guard import HEADERS, LOOPBACK, Guard, Refusal, in_url
from .metrics import NodeCollector
from .rows import Query

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from ..node import STTNode

__all__ = ["Console", "serve_console"]

_logger = logging.getLogger("seigr_toolset_transmissions.seeing.console")

_MOST_PAGES = 8
"""How many pages may be open at a time."""

_MOST_CONNECTIONS = 64
_BACKLOG = 16
"""How many connections may be accepted at once, and may exceed the limit for a moment."""

_MOST_BODY_BYTES = 64 * 1024
_HTTP_LIMITS: dict[str, Any] = {
    "keepalive_timeout": 10.0,  # also for a request that takes long to arrive
    "lingering_time": 1.0,
    "max_line_size": 4096,
    "max_field_size": 4096,
    "max_headers": 64,
    "auto_decompress": False,
}
_BODY_SECONDS = 10.0
_PATIENCE = 30.0
"""How long a page may take to read a message before it counts as gone."""

_SEND_SECONDS = 5.0
_CLOSE_SECONDS = 0.5
"""How long the end waits for what is being answered, and once more for what was cancelled."""

_TYPES = {
    "css": "text/css",
    "html": "text/html",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}


class Console:
    """A console that is being served; `serve_console` makes it."""

    def __init__(self, url: str) -> None:
        self._url = url

    @property
    def url(self) -> str:
        """The address of the page, with the token that gives access: show it to nobody else."""
        return self._url


@asynccontextmanager
async def serve_console(
    node: STTNode,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    control: bool = False,
    allowed_hosts: Iterable[str] = (),
) -> AsyncIterator[Console]:
    """Serve a web page that shows the node, for as long as the block lasts.

    ::

        async with node.listening(), serve_console(node) as console:
            print(console.url)

    Anyone who has the URL sees the node: its figures, its endpoints with their names and
    addresses, its events. No payload, no seed and no key is shown. ``docs/monitoring.md`` says what
    the page can do, and ``docs/security.md`` who can reach it.

    The node may start and stop at any time; the page says whether it runs. While no page is open,
    nothing is done. At the end of the block open pages are told, and all connections are closed,
    which takes a second at most.

    Args:
        node: The node to show. It runs in this event loop.
        host: Where to listen. The connection is not encrypted: for other machines, leave it at this
            one, and have a reverse proxy with TLS pass requests on.
        port: The port; 0 for any free one.
        control: Whether the page may also send to an endpoint, dial it at once, kick, ban and unban
            it.
        allowed_hosts: What the page is called by the users of a reverse proxy, as in the address
            bar: ``"stt.example.org"``, with ``:PORT`` if there is one. Requests for any other host
            are refused.

    Raises:
        ModuleNotFoundError: On entering: aiohttp is not installed.
        STTListenError: On entering: it cannot listen there.

    """
    if isinstance(allowed_hosts, str):
        raise TypeError("allowed_hosts must be several names, such as ('stt.example.org',)")
    server = _Server(node, control=control)
    await server.start(host, port, tuple(allowed_hosts))
    try:
        yield Console(server.url)
    finally:
        await server.close()


class _Server:
    """Answers the requests of pages."""

    def __init__(self, node: STTNode, *, control: bool) -> None:
        try:
            self._web: Any = importlib.import_module("aiohttp.web")
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "the console needs the package aiohttp: "
                "pip install 'seigr-toolset-transmissions[console]'",
                name=error.name,
            ) from error
        self._node = node
        self._control = control
        self._feed = Feed(node, control=control)
        self._files = {
            f"/{'' if file.name == 'index.html' else file.name}": (
                file.read_bytes(),
                _TYPES[file.name.rpartition(".")[2]],
            )
            for file in importlib.resources.files(__package__).joinpath("page").iterdir()
        }
        self._gets: dict[str, Callable[[Any], Awaitable[Any]]] = {
            "/live": self._live,
            "/endpoints": self._endpoints,
            "/metrics": self._metrics,
        }
        self._repeats = Repeats(_logger)
        # What strangers send must not fill the log; the console itself logs what fails in here.
        silent = logging.Logger("aiohttp", logging.CRITICAL)  # noqa: LOG001 - nobody is to find it
        self._server: Any = self._web.Server(
            self._answer, access_log=None, logger=silent, **_HTTP_LIMITS
        )

    async def start(self, host: str, port: int, allowed_hosts: tuple[str, ...]) -> None:
        """Listen.

        Raises:
            STTListenError: It cannot.

        """
        loop = asyncio.get_running_loop()
        try:
            self._listener = await loop.create_server(
                self._accept, host or None, port, backlog=_BACKLOG
            )
        except OSError as error:
            where = f"{in_url(host)}:{port}"
            raise STTListenError(
                f"the console cannot listen on {where}: {reason_of(error)}; "
                "choose another port, or port 0 for a free one"
            ) from error
        bound = self._listener.sockets[0].getsockname()[1]
        self._guard = Guard(host, bound, allowed_hosts)
        shown = "127.0.0.1" if host in ("", "0.0.0.0", "::") else host  # noqa: S104 - compared
        self.url: str = f"http://{in_url(shown)}:{bound}/#{self._guard.token}"
        if host not in LOOPBACK:
            _logger.warning(
                "the console listens on %r without encryption: use it through a TLS proxy only",
                host,
            )

    async def close(self) -> None:
        """Tell open pages, and close everything."""
        self._listener.close()
        try:
            await self._feed.close()
            self._server.pre_shutdown()
            await self._server.shutdown(_CLOSE_SECONDS)
        finally:  # also if this is cancelled
            for connection in self._server.connections:
                connection.force_close()

    def _accept(self) -> asyncio.BaseProtocol:
        if len(self._server.connections) >= _MOST_CONNECTIONS:
            return _Full()
        protocol: asyncio.BaseProtocol = self._server()
        return protocol

    async def _answer(self, request: Any) -> Any:
        try:
            return await self._respond(request)
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:  # noqa: BLE001 - it is logged, and no stranger may see it
            self._repeats.error("a request to the console failed", error)
            return self._refusal(Refusal(500, "this failed: see the log of the node's program"))

    async def _respond(self, request: Any) -> Any:
        guard, headers, path = self._guard, request.headers, request.path
        if refusal := guard.refuses(headers):
            return self._refusal(refusal)
        if request.method == "GET" and (file := self._files.get(path)) is not None:
            body, kind = file
            return self._response(body, kind)
        if request.method == "POST" and path == "/session":
            return await self._exchange(request)
        if refusal := guard.refuses_data(headers):
            return self._refusal(refusal)
        if request.method == "GET" and (answer := self._gets.get(path)) is not None:
            return await answer(request)
        if request.method == "POST" and path == "/control" and self._control:
            return await self._act(request)
        return self._refusal(Refusal(404, "there is nothing here"))

    # ------------------------------------------------------------------------- what is shown

    async def _exchange(self, request: Any) -> Any:
        if refusal := self._guard.refuses_exchange(request.headers):
            return self._refusal(refusal)
        given = await self._json(request)
        if isinstance(given, Refusal):
            return self._refusal(given)
        token = given.get("token")
        if not isinstance(token, str) or not self._guard.knows(token):
            return self._refusal(Refusal(401, "this is not the token of this console"))
        response = self._response(b"{}", "application/json")
        response.headers["Set-Cookie"] = self._guard.cookie(request.headers)
        return response

    async def _live(self, request: Any) -> Any:
        if self._feed.pages >= _MOST_PAGES:
            return self._refusal(Refusal(503, f"{_MOST_PAGES} pages are open already"))
        response = self._web.StreamResponse(headers=HEADERS | {"Content-Type": "text/event-stream"})
        async with aclosing(self._feed.messages()) as messages:
            try:
                async for message in messages:  # it counts as a page from the first one on
                    async with asyncio.timeout(_PATIENCE):
                        await response.prepare(request)
                        await response.write(message)
            except TimeoutError:
                request.transport.abort()
        return response

    async def _endpoints(self, request: Any) -> Any:
        given = request.query
        try:
            query = Query.read(given)
            selected = bytes.fromhex(given["selected"]) if given.get("selected") else None
        except ValueError as error:
            return self._refusal(Refusal(400, str(error)))
        return self._response(dumps(self._feed.rows(query, selected)), "application/json")

    async def _metrics(self, request: Any) -> Any:
        try:
            prometheus = importlib.import_module("prometheus_client")
            registry = prometheus.CollectorRegistry()
            registry.register(NodeCollector(self._node))
        except ModuleNotFoundError as error:
            return self._refusal(Refusal(404, str(error)))
        return self._response(prometheus.generate_latest(registry), "text/plain")

    # -------------------------------------------------------------------------- what is done

    async def _act(self, request: Any) -> Any:
        given = await self._json(request)
        if isinstance(given, Refusal):
            return self._refusal(given)
        try:
            done = await self._do(given)
        except (KeyError, TypeError, ValueError) as error:
            return self._refusal(Refusal(400, f"this makes no sense: {error}"))
        except (STTError, RuntimeError) as error:
            return self._refusal(Refusal(409, str(error)))
        return self._response(dumps({"done": done}), "application/json")

    async def _do(self, given: dict[str, Any]) -> str:
        node, verb, peer = self._node, given["do"], bytes.fromhex(given["endpoint"])
        if verb == "send":
            text = str.encode(given["text"])
            await node.endpoints.send_to_endpoint(peer, text, timeout=_SEND_SECONDS)
            return f"accepted: {len(text)} bytes"
        if verb == "retry":
            node.retry_now(peer)
            return "dialed, if a dial was due"
        if verb == "unban":
            await node.unban(peer)
            return "no longer banned"
        if verb not in ("kick", "ban"):
            raise ValueError(f"{verb!r} is not one of send, retry, kick, ban and unban")
        lost = await (node.kick if verb == "kick" else node.ban)(peer)
        count = sum(len(error.unsent) + len(error.unknown) for error in lost)
        return f"done; {count} messages may not have arrived" if count else "done"

    async def _json(self, request: Any) -> dict[str, Any] | Refusal:
        """Return the object that a request brings."""
        if request.content_type != "application/json":
            return Refusal(415, "send JSON")
        body = bytearray()
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                while chunk := await request.content.readany():
                    body += chunk
                    if len(body) > _MOST_BODY_BYTES:
                        return Refusal(413, f"at most {_MOST_BODY_BYTES} bytes")
        except TimeoutError:
            return Refusal(408, "this took too long")
        try:
            given = json.loads(body)
        except (ValueError, RecursionError):
            given = None
        return given if isinstance(given, dict) else Refusal(400, "send a JSON object")

    def _response(self, body: bytes, kind: str, status: int = 200) -> Any:
        headers = HEADERS | {"Content-Type": f"{kind}; charset=utf-8"}
        return self._web.Response(body=body, status=status, headers=headers)

    def _refusal(self, refusal: Refusal) -> Any:
        response = self._response(f"{refusal.reason}\n".encode(), "text/plain", refusal.status)
        response.force_close()
        return response


class _Full(asyncio.Protocol):
    """Closes a connection at once: there are too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close it."""
        transport.close()
