"""Within which emit code runs, whoever called it, and what a handler's failure means there."""

from __future__ import annotations

import asyncio
from asyncio import CancelledError, current_task
from contextvars import Context, ContextVar
from weakref import ref

__all__ = ["Scope", "below_error", "is_cancellation", "mark_task", "task_of_emit", "timed_out"]


class Scope:
    """Marks a context, and those that are copied from it, as being within an emit.

    Timers and tasks that a handler makes bear the mark therefore. It counts until `end`: what a
    handler leaves behind is not within the emit any more.

    Args:
        is_error: Whether it is an emit of ``error``.

    """

    __slots__ = ("ended", "is_error", "outer")

    def __init__(self, *, is_error: bool) -> None:
        self.is_error = is_error
        self.ended = False
        self.outer: Scope | None = None

    def enter(self) -> None:
        """Mark the present context."""
        outer = _innermost.get()
        while outer is not None and outer.ended:
            outer = outer.outer
        self.outer = outer
        _innermost.set(self)

    def leave(self) -> None:
        """Unmark the present context, and end the mark in all others."""
        _innermost.set(self.outer)
        self.end()

    def end(self) -> None:
        """End the mark in all contexts that bear it."""
        self.ended = True

    def is_here(self) -> bool:
        """Tell whether the present context bears the mark."""
        scope = _innermost.get()
        while scope is not None and scope is not self:
            scope = scope.outer
        return scope is self

    def is_below_error(self) -> bool:
        """Tell whether this is an emit of ``error`` that has not ended, or is within one."""
        scope: Scope | None = self
        while scope is not None and (scope.ended or not scope.is_error):
            scope = scope.outer
        return scope is not None


_innermost: ContextVar[Scope | None] = ContextVar("_innermost", default=None)


def below_error() -> bool:
    """Tell whether an emit of ``error``, of any emitter, is what led here and has not ended."""
    scope = _innermost.get()
    return scope is not None and scope.is_below_error()


_of_emit: ContextVar[ref[asyncio.Task[None]] | None] = ContextVar("_of_emit", default=None)


def mark_task(task: asyncio.Task[None], context: Context) -> None:
    """Note in the context of a task that an emit has made it and waits for it."""
    context.run(_of_emit.set, ref(task))


def task_of_emit() -> asyncio.Task[None] | None:
    """Return the task, made by an emit that waits for it, in or on whose behalf this is called."""
    task = _of_emit.get()
    return None if task is None else task()


def is_cancellation(failure: BaseException, handled: BaseException | None) -> bool:
    """Tell whether `failure` means that this task was cancelled.

    It does if it is a `CancelledError` or came up in the wake of one. A `TimeoutError` does not,
    for the time-outs of some libraries cancel the task and never take that back; nor does what was
    raised ``from`` another exception, which replaces it on purpose, as `asyncio.timeout` does.

    Args:
        failure: What a handler has raised in this task.
        handled: What the task handled before, which ends the chain of contexts.

    """
    task = current_task()
    if task is None or not task.cancelling() or isinstance(failure, TimeoutError):
        return False
    exc: BaseException | None = failure
    while exc is not None and exc is not handled:
        if isinstance(exc, CancelledError):
            return True
        exc = None if exc.__suppress_context__ else exc.__context__
    return False


def timed_out(failure: BaseException) -> bool:
    """Tell whether `failure` comes of a time-out that cancelled this task and kept it at that."""
    return (
        isinstance(failure, TimeoutError)
        and isinstance(failure.__context__, CancelledError)
        and not failure.__suppress_context__
    )
