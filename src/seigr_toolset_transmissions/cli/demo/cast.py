"""The processes of the demo: starting them, giving them orders, hearing from them, ending them.

A peer ends when its standard input does. The pipe is closed here when the demo ends, and by the
operating system if this process dies in whatever way; so no peer outlives the demo.
"""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ... import generate_seed

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

__all__ = ["Actor", "ActorGoneError", "Cast", "Role", "python_module"]

_END_SECONDS = 2.0
"""How long a peer may outlive its input before it is killed."""
_LAST_WORDS = 10
"""Lines of standard error that are kept, to show if a peer dies."""
_LINE_BYTES = 1024 * 1024


class ActorGoneError(Exception):
    """A peer's process ended before it did what was expected of it."""


@dataclass(frozen=True, slots=True)
class Role:
    """A peer's part: its name, and the metadata that it gives the hub."""

    name: str
    kind: str
    region: str


class Actor:
    """One peer's process, seen from the demo."""

    def __init__(self, role: Role, process: Process) -> None:
        self.role = role
        self.heard: list[str] = []
        """The messages that it has received, in order."""
        self.latest: dict[str, dict[str, Any]] = {}
        """Its latest report of each kind."""
        self._process = process
        self._gone = False
        self._news = asyncio.Event()
        self._last_words: deque[str] = deque(maxlen=_LAST_WORDS)
        self._tasks = [
            asyncio.create_task(self._listen()),
            asyncio.create_task(self._keep_last_words()),
        ]

    @property
    def name(self) -> str:
        """Its name in the demo."""
        return self.role.name

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._process.pid

    def order(self, **order: Any) -> None:
        """Tell it what to do; `peer` knows what can be said."""
        assert self._process.stdin is not None  # noqa: S101  started with a pipe
        self._process.stdin.write(json.dumps(order).encode() + b"\n")

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until what it has reported satisfies the condition.

        Raises:
            ActorGoneError: Its process ended first.

        """
        while not condition():
            if self._gone:
                words = "; ".join(self._last_words) or "it said nothing"
                raise ActorGoneError(f"the process of {self.name} ended too early: {words}")
            self._news.clear()
            await self._news.wait()

    async def report(self, kind: str) -> dict[str, Any]:
        """Wait until there is a report of this kind; return the latest."""
        await self.until(lambda: kind in self.latest)
        return self.latest[kind]

    def kill(self) -> None:
        """Kill its process, as a crash would."""
        self._process.kill()

    async def end(self) -> None:
        """Close its input, and make sure that the process ends."""
        process = self._process
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(_END_SECONDS):
                await process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    async def _listen(self) -> None:
        assert self._process.stdout is not None  # noqa: S101  started with a pipe
        try:
            async for line in self._process.stdout:
                report = json.loads(line)
                if report["kind"] == "heard":
                    self.heard.append(report["text"])
                else:
                    self.latest[report["kind"]] = report
                self._news.set()
        finally:
            await asyncio.sleep(0.1)  # for the last words
            self._gone = True
            self._news.set()

    async def _keep_last_words(self) -> None:
        assert self._process.stderr is not None  # noqa: S101  started with a pipe
        async for line in self._process.stderr:
            self._last_words.append(line.decode(errors="replace").strip())


class Cast:
    """All processes that the demo has started; leaving the context ends them."""

    def __init__(self) -> None:
        self._actors: list[Actor] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await asyncio.gather(*(actor.end() for actor in self._actors))

    async def start(
        self, role: Role, *, shared_seed: bytes, host: str, port: int, expect: bytes
    ) -> Actor:
        """Start a peer that connects to the hub there; return without waiting for it.

        Raises:
            ActorGoneError: There is no starting it.

        """
        actor = await self.run(role, *_command())
        actor.order(
            name=role.name,
            seed=generate_seed().hex(),
            shared=shared_seed.hex(),
            host=host,
            port=port,
            expect=expect.hex(),
        )
        return actor

    async def run(self, role: Role, *command: str) -> Actor:
        """Start a program that ends when its input does.

        Raises:
            ActorGoneError: There is no starting it.

        """
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=PIPE,
                stdout=PIPE,
                stderr=PIPE,
                limit=_LINE_BYTES,
                process_group=0,  # Ctrl-C is for the demo, which then ends its peers
            )
        except OSError as error:
            raise ActorGoneError(f"cannot start a process for {role.name}: {error}") from error
        actor = Actor(role, process)
        self._actors.append(actor)
        return actor


def python_module(name: str) -> list[str]:
    """Return the command that runs a module of the demo."""
    # Without -P a file json.py in the working directory would be taken for the real one; but a
    # source tree that is not installed is found there only.
    package_root = Path(__file__).parents[3]
    in_tree = package_root == Path.cwd()
    return [sys.executable, *([] if in_tree else ["-P"]), "-m", f"{__package__}.{name}"]


def _command() -> list[str]:
    return python_module("peer")
