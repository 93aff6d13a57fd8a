"""Processes for the sides of a measurement: they talk over pipes and never outlive the parent."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing as mp
import os
import threading
import traceback
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Child", "Failure", "Link", "on_exit"]

_context = mp.get_context("spawn")

_JOIN_SECONDS = 15.0
"""How many seconds a process may take to clean up after its report before it is killed."""

_cleanups: list[Callable[[], object]] = []


def on_exit(cleanup: Callable[[], object]) -> None:
    """Register a call for when this child is ended by force, to end whatever it has started."""
    _cleanups.append(cleanup)


class Failure(Exception):  # noqa: N818 - as in "a failure was noted"
    """A side of a measurement broke, or took too long."""


class Link:
    """One end of the pipe between a child and its parent: named reports, in order."""

    def __init__(self, pipe: Connection, limit: float) -> None:
        self._pipe = pipe
        self._limit = limit

    def tell(self, kind: str, value: Any = None) -> None:
        """Send a report."""
        self._pipe.send((kind, value))

    def hear(self, kind: str) -> Any:
        """Wait for the next report, which must be of this kind; return its value."""
        if not self._pipe.poll(self._limit):
            raise Failure(f"no {kind!r} within {self._limit:.0f} s")
        try:
            heard, value = self._pipe.recv()
        except EOFError:
            raise Failure(f"the other side ended before {kind!r}") from None
        if heard != kind:
            raise Failure(f"{heard!r} instead of {kind!r}: {value}")
        return value

    async def listen(self, kind: str) -> Any:
        """Wait like `hear`, without blocking the event loop."""
        return await asyncio.to_thread(self.hear, kind)

    def close(self) -> None:
        """Close this end."""
        self._pipe.close()


class Child:
    """A process that runs ``role(link, *arguments)``; a context manager that ends it.

    ``limit`` is how many seconds it may live. It ends at once if its parent ends.
    """

    def __init__(self, role: Callable[..., None], *arguments: Any, limit: float) -> None:
        ours, theirs = _context.Pipe()
        self.link = Link(ours, limit)
        self._process = _context.Process(
            target=_run, args=(role, theirs, limit, arguments), daemon=True
        )
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._process.join(_JOIN_SECONDS)
        self.link.close()
        if self._process.is_alive():
            self._process.terminate()
            self._process.join(1.0)
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self._process.close()


def _run(
    role: Callable[..., None], pipe: Connection, limit: float, arguments: tuple[Any, ...]
) -> None:
    threading.Thread(target=_watch, args=(limit,), daemon=True).start()
    _raise_file_limit()
    link = Link(pipe, limit)
    try:
        role(link, *arguments)
    except BaseException:  # noqa: BLE001 - whatever it is, the parent reports it
        with contextlib.suppress(OSError):
            link.tell("failure", traceback.format_exc())


def _watch(limit: float) -> None:
    parent = mp.parent_process()
    if parent is not None:
        wait([parent.sentinel], timeout=limit)
    for cleanup in _cleanups:
        with contextlib.suppress(Exception):
            cleanup()
    os._exit(1)


def _raise_file_limit() -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
