"""NATS: connections over a NATS server, between nodes that can only dial out.

It needs the package nats-py (the extra ``nats``), and imports it only when you make a `NatsBus` or
a `NatsNetwork`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib
import inspect
import logging
import re
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from ..foundation.repeats import Repeats
from .bus import Bus
from .pipes import PipeNetwork

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from .bus import Arrived, Unsubscribe

__all__ = ["NatsBus", "NatsNetwork", "without_password"]

_logger = logging.getLogger("seigr_toolset_transmissions.transports.nats")

_DEFAULTS: dict[str, Any] = {"max_reconnect_attempts": -1, "reconnect_time_wait": 0.2}
"""The client never stops trying, because a node outlives an outage. It waits only briefly, because
an attempt that a server refuses costs nothing."""

_OURS = ("servers", "disconnected_cb", "reconnected_cb", "closed_cb", "error_cb", "pending_size")
"""The options of nats-py that this class sets itself."""

_SCHEMES = {"nats", "tls", "ws", "wss"}

_FLUSH_SECONDS = 2
"""How long a server may take to confirm a subscription."""

_CLOSE_SECONDS = 2.0
"""How long closing may take. Otherwise it would wait forever after a failed TLS handshake."""

_MOST_PENDING = 128 * 1024 * 1024
"""Bytes that may wait for the server. The windows of pipes keep within this limit; answers to
strangers might not."""


class _GaveUpError(Exception):
    """No server could be reached."""


class NatsBus(Bus):
    """A connection to a NATS server, or to one server of a NATS cluster.

    Use it as ``async with NatsBus(...) as bus:``. Within the block it reconnects whenever the
    connection is lost, and does not give up.

    Args:
        servers: The URL of the server, such as ``"nats://broker:4222"`` or ``"tls://broker:4222"``,
            or a list of URLs.
        options: Arguments for ``nats.connect``: ``tls`` (an `ssl.SSLContext`), ``user_credentials``
            (the path of a ``.creds`` file), ``user`` and ``password``, ``token``, ``nkeys_seed``,
            and so on.

    Raises:
        ModuleNotFoundError: nats-py is not installed.
        TypeError: ``nats.connect`` has no such option, or it is one of those that this class needs
            itself, such as ``error_cb``.
        ValueError: A URL can never lead to a server.

    """

    def __init__(self, servers: str | Sequence[str], **options: Any) -> None:
        super().__init__()
        self._servers = servers if isinstance(servers, str) else list(servers)
        for server in [servers] if isinstance(servers, str) else self._servers:
            _check_url(server)
        self._new_client = _client_class()
        _check_options(options, self._new_client)
        self._options = options
        self._client: Any = None
        self._attempts: int | None = None  # left before opening fails; None: not opening
        self._last_error: Exception | None = None
        self._repeats = Repeats(_logger)

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            ConnectionError: No server could be reached, or it refuses; the message says why.
            RuntimeError: It is connected already.

        After an error or a cancellation, nothing is left open. A cancellation waits until the
        attempt to connect has ended, which takes a few seconds if the server is silent.

        """
        if self._client is not None:
            raise RuntimeError("this connection to NATS is open already; use one block at a time")
        client = self._client = self._new_client()
        self._last_error = None
        self._attempts = 1 if isinstance(self._servers, str) else len(self._servers)
        # The client leaves sockets open when it is cancelled, so its attempt goes on to its end.
        connecting = asyncio.get_running_loop().create_task(self._connect(client))
        cancelled = False
        while not connecting.done():
            try:
                await asyncio.wait({connecting})
            except asyncio.CancelledError:
                cancelled = True
                self._attempts = 1
        self._attempts = None
        cancelled |= connecting.cancelled()
        failure = None if connecting.cancelled() else connecting.exception()
        if failure is None and not cancelled:
            self._set_up(True)
            return self
        self._client = None
        await _close(client)
        if cancelled:
            raise asyncio.CancelledError
        raise ConnectionError(errno.ECONNREFUSED, self._why(failure)) from self._last_error

    async def _connect(self, client: Any) -> None:
        await client.connect(
            self._servers,
            disconnected_cb=self._lost,
            reconnected_cb=self._found,
            closed_cb=self._closed,
            error_cb=self._failed,
            pending_size=2 * _MOST_PENDING,  # above what `publish` lets wait
            **_DEFAULTS | self._options,
        )

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Disconnect, after sending what was published. Connections over the bus are cut."""
        client, self._client = self._client, None
        self._set_up(False)
        if client is not None:
            await _close(client)

    @property
    def server(self) -> tuple[str, int] | None:
        """Host and port of the server; None without a connection."""
        url = None if self._client is None else self._client.connected_url
        return None if url is None else (url.hostname, url.port)

    def publish(self, subject: str, data: bytes, reply: str = "") -> None:
        """Send ``data`` to every subscriber of ``subject``, as `Bus.publish` says."""
        client = self._client
        if not self._is_up or client.pending_data_size > _MOST_PENDING:
            return
        # A coroutine that never waits: within these limits it adds to the buffer and returns.
        publishing = client.publish(subject, data, reply)
        try:
            publishing.send(None)
        except StopIteration:
            pass
        except Exception as error:  # noqa: BLE001 - whatever the reason, this message is lost
            self._note(error)
        else:
            publishing.close()

    async def subscribe(self, prefix: str, arrived: Arrived) -> Unsubscribe:
        """Call ``arrived`` for each message to a subject below ``prefix``, as `Bus` says.

        Raises:
            OSError: The bus is not connected, or the server did not answer.

        """
        client = self.connected()

        async def take(message: Any) -> None:
            arrived(message.subject.rpartition(".")[2], message.data, message.reply)

        async def unsubscribe() -> None:
            if not client.is_closed:
                await subscription.unsubscribe()
            if self._is_up:  # if the server is alive, it knows by the time this returns
                with contextlib.suppress(*_errors()):
                    await client.flush(_FLUSH_SECONDS)

        try:
            subscription = await client.subscribe(f"{prefix}.*", cb=take)
            try:
                await client.flush(_FLUSH_SECONDS)
            except BaseException:
                await unsubscribe()
                raise
        except _errors() as error:
            raise ConnectionError(errno.ECONNABORTED, self._why(error)) from error
        return unsubscribe

    def connected(self) -> Any:
        """Return the client.

        Raises:
            OSError: There is no client, or it was closed for good.

        """
        if self._client is None:
            raise OSError(
                errno.ENOTCONN,
                "not connected to NATS; use `async with` around all that needs the connection",
            )
        if self._client.is_closed:
            raise OSError(errno.ENOTCONN, self._why(self._client.last_error))
        return self._client

    def _why(self, error: BaseException | None) -> str:
        """Say what is wrong and what to do about it."""
        cause = self._last_error if isinstance(error, _GaveUpError) else error
        text = str(cause) or type(cause).__name__
        return (
            f"no connection to NATS at {without_password(self._servers)}: {text}. Check "
            "that the server runs, that you can reach it, and that it accepts these credentials"
        )

    # Called by the client.

    async def _lost(self) -> None:
        self._set_up(False)

    async def _closed(self) -> None:
        self._set_up(False)
        if self._client is not None and self._attempts is None:  # the server's doing
            _logger.warning(
                "%s. This connection stays closed: leave its `async with` block and open another",
                self._why(self._client.last_error),
            )

    async def _found(self) -> None:
        if self._client is not None:
            self._set_up(True)

    async def _failed(self, error: Exception) -> None:
        self._note(error)
        if self._attempts is not None:
            self._attempts -= 1
            if self._attempts <= 0:
                raise _GaveUpError  # the client itself would never give up

    def _note(self, error: Exception) -> None:
        self._last_error = error
        text = str(error) or type(error).__name__
        if "permissions violation" in text.lower():
            kind, level = "NATS: permissions violation", logging.WARNING
            text += "; let this user publish and subscribe to 'stt.>'"
        else:
            kind, level = f"NATS: {type(error).__name__}", logging.DEBUG
        if self._repeats.is_first(kind, level):
            _logger.log(level, "NATS at %s: %s", without_password(self._servers), text)


def without_password(servers: str | list[str]) -> str:
    """Return the URLs as they may be shown: without user names and passwords."""
    text = servers if isinstance(servers, str) else ", ".join(servers)
    return re.sub(r"//[^/@]*@", "//", text)


class NatsNetwork(PipeNetwork):
    """Reaches peers by name through a NATS server that both connect to.

    Use it as ``async with NatsNetwork("nats://broker:4222") as network:``, around the nodes whose
    ``network`` it is. The host of an address is any name, and the port any number; see
    `PipeNetwork`. The user of the server must be allowed to publish and subscribe to ``stt.>``.

    Losing the server cuts the connections over it. Sessions survive: they resume as soon as a
    server is back.

    Args:
        servers: The URL of the server, such as ``"nats://broker:4222"`` or ``"tls://broker:4222"``,
            or those of several that form a cluster.
        options: Arguments for ``nats.connect``, as for `NatsBus`.

    Raises what `NatsBus` raises.

    """

    def __init__(self, servers: str | Sequence[str], **options: Any) -> None:
        self._nats = NatsBus(servers, **options)
        super().__init__(self._nats)

    async def __aenter__(self) -> Self:
        """Connect to the server as the block of a `NatsBus` does, with the same errors."""
        await self._nats.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Disconnect from the server. This cuts any remaining connections."""
        await self._nats.__aexit__(kind, error, traceback)
        self._inbox = None  # its subscription has ended

    def _check(self) -> None:
        self._nats.connected()


def _client_class() -> Any:
    try:
        return importlib.import_module("nats.aio.client").Client
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "NATS needs the package nats-py: pip install 'seigr-toolset-transmissions[nats]'",
            name=error.name,
        ) from error


def _check_url(server: str) -> None:
    """Raise ValueError if no client could connect to this URL."""
    try:
        url = urlsplit(server if "://" in server else f"nats://{server}")
        possible = url.scheme in _SCHEMES and url.hostname and url.port != 0
    except ValueError:  # the port is not a number, say
        possible = False
    if not possible:
        raise ValueError(
            f"{without_password(server)!r} is not the URL of a NATS server, such as "
            "'nats://broker:4222'"
        )


def _check_options(options: dict[str, Any], client_class: Any) -> None:
    """Raise TypeError for an option that the client does not have, or that is set here."""
    known = inspect.signature(client_class.connect).parameters
    for name in sorted(options):
        if name in _OURS:
            raise TypeError(f"{name} is set by this library; leave it out")
        if name not in known:
            raise TypeError(f"nats.connect has no option {name!r}")


def _errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that the client raises when it fails."""
    return (importlib.import_module("nats.errors").Error, OSError)


async def _close(client: Any) -> None:
    """Close a client in any state."""
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await client.close()
    except Exception:
        _logger.debug("closing the connection to NATS failed", exc_info=True)
