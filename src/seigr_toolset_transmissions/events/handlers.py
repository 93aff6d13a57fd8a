"""What counts as a handler, how messages name one, and how its failure reads in the log."""

from __future__ import annotations

import functools
import inspect
import logging
import types
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import STTEventError
from ..foundation.callables import is_async

if TYPE_CHECKING:
    from ..foundation.repeats import Repeats

__all__ = [
    "Handler",
    "check_handler",
    "check_name",
    "check_parameters",
    "check_positions",
    "describe",
    "log",
    "log_failure",
]

log: logging.Logger = logging.getLogger(__package__)

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


def check_parameters(handler: Handler, name: str, arguments: Iterable[str]) -> None:
    """Raise `STTEventError` if an emit with these keyword arguments certainly cannot call it."""
    names = dict.fromkeys(arguments)
    problem = _mismatch(handler, **names)
    if problem is not None:
        given = ", ".join(f"{argument}=..." for argument in names)
        raise STTEventError(
            f"{describe(handler)} cannot handle the event {name!r}, which calls it with ({given}): "
            f"{problem}; name its parameters so, or let it take **kwargs"
        )


def check_positions(handler: Handler, purpose: str, arguments: Sequence[str]) -> None:
    """Raise `STTEventError` if a call with this many positional arguments certainly cannot succeed.

    Their names are for the message: the handler may give its parameters others.
    """
    problem = _mismatch(handler, *arguments)
    if problem is not None:
        given = ", ".join(arguments)
        raise STTEventError(
            f"{describe(handler)} cannot handle {purpose}, which call it with ({given}): "
            f"{problem}; let it take these {len(arguments)}"
        )


def _mismatch(handler: Handler, *args: object, **kwargs: object) -> str | None:
    """Return why a handler certainly cannot be called with these arguments; None if it may."""
    signature = _certain_signature(handler)
    if signature is not None:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as exc:
            return str(exc)
    return None


def _certain_signature(handler: Handler) -> inspect.Signature | None:
    """Return the parameters of a handler, or None if it may take others than it shows.

    A decorated function shows those of another one, and what is not written in Python may show
    anything.
    """
    function: object = handler
    while isinstance(function, functools.partial):
        function = function.func
    if not inspect.isroutine(function):
        function = type(function).__call__
    if isinstance(function, types.MethodType):
        function = function.__func__
    if not isinstance(function, types.FunctionType) or hasattr(function, "__signature__"):
        return None
    try:
        return inspect.signature(handler, follow_wrapped=False)
    except (NameError, TypeError, ValueError):  # NameError: of an annotation, as of Python 3.14
        return None


def describe(subject: object) -> str:
    """Return a name by which a handler's author can find it."""
    while isinstance(subject, functools.partial):
        subject = subject.func
    if inspect.isroutine(subject) or isinstance(subject, type):
        return f"{getattr(subject, '__module__', None)}.{subject.__qualname__}"
    return f"an object of {type(subject).__module__}.{type(subject).__qualname__}"


def log_failure(failures: Repeats, name: str, handler: Handler, exc: BaseException) -> None:
    """Log that a handler of `name` has failed, or count it: see `Repeats.error`."""
    failures.error(f"handler {describe(handler)} of event {name!r} failed", exc)
