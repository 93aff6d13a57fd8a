"""Requests to endpoints: one, or the same one to several, and the outcome of each."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from ..errors import (
    STTConnectError,
    STTEndpointError,
    STTMessageSizeError,
    STTRequestError,
    STTRequestLostError,
    STTRequestTimeoutError,
    STTRequestUnreachableError,
)
from ..foundation.futures import retrieve
from ..foundation.payload import as_bytes
from ..foundation.timeouts import check_timeout
from .directory import NOT_GIVEN, Directory
from .endpoint import check_ids
from .fanout import end_tasks
from .waiting import printable_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

__all__ = ["Askable", "Asked", "Requests"]


class Asked(Protocol):
    """A request under way."""

    @property
    def reply(self) -> asyncio.Future[bytes]:
        """The reply, or the `STTRequestError` that takes its place."""

    def give_up(self) -> None:
        """Stop waiting, and tell the peer. Does nothing after the reply."""


class Askable(Protocol):
    """A session that carries requests to a peer."""

    async def request(self, data: bytes, *, timeout: float | None = None) -> bytes:
        """Send a request and return the reply."""

    def begin_request(self, data: bytes, timeout: float | None) -> Asked | None:
        """Send a request if its turn has come and there is room for it, else return None."""


class Requests(Directory):
    """The requests that an `EndpointManager` sends."""

    # Set by a transport: returns the session to ask an endpoint over, if there is one; and waits
    # for one, or dials.
    _askable: Callable[[bytes], Askable | None] = staticmethod(lambda _: None)
    _connected: Callable[[bytes], Awaitable[Askable]] | None = None

    _send_timeout: float | None

    async def request(
        self,
        endpoint_id: bytes,
        data: bytes | bytearray | memoryview,
        *,
        timeout: float | None = None,
    ) -> bytes:
        """Send a request to one endpoint and return its reply.

        It goes over the session that `send_to_endpoint` would use. An endpoint without one is first
        dialed, once; for one that was added with ``connect=True``, the call waits. The peer's
        handler gets it at most once (see `STTNode.on_request`). If cancelled, the peer is told, and
        its handler is cancelled too.

        Args:
            endpoint_id: The endpoint.
            data: The request, up to 8 bytes shorter than the longest message.
            timeout: How many seconds the whole call may last; None: until the session ends; below
                0: the time is over, and nothing is sent.

        Raises:
            STTRequestError: There is no good reply; ``handled`` says whether the peer's handler
                was called. In addition to what `Session.request` raises, this may be an
                STTRequestUnreachableError: the endpoint is unknown, has no session and no address,
                or its dial failed; ``__cause__`` is the STTEndpointError or STTConnectError that
                says why. If the time ends before there is a session, this is an
                STTRequestTimeoutError whose ``handled`` is False.
            STTMessageSizeError: The request is too long; nothing was sent.
            STTEndpointError: This is a manager on its own; nothing was sent.
            TypeError: The data is not bytes-like, or the timeout not a number.
            ValueError: The timeout is NaN.
            RuntimeError: There is no session, and the node is not running.

        """
        self._check_asking(timeout)
        return await self._ask(endpoint_id, as_bytes(data), timeout)

    async def request_many(
        self,
        ids: Iterable[bytes],
        data: bytes | bytearray | memoryview,
        *,
        timeout: float | None = NOT_GIVEN,
    ) -> dict[bytes, bytes | STTRequestError]:
        """Send the same request to several endpoints concurrently; return each one's outcome.

        A slow or failing endpoint neither delays nor harms another. An id that is given twice is
        asked once.

        Args:
            ids: The endpoints, for instance from `find`.
            data: As for `request`.
            timeout: As for `request`, for each of them; if not given, the manager's
                ``send_timeout``.

        Returns:
            For each id, in the order given, the reply, or the error that `request` would raise. A
            request that is too long for one peer is a plain STTRequestError, with the
            STTMessageSizeError as its cause.

        If cancelled, every request that has no reply yet is given up; each peer is told.

        Raises:
            STTEndpointError: This is a manager on its own. Nothing was sent.
            TypeError: An id is not one, the data is not bytes-like, or the timeout not a number.
                Nothing was sent.
            ValueError: An id is empty, or the timeout is NaN. Nothing was sent.
            RuntimeError: An endpoint has an address and no session, and the node is not running.

        """
        recipients = check_ids(ids)
        data = as_bytes(data)
        if timeout is NOT_GIVEN:
            timeout = self._send_timeout
        self._check_asking(timeout)
        outcomes: dict[bytes, bytes | STTRequestError] = {}
        asked: list[Asked] = []
        replies: dict[bytes, asyncio.Future[bytes]] = {}
        tasks: list[asyncio.Task[bytes]] = []
        try:
            for endpoint_id in recipients:
                if endpoint_id in outcomes:
                    continue
                outcomes[endpoint_id] = b""  # keeps the place
                try:
                    session = self._session_with(endpoint_id)
                    one = None if session is None else session.begin_request(data, timeout)
                except (STTRequestError, STTMessageSizeError) as error:
                    outcomes[endpoint_id] = _outcome_of(error)
                    continue
                if one is None:
                    task = asyncio.create_task(self._ask(endpoint_id, data, timeout))
                    task.add_done_callback(retrieve)  # nothing else does, if cancelled
                    tasks.append(task)
                    replies[endpoint_id] = task
                else:
                    asked.append(one)
                    replies[endpoint_id] = one.reply
            if replies:
                await asyncio.wait(replies.values())
        finally:
            # However we leave, even by a cancellation or KeyboardInterrupt, nothing outlives us.
            for one in asked:
                one.give_up()
            await end_tasks(tasks)
        for endpoint_id, reply in replies.items():
            outcomes[endpoint_id] = _outcome(reply)
        return outcomes

    async def _ask(self, endpoint_id: bytes, data: bytes, timeout: float | None) -> bytes:
        clock = asyncio.get_running_loop().time
        deadline = None if timeout is None else clock() + timeout
        while True:
            session = self._session_with(endpoint_id) or await self._connect(endpoint_id, deadline)
            left = None if deadline is None else deadline - clock()
            try:
                return await session.request(data, timeout=left)
            except STTRequestLostError as error:
                # It may go over the next session of a peer that is kept connected.
                endpoint = self._endpoints.get(endpoint_id)
                kept = endpoint is not None and endpoint.wanted
                if error.handled is not False or not kept or session is self._askable(endpoint_id):
                    raise

    def _session_with(self, endpoint_id: bytes) -> Askable | None:
        """Return the session to ask an endpoint over; None if there is none yet."""
        try:
            self._get(endpoint_id)
        except STTEndpointError as error:
            remote = self._elsewhere(endpoint_id)
            if remote is not None:
                return remote
            raise STTRequestUnreachableError(str(error)) from error
        return self._askable(endpoint_id)

    async def _connect(self, endpoint_id: bytes, deadline: float | None) -> Askable:
        assert self._connected is not None  # noqa: S101  see `_check_asking`
        limit = asyncio.timeout_at(deadline)
        try:
            async with limit:
                return await self._connected(endpoint_id)
        except TimeoutError:
            if not limit.expired():
                raise
            late = STTRequestTimeoutError(
                f"endpoint {printable_id(endpoint_id)} had no session in the time given"
            )
            late.handled = False
            raise late from None
        except (STTConnectError, STTEndpointError) as error:
            raise STTRequestUnreachableError(str(error)) from error

    def _check_asking(self, timeout: float | None) -> None:
        self._check_caller()
        check_timeout(timeout)
        if self._connected is None:
            raise STTEndpointError(
                "an EndpointManager on its own knows no sessions to send requests over: use that "
                "of a node, as in node.endpoints.request(...)"
            )


def _outcome(reply: asyncio.Future[bytes]) -> bytes | STTRequestError:
    if reply.cancelled():
        return STTRequestError("the request was cancelled by other code")
    error = reply.exception()
    return reply.result() if error is None else _outcome_of(error)


def _outcome_of(error: BaseException) -> STTRequestError:
    if isinstance(error, STTRequestError):
        return error
    if not isinstance(error, STTMessageSizeError):
        raise error
    outcome = STTRequestError(str(error))
    outcome.handled = False
    outcome.__cause__ = error
    return outcome
