"""What counts as a handler, how messages name one, and how its failure reads in the log."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from ..callables import is_async
from ..errors import STTEventError

__all__ = ["Handler", "check_handler", "check_name", "describe", "log", "log_failure"]

log = logging.getLogger(__package__)

Handler = Callable[..., Awaitable[Any]]


def check_name(name: object) -> None:
    """Raise `TypeError` unless `name` can name an event."""
    if not isinstance(name, str):
        hint = "; write @events.on('name')" if callable(name) else ""
        raise TypeError(f"an event's name must be a str, not {type(name).__name__}{hint}")


def check_handler(handler: object, purpose: str) -> None:
    """Raise `STTEventError` unless `handler` is async; the message says what to write instead."""
    if is_async(handler):
        return
    if isinstance(handler, type):
        remedy = "it is a class; give an instance that has `async def __call__(self, ...)`"
    elif inspect.iscoroutine(handler):
        remedy = "it is the coroutine of a call; give the `async def` function, without calling it"
    elif inspect.isasyncgenfunction(handler):
        remedy = "it is an async generator; write an `async def` without `yield`"
    elif callable(handler):
        remedy = "write it as `async def`"
    else:
        remedy = "it cannot be called; give an `async def` function"
    raise STTEventError(f"{describe(handler)} is not an async handler for {purpose}: {remedy}")


def describe(subject: object) -> str:
    """Return a name for a handler by which its author finds it."""
    while isinstance(subject, functools.partial):
        subject = subject.func
    if inspect.isroutine(subject) or isinstance(subject, type):
        return f"{getattr(subject, '__module__', None)}.{subject.__qualname__}"
    return f"an object of {type(subject).__module__}.{type(subject).__qualname__}"


def log_failure(name: str, handler: Handler, exc: BaseException) -> None:
    """Write to the log, with its traceback, that a handler of `name` has failed."""
    log.error("handler %s of event %r failed", describe(handler), name, exc_info=exc)
