"""The endpoints that an application talks to: who they are, sending to them, receiving from them.

An endpoint is whatever the application wants to address; its id is any non-empty ``bytes``.
`EndpointManager` keeps an address, metadata and counters for each, hands what is sent to a
callback, and keeps what was received until it is consumed (see `inbox` for how). It stands alone:
it knows no node, session or transport.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from time import time
from typing import Any, cast

from .callables import is_async
from .errors import STTConfigError, STTEndpointError
from .fanout import Route, SendOutcome, fan_out
from .figures import Traffic
from .forks import Orphan
from .inbox import Inboxes
from .payload import as_bytes
from .room import Room
from .waiting import Inbox, printable_id

__all__ = ["EndpointManager", "SendOutcome", "Traffic"]

#: Stands for "not given" where None is a value.
_NOT_GIVEN: Any = object()


class _Endpoint(Inbox):
    """One endpoint: its inbox, and what is known of it."""

    __slots__ = (
        "address",
        "bytes_received",
        "bytes_sent",
        "connected_at",
        "last_activity",
        "metadata",
        "temporary",
        "wanted",
    )

    def begin(
        self, address: Any, metadata: dict[str, Any] | None, *, connect: bool, temporary: bool
    ) -> None:
        """Start as a newly added endpoint; messages and waiters stay."""
        self.wanted = connect
        self.temporary = temporary
        self.address = address
        self.metadata = {} if metadata is None else metadata
        self.connected_at = time()
        self.last_activity: float | None = None
        self.bytes_sent = 0
        self.bytes_received = 0
        self.retiring = False

    def count(self, traffic: Traffic) -> None:
        """Add to what went to and fro."""
        self.bytes_sent += traffic.bytes_sent
        self.bytes_received += traffic.bytes_received
        self.last_activity = _latest(self.last_activity, traffic.last_activity)


class EndpointManager:
    """Keeps endpoints, sends to them and receives from them.

    Adding, removing and looking up take the same short time however many endpoints there are.
    Not thread-safe: use it from one event loop. Whatever takes an endpoint's id raises TypeError
    if it is not ``bytes``, and ValueError if it is empty; nothing has happened then.

    Args:
        transport_send_callback: ``async (endpoint_id, data)``, called with positional arguments.
            It returns when the message was accepted and raises when it was not. It may call
            anything here: it never runs under a lock. Without it nothing can be sent.
        inbox_messages: How many received messages one endpoint's inbox holds.
        inbox_bytes: How many bytes one endpoint's inbox holds. A larger message is accepted
            when the inbox is empty.
        send_timeout: Seconds that each of many recipients has to accept a message, where the call
            itself names no time; None: no limit.
        routes: Ways to endpoints by their ids, for their owner to change at any time. If there is
            one, its ``try_send(data)`` is tried before the callback: True when it has accepted
            the message, False when the callback shall be awaited instead. What it raises counts
            as if the callback had raised it.
        status: ``(endpoint_id) -> dict``, merged into what `get_endpoint` returns.
        traffic: ``(endpoint_id) -> iterable of Traffic``: what the transport counts of each of its
            present connections with the endpoint. The manager then counts nothing by itself; when
            such a connection ends, the transport calls `note_traffic`.
        on_wait: Called whenever a receive begins to wait because there is no message for it.
        on_wanted: Called with the id when an endpoint was added with ``connect=True``.
        check_caller: Called first by what changes endpoints or sends to several; may raise.

    Raises:
        STTConfigError: A bound is not a positive integer, or the time not a positive number.
        TypeError: A function is none; or the callback is not async: it is an ``async def``, a
            bound method or `functools.partial` of one, or an object with an async ``__call__``.

    """

    def __init__(
        self,
        transport_send_callback: Callable[[bytes, bytes], Awaitable[object]] | None = None,
        *,
        inbox_messages: int = 16_384,
        inbox_bytes: int = 8 * 1024 * 1024,
        send_timeout: float | None = 10.0,
        routes: Mapping[bytes, Route] | None = None,
        status: Callable[[bytes], Mapping[str, Any]] | None = None,
        traffic: Callable[[bytes], Iterable[Traffic]] | None = None,
        on_wait: Callable[[], None] | None = None,
        on_wanted: Callable[[bytes], None] | None = None,
        check_caller: Callable[[], None] = lambda: None,
    ) -> None:
        bounds: dict[str, Any] = {"inbox_messages": inbox_messages, "inbox_bytes": inbox_bytes}
        for name, bound in bounds.items():
            if not isinstance(bound, int) or bound < 1:
                raise STTConfigError(f"{name} must be an int of at least 1, not {bound!r}")
        seconds: Any = send_timeout
        if seconds is not None and not (isinstance(seconds, int | float) and seconds > 0):
            raise STTConfigError(f"send_timeout must be a number above 0, not {seconds!r}")
        for name, function in (
            ("transport_send_callback", transport_send_callback),
            ("status", status),
            ("traffic", traffic),
            ("on_wait", on_wait),
            ("on_wanted", on_wanted),
        ):
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be callable, not {type(function).__name__}")
        if transport_send_callback is not None and not is_async(transport_send_callback):
            raise TypeError(
                "transport_send_callback must be async, as an `async def` function is: "
                f"{transport_send_callback!r} is not"
            )
        self._callback = transport_send_callback
        self._send_timeout = send_timeout
        self._routes: Mapping[bytes, Route] = {} if routes is None else routes
        self._status = status
        self._traffic = traffic
        self._on_wanted = on_wanted
        self._check_caller = check_caller
        self._endpoints: dict[bytes, _Endpoint] = {}
        self._room = Room(inbox_messages, inbox_bytes)
        self._inboxes = Inboxes(self._room, self._on_drained, on_wait)
        self._retiring = 0  # how many endpoints are retiring
        self._delivers = False  # whether `deliver` was ever called

    # -- lifecycle ---------------------------------------------------------------------------

    async def add_endpoint(
        self,
        endpoint_id: bytes,
        address: Any,
        metadata: dict[str, Any] | None = None,
        *,
        connect: bool = False,
    ) -> None:
        """Add an endpoint. Never waits.

        Args:
            endpoint_id: Any non-empty bytes.
            address: Anything; kept as given.
            metadata: Kept as given: the very object, for the caller to change at any time.
            connect: Whether the transport shall connect to it at once and stay connected until
                it is removed. For a transport that knows no connections this means nothing.

        Raises:
            STTEndpointError: The endpoint is present already; it stays as it was.

        """
        self.add_endpoint_nowait(endpoint_id, address, metadata, connect=connect)

    def add_endpoint_nowait(
        self,
        endpoint_id: bytes,
        address: Any,
        metadata: dict[str, Any] | None = None,
        *,
        connect: bool = False,
        temporary: bool = False,
    ) -> None:
        """Add an endpoint without awaiting: as `add_endpoint`.

        ``temporary`` is a note for the transport that adds endpoints by itself: `is_temporary`
        then tells whether this is still its own, and not one that the user has added anew.

        An endpoint that is retiring (see `retire_endpoint`) is added anew, as the youngest, and
        keeps the messages that it still has; no error.
        """
        self._check_caller()
        _check_id(endpoint_id)
        _check_metadata(metadata)
        endpoint = self._endpoints.get(endpoint_id)
        if endpoint is None:
            endpoint = _Endpoint(endpoint_id)
        elif endpoint.retiring:
            del self._endpoints[endpoint_id]  # it becomes the youngest
            self._retiring -= 1
        else:
            raise STTEndpointError(
                f"endpoint {printable_id(endpoint_id)} already exists; "
                "change it with update_endpoint, or remove it first"
            )
        endpoint.begin(address, metadata, connect=connect, temporary=temporary)
        self._endpoints[endpoint_id] = endpoint
        if connect and self._on_wanted is not None:
            self._on_wanted(endpoint_id)

    def update_endpoint(
        self,
        endpoint_id: bytes,
        *,
        address: Any = _NOT_GIVEN,
        metadata: dict[str, Any] | None = _NOT_GIVEN,
    ) -> None:
        """Replace the address, the metadata, or both; what is not given stays.

        Raises:
            STTEndpointError: The endpoint is unknown.

        """
        self._check_caller()
        endpoint = self._get(endpoint_id)
        if metadata is not _NOT_GIVEN:
            _check_metadata(metadata)
            endpoint.metadata = {} if metadata is None else metadata
        if address is not _NOT_GIVEN:
            endpoint.address = address

    async def remove_endpoint(self, endpoint_id: bytes) -> None:
        """Remove an endpoint and drop the messages that nobody has received. Never waits.

        Everybody who waits for it in `receive_from` gets STTTimeoutError, and in `deliver`
        STTEndpointError; sends under way go on.

        Raises:
            STTEndpointError: The endpoint is unknown.

        """
        self._check_caller()
        self._remove(self._get(endpoint_id))

    def retire_endpoint(self, endpoint_id: bytes) -> None:
        """Remove an endpoint once all its messages have been received: at once if it has none.

        Until then it stays visible, but takes no further messages: `deliver` and `offer` raise
        STTEndpointError, also for those who wait. Adding it again calls this off.

        Raises:
            STTEndpointError: The endpoint is unknown.

        """
        endpoint = self._get(endpoint_id)
        if not endpoint.retiring:
            endpoint.retiring = True
            self._retiring += 1
        if endpoint.messages is None:
            self._remove(endpoint)
        else:
            self._room.refuse(endpoint)

    def _on_drained(self, inbox: Inbox) -> None:
        self._remove(self._endpoints[inbox.endpoint_id])

    def _remove(self, endpoint: _Endpoint) -> None:
        del self._endpoints[endpoint.endpoint_id]
        self._retiring -= endpoint.retiring
        self._inboxes.discard(endpoint)

    def held_bytes(self, overhead: int = 0, retiring: int = 0) -> int:
        """Return how many bytes wait in all inboxes.

        With ``overhead`` for each message, and ``retiring`` for each endpoint that is only there
        for its messages.
        """
        inboxes = self._inboxes
        return inboxes.size + overhead * inboxes.count + retiring * self._retiring

    @property
    def has_unasked(self) -> bool:
        """Whether messages wait of which the program did not ask that they be kept.

        Once it has called `deliver`, which asks for that, this is always False.
        """
        return not self._delivers and self._inboxes.count > 0

    def note_traffic(self, endpoint_id: bytes, traffic: Traffic) -> None:
        """Add what went over a connection that has ended; nothing if the endpoint is unknown."""
        endpoint = self._endpoints.get(endpoint_id)
        if endpoint is not None:
            endpoint.count(traffic)

    def held_by(self, endpoint_id: bytes, overhead: int = 0) -> int:
        """Return the same for one endpoint's inbox; 0 if it is unknown."""
        endpoint = self._endpoints.get(endpoint_id)
        if endpoint is None or endpoint.messages is None:
            return 0
        return endpoint.size + overhead * len(endpoint.messages)

    def awaits(self, endpoint_id: bytes) -> bool:
        """Whether somebody waits in `receive_from` for a message of this endpoint."""
        endpoint = self._endpoints.get(endpoint_id)
        return endpoint is not None and bool(endpoint.receivers)

    def is_overfull(self, endpoint_id: bytes) -> bool:
        """Whether more than twice what its inbox is to hold waits there; False if unknown.

        `offer` with ``beyond_bounds`` makes it so.
        """
        endpoint = self._endpoints.get(endpoint_id)
        return endpoint is not None and self._room.is_overfull(endpoint)

    def wanted(self, endpoint_id: bytes) -> bool:
        """Whether the endpoint is there and was added with ``connect=True``."""
        endpoint = self._endpoints.get(endpoint_id)
        return endpoint is not None and endpoint.wanted

    def is_temporary(self, endpoint_id: bytes) -> bool:
        """Whether the endpoint is there and was added with ``temporary=True``."""
        endpoint = self._endpoints.get(endpoint_id)
        return endpoint is not None and endpoint.temporary

    # -- looking up --------------------------------------------------------------------------

    def get_endpoint(self, endpoint_id: bytes) -> dict[str, Any] | None:
        """Return what is known of the endpoint, or None if it is unknown.

        The dict is a new one, with at least these keys:

        ``address``
            As given.
        ``metadata``
            The live dict that was given, or one of the endpoint's own if none was.
        ``connected_at``
            When the endpoint was added, in seconds since the epoch.
        ``state``
            A word. A manager on its own knows no connections: ``"known"``, or ``"retiring"``.
        ``bytes_sent``, ``bytes_received``
            Bytes of messages accepted for sending and into the inbox, since it was added. Of a
            node: those that its sessions with the peer have accepted and received, however they
            were sent and whoever takes them; sessions that had ended before it was added are left
            out.
        ``last_activity``
            When a message was last accepted in either direction, in seconds since the epoch, or
            None. Of a node: when one last came in, or went out over a connection.
        ``rtt``
            The round-trip time in seconds, or None while it is unknown.

        The ``status`` function's result is merged in: it overrides these and may add more.
        """
        _check_id(endpoint_id)
        endpoint = self._endpoints.get(endpoint_id)
        if endpoint is None:
            return None
        present = () if self._traffic is None else tuple(self._traffic(endpoint.endpoint_id))
        info = {
            "address": endpoint.address,
            "metadata": endpoint.metadata,
            "connected_at": endpoint.connected_at,
            "state": "retiring" if endpoint.retiring else "known",
            "bytes_sent": endpoint.bytes_sent + sum(t.bytes_sent for t in present),
            "bytes_received": endpoint.bytes_received + sum(t.bytes_received for t in present),
            "last_activity": _latest(endpoint.last_activity, *(t.last_activity for t in present)),
            "rtt": None,
        }
        if self._status is not None:
            info.update(self._status(endpoint.endpoint_id))
        return info

    def list_endpoints(self) -> list[bytes]:
        """Return the ids of all endpoints, in order of addition."""
        return list(self._endpoints)

    def find(
        self, predicate: Callable[[dict[str, Any]], object] | None = None, /, **metadata: Any
    ) -> list[bytes]:
        """Return the ids of the endpoints whose metadata match, in order of addition.

        Args:
            predicate: Called with each metadata dict; true means a match. A KeyError that it
                raises means that there is no such metadata, and no match. Any other exception
                propagates.
            **metadata: Values that the metadata must hold under these keys. Without any
                argument every endpoint matches.

        """
        if predicate is not None and not callable(predicate):
            raise TypeError(
                f"the predicate must be callable, not {type(predicate).__name__}; "
                'to compare values, use keywords: find(type="relay")'
            )
        if is_async(predicate):
            raise TypeError("the predicate must not be async: write it with `def`")
        return self._select(predicate, metadata)

    def _select(
        self, predicate: Callable[[dict[str, Any]], object] | None, wanted: Mapping[str, Any]
    ) -> list[bytes]:
        # A snapshot: the predicate may add or remove endpoints.
        return [
            endpoint.endpoint_id
            for endpoint in list(self._endpoints.values())
            if _matches(endpoint.metadata, predicate, wanted)
        ]

    def __len__(self) -> int:
        return len(self._endpoints)

    def __contains__(self, endpoint_id: object) -> bool:
        return isinstance(endpoint_id, bytes) and endpoint_id in self._endpoints

    def __iter__(self) -> Iterator[bytes]:
        """Iterate over the ids as they are now; endpoints may come and go meanwhile."""
        return iter(list(self._endpoints))

    def _get(self, endpoint_id: Any) -> _Endpoint:
        # Some that are no ids are equal to one: a memoryview, for instance.
        endpoint = self._endpoints.get(endpoint_id) if isinstance(endpoint_id, bytes) else None
        if endpoint is None:
            _check_id(endpoint_id)
            raise STTEndpointError(
                f"endpoint {printable_id(endpoint_id)} is unknown; add it first with add_endpoint"
            )
        return endpoint

    # -- sending -----------------------------------------------------------------------------

    async def send_to_endpoint(
        self, endpoint_id: bytes, data: bytes | bytearray | memoryview
    ) -> None:
        """Send data to one endpoint; return when it was accepted.

        A success means no more than the callback's own: that it has taken the message. Does not
        give way to the event loop when there is a route that accepts at once.

        Args:
            endpoint_id: The endpoint.
            data: What is not ``bytes`` is copied first, so the buffer may be reused at once.

        Raises:
            STTEndpointError: The endpoint is unknown, or there is no callback; nothing was sent.
            Exception: Whatever the callback raises. Whether the message was accepted before an
                exception or a cancel is for the callback to say.

        """
        endpoint = self._endpoints.get(endpoint_id) if type(endpoint_id) is bytes else None
        if endpoint is None:
            self._check_caller()
            endpoint = self._get(endpoint_id)  # which raises, but for a subclass of bytes
        if type(data) is not bytes:
            data = as_bytes(data)
        route = self._routes.get(endpoint_id)
        if route is None or not route.try_send(data):
            if self._callback is None:
                raise STTEndpointError(
                    f"no way to send to endpoint {printable_id(endpoint_id)}: "
                    "this EndpointManager was made without a transport_send_callback"
                )
            await self._callback(endpoint.endpoint_id, data)
        if self._traffic is None:
            endpoint.bytes_sent += len(data)
            endpoint.last_activity = time()

    async def send_to_many(
        self,
        ids: Iterable[bytes],
        data: bytes | bytearray | memoryview,
        *,
        timeout: float | None = _NOT_GIVEN,
    ) -> dict[bytes, SendOutcome]:
        """Send the same data to several endpoints concurrently; return each one's outcome.

        A slow or failing endpoint neither delays nor harms another, and no exception of one of
        them escapes. An id that is given twice is sent to once.

        Args:
            ids: The endpoints, for instance from `find`.
            data: As for `send_to_endpoint`.
            timeout: After so many seconds a callback still under way is cancelled, and its
                outcome is `SendOutcome.FULL`; None: no limit; if not given, the manager's
                ``send_timeout``. The call lasts until each callback has ended, so one that resists
                its cancellation delays the return.

        Returns:
            One outcome for each id, in the order given.

        On cancel every callback still under way is cancelled and awaited; the message may have
        been sent to all, some or none.

        Raises:
            TypeError: Something is no id, or the data no data. Nothing was sent.

        """
        if isinstance(ids, bytes | bytearray | memoryview | str):
            raise TypeError(f"ids must be an iterable of ids, not one {type(ids).__name__}")
        recipients = list(ids)
        for endpoint_id in recipients:
            _check_id(endpoint_id)
        return await self._send(recipients, as_bytes(data), timeout)

    async def broadcast(
        self,
        data: bytes | bytearray | memoryview,
        *,
        where: Callable[[dict[str, Any]], object] | Mapping[str, Any] | None = None,
        timeout: float | None = _NOT_GIVEN,
    ) -> dict[bytes, SendOutcome]:
        """Send data to all endpoints, or to those whose metadata match: as `send_to_many`.

        Args:
            data: As for `send_to_endpoint`.
            where: A predicate over the metadata, or a mapping of what the metadata must hold, as
                for `find`; None: all endpoints.
            timeout: As for `send_to_many`.

        """
        data = as_bytes(data)
        if where is None:
            recipients = list(self._endpoints)
        elif isinstance(where, Mapping):
            recipients = self._select(None, where)
        else:
            recipients = self.find(where)
        return await self._send(recipients, data, timeout)

    async def _send(
        self, recipients: list[bytes], data: bytes, timeout: float | None
    ) -> dict[bytes, SendOutcome]:
        self._check_caller()
        outcomes = await fan_out(
            recipients,
            data,
            known=self._endpoints,
            routes=self._routes,
            send=self._callback,
            timeout=self._send_timeout if timeout is _NOT_GIVEN else timeout,
        )
        if self._traffic is None:
            sent = Traffic(len(data), 0, time())
            for endpoint_id, outcome in outcomes.items():
                if outcome is SendOutcome.ACCEPTED:
                    self.note_traffic(endpoint_id, sent)
        return outcomes

    # -- receiving ---------------------------------------------------------------------------

    async def receive_from(
        self, endpoint_id: bytes, *, timeout: float | None = None
    ) -> tuple[bytes, bytes]:
        """Receive the next message of one endpoint: ``(data, endpoint_id)``.

        Each message is received once: by the oldest waiting `receive_from` for its endpoint, else
        by the oldest waiting `receive_any`, else by whichever asks first. Does not give way to
        the event loop when a message is at hand.

        Args:
            endpoint_id: The endpoint.
            timeout: How many seconds to wait for a message; None: no limit; 0: only what is there.

        Raises:
            STTTimeoutError: No message came in time, or the endpoint was removed meanwhile: there
                will be none.
            STTEndpointError: The endpoint is unknown; or no message is there, and none will come:
                the node was stopped (see `close_inboxes`). With a ``timeout`` of 0 that, too, is
                STTTimeoutError.

        Nothing is lost or reordered by an error or a cancel: the message stays for the next.

        """
        endpoint = self._get(endpoint_id)
        inboxes = self._inboxes
        message = inboxes.take_from(endpoint)
        if message is None:
            message = await inboxes.receive(endpoint, timeout)
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

    def close_inboxes(self, reason: str) -> None:
        """Let nobody wait for a message any more: for a transport that brings none.

        Whoever waits in `receive_from` or `receive_any`, or would have to, gets STTEndpointError
        with this reason. What is there is received as before, and `deliver` and `offer` go on.
        Ends with `open_inboxes`.
        """
        self._inboxes.close(reason, self._endpoints.values())

    def orphan(self) -> None:
        """Receive and take no more: this is a forked child, and the messages are its parent's."""
        self._inboxes = cast("Inboxes", Orphan("the inbox"))

    def open_inboxes(self) -> None:
        """Let receivers wait for messages again."""
        self._inboxes.reopen()

    async def deliver(self, endpoint_id: bytes, data: bytes | bytearray | memoryview) -> None:
        """Put a received message into the endpoint's inbox, waiting while that is full.

        Those who wait go in order. Does not give way to the event loop when there is room.

        Raises:
            STTEndpointError: The endpoint is unknown or retiring, or is removed meanwhile.

        After an error or a cancel the message was not delivered.

        """
        endpoint = self._get_accepting(endpoint_id)
        self._delivers = True
        data = as_bytes(data)
        if not self._inboxes.put(endpoint, data):
            await self._inboxes.put_when_room(endpoint, data)
        if self._traffic is None:
            endpoint.bytes_received += len(data)
            endpoint.last_activity = time()

    def offer(
        self, endpoint_id: bytes, messages: Sequence[bytes], *, beyond_bounds: bool = False
    ) -> int:
        """Put as many received messages as there is room for; return how many, from the first on.

        The others remain the caller's, to offer again after `wait_for_room`. None are accepted
        while somebody waits in `deliver` or `wait_for_room`: they come first, but for what is put
        ``beyond_bounds``.

        Args:
            endpoint_id: The endpoint.
            messages: Messages in order, each of them ``bytes``; this is not checked.
            beyond_bounds: Put all of them, whether or not there is room: for the last messages
                of a sender that is gone and cannot be made to wait. Until the inbox is back
                within its bounds it takes no others.

        Raises:
            STTEndpointError: The endpoint is unknown or retiring.

        """
        endpoint = self._endpoints.get(endpoint_id) if type(endpoint_id) is bytes else None
        if endpoint is None or endpoint.retiring:
            endpoint = self._get_accepting(endpoint_id)  # which raises
        before = endpoint.size
        count = self._inboxes.put_many(endpoint, messages, beyond_bounds=beyond_bounds)
        if count and self._traffic is None:
            endpoint.bytes_received += endpoint.size - before
            endpoint.last_activity = time()
        return count

    async def wait_for_room(self, endpoint_id: bytes, size: int = 1, count: int = 1) -> None:
        """Wait until `offer` would accept ``count`` messages of ``size`` bytes together.

        It then does so for this task, if called before it next gives way to the event loop. An
        empty inbox has room, whatever is asked for.

        Raises:
            STTEndpointError: The endpoint is unknown or retiring, or is removed meanwhile.

        """
        await self._room.wait(self._get_accepting(endpoint_id), size, count)

    def _get_accepting(self, endpoint_id: bytes) -> _Endpoint:
        endpoint = self._get(endpoint_id)
        if endpoint.retiring:
            raise STTEndpointError(
                f"endpoint {printable_id(endpoint_id)} is retiring and takes no more messages; "
                "add it again first"
            )
        return endpoint


def _latest(*times: float | None) -> float | None:
    return max((time for time in times if time is not None), default=None)


def _matches(
    metadata: dict[str, Any],
    predicate: Callable[[dict[str, Any]], object] | None,
    wanted: Mapping[str, Any],
) -> bool:
    if any(key not in metadata or metadata[key] != value for key, value in wanted.items()):
        return False
    try:
        return predicate is None or bool(predicate(metadata))
    except KeyError:
        return False


def _check_id(endpoint_id: Any) -> None:
    if not isinstance(endpoint_id, bytes):
        raise TypeError(f"an endpoint id must be bytes, not {type(endpoint_id).__name__}")
    if not endpoint_id:
        raise ValueError("an endpoint id must not be empty")


def _check_metadata(metadata: object) -> None:
    if metadata is not None and not isinstance(metadata, dict):
        raise TypeError(f"metadata must be a dict or None, not {type(metadata).__name__}")
