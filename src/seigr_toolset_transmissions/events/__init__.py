"""Named events, the async handlers registered for them, and how both are run.

What an event means is up to the code that emits it. An emitter belongs to one event loop and is
not thread-safe, except for `EventEmitter.emit_threadsafe`.
"""

from .delivery import Delivery
from .emitter import EventEmitter
from .handlers import Handler
from .scopes import task_of_emit
from .watching import EventStream, Expected, Occurrence

__all__ = [
    "Delivery",
    "EventEmitter",
    "EventStream",
    "Expected",
    "Handler",
    "Occurrence",
    "task_of_emit",
]
