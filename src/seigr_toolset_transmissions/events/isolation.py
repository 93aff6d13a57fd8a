"""Running a handler in a context of its own, without a task of its own.

What a handler does to context variables is for itself alone: not for the code that emits, nor for
the handlers after it. A task would see to that, and would cost more than most handlers do.
"""

from __future__ import annotations

import types
from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contextvars import Context

__all__ = ["Lane", "SpareLane", "finish", "new_lane"]

_Coroutine: Any = types.CoroutineType

Lane = Callable[[Awaitable[Any]], Any]
"""Begins what it is called with, and returns what that waits for; or, when it has ended, its result
as the only item of a list. It may then be called again.

It is the ``send`` of a generator: to send to the handler itself would tell its result by an
exception, which costs as much as two short handlers.
"""


class SpareLane:
    """Keeps a lane for the next emit; None while an emit uses it."""

    __slots__ = ("lane",)

    def __init__(self) -> None:
        self.lane: Lane | None = None


@types.coroutine
def _run_each() -> Generator[Any, Any, None]:
    awaitable = yield
    while True:
        # Only coroutines need no `__await__`; they are what is there nearly always.
        if type(awaitable) is not _Coroutine:
            awaitable = awaitable.__await__()
        awaitable = yield [(yield from awaitable)]


def new_lane() -> Lane:
    """Return a lane."""
    lane = _run_each()
    next(lane)
    return lane.send


@types.coroutine
def finish(context: Context, lane: Lane, awaited: Any) -> Generator[Any, Any, list[Any]]:
    """Go on in `context` with what a call of the lane there has begun; return what it returns.

    Args:
        context: Where it was begun.
        lane: What was called.
        awaited: What the call returned.

    """
    generator: Generator[Any, Any, None] = lane.__self__  # type: ignore[attr-defined]
    while type(awaited) is not list:
        try:
            answer = yield awaited
        except BaseException as exc:  # noqa: BLE001 - passed on
            thrown = exc
        else:
            awaited = context.run(lane, answer)
            continue
        try:  # no longer within the except block: it is not what the handler is handling
            awaited = context.run(generator.throw, thrown)
        finally:
            del thrown
    return awaited
