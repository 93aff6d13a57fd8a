"""What tests of emitters share: several kinds of handlers, and checks that nothing is left over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seigr_toolset_transmissions.events import EventEmitter, Occurrence

Handler = Callable[..., Awaitable[Any]]


async def turns(count: int = 5) -> None:
    """Let every task that can run, run."""
    for _ in range(count):
        await asyncio.sleep(0)


async def read(stream: AsyncIterator[Occurrence]) -> Occurrence:
    return await anext(stream)


def only_this_task() -> bool:
    """Tell whether no other task is left, apart from those of anyio that run the tests."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    return all("TestRunner" in repr(task.get_coro()) for task in others)


def at_rest(events: EventEmitter) -> bool:
    """Tell whether the emitter holds nothing of an emit, a wait or a stream any more."""
    return not events._watchers


def returning(value: Any) -> Handler:
    async def handler(*args: Any, **kwargs: Any) -> Any:
        return value

    return handler


class Recorder:
    """A handler that records its arguments."""

    def __init__(self) -> None:
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    async def __call__(self, /, *args: Any, **kwargs: Any) -> None:
        self.calls.append((args, kwargs))


class Hanging:
    """A handler that runs until it is cancelled."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.ended = False

    async def __call__(self, /, *args: Any, **kwargs: Any) -> None:
        self.started.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(0)
            self.ended = True


def add_crowd(events: EventEmitter, name: str, count: int) -> list[Recorder]:
    recorders = [Recorder() for _ in range(count)]
    for recorder in recorders:
        events.register(name, recorder)
    return recorders
