"""`Delivery`: an event's name that tells what became of one emit of it."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from .handlers import Handler

__all__ = ["Delivery", "announced"]


class Delivery(str):
    """An event's name that tells, when its emit has ended, whether a handler was called.

    For what must go elsewhere if none was. It is the event's name for all else.

    Attributes:
        handler: The handler that was called last; None: none yet.
        watch_only: Whether only `EventEmitter.on_any`, `wait_for` and `stream` are to be told.

    """

    __slots__ = ("handler", "watch_only")

    handler: Handler | None
    watch_only: bool

    def __new__(cls, name: str, *, watch_only: bool = False) -> Self:
        """Name an event."""
        delivery = super().__new__(cls, name)
        delivery.handler = None
        delivery.watch_only = watch_only
        return delivery

    def __reduce__(self) -> tuple[Any, ...]:
        return str, (str(self),)  # to whoever keeps it, it is a name


announced: ContextVar[tuple[object, Delivery] | None] = ContextVar("announced", default=None)
"""An emitter, and what code that has replaced its ``emit`` was given to pass on: it may pass on
another string of the same name. None within handlers, whose own emits are their own."""
