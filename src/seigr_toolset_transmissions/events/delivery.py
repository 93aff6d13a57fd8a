"""`Delivery`: a `str` that names an event and records whether a handler was called for one emit."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from .handlers import Handler

__all__ = ["Delivery", "announced"]


class Delivery(str):
    """An event's name that shows, once its emit has ended, whether a handler was called.

    It is for messages that go elsewhere if none was. For everything else it is the event's name.

    Attributes:
        handler: The handler that was called last; None if none was called yet.
        watch_only: Whether the event is only for `EventEmitter.on_any`, `wait_for` and `stream`.

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
        return str, (str(self),)  # a copy is no more than a name


announced: ContextVar[tuple[object, Delivery] | None] = ContextVar("announced", default=None)
"""An emitter, and the delivery that a replacement of its ``emit`` was given. The replacement may
pass on another string of that name. None within handlers, whose emits have nothing to do with
it."""
