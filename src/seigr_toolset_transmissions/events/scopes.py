"""Tracks which emit the running code belongs to, and so what a handler's failure means."""

from __future__ import annotations

import asyncio
from asyncio import CancelledError, current_task
from contextvars import Context, ContextVar
from weakref import ref

__all__ = ["Scope", "below_error", "is_cancellation", "mark_task", "task_of_emit", "timed_out"]


class Scope:
    """Marks a context, and its copies, as being within an emit.

    So the timers and tasks that a handler creates carry the mark too. It counts until `end`: what
    a handler leaves behind is no longer within the emit.

    Args:
        is_error: Whether it is an emit of ``error``.

    """

    __slots__ = ("ended", "is_error", "outer")

    def __init__(self, *, is_error: bool) -> None:
        self.is_error: bool = is_error
        self.ended: bool = False
        self.outer: Scope | None = None

    def enter(self) -> None:
        """Mark the current context."""
        outer = _innermost.get()
        while outer is not None and outer.ended:
            outer = outer.outer
        self.outer = outer
        _innermost.set(self)

    def leave(self) -> None:
        """Remove the mark from the current context, and end it in all others."""
        _innermost.set(self.outer)
        self.end()

    def end(self) -> None:
        """End the mark in all contexts that carry it."""
        self.ended = True

    def is_here(self) -> bool:
        """Return whether the current context carries the mark."""
        scope = _innermost.get()
        while scope is not None and scope is not self:
            scope = scope.outer
        return scope is self

    def is_below_error(self) -> bool:
        """Return whether this is an emit of ``error`` that has not ended, or is within one."""
        scope: Scope | None = self
        while scope is not None and (scope.ended or not scope.is_error):
            scope = scope.outer
        return scope is not None


_innermost: ContextVar[Scope | None] = ContextVar("_innermost", default=None)


def below_error() -> bool:
    """Return whether this runs within an emit of ``error``, of any emitter, that has not ended."""
    scope = _innermost.get()
    return scope is not None and scope.is_below_error()


_of_emit: ContextVar[ref[asyncio.Task[None]] | None] = ContextVar("_of_emit", default=None)


def mark_task(task: asyncio.Task[None], context: Context) -> None:
    """Note in a task's context that an emit created it and waits for it."""
    context.run(_of_emit.set, ref(task))


def task_of_emit() -> asyncio.Task[None] | None:
    """Return the task that an emit made for the handler that leads here, or None.

    None means that there is no such handler, that it runs in the emitting task, or that its task
    is gone.
    """
    task = _of_emit.get()
    return None if task is None else task()


def is_cancellation(failure: BaseException, handled: BaseException | None) -> bool:
    """Return whether `failure` means that this task was cancelled.

    It does if it is a `CancelledError` or was raised while one was handled. A `TimeoutError` does
    not, because the timeouts of some libraries cancel the task and never take that back; nor does
    an exception raised ``from`` another one, which it replaces on purpose, as `asyncio.timeout`
    does.

    Args:
        failure: What a handler raised in this task.
        handled: What the task was handling before, where the chain of contexts ends.

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
    """Return whether `failure` is a timeout that cancelled this task and did not take that back."""
    return (
        isinstance(failure, TimeoutError)
        and isinstance(failure.__context__, CancelledError)
        and not failure.__suppress_context__
    )
