"""Work that a task of the node does, and that another task can take over."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from contextvars import Context

    from ..config import NodeConfig
    from ..events import EventEmitter
    from .loop_time import LoopTime

__all__ = ["Worker", "WorkerOwner", "is_being_closed"]


class Worker(Protocol):
    """Something that has its work done by tasks of the node."""

    context: Context
    """Set to the context in which the newest of these tasks runs."""

    def task_ended(self, task: asyncio.Task[Any]) -> None:
        """Note that the task has ended."""

    def leave(self, task: asyncio.Task[Any]) -> None:
        """Go on without the task: it waits for the node to stop, or cannot be ended."""

    def handlers_changed(self) -> None:
        """Note that handlers were registered or removed."""


class WorkerOwner(Protocol):
    """What every worker needs of the node."""

    @property
    def config(self) -> NodeConfig:
        """The node's settings."""

    @property
    def events(self) -> EventEmitter:
        """Where handlers are registered, and their failures reported."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The node's event loop."""

    @property
    def loop_time(self) -> LoopTime:
        """The time of that loop, shared by everything that has much to do."""

    @property
    def time_is_over(self) -> bool:
        """Whether the node cancels the handlers that still run."""

    def own(
        self, coroutine: Coroutine[Any, Any, None], worker: Worker | None = None
    ) -> asyncio.Task[None]:
        """Run a coroutine as a task of the node, which tells the worker when the task ends.

        Sets `Worker.context` to the context in which the task runs.
        """


def is_being_closed(task: asyncio.Task[None]) -> bool:
    """Return whether the task's coroutine is being closed because its loop will not go on."""
    try:
        return asyncio.current_task() is not task
    except RuntimeError:  # no loop runs
        return True
