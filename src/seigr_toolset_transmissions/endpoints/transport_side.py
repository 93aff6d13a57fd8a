"""What the transport behind an `EndpointManager` uses in addition to what applications use.

It is an object of its own, so that an application, which gets the `EndpointManager`, sees there
only what is for applications. It shares the manager's state.
"""

# ruff: noqa: SLF001 - the two halves are one

from __future__ import annotations

from functools import partial
from time import time
from typing import TYPE_CHECKING, Any, cast

from ..errors import STTPeerGoneError
from ..foundation.forks import Orphan
from ..foundation.threads import Checked
from .directory import as_given
from .endpoint import no_session
from .fanout import nowhere

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from ..stats import Traffic
    from .directory import ReadAddress
    from .endpoint import Endpoint
    from .fanout import Remote, Route
    from .inbox import Inboxes
    from .manager import EndpointManager
    from .requests import Askable

__all__ = ["TransportEndpoints"]


class TransportEndpoints:
    """What the transport behind an `EndpointManager` does with it.

    Args:
        manager: The manager.
        routes: Ways to endpoints by their ids, for their owner to change at any time. If there is
            one, its ``try_send(data)`` is tried before the callback: it returns True when it has
            accepted the message, False to have the callback awaited instead. What it raises counts
            as if the callback had raised it.
        status: ``(endpoint_id) -> dict``, merged into what `get_endpoint` returns.
        traffic: ``(endpoint_id) -> iterable of Traffic``: what the transport counts of each of its
            present connections with the endpoint. The manager then counts nothing by itself; when
            such a connection ends, the transport calls `note_traffic`.
        on_wait: Called whenever a receive begins to wait because there is no message for it.
        on_wanted: Called with the id when an endpoint was added with ``connect=True``.
        on_removed: Called with the id when an endpoint was removed, or is no longer wanted.
        read_address: ``(endpoint_id, address, connect=)``: returns the address to keep; may raise.
            Called before anything else happens.
        mistaken_for: ``(endpoint_id) -> str``: returns what the id of no endpoint is instead, and
            what to use, for the text of an error; "" if it is nothing that the transport knows.
        absence: ``(endpoint_id) -> str``: returns why it has no session, for the text of an error;
            "" if it has one.
        is_ending: Returns whether the transport has begun to end, and with it all its peers.
        send_one: Used in place of the callback by `send_to_endpoint`; None: the callback itself.
        wait_connected: What `wait_connected` does; None: it raises.
        askable: Returns the session to ask an endpoint over; None if it has none.
        connected: Waits for such a session, or dials, and returns it; None if there are no
            sessions at all.
        check_caller: Called first by what changes endpoints or sends to several; may raise. See
            `open_inboxes`, too.
        elsewhere: Returns the way to an endpoint that is connected to another hub of a cluster.

    """

    def __init__(
        self,
        manager: EndpointManager,
        *,
        routes: Mapping[bytes, Route] | None = None,
        status: Callable[[bytes], Mapping[str, Any]] = lambda _: {},
        traffic: Callable[[bytes], Iterable[Traffic]] | None = None,
        on_wait: Callable[[], None] = lambda: None,
        on_wanted: Callable[[bytes], None] = lambda _: None,
        on_removed: Callable[[bytes], None] = lambda _: None,
        read_address: ReadAddress = as_given,
        mistaken_for: Callable[[bytes], str] = lambda _: "",
        absence: Callable[[bytes], str] = lambda _: "",
        is_ending: Callable[[], bool] = lambda: False,
        send_one: Callable[[bytes, bytes], Awaitable[object]] | None = None,
        wait_connected: Callable[[bytes], Awaitable[object]] | None = None,
        askable: Callable[[bytes], Askable | None] = lambda _: None,
        connected: Callable[[bytes], Awaitable[Askable]] | None = None,
        check_caller: Callable[[], None] = lambda: None,
        elsewhere: Callable[[bytes], Remote | None] = nowhere,
    ) -> None:
        self.manager: EndpointManager = manager
        manager._status = status
        manager._inboxes.on_wait = on_wait
        manager._on_wanted = on_wanted
        manager._on_removed = on_removed
        manager._read_address = read_address
        manager._mistaken_for = mistaken_for
        manager._absence = absence
        manager._is_ending = is_ending
        manager._wait_connected = wait_connected
        manager._askable = askable
        manager._connected = connected
        manager._check_caller = check_caller
        manager._elsewhere = elsewhere
        if send_one is not None:
            manager._send_one = send_one
        if routes is not None:
            manager._routes = routes
        manager._traffic = traffic

    # -- endpoints that come and go ----------------------------------------------------------

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
        then tells whether this is still its own, and not one that the user has added again.

        An endpoint that is retiring (see `retire_endpoint`) is added again, as the youngest. It
        keeps the messages that it still has, but is no longer in any group. That is not an error.
        """
        self.manager._add(endpoint_id, address, metadata, connect=connect, temporary=temporary)

    def retire_endpoint(self, endpoint_id: bytes, reason: str | None = None) -> None:
        """Remove an endpoint once all its messages have been received: at once if it has none.

        Until then it stays visible, but takes no further messages: `deliver` and `offer` raise
        STTEndpointError, also for those who wait. Adding it again calls this off. With a
        ``reason``, those who wait in `receive_from` get STTEndpointError with it at once.

        Raises:
            STTEndpointError: The endpoint is unknown.

        """
        self.manager._check_caller()
        endpoint = self.manager._get(endpoint_id)
        if reason is not None:
            self.manager._inboxes.fail_receivers(endpoint, reason)
        if not endpoint.retiring:
            endpoint.retiring = True
            self.manager._retiring += 1
        if endpoint.messages is None:
            self.manager._remove(endpoint)
        else:
            self.manager._room.refuse(endpoint)

    def let_go(self, endpoint_id: bytes, reason: str | None = None) -> None:
        """Retire an endpoint that the transport added, unless a receive waits for its return."""
        endpoint = self.manager._endpoints.get(endpoint_id)
        if endpoint is not None and endpoint.temporary and not endpoint.kept:
            self.retire_endpoint(endpoint_id, reason)

    def session_began(self, endpoint_id: bytes) -> None:
        """Note that the endpoint, which is present, has a session: messages may come."""
        endpoint = self.manager._endpoints[endpoint_id]
        endpoint.ended = endpoint.over = None

    def session_over(self, endpoint_id: bytes, how: str) -> None:
        """Note that the endpoint's last session has ended, and brings nothing more.

        The text ``how`` says how it ended, and names the peer.

        Receives that wait for it alone raise STTPeerGoneError, and receives that begin later a
        plain STTSessionClosedError, unless the endpoint is wanted or being dialed.
        """
        endpoint = self.manager._endpoints.get(endpoint_id)
        if endpoint is not None:
            endpoint.ended = how
            self._judge(endpoint)

    def dialing(self, endpoint_id: bytes, *, now: bool) -> None:
        """Note that the transport dials the endpoint, or does so no longer."""
        endpoint = self.manager._endpoints.get(endpoint_id)
        if endpoint is not None:
            endpoint.dialed = now
            self._judge(endpoint)

    def _judge(self, endpoint: Endpoint) -> None:
        endpoint.judge()
        if endpoint.ended is not None and endpoint.over is not None:
            gone = partial(STTPeerGoneError, no_session(endpoint.ended))
            self.manager._inboxes.fail_impatient(endpoint, gone)

    # -- what is held ------------------------------------------------------------------------

    def known(self) -> list[Endpoint]:
        """Return the endpoints as they are now, in order of addition."""
        return list(self.manager._endpoints.values())

    def held_bytes(self, overhead: int = 0, retiring: int = 0) -> int:
        """Return how many bytes wait in all inboxes.

        With ``overhead`` for each message, and ``retiring`` for each endpoint that is only there
        for its messages.
        """
        inboxes = self.manager._inboxes
        return inboxes.size + overhead * inboxes.count + retiring * self.manager._retiring

    @property
    def has_unasked(self) -> bool:
        """Whether messages wait that the program did not ask to keep.

        Once it has called `deliver`, which asks for that, this is always False.
        """
        return not self.manager._delivers and self.manager._inboxes.count > 0

    def note_traffic(self, endpoint_id: bytes, traffic: Traffic) -> None:
        """Add what went over a connection that has ended; nothing if the endpoint is unknown."""
        endpoint = self.manager._endpoints.get(endpoint_id)
        if endpoint is not None:
            endpoint.count(traffic)

    def held_by(self, endpoint_id: bytes, overhead: int = 0) -> int:
        """Return the same for one endpoint's inbox; 0 if it is unknown."""
        endpoint = self.manager._endpoints.get(endpoint_id)
        if endpoint is None or endpoint.messages is None:
            return 0
        return endpoint.size + overhead * len(endpoint.messages)

    def awaits(self, endpoint_id: bytes) -> bool:
        """Whether a `receive_from` waits for a message of this endpoint."""
        endpoint = self.manager._endpoints.get(endpoint_id)
        return endpoint is not None and bool(endpoint.receivers)

    def is_overfull(self, endpoint_id: bytes) -> bool:
        """Whether its inbox holds more than twice its bounds; False if the endpoint is unknown.

        `offer` with ``beyond_bounds`` makes it so.
        """
        endpoint = self.manager._endpoints.get(endpoint_id)
        return endpoint is not None and self.manager._room.is_overfull(endpoint)

    def wanted(self, endpoint_id: bytes) -> bool:
        """Whether the endpoint is there and was added with ``connect=True``."""
        endpoint = self.manager._endpoints.get(endpoint_id)
        return endpoint is not None and endpoint.wanted

    def is_temporary(self, endpoint_id: bytes) -> bool:
        """Whether the endpoint is there and was added with ``temporary=True``."""
        endpoint = self.manager._endpoints.get(endpoint_id)
        return endpoint is not None and endpoint.temporary

    # -- inboxes -----------------------------------------------------------------------------

    def close_inboxes(self, reason: str) -> None:
        """End all waits for messages, until `open_inboxes`: the transport brings none.

        Calls of `receive_from` and `receive_any` that wait, or would have to, raise
        STTEndpointError with this reason. What is there is received as before, and `deliver` and
        `offer` go on.
        """
        self.manager._inboxes.close(reason, self.manager._endpoints.values())

    def orphan(self) -> None:
        """Be of no use any more: this is a forked child, and the messages are its parent's."""
        self.manager._inboxes = cast("Inboxes", Orphan("the inbox"))

    def open_inboxes(self, *, checked: bool = False) -> None:
        """Let receivers wait for messages again, whatever sessions have ended before.

        If ``checked``, from now on ``check_caller`` is called first by what receives, too.
        """
        manager = self.manager
        manager._inboxes.reopen()
        for endpoint in manager._endpoints.values():
            endpoint.ended = endpoint.over = None
        if checked and not isinstance(manager._inboxes, Checked):
            manager._inboxes = cast("Inboxes", Checked(manager._inboxes, manager._check_caller))

    def offer(
        self, endpoint_id: bytes, messages: Sequence[bytes], *, beyond_bounds: bool = False
    ) -> int:
        """Put as many received messages as there is room for; return how many, from the first on.

        The caller keeps the others, and offers them again after `wait_for_room`. None are accepted
        while a `deliver` or `wait_for_room` waits: these come first, except before messages put
        ``beyond_bounds``.

        Args:
            endpoint_id: The endpoint.
            messages: Messages in order, each of them ``bytes``; this is not checked.
            beyond_bounds: Put all of them, whether or not there is room: for the last messages
                of a sender that is gone and cannot be made to wait. Until the inbox is back
                within its bounds, it accepts no others.

        Raises:
            STTEndpointError: The endpoint is unknown or retiring.

        """
        manager = self.manager
        endpoint = manager._endpoints.get(endpoint_id) if type(endpoint_id) is bytes else None
        if endpoint is None or endpoint.retiring:
            endpoint = manager._get_accepting(endpoint_id)  # which raises
        before = endpoint.size
        count = manager._inboxes.put_many(endpoint, messages, beyond_bounds=beyond_bounds)
        if count and manager._traffic is None:
            endpoint.bytes_received += endpoint.size - before
            endpoint.last_activity = time()
        return count

    async def wait_for_room(self, endpoint_id: bytes, size: int = 1, count: int = 1) -> None:
        """Wait until `offer` would accept ``count`` messages of ``size`` bytes together.

        `offer` then does so for this task, if it is called before the task next yields to the event
        loop. An empty inbox always has room.

        Raises:
            STTEndpointError: The endpoint is unknown or retiring, or is removed meanwhile.

        """
        self.manager._check_caller()
        await self.manager._room.wait(self.manager._get_accepting(endpoint_id), size, count)
