"""Threads other than the event loop's: having the loop do something, and finding their mistakes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Callable, Coroutine

__all__ = ["Checked", "run_in"]

T = TypeVar("T")


def run_in(
    loop: asyncio.AbstractEventLoop | None,
    work: Coroutine[Any, Any, T],
    *,
    unknown: str,
    closed: str,
) -> concurrent.futures.Future[T]:
    """Run a coroutine in an event loop, whatever thread this is called in. Never waits.

    Raises:
        RuntimeError: There is no loop, with the text ``unknown``; or it was closed, with the text
            ``closed``. The coroutine does not run.

    """
    if loop is None:
        work.close()
        raise RuntimeError(unknown)
    try:
        return asyncio.run_coroutine_threadsafe(work, loop)
    except RuntimeError as exc:
        work.close()
        raise RuntimeError(closed) from exc


class Checked:
    """Stands in for something that only one thread may use, and checks each use first.

    For asyncio's debug mode.

    Args:
        target: What it stands in for.
        check: Raises RuntimeError if the caller is in another thread.

    """

    def __init__(self, target: object, check: Callable[[], None]) -> None:
        self._target = target
        self._check = check

    def __getattr__(self, name: str) -> Any:
        self._check()
        return getattr(self._target, name)
