"""Running a handler in a context of its own, without a task of its own.

What a handler does to context variables must reach neither the code that emits nor the handlers
after it. A task would ensure that, but would cost more than most handlers do.
"""

from __future__ import annotations

import types
from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contextvars import Context

    from .handlers import Handler

__all__ = ["Lane", "Only"]

_Coroutine: Any = types.CoroutineType

Lane = Callable[[Awaitable[Any]], Any]
"""Starts the awaitable that it is called with, and returns what that waits for, or, once it has
ended, its result as the only item of a list. It may then be called again.

It is the ``send`` of a generator. The handler's own ``send`` would return its result in an
exception, which costs as much as two short handlers.
"""


class Only:
    """A handler whose call is all that an emit of its event does.

    Attributes:
        handler: The handler.
        lane: For its calls. One is used at a time: see `finish` and `mend`.

    """

    __slots__ = ("handler", "lane")

    def __init__(self, handler: Handler) -> None:
        self.handler: Handler = handler
        self.lane: Lane = _new_lane()

    def is_busy(self) -> bool:
        """Return whether the lane runs the code that asks, so that calling the lane would fail."""
        running: bool = _generator(self.lane).gi_running
        return running

    @types.coroutine
    def finish(
        self, context: Context, call: Awaitable[Any], awaited: Any
    ) -> Generator[Any, Any, list[Any]]:
        """Finish in `context` a call that has not ended, or has not begun as the lane is busy.

        Args:
            context: Where the call runs.
            call: What the handler returned.
            awaited: What it waits for, if it has begun.

        Returns:
            Its result as the only item of a list.

        """
        if self.is_busy():
            lane = _new_lane()
            awaited = context.run(lane, call)
        else:
            lane, self.lane = self.lane, _new_lane()
        while type(awaited) is not list:
            try:
                answer = yield awaited
            except BaseException as exc:  # noqa: BLE001 - passed on
                thrown = exc
            else:
                awaited = context.run(lane, answer)
                continue
            try:  # not in the except block: the handler must not see the exception as being handled
                awaited = context.run(_generator(lane).throw, thrown)
            finally:
                del thrown
        return awaited

    def mend(self) -> None:
        """Replace the lane if the call it ran has failed."""
        if _generator(self.lane).gi_frame is None:
            self.lane = _new_lane()


@types.coroutine
def _run_each() -> Generator[Any, Any, None]:
    awaitable = yield
    while True:
        # Nearly always a coroutine, which needs no `__await__`.
        if type(awaitable) is not _Coroutine:
            awaitable = awaitable.__await__()
        awaitable = yield [(yield from awaitable)]


def _new_lane() -> Lane:
    lane = _run_each()
    next(lane)
    return lane.send


def _generator(lane: Lane) -> types.GeneratorType[Any, Any, None]:
    generator: types.GeneratorType[Any, Any, None] = lane.__self__  # type: ignore[attr-defined]
    return generator
