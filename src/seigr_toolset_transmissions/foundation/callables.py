"""Telling async functions from plain ones."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys

__all__ = ["is_async"]


def is_async(function: object) -> bool:
    """Return whether calling the function returns something to await, as with `async def`.

    Bound methods, a `functools.partial`, objects with such a ``__call__`` and mocks count. A plain
    function that happens to return a coroutine does not, because only calling it would show that.
    """
    while isinstance(function, functools.partial):
        function = function.func
    call = getattr(type(function), "__call__", None)  # noqa: B004  we need the method itself
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call):
        return True
    if sys.version_info >= (3, 13):
        return False
    return asyncio.iscoroutinefunction(function)  # finds the mark that `create_autospec` sets
