"""One message to many: each recipient's outcome, and that none affects another."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from helpers.nodes import in_virtual_time
from helpers.routes import routes_to
from seigr_toolset_transmissions.endpoints.fanout import SendOutcome, fan_out
from seigr_toolset_transmissions.errors import (
    STTConnectError,
    STTEndpointError,
    STTIdentityError,
    STTMessageSizeError,
    STTSessionClosedError,
    STTSessionLostError,
    STTTimeoutError,
    STTWindowFullError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

A, B, C, D = b"a", b"b", b"c", b"d"


async def to_all(
    recipients: Iterable[bytes],
    send: Callable[[bytes, bytes], Awaitable[object]] | None,
    *,
    known: Iterable[bytes] = (A, B, C, D),
    try_send: Callable[[bytes, bytes], bool] = lambda *_: False,
    timeout: float | None = None,
) -> dict[bytes, SendOutcome]:
    routes = routes_to(known, try_send)
    return await fan_out(
        recipients, b"x", known=set(known), routes=routes, send=send, timeout=timeout
    )


async def accept(recipient: bytes, data: bytes) -> None:
    assert data == b"x"


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (STTWindowFullError("full"), SendOutcome.FULL),
        (STTTimeoutError("late"), SendOutcome.FULL),
        (TimeoutError(), SendOutcome.FULL),
        (STTEndpointError("no way"), SendOutcome.UNREACHABLE),
        (STTConnectError("nobody"), SendOutcome.UNREACHABLE),
        (STTIdentityError("another"), SendOutcome.UNREACHABLE),
        (STTSessionClosedError("closed"), SendOutcome.UNREACHABLE),
        (
            STTSessionLostError("l", session_id=b"", peer_node_id=b"", unsent=(), unknown=()),
            SendOutcome.UNREACHABLE,
        ),
        (STTMessageSizeError("m"), SendOutcome.TOO_LONG),
    ],
)
@pytest.mark.parametrize("way", ["at once", "in time"])
async def test_an_error_of_one_becomes_its_outcome_and_no_log_line(
    error: Exception, outcome: SendOutcome, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    def try_send(recipient: bytes, data: bytes) -> bool:
        if way == "at once" and recipient == B:
            raise error
        return recipient != B

    async def send(recipient: bytes, data: bytes) -> None:
        raise error

    outcomes = await to_all([A, B, C], send, try_send=try_send)
    assert outcomes == {A: SendOutcome.ACCEPTED, B: outcome, C: SendOutcome.ACCEPTED}
    assert list(outcomes) == [A, B, C]
    assert not caplog.records


class Outcome(BaseException):
    """Such as `pytest.fail` raises."""


@pytest.mark.parametrize("kind", [ValueError, Outcome])
async def test_another_error_is_a_failure_and_is_logged(
    caplog: pytest.LogCaptureFixture, kind: type[BaseException]
) -> None:
    error = kind("no")

    async def send(recipient: bytes, data: bytes) -> None:
        if recipient == B:
            raise error

    outcomes = await to_all([A, B], send)
    assert outcomes == {A: SendOutcome.ACCEPTED, B: SendOutcome.FAILED}
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert B.hex() in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[1] is error


async def test_an_unknown_recipient_gets_nothing() -> None:
    sent = []

    async def send(recipient: bytes, data: bytes) -> None:
        sent.append(recipient)

    outcomes = await to_all([A, B], send, known=[B])
    assert outcomes == {A: SendOutcome.UNKNOWN, B: SendOutcome.ACCEPTED}
    assert sent == [B]


async def test_without_a_way_to_send_nobody_is_reached() -> None:
    assert await to_all([A], None) == {A: SendOutcome.UNREACHABLE}
    assert await to_all([A], None, try_send=lambda *_: True) == {A: SendOutcome.ACCEPTED}


async def test_no_recipients() -> None:
    assert await to_all([], accept) == {}


async def test_an_id_given_twice_is_sent_to_once() -> None:
    sent = []

    async def send(recipient: bytes, data: bytes) -> None:
        sent.append(recipient)

    assert list(await to_all([A, B, A], send)) == [A, B]
    assert sorted(sent) == [A, B]


async def test_a_recipient_that_accepts_at_once_costs_no_task() -> None:
    before = asyncio.all_tasks()
    seen = set()

    def try_send(recipient: bytes, data: bytes) -> bool:
        seen.update(asyncio.all_tasks())
        return True

    await to_all([A, B, C], accept, try_send=try_send)
    assert seen == before


@in_virtual_time
async def test_a_slow_recipient_delays_the_return_but_no_other_recipient() -> None:
    loop = asyncio.get_running_loop()
    done: dict[bytes, float] = {}

    async def send(recipient: bytes, data: bytes) -> None:
        await asyncio.sleep({A: 30, B: 0, C: 7, D: 100}[recipient])
        done[recipient] = loop.time()

    outcomes = await to_all([A, B, C, D], send, timeout=50)
    accepted, full = SendOutcome.ACCEPTED, SendOutcome.FULL
    assert outcomes == {A: accepted, B: accepted, C: accepted, D: full}
    assert loop.time() == pytest.approx(50)
    assert done == {B: 0, C: pytest.approx(7), A: pytest.approx(30)}


@in_virtual_time
async def test_a_cancel_ends_every_send_before_it_propagates() -> None:
    ended = []

    async def send(recipient: bytes, data: bytes) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(1)  # takes its time
            ended.append(recipient)

    task = asyncio.create_task(to_all([A, B], send))
    await asyncio.sleep(5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(ended) == [A, B]


async def test_a_send_that_cancels_itself_has_failed() -> None:
    async def send(recipient: bytes, data: bytes) -> None:
        raise asyncio.CancelledError

    assert await to_all([A], send) == {A: SendOutcome.FAILED}


def test_only_an_accepted_message_counts_as_true() -> None:
    assert [outcome for outcome in SendOutcome if outcome] == [SendOutcome.ACCEPTED]
