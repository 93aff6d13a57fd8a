"""One message to many recipients at once, with an outcome for each.

A recipient that accepts at once costs no task; the others are waited for concurrently, so that a
slow or failing one neither delays nor harms another.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import (
    STTConnectError,
    STTEndpointError,
    STTMessageSizeError,
    STTSessionClosedError,
    STTWindowFullError,
)
from ..foundation.futures import retrieve
from ..foundation.ids import short

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Container, Iterable, Mapping

__all__ = ["Remote", "Route", "SendOutcome", "end_tasks", "fan_out", "nowhere"]

_logger = logging.getLogger(__name__)


class SendOutcome(enum.Enum):
    """What became of one recipient's copy of a message. True only if it was accepted."""

    #: The recipient's route or the callback accepted it.
    ACCEPTED = "accepted"
    #: No such recipient; nothing was sent.
    UNKNOWN = "unknown"
    #: There is no way to the recipient: no connection, no session, or no callback.
    UNREACHABLE = "unreachable"
    #: The recipient accepts no more at present, or did not accept it within the time given.
    FULL = "full"
    #: The message is longer than the recipient accepts (its ``max_message_bytes``, or ours).
    TOO_LONG = "too long"
    #: The callback raised something else; the traceback is in the log.
    FAILED = "failed"

    def __bool__(self) -> bool:
        return self is SendOutcome.ACCEPTED


class Route(Protocol):
    """A way to a recipient."""

    def try_send(self, data: bytes) -> bool:
        """Accept the message at once if there is room for it; return whether it was accepted."""


class Remote(Route, Protocol):
    """A way to an endpoint that is not connected here, but to another hub of a cluster."""

    async def send(self, data: bytes) -> None:
        """Accept the message; wait for room for it."""

    async def request(self, data: bytes, *, timeout: float | None = None) -> bytes:
        """Send a request and return the reply."""

    def begin_request(self, data: bytes, timeout: float | None) -> None:
        """Return None: a request to such an endpoint waits for its turn in a task."""


def nowhere(_: bytes) -> None:
    """Return None, which says of any endpoint that it is not elsewhere."""


async def fan_out(
    recipients: Iterable[bytes],
    data: bytes,
    *,
    known: Container[bytes],
    routes: Mapping[bytes, Route],
    send: Callable[[bytes, bytes], Awaitable[object]] | None,
    timeout: float | None,
    elsewhere: Callable[[bytes], Route | None] = nowhere,
) -> dict[bytes, SendOutcome]:
    """Send ``data`` to each recipient once; return their outcomes, in the order given.

    Args:
        recipients: Ids; one that is given twice is sent to once.
        data: The message.
        known: The known recipients; others get `SendOutcome.UNKNOWN`.
        routes: Ways to recipients, tried first. If one has none, or it declines, ``send`` is
            awaited.
        send: Returns when the message was accepted. Without it, there is no way to send.
        timeout: After this many seconds, a ``send`` still under way is cancelled, and its outcome
            is `SendOutcome.FULL`; None: no limit.
        elsewhere: Returns the way to a recipient that has none in ``routes``; None if it has none
            at all. A recipient that has one counts as known.

    No exception of a recipient escapes, other than `KeyboardInterrupt` and `SystemExit`. On
    cancellation every ``send`` still under way is cancelled and awaited; the message may have been
    sent to all, some or none of them.

    """
    outcomes: dict[bytes, SendOutcome] = {}
    waiting: list[bytes] = []
    for recipient in recipients:
        if recipient in outcomes:
            continue
        try:
            route = routes.get(recipient) or elsewhere(recipient)
            if recipient not in known and (route is None or recipient in routes):
                outcomes[recipient] = SendOutcome.UNKNOWN
                continue
            if route is not None and route.try_send(data):
                outcomes[recipient] = SendOutcome.ACCEPTED
                continue
        except Exception as error:  # noqa: BLE001  one of many: becomes its outcome
            outcomes[recipient] = _outcome_of(recipient, error)
            continue
        outcomes[recipient] = SendOutcome.UNREACHABLE  # keeps the place until `send` has ended
        waiting.append(recipient)
    if waiting and send is not None:
        outcomes.update(await _send_concurrently(waiting, data, send, timeout))
    return outcomes


async def _send_concurrently(
    recipients: list[bytes],
    data: bytes,
    send: Callable[[bytes, bytes], Awaitable[object]],
    timeout: float | None,
) -> dict[bytes, SendOutcome]:
    tasks: dict[asyncio.Task[SendOutcome], bytes] = {}
    late: set[asyncio.Task[SendOutcome]] = set()
    try:
        for recipient in recipients:
            task = asyncio.create_task(_send_one(send, recipient, data))
            task.add_done_callback(retrieve)  # an interrupt of the program, which is raised anyway
            tasks[task] = recipient
        _, late = await asyncio.wait(tasks, timeout=timeout)
    finally:
        # However we leave, even by a cancellation or KeyboardInterrupt, no task outlives us.
        await end_tasks(tasks)
    outcomes = {}
    for task, recipient in tasks.items():
        if not task.cancelled():
            outcomes[recipient] = task.result()
        elif task in late:
            outcomes[recipient] = SendOutcome.FULL
        else:
            _logger.error("sending to %s was cancelled by other code", short(recipient))
            outcomes[recipient] = SendOutcome.FAILED
    return outcomes


async def _send_one(
    send: Callable[[bytes, bytes], Awaitable[object]], recipient: bytes, data: bytes
) -> SendOutcome:
    try:
        await send(recipient, data)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # This task was not cancelled: the callback raised it by itself, so it has failed.
        return _outcome_of(recipient, error)
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001  one of many: becomes its outcome
        return _outcome_of(recipient, error)
    return SendOutcome.ACCEPTED


def _outcome_of(recipient: bytes, error: BaseException) -> SendOutcome:
    # TimeoutError first: STTTimeoutError is an STTEndpointError as well.
    if isinstance(error, STTWindowFullError | TimeoutError):
        return SendOutcome.FULL
    if isinstance(error, STTMessageSizeError):
        return SendOutcome.TOO_LONG
    if isinstance(error, STTConnectError | STTSessionClosedError | STTEndpointError):
        return SendOutcome.UNREACHABLE
    _logger.error("sending to %s failed", short(recipient), exc_info=error)
    return SendOutcome.FAILED


async def end_tasks(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel what is still running and return when all of it has ended, even if cancelled."""
    cancelled: asyncio.CancelledError | None = None
    running = [task for task in tasks if not task.done()]
    for task in running:
        task.cancel()
    while running:
        try:
            await asyncio.wait(running)
        except asyncio.CancelledError as error:
            cancelled = error
        running = [task for task in running if not task.done()]
    if cancelled is not None:
        raise cancelled
