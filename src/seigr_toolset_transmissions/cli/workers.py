"""`stt serve`: keeps worker processes running, each of which runs the node of the user's program.

A worker (see `worker`) is started as a new process of Python, never forked. All must come to listen
once; after that, those that die are restarted, less and less often. Signals are passed on: SIGINT
and SIGTERM end all workers, SIGHUP restarts one after another.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import sys
from contextlib import ExitStack, suppress
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from .addresses import format_address
from .failures import FAILED, Failure, Misuse
from .notes import complain, console, note
from .serving import describe_status

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Coroutine
    from pathlib import Path

__all__ = ["Target", "parse_target", "serve"]

T = TypeVar("T")

_MODULE = "seigr_toolset_transmissions.cli.worker"
_LIBRARY = "seigr_toolset_transmissions"

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 5.0
"""Short: if one peer's message kills every worker that gets it, all others wait for this."""
_STEADY_SECONDS = 10.0
"""A worker that has run for this long before it dies is restarted after the first pause again."""


class Target(NamedTuple):
    """What makes a node: the name of a module, and of a callable there."""

    module: str
    factory: str

    def __str__(self) -> str:
        return f"{self.module}:{self.factory}"


def parse_target(text: str) -> Target:
    """Read MODULE:FACTORY.

    Raises:
        Misuse: It is not of this form; the text shows it.

    """
    module, _, factory = text.partition(":")
    if module.endswith(".py") or "/" in module:
        named = module.removesuffix(".py").strip("./").replace("/", ".")
        raise Misuse(
            f"{text!r}: write the module as in `import`, without .py: {named}:{factory or 'make'}"
        )
    if not all(part.isidentifier() for part in [*module.split("."), *factory.split(".")]):
        raise Misuse(
            f"{text!r} is not MODULE:FACTORY: write app:make_node for the function make_node of "
            "app.py"
        )
    return Target(module, factory)


class _EndedError(Failure):
    """A worker has ended.

    Args:
        why: What it has reported, or how its process ended.
        text: What to say of it if the command fails with this.
        exit_code: The code that the command exits with then.

    """

    def __init__(self, why: str, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.why = why
        self.exit_code = exit_code


class _Listening(NamedTuple):
    """What a worker says once it listens."""

    node_id: str
    host: str
    port: int


class _Worker:
    """The place of one worker, and the process in it.

    Args:
        number: From 1 on.
        target: What makes its node.
        folder: Where the workers meet; "" if there is one.
        monitor: The socket at which it shows its node; "" if it does not.

    """

    def __init__(self, number: int, target: Target, folder: str, monitor: str) -> None:
        self._number = number
        self._target = target
        self._folder = folder
        self._monitor = monitor
        self._process: Process | None = None
        self._control: socket.socket | None = None
        self._listens = asyncio.Event()
        self._hurry = asyncio.Event()  # set to start without waiting for the end of a pause
        self._replaced = False  # the process was told to end, and a new one takes its place

    def __str__(self) -> str:
        pid = "" if self._process is None else f" (pid {self._process.pid})"
        return f"worker {self._number}{pid}"

    async def start(self) -> _Listening:
        """Start a process, and wait until it listens.

        Raises:
            _EndedError: It has ended instead.
            OSError: There is no starting it.

        """
        self._close_control()
        self._control, its_end = socket.socketpair()
        self._control.setblocking(False)
        with its_end:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", _MODULE, str(its_end.fileno()), str(self._number), _log_level()),
                *(self._folder, self._monitor, str(self._target)),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(its_end.fileno(),),
                process_group=0,  # Ctrl-C is for the supervisor, which passes it on
            )
        report = await self._read_report()
        if "node_id" not in report:
            raise await self._ended(report)
        listening = _Listening(report["node_id"], *report["address"])
        address = format_address((listening.host, listening.port))
        note(f"{self} listens on {address} as {listening.node_id}")
        self._listens.set()
        return listening

    async def _read_report(self) -> dict[str, Any]:
        """Return what the process says next; nothing if it ends without a word."""
        assert self._control is not None  # noqa: S101  `start` has made it
        line = b""
        while not line.endswith(b"\n"):
            chunk = await asyncio.get_running_loop().sock_recv(self._control, 65_536)
            if not chunk:
                return {}
            line += chunk
        report: dict[str, Any] = json.loads(line)
        return report

    async def _ended(self, report: dict[str, Any] | None = None) -> _EndedError:
        """Wait until the process has ended; return why, as it has reported or will report."""
        assert self._process is not None  # noqa: S101  `start` has made it
        if report is None:
            report = await self._read_report()
        status = await self._process.wait()
        self._close_control()
        self._listens.clear()
        if "failure" in report:
            return _EndedError(report["failure"], report["failure"], report["exit_code"])
        why = describe_status(status)
        return _EndedError(why, f"{self} ended: {why}", FAILED)

    async def keep(self) -> None:
        """Start a new process whenever one ends; the first one listens already."""
        loop = asyncio.get_running_loop()
        pause = _FIRST_PAUSE_SECONDS
        while True:
            began = loop.time()
            wrong = f"{self} ended: {(await self._ended()).why}"
            if loop.time() - began >= _STEADY_SECONDS:
                pause = _FIRST_PAUSE_SECONDS
            while not self._listens.is_set():
                if not self._replaced:
                    complain(f"{wrong}; it restarts in {pause:g} s")
                    await self._pause(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
                self._replaced = False
                try:
                    await self.start()
                except _EndedError as error:
                    wrong = f"{self} ended: {error.why}"
                except OSError as error:
                    wrong = f"worker {self._number} cannot be started: {error}"

    async def _pause(self, seconds: float) -> None:
        self._hurry.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurry.wait()

    async def replace(self) -> None:
        """Let the process end, and start a new one; return when that listens."""
        if self._listens.is_set():
            note(f"{self} delivers what is left, and restarts")
            self._listens.clear()
            self._replaced = True
            self.signal(signal.SIGTERM)
        self._hurry.set()
        await self._listens.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal, if there is one."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def end(self) -> None:
        """Wait for the end of the process, if there is one."""
        if self._process is not None:
            await self._process.wait()
        self._close_control()

    def _close_control(self) -> None:
        if self._control is not None:
            self._control.close()


def _log_level() -> str:
    if console.quiet:
        return "ERROR"
    return logging.getLevelName(logging.getLogger(_LIBRARY).getEffectiveLevel())


async def serve(target: Target, count: int, monitor: Path | None = None) -> None:
    """Run workers until cancelled; then let them deliver what is left, unless cancelled again.

    Args:
        target: What makes the node of each.
        count: How many workers.
        monitor: Where they show their nodes; with several, each at this path and its number.

    Raises:
        Failure: At the start, one of them did not come to listen, or they do not fit together.

    """
    hangup = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hangup.set)
    with ExitStack() as stack:
        folder = ""
        if count > 1:
            _need_shared_ports()
            # Only this user may enter: anyone who can connect there can hold hubs up.
            folder = stack.enter_context(TemporaryDirectory(prefix="stt-"))
        workers = [
            _Worker(number, target, folder, _numbered(monitor, number, count))
            for number in range(1, count + 1)
        ]
        try:
            first = await workers[0].start()
            if count > 1:
                stack.enter_context(_claim(first))
                note(f"the workers meet at unix://{folder}, unless your node has a cluster")
            for other in await _all_of(*(worker.start() for worker in workers[1:])):
                _check_alike(first, other)
            await _all_of(*(worker.keep() for worker in workers), _replace_at(hangup, workers))
        except asyncio.CancelledError:
            note("the workers deliver what is left; Ctrl-C again ends them at once")
            raise
        finally:
            await _end(workers)


def _numbered(monitor: Path | None, number: int, count: int) -> str:
    if monitor is None:
        return ""
    return f"{monitor}.{number}" if count > 1 else str(monitor)


async def _all_of(*coroutines: Coroutine[Any, Any, T]) -> list[T]:
    """Return all results; at the first error, cancel the others and raise it."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


def _need_shared_ports() -> None:
    if sys.platform != "linux":
        raise Failure("several workers can share a port on Linux only: use --workers 1")


def _claim(listening: _Listening) -> socket.socket:
    """Make sure that no other `stt serve` shares this port, with workers that know none of ours."""
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0stt serve {listening.host} {listening.port}")
    except OSError:
        claim.close()
        address = format_address((listening.host, listening.port))
        raise Failure(
            f"another `stt serve` listens on {address} already: stop it first, or send it SIGHUP "
            "to restart its workers"
        ) from None
    return claim


def _check_alike(first: _Listening, other: _Listening) -> None:
    if other.node_id != first.node_id:
        raise Failure(
            "the workers have different node ids: make the node with the same node seed each time, "
            "from a seed file for instance"
        )
    if other.port != first.port:
        raise Failure("the workers listen on different ports: give the node a fixed port, not 0")


async def _replace_at(hangup: asyncio.Event, workers: list[_Worker]) -> None:
    while True:
        await hangup.wait()
        hangup.clear()
        for worker in workers:
            await worker.replace()
        note("all workers have restarted")


async def _end(workers: list[_Worker]) -> None:
    """Let all processes deliver what is left; kill them if cancelled meanwhile."""
    for worker in workers:
        worker.signal(signal.SIGTERM)
    try:
        await asyncio.gather(*(worker.end() for worker in workers))
    except asyncio.CancelledError:
        for worker in workers:
            worker.signal(signal.SIGKILL)
        await asyncio.gather(*(worker.end() for worker in workers))
        raise
