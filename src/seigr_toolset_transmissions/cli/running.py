"""Running a command's coroutine so that Ctrl-C and SIGTERM end it cleanly."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any, TypeVar

from .failures import Interrupted

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["run_until_done"]

T = TypeVar("T")


def run_until_done(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run the coroutine in a new event loop; return its result.

    SIGINT and SIGTERM cancel it, each time they come: what cleans up can itself be interrupted.

    Raises:
        Interrupted: It was cancelled by a signal, and has ended.

    """
    with asyncio.Runner() as runner:
        return runner.run(_run(coroutine))


async def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    loop = asyncio.get_running_loop()
    task = loop.create_task(coroutine)
    received: list[int] = []

    def on_signal(number: int) -> None:
        received.append(number)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)
    try:
        await asyncio.wait((task,))
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    if received:
        # Whatever cleaning up came to: the signal is why the command ends.
        if not task.cancelled():
            task.exception()
        raise Interrupted(128 + received[0])
    return task.result()
