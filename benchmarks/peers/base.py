"""What every peer can be asked for: to receive, send, echo, ask, gather and join.

A peer implements what it has and lists it in ``can``. Everything is opened on loopback, on a port
that is free, and encrypted as the peer's own documentation recommends, unless ``encrypted`` is
false. The loops that are timed are in `roles` and call the functions given here directly, so a
peer hands out its library's own methods where it can.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from benchmarks.material import Material

__all__ = ["HOST", "Arrived", "Caller", "Crowd", "Hub", "Job", "Peer", "Server", "Sink", "Source"]

HOST = "127.0.0.1"

Arrived = Callable[[bytes, Hashable], None]
"""Called by a `Crowd` with each message and the member that received it."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One measurement of one peer; the same for all sides."""

    peer: str
    loop: str
    material: Material
    broker: Any = None
    """Where the broker listens, for peers that need one."""
    size: int = 64
    """Bytes of a message."""
    count: int = 0
    """Messages or calls that are timed."""
    push: bool = False
    """Receive by a handler, where there is a choice."""
    sessions: int = 0
    rounds: int = 0
    """Broadcasts."""
    limit: float = 120.0
    """Seconds that a process may live."""


async def _nothing() -> None:
    pass


@dataclass
class Server:
    """Something that listens: where, and how it is closed. Blocking peers close with a function."""

    address: Any
    close: Callable[[], Any] = field(default=_nothing, kw_only=True)


@dataclass
class Sink(Server):
    """Receives: with ``receive``, or, without it, by the callback that it was opened with."""

    receive: Callable[[], Any] | None = field(default=None, kw_only=True)
    pairs: bool = field(default=False, kw_only=True)
    """Whether ``receive`` returns a message and its sender."""


@dataclass
class Source:
    """Sends messages. ``drain`` returns when all of them have left, or the peer has them."""

    send: Callable[[bytes], Any]
    drain: Callable[[], Any] = _nothing
    close: Callable[[], Any] = _nothing


@dataclass
class Caller:
    """Sends a message and returns the answer, which is the same."""

    ask: Callable[[bytes], Any]
    close: Callable[[], Any] = _nothing


@dataclass
class Hub(Server):
    """Holds sessions and sends the same message to all of them."""

    connected: Callable[[], int] = field(kw_only=True)
    """How many sessions are established."""
    broadcast: Callable[[bytes], Any] = field(kw_only=True)


@dataclass
class Crowd:
    """The other ends of a hub's sessions. ``connect`` returns when both ends hold one."""

    connect: Callable[[], Awaitable[object]]
    close: Callable[[], Any] = _nothing


class Peer:
    """A library, or a way to use one."""

    name: ClassVar[str]
    """In tables, and on the command line."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Modules."""
    can: ClassVar[frozenset[str]] = frozenset()
    """Of ``oneway``, ``push``, ``roundtrip`` and ``crowd``."""
    blocking: ClassVar[bool] = False
    """Whether it uses no event loop: its functions are then plain ones."""
    encrypted: ClassVar[bool] = True
    pace: ClassVar[float] = 1.0
    """Share of the small messages that others are given, lest a slow peer takes all the time."""
    sends_later: ClassVar[bool] = False
    """Whether a hub's copies leave after ``broadcast`` has returned: tasks or threads send them."""
    most_sessions: ClassVar[int] = 10_000
    """More of them take too long, or more than the system gives."""

    def missing(self) -> str | None:
        """Return what is not installed, or None."""
        absent = [name for name in self.needs if importlib.util.find_spec(name) is None]
        return f"no module {', '.join(absent)}" if absent else None

    def open_sink(self, job: Job, arrived: Callable[[bytes], None]) -> Any:
        """Begin to receive; return a `Sink` (``await`` it unless blocking)."""
        raise NotImplementedError

    def open_source(self, job: Job, address: Any) -> Any:
        """Connect to a sink; return a `Source`."""
        raise NotImplementedError

    def open_echo(self, job: Job) -> Any:
        """Send back whatever comes; return a `Server`."""
        raise NotImplementedError

    def open_caller(self, job: Job, address: Any) -> Any:
        """Connect to an echo; return a `Caller`."""
        raise NotImplementedError

    def open_hub(self, job: Job) -> Any:
        """Accept sessions; return a `Hub`."""
        raise NotImplementedError

    def open_crowd(self, job: Job, address: Any, arrived: Arrived) -> Any:
        """Prepare to join a hub; return a `Crowd`."""
        raise NotImplementedError
