"""Waits for acknowledgements: which wait ends, when, and how."""

from __future__ import annotations

import asyncio

import pytest

from helpers.nodes import in_virtual_time
from seigr_toolset_transmissions.errors import STTSessionClosedError
from seigr_toolset_transmissions.sessions.flushers import Flushers


def waiter() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


@in_virtual_time
async def test_each_ends_with_the_acknowledgement_of_what_came_before_it() -> None:
    flushers, first, second = Flushers(), waiter(), waiter()
    flushers.add(1, first)
    flushers.add(3, second)
    assert not flushers.settle(0)
    assert not flushers.settle(2)
    assert (first.done(), second.done()) == (True, False)
    assert flushers.settle(3)
    assert second.done()


@in_virtual_time
async def test_a_cancelled_flush_is_released() -> None:
    flushers, cancelled = Flushers(), waiter()
    flushers.add(1, cancelled)
    cancelled.cancel()
    assert flushers.settle(0)
    flushers.fail(AssertionError)  # without a wait, no error is made


@in_virtual_time
async def test_each_gets_an_error_of_its_own() -> None:
    flushers, waiting = Flushers(), [waiter(), waiter()]
    for future in waiting:
        flushers.add(1, future)
    flushers.fail(lambda: STTSessionClosedError("over"))
    errors = [future.exception() for future in waiting]
    assert errors[0] is not errors[1]
    for future in waiting:
        with pytest.raises(STTSessionClosedError, match="over"):
            await future
