"""Sending to endpoints: to one, to several, to all."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from time import time
from typing import TYPE_CHECKING, Any

from ..errors import STTEndpointError, STTTimeoutError
from ..foundation.payload import as_bytes
from ..foundation.timeouts import check_timeout
from ..stats import Traffic
from .directory import NOT_GIVEN, Directory
from .endpoint import check_id, check_ids
from .fanout import SendOutcome, fan_out
from .waiting import printable_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable

    from .fanout import Route

__all__ = ["Sending"]


class Sending(Directory):
    """What an `EndpointManager` sends."""

    # Set by a transport.
    _wait_connected: Callable[[bytes], Awaitable[object]] | None = None
    _absence: Callable[[bytes], str] = staticmethod(lambda _: "")

    _callback: Callable[[bytes, bytes], Awaitable[object]] | None
    _send_one: Callable[[bytes, bytes], Awaitable[object]] | None
    _send_timeout: float | None
    _routes: Mapping[bytes, Route]

    async def wait_connected(self, endpoint_id: bytes, *, timeout: float | None = None) -> None:
        """Wait until a node's endpoint has a session: whichever side dialed, open or suspended.

        It does not dial by itself: add the endpoint with ``connect=True``, or let the peer connect.

        Args:
            endpoint_id: The endpoint.
            timeout: How many seconds to wait; None: no limit.

        Raises:
            STTTimeoutError: It had none in time; the text says why the last dial failed, or that
                nothing dials it.
            STTEndpointError: The endpoint is unknown, or is removed meanwhile; or this is a manager
                on its own, which knows no connections.
            STTConnectError: The node stops; or the endpoint is kept connected, and twice in a row
                another node answered, or one with another shared seed.

        """
        check_timeout(timeout)
        self._get(endpoint_id)
        if self._wait_connected is None:
            raise STTEndpointError("an EndpointManager on its own knows no connections")
        await self._in_time(self._wait_connected(endpoint_id), endpoint_id, timeout)

    async def _in_time(
        self, work: Awaitable[object], endpoint_id: bytes, timeout: float | None
    ) -> None:
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                await work
        except TimeoutError:
            if not limit.expired():
                raise
            absence = self._absence(endpoint_id)
            raise STTTimeoutError(
                f"endpoint {printable_id(endpoint_id)}: not within {timeout} s"
                + (absence and f"; {absence}")
            ) from None

    async def send_to_endpoint(
        self,
        endpoint_id: bytes,
        data: bytes | bytearray | memoryview,
        *,
        timeout: float | None = None,
    ) -> None:
        """Send data to one endpoint; return when it was accepted.

        Success means that the callback has accepted the message, and no more. Does not yield to the
        event loop if there is a route that accepts it at once. A node first dials an endpoint
        without a session, once; if the endpoint was added with ``connect=True``, it waits until
        there is a session.

        Args:
            endpoint_id: The endpoint.
            data: Anything but ``bytes`` is copied first, so you may reuse the buffer at once.
            timeout: How many seconds to wait until it is accepted; None: no limit.

        Raises:
            STTTimeoutError: It was not accepted in time. On a node, nothing was sent.
            STTEndpointError: The endpoint is unknown, or there is no callback; nothing was sent.
            Exception: Whatever the callback raises. Only the callback knows whether the message was
                accepted before an exception or a cancellation.

        """
        endpoint = self._endpoints.get(endpoint_id) if type(endpoint_id) is bytes else None
        remote = None
        if endpoint is None:
            self._check_caller()
            check_id(endpoint_id)
            remote = self._elsewhere(endpoint_id)
            if remote is None:
                endpoint = self._get(endpoint_id)  # which raises, except for a subclass of bytes
        if type(data) is not bytes:
            data = as_bytes(data)
        route = self._routes.get(endpoint_id) or remote or self._elsewhere(endpoint_id)
        if route is None or not route.try_send(data):
            if self._send_one is None:
                raise STTEndpointError(
                    f"no way to send to endpoint {printable_id(endpoint_id)}: "
                    "this EndpointManager was made without a transport_send_callback"
                )
            check_timeout(timeout)
            sending = self._send_one(bytes(endpoint_id), data)
            if timeout is None:
                await sending
            else:
                await self._in_time(sending, endpoint_id, timeout)
        if self._traffic is None and endpoint is not None:
            endpoint.bytes_sent += len(data)
            endpoint.last_activity = time()

    async def send_to_many(
        self,
        ids: Iterable[bytes],
        data: bytes | bytearray | memoryview,
        *,
        timeout: float | None = NOT_GIVEN,
    ) -> dict[bytes, SendOutcome]:
        """Send the same data to several endpoints concurrently; return each one's outcome.

        A slow or failing endpoint neither delays nor harms another, and no exception of one of
        them escapes. An id that is given twice is sent to once.

        Args:
            ids: The endpoints, for instance from `find`.
            data: As for `send_to_endpoint`.
            timeout: After this many seconds, a callback still under way is cancelled, and its
                outcome is `SendOutcome.FULL`; None: no limit; if not given, the manager's
                ``send_timeout``. The call lasts until each callback has ended, so one that resists
                its cancellation delays the return.

        Returns:
            One outcome for each id, in the order given.

        On cancellation every callback still under way is cancelled and awaited; the message may
        have been sent to all, some or none of them.

        Raises:
            TypeError: An id is not one, or the data is not bytes-like. Nothing was sent.

        """
        return await self._send(check_ids(ids), as_bytes(data), timeout)

    async def broadcast(
        self,
        data: bytes | bytearray | memoryview,
        *,
        where: Callable[[dict[str, Any]], object] | Mapping[str, Any] | None = None,
        exclude: Iterable[bytes] = (),
        timeout: float | None = NOT_GIVEN,
    ) -> dict[bytes, SendOutcome]:
        """Send data to all endpoints, or those whose metadata match, as `send_to_many` does.

        Args:
            data: As for `send_to_endpoint`.
            where: A predicate over the metadata, or a mapping of what the metadata must hold, as
                for `find`; None: all endpoints.
            exclude: Ids of endpoints to leave out, such as ``{sender}``; others are ignored.
            timeout: As for `send_to_many`.

        """
        data = as_bytes(data)
        exclude = check_ids(exclude, "exclude")
        if where is None:
            recipients = list(self._endpoints)
        elif isinstance(where, Mapping):
            recipients = self._select(None, where)
        elif callable(where):
            recipients = self.find(where)
        else:
            raise TypeError(
                'where must be a mapping of metadata, such as {"room": "lobby"}, or a function of '
                f"the metadata, not {where!r}"
            )
        return await self._send(recipients, data, timeout, exclude)

    async def _send(
        self,
        recipients: list[bytes],
        data: bytes,
        timeout: float | None,
        exclude: Collection[bytes] = (),
    ) -> dict[bytes, SendOutcome]:
        self._check_caller()
        if exclude:
            excluded = frozenset(exclude)
            recipients = [each for each in recipients if each not in excluded]
        if timeout is NOT_GIVEN:
            timeout = self._send_timeout
        else:
            check_timeout(timeout)
        outcomes = await fan_out(
            recipients,
            data,
            known=self._endpoints,
            routes=self._routes,
            send=self._callback,
            timeout=timeout,
            elsewhere=self._elsewhere,
        )
        if self._traffic is None:
            sent = Traffic(len(data), 0, time())
            for endpoint_id, outcome in outcomes.items():
                if outcome is SendOutcome.ACCEPTED:
                    endpoint = self._endpoints.get(endpoint_id)
                    if endpoint is not None:
                        endpoint.count(sent)
        return outcomes
