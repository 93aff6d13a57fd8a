"""What the processes of the demos have in common: each is a puppet on two pipes.

It reads orders, one JSON object a line, from standard input and writes what happens to standard
output in the same form. The first order says what it is. It ends when its input ends, and so it
does not outlive the demo's process, however that ends.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..streams import STDIN, STDOUT, InputStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

__all__ = ["report", "take_part"]


def report(**facts: Any) -> None:
    """Tell the demo what has happened."""
    with suppress(BrokenPipeError):  # the demo is gone, and its puppets go too
        os.write(STDOUT, json.dumps(facts).encode() + b"\n")


async def take_part(
    play: Callable[[dict[str, Any], AsyncIterator[bytes]], Awaitable[None]],
) -> None:
    """Play a part: call ``play`` with the first order, and with the lines that follow it."""
    orders = InputStream(STDIN).lines()
    try:
        part = json.loads(await anext(orders))
    except StopAsyncIteration:
        return
    await play(part, orders)
