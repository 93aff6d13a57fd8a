"""Receiving from endpoints, from one or from any; and delivering to their inboxes."""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING, Any

from ..errors import STTEndpointError, STTSessionClosedError
from ..foundation.payload import as_bytes
from ..foundation.threads import run_in
from .directory import Directory
from .endpoint import check_id, no_session
from .waiting import printable_id

if TYPE_CHECKING:
    import asyncio
    import concurrent.futures
    from collections.abc import AsyncIterator, Callable

    from .endpoint import Endpoint

__all__ = ["Receiving"]


class _Messages:
    """What `Receiving.messages` returns.

    Not a generator: that would be at its end once a wait was cancelled, and looks like one whose
    messages have ended.
    """

    __slots__ = ("_endpoint_id", "_over", "_receiving")

    def __init__(self, receiving: Receiving, endpoint_id: bytes | None) -> None:
        self._receiving = receiving
        self._endpoint_id = endpoint_id
        self._over = False

    def __aiter__(self) -> _Messages:
        return self

    async def __anext__(self) -> tuple[bytes, bytes]:
        if self._over:
            raise StopAsyncIteration
        message = await self._receiving._next_message(self._endpoint_id)  # noqa: SLF001 - its part
        if message is None:
            self._over = True
            raise StopAsyncIteration
        return message


class Receiving(Directory):
    """What an `EndpointManager` receives."""

    # Set by a transport.
    _is_ending: Callable[[], bool] = staticmethod(lambda: False)

    loop: asyncio.AbstractEventLoop | None
    """Where `deliver_threadsafe` delivers: the loop in which the manager was made, if one was
    running, or in which its node was started last. Or set it yourself."""

    _delivers: bool  # whether `deliver` was ever called

    async def receive_from(
        self, endpoint_id: bytes, *, timeout: float | None = None, reconnect: bool = False
    ) -> tuple[bytes, bytes]:
        """Receive the next message of one endpoint: ``(data, endpoint_id)``.

        Each message is received once: by the oldest waiting `receive_from` for its endpoint, else
        by the oldest waiting `receive_any`, else by the first call that asks. Does not yield to the
        event loop when a message is at hand.

        Args:
            endpoint_id: The endpoint.
            timeout: How many seconds to wait for a message; None: no limit; 0 or less: only what
                is there.
            reconnect: Whether to wait on when the peer's last session has ended, for it to come
                back. A peer that the node has added by itself then stays an endpoint, or becomes
                one again if it has left already, until you remove it.

        Raises:
            STTTimeoutError: No message came in time, or the endpoint was removed meanwhile.
            STTSessionClosedError: The peer's last session has ended, and everything that had
                arrived was received; the text says how it ended. If it ended during this call,
                this is an STTPeerGoneError, which is an STTTimeoutError too. Not if the endpoint
                was added with ``connect=True``, is being dialed, or never had a session.
            STTEndpointError: The endpoint is unknown; or no message is there, and none will come:
                the node was stopped.

        With a ``timeout`` of 0 and no message at hand, a known endpoint always gives
        STTTimeoutError. An error or a cancellation loses and reorders nothing: the message stays
        for the next call.

        """
        endpoint = self._endpoints.get(endpoint_id) if type(endpoint_id) is bytes else None
        if endpoint is None or reconnect:
            endpoint = self._source(endpoint_id, reconnect=reconnect)
        inboxes = self._inboxes
        message = inboxes.take_from(endpoint)
        if message is None:
            message = await inboxes.receive(endpoint, timeout, patient=reconnect)
        return message

    async def receive_any(self, *, timeout: float | None = None) -> tuple[bytes, bytes]:
        """Receive the oldest message of all endpoints, those added later included.

        As `receive_from` in everything else; it waits on while endpoints come and go. To take
        all that is there, call it with a ``timeout`` of 0 until it raises STTTimeoutError.
        """
        inboxes = self._inboxes
        message = inboxes.take_any()
        if message is None:
            message = await inboxes.receive(None, timeout)
        return message

    async def receive_many(
        self,
        endpoint_id: bytes | None = None,
        *,
        max_messages: int = 1000,
        timeout: float | None = None,
    ) -> list[tuple[bytes, bytes]]:
        """Receive all messages that are there, with one await; wait for one if there is none.

        As that many calls of `receive_any`, or of `receive_from`, and much faster where messages
        are small and many.

        Args:
            endpoint_id: The endpoint; None: all of them, those added later included.
            max_messages: How many to return at most.
            timeout: As for `receive_from`.

        Returns:
            At least one ``(data, endpoint_id)``, the oldest first.

        Raises:
            TypeError: ``max_messages`` is no integer.
            ValueError: It is below 1.
            STTError: As `receive_from`; nothing has been received then.

        """
        most: Any = max_messages
        if not isinstance(most, int):
            raise TypeError(f"max_messages must be an int of at least 1, not {most!r}")
        if most < 1:
            raise ValueError(f"max_messages must be at least 1, not {most}")
        source = None if endpoint_id is None else self._source(endpoint_id)
        inboxes = self._inboxes
        batch = inboxes.take_many(source, max_messages)
        if not batch:
            batch.append(await inboxes.receive(source, timeout))
            if max_messages > 1:
                batch += inboxes.take_many(source, max_messages - 1)
        return batch

    def messages(self, endpoint_id: bytes | None = None) -> AsyncIterator[tuple[bytes, bytes]]:
        """Iterate over what arrives: ``async for data, endpoint_id in endpoints.messages():``.

        Ends when nothing more can come, because the node stops or this manager is closed, once
        everything that is there has been received. Each turn receives one message, so you can leave
        the loop, or be cancelled, at any time: what you have not been given stays for the next
        receiver. That may be the same iterator, which goes on after a cancelled or timed-out wait,
        and several tasks may share one.

        Args:
            endpoint_id: The endpoint; None: all of them, those added later included.

        Raises:
            STTError: As `receive_from`, while iterating; a peer that leaves ends the iteration over
                its own messages with STTSessionClosedError.

        """
        if endpoint_id is not None:
            check_id(endpoint_id)
        return _Messages(self, endpoint_id)

    async def _next_message(self, endpoint_id: bytes | None) -> tuple[bytes, bytes] | None:
        """Receive the next message; None if nothing more can come."""
        inboxes = self._inboxes
        try:
            source = None if endpoint_id is None else self._source(endpoint_id)
            message = inboxes.take_any() if source is None else inboxes.take_from(source)
            if message is None:
                message = await inboxes.receive(source, None)
        except (STTEndpointError, STTSessionClosedError):
            if inboxes.closed or self._is_ending():
                return None
            raise
        return message

    def close(self) -> None:
        """End all waits for messages, for a manager that will get no more of them.

        Receivers that wait get STTEndpointError, and so do those that would have to. What is there
        is received as before. A node does this when it stops, and opens its endpoints again when it
        is started again. You may call it again.
        """
        self._inboxes.close("the endpoints were closed", self._endpoints.values())

    def _source(self, endpoint_id: bytes, *, reconnect: bool = False) -> Endpoint:
        """Return the endpoint to receive from; with ``reconnect``, it stays when its peer goes."""
        check_id(endpoint_id)
        how = self._departed.get(endpoint_id)
        if how is not None:
            if not reconnect:
                raise STTSessionClosedError(no_session(how))
            self._add(endpoint_id, None, None, connect=False, temporary=True)
        endpoint = self._get(endpoint_id)
        if reconnect:
            endpoint.kept = True
        return endpoint

    async def deliver(self, endpoint_id: bytes, data: bytes | bytearray | memoryview) -> None:
        """Put a received message into the endpoint's inbox, waiting while that is full.

        Waiting calls go in order. Does not yield to the event loop when there is room.

        Raises:
            STTEndpointError: The endpoint is unknown or retiring, or is removed meanwhile.

        After an error or a cancellation, the message was not delivered.

        """
        endpoint = self._get_accepting(endpoint_id)
        self._delivers = True
        data = as_bytes(data)
        if not self._inboxes.put(endpoint, data):
            await self._inboxes.put_when_room(endpoint, data)
        if self._traffic is None:
            endpoint.bytes_received += len(data)
            endpoint.last_activity = time()

    def deliver_threadsafe(
        self, endpoint_id: bytes, data: bytes | bytearray | memoryview
    ) -> concurrent.futures.Future[None]:
        """Do what `deliver` does in the manager's event loop, whatever thread this is called in.

        It never waits. Messages of one thread are delivered in the order of these calls.

        Returns:
            A future that is done when the message is in the inbox, or fails as `deliver` does. A
            thread that produces more than is received waits for it, with a timeout, rather than
            pile up what has no room: ``future.result(timeout=10)``. Never wait for it in the loop's
            own thread. Cancelling it cancels the delivery. If the loop is closed before the
            delivery has begun, it is never done.

        Raises:
            TypeError: The endpoint's id or the data are not what they should be.
            RuntimeError: No loop is known, or it was closed. Nothing is delivered.

        """
        check_id(endpoint_id)
        data = as_bytes(data)
        return run_in(
            self.loop,
            self.deliver(endpoint_id, data),
            unknown="the endpoints know no event loop: start their node first, or in the loop set "
            "`endpoints.loop = asyncio.get_running_loop()`",
            closed="the event loop of the endpoints was closed: deliver once their node has "
            "started in another one, or `endpoints.loop` is set to it",
        )

    def _get_accepting(self, endpoint_id: bytes) -> Endpoint:
        endpoint = self._get(endpoint_id)
        if endpoint.retiring:
            raise STTEndpointError(
                f"endpoint {printable_id(endpoint_id)} is retiring and takes no more messages; "
                "add it again first"
            )
        return endpoint
