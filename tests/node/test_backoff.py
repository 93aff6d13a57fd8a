"""How long the next dial waits: random times up to a bound that grows."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from helpers.nodes import in_virtual_time
from seigr_toolset_transmissions import NodeConfig
from seigr_toolset_transmissions.node.backoff import pause

if TYPE_CHECKING:
    from collections.abc import Callable

CONFIG = NodeConfig(reconnect_delay=0.2, reconnect_delay_max=30)
LONG = 1e6


async def duration_of(attempts: int, longest: float = LONG) -> float:
    loop = asyncio.get_running_loop()
    before = loop.time()
    await pause(CONFIG, attempts, asyncio.Event(), longest)
    return loop.time() - before


@pytest.mark.usefixtures("longest_draw")
@in_virtual_time
async def test_the_bound_doubles_with_each_attempt_up_to_the_longest() -> None:
    bounds = [await duration_of(attempts) for attempts in range(10)]
    expected = [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30]
    assert bounds == [pytest.approx(bound) for bound in expected]


@pytest.mark.usefixtures("longest_draw")
@in_virtual_time
async def test_after_any_number_of_attempts_the_bound_is_the_longest() -> None:
    assert await duration_of(10_000_000) == pytest.approx(30)


@in_virtual_time
async def test_the_times_are_spread_over_all_of_the_bound() -> None:
    """Full jitter: as many short waits as long ones, so that many peers never come at once."""
    times = sorted([await duration_of(attempts=20) for _ in range(400)])
    assert times[0] >= 0
    assert times[-1] <= 30
    for place, time in enumerate(times):
        assert time == pytest.approx(30 * place / 400, abs=5)


@pytest.mark.usefixtures("longest_draw")
@pytest.mark.parametrize(("longest", "expected"), [(1.5, 1.5), (0.0, 0.0), (-3.0, 0.0)])
@in_virtual_time
async def test_it_never_waits_longer_than_there_is_time(longest: float, expected: float) -> None:
    assert await duration_of(20, longest) == pytest.approx(expected)


def retry_at_once(retry: asyncio.Event) -> None:
    retry.set()


def retry_after_a_second(retry: asyncio.Event) -> None:
    asyncio.get_running_loop().call_later(1, retry.set)


@pytest.mark.usefixtures("longest_draw")
@pytest.mark.parametrize(("ask", "expected"), [(retry_at_once, 0.0), (retry_after_a_second, 1.0)])
@in_virtual_time
async def test_a_retry_ends_the_present_wait_and_no_other(
    ask: Callable[[asyncio.Event], None], expected: float
) -> None:
    loop = asyncio.get_running_loop()
    retry = asyncio.Event()
    ask(retry)
    before = loop.time()
    await pause(CONFIG, 20, retry, LONG)
    assert loop.time() - before == pytest.approx(expected)
    await pause(CONFIG, 20, retry, LONG)
    assert loop.time() - before == pytest.approx(expected + 30)


@pytest.mark.usefixtures("longest_draw")
@in_virtual_time
async def test_a_cancelled_wait_ends_at_once() -> None:
    loop = asyncio.get_running_loop()
    waiting = asyncio.create_task(pause(CONFIG, 20, asyncio.Event(), LONG))
    await asyncio.sleep(1)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert loop.time() == pytest.approx(1)
