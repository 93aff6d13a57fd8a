"""The wait before a peer is dialed again: random, with a bound that doubles each time.

The randomness keeps many peers from dialing at the same time (full jitter). The callers decide when
the bound starts over.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..config import NodeConfig

__all__ = ["STABLE_SECONDS", "pause"]

STABLE_SECONDS = 0.5
"""The back-off starts over after a connection that carried anything in either direction, or that at
least lasted this long. With a peer that accepts and drops at once, no connection does either, and
the peer is dialed less and less often."""


async def pause(config: NodeConfig, attempts: int, retry: asyncio.Event, longest: float) -> None:
    """Wait before the next attempt, the first being number 0.

    The time is random, between 0 and a bound that doubles with each attempt, and never more than
    ``longest`` seconds. Returns early when ``retry`` is set, and clears it.
    """
    bound = min(config.reconnect_delay_max, config.reconnect_delay * 2 ** min(attempts, 32))
    seconds = min(longest, random.uniform(0, bound))  # noqa: S311 - jitter is not secret
    try:
        async with asyncio.timeout(seconds):
            await retry.wait()
    except TimeoutError:
        pass
    retry.clear()
