"""Outcomes of futures and tasks that nothing waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

__all__ = ["retrieve"]


def retrieve(future: asyncio.Future[Any]) -> None:
    """Retrieve the exception of a future that is done, so that asyncio does not report it."""
    if not future.cancelled():
        future.exception()
