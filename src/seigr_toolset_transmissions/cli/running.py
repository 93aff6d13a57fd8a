"""Running a command's coroutine so that Ctrl-C and SIGTERM end it cleanly."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from .failures import Interrupted
from .keyboard import start_line
from .notes import note
from .streams import retrieve

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import FrameType

__all__ = ["run_until_done"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

T = TypeVar("T")


def run_until_done(coroutine: Coroutine[Any, Any, T], *, undone: str = "") -> T:
    """Run the coroutine in a new event loop; return its result.

    SIGINT and SIGTERM cancel it each time they arrive: even the cleanup can be interrupted.

    Args:
        coroutine: What to run.
        undone: What the user reads about the work that a signal has ended; empty: the coroutine
            says that itself.

    Raises:
        Interrupted: It was cancelled by a signal, and has ended.

    """
    try:
        with asyncio.Runner() as runner:
            return runner.run(_run(coroutine))
    except Interrupted:
        if undone:
            note(f"interrupted: {undone}")
        raise


async def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    loop = asyncio.get_running_loop()
    task = loop.create_task(coroutine)
    received: list[int] = []

    def on_signal(number: int) -> None:
        received.append(number)
        if number == signal.SIGINT:
            start_line()
        task.cancel()

    def handler(number: int, _: FrameType | None) -> None:
        loop.call_soon_threadsafe(on_signal, number)

    former = {number: signal.getsignal(number) for number in _SIGNALS}
    for number in _SIGNALS:
        try:
            # It also wakes a loop that has just gone to sleep, or whose signal another thread got.
            loop.add_signal_handler(number, on_signal, number)
        except NotImplementedError:  # Windows, where any signal wakes the loop
            signal.signal(number, handler)
    try:
        await asyncio.wait((task,))
    finally:
        for number in _SIGNALS:
            with suppress(NotImplementedError):
                loop.remove_signal_handler(number)
            signal.signal(number, former[number])
    if received:
        # Whatever cleaning up came to: the signal is why the command ends.
        retrieve(task)
        raise Interrupted(128 + received[0])
    return task.result()
