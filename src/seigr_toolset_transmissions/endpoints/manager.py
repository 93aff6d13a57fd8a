"""The endpoints that an application talks to: keeping them, sending to them, receiving from them.

An endpoint is whatever the application wants to address; its id is any non-empty ``bytes``.
`EndpointManager` keeps an address, metadata and counters for each, hands what is sent to a
callback, and keeps what was received until it is consumed (see `inbox` for how). It stands alone:
it knows no node, session or transport. Its parts are in `directory`, `sending`, `groups`,
`requests` and `receiving`.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..errors import STTConfigError
from ..foundation.callables import is_async
from .groups import Groups
from .inbox import Inboxes
from .receiving import Receiving
from .requests import Requests
from .room import Room

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from .endpoint import Endpoint
    from .fanout import Route

__all__ = ["EndpointManager"]


class EndpointManager(Groups, Requests, Receiving):
    """Keeps endpoints and their groups, sends to them, asks them and receives from them.

    Adding, removing and looking up take the same short time however many endpoints there are.
    Not thread-safe, except `deliver_threadsafe`: use it from one event loop. Every method that
    takes an endpoint's id raises TypeError if it is not ``bytes``, and ValueError if it is empty;
    nothing has happened then.

    Args:
        transport_send_callback: ``async (endpoint_id, data)``, called with positional arguments.
            It returns when the message was accepted and raises when it was not. It may call
            anything here: it never runs under a lock. Without it nothing can be sent.
        inbox_messages: How many received messages one endpoint's inbox holds.
        inbox_bytes: How many bytes one endpoint's inbox holds. A larger message is accepted
            when the inbox is empty.
        send_timeout: Seconds that each of many recipients has to accept a message, or to reply to a
            request, where the call itself names no time; None: no limit.

    Raises:
        STTConfigError: A bound is not a positive integer, or the time not a positive number.
        TypeError: The callback is not callable, or not async. It must be an ``async def``, a bound
            method or `functools.partial` of one, or an object with an async ``__call__``.

    """

    def __init__(
        self,
        transport_send_callback: Callable[[bytes, bytes], Awaitable[object]] | None = None,
        *,
        inbox_messages: int = 16_384,
        inbox_bytes: int = 8 * 1024 * 1024,
        send_timeout: float | None = 10.0,
    ) -> None:
        bounds: dict[str, Any] = {"inbox_messages": inbox_messages, "inbox_bytes": inbox_bytes}
        for name, bound in bounds.items():
            if not isinstance(bound, int) or bound < 1:
                raise STTConfigError(f"{name} must be an int of at least 1, not {bound!r}")
        seconds: Any = send_timeout
        if seconds is not None and not (isinstance(seconds, int | float) and seconds > 0):
            raise STTConfigError(f"send_timeout must be a number above 0, not {seconds!r}")
        callback: Any = transport_send_callback
        if callback is not None and not callable(callback):
            kind = type(callback).__name__
            raise TypeError(f"transport_send_callback must be callable, not {kind}")
        if transport_send_callback is not None and not is_async(transport_send_callback):
            raise TypeError(
                "transport_send_callback must be async, as an `async def` function is: "
                f"{transport_send_callback!r} is not"
            )
        self._callback = self._send_one = transport_send_callback
        self._send_timeout = send_timeout
        self._routes: Mapping[bytes, Route] = {}
        self._endpoints: dict[bytes, Endpoint] = {}
        self._room = Room(inbox_messages, inbox_bytes)
        self._inboxes = Inboxes(self._room, self._on_drained)
        self._retiring = 0  # how many endpoints are retiring
        self._departed: OrderedDict[bytes, str] = OrderedDict()  # why, newest last
        self._members: dict[str, dict[bytes, None]] = {}
        self._groups: dict[bytes, dict[str, None]] = {}
        self._delivers = False  # whether `deliver` was ever called
        self.loop = None
        with suppress(RuntimeError):
            self.loop = asyncio.get_running_loop()
