"""What kind of function a caller has given."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys

__all__ = ["is_async"]


def is_async(function: object) -> bool:
    """Return whether a call of the function gives something to await, as that of `async def` does.

    A bound method, a `functools.partial`, an object with such a ``__call__`` and a mock count; a
    plain function that happens to return a coroutine does not, for that shows only when it is
    called.
    """
    while isinstance(function, functools.partial):
        function = function.func
    call = getattr(type(function), "__call__", None)  # noqa: B004  its kind is asked for
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call):
        return True
    if sys.version_info >= (3, 13):
        return False
    return asyncio.iscoroutinefunction(function)  # `create_autospec` marks its functions for it
