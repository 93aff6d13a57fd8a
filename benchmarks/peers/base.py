"""What a peer can be asked to do: receive, send, echo, ask, request, reply, gather and join.

A peer implements what it supports and lists it in ``can``. Everything opens on loopback, on a free
port, and is encrypted as the peer's own documentation recommends, unless ``encrypted`` is false.
The timed loops are in `roles` and call the functions given here directly, so a peer hands out its
library's own methods where it can.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from benchmarks.material import Material

__all__ = [
    "BATCHES",
    "HANDLER",
    "HOST",
    "ITERATOR",
    "RECEIVE",
    "REPLY_SECONDS",
    "Arrived",
    "Caller",
    "Crowd",
    "Hub",
    "Job",
    "Line",
    "Peer",
    "Server",
    "Sink",
    "Source",
]

HOST = "127.0.0.1"
REPLY_SECONDS = 10.0
"""The timeout of a request, where the library has one."""

RECEIVE, HANDLER, BATCHES, ITERATOR = "receive", "handler", "batches", "iterator"
"""Ways to receive: one message after the other, by a handler, many at once, in a loop."""

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
    """Bytes in a message."""
    count: int = 0
    """Messages or calls that are timed."""
    stretches: tuple[tuple[int, int], ...] = ()
    """For each part of the run: how many requests are in flight, and how many are timed."""
    consumer: str = RECEIVE
    """How to receive, where there is a choice: one of `RECEIVE` and the names below it."""
    sessions: int = 0
    rounds: int = 0
    """How many broadcasts."""
    limit: float = 120.0
    """Seconds that a process may live."""


async def _nothing() -> None:
    pass


@dataclass
class Server:
    """Something that listens: its address, and how to close it. Blocking peers use a function."""

    address: Any
    close: Callable[[], Any] = field(default=_nothing, kw_only=True)


@dataclass
class Sink(Server):
    """Receives with ``receive`` or ``gather``, or else with the callback it was opened with."""

    receive: Callable[[], Any] | None = field(default=None, kw_only=True)
    pairs: bool = field(default=False, kw_only=True)
    """Whether ``receive`` returns a message and its sender."""
    gather: Callable[[int], Awaitable[list[bytes]]] | None = field(default=None, kw_only=True)
    """Receives this many messages."""


@dataclass
class Source:
    """Sends messages. ``drain`` returns when all have left, or when the peer has them."""

    send: Callable[[bytes], Any]
    drain: Callable[[], Any] = _nothing
    close: Callable[[], Any] = _nothing


@dataclass
class Caller:
    """Sends a message and returns the answer, which equals the message."""

    ask: Callable[[bytes], Any]
    close: Callable[[], Any] = _nothing


@dataclass
class Line:
    """Sends requests and receives the replies, in the same order, for a program without a loop."""

    send: Callable[[bytes], Any]
    receive: Callable[[], bytes]
    close: Callable[[], Any]


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
    """Its name in tables and on the command line."""
    needs: ClassVar[tuple[str, ...]] = ()
    """The modules it needs."""
    can: ClassVar[frozenset[str]] = frozenset()
    """Which of ``oneway``, ``roundtrip``, ``requests`` and ``crowd`` it supports."""
    consumers: ClassVar[tuple[str, ...]] = (RECEIVE,)
    """The ways to receive that it offers and that are measured."""
    blocking: ClassVar[bool] = False
    """Whether it uses no event loop; its functions are then not async."""
    encrypted: ClassVar[bool] = True
    pace: ClassVar[float] = 1.0
    """Which share of the small messages it is given, so that a slow peer does not take all day."""
    sends_later: ClassVar[bool] = False
    """Whether a hub's copies leave after ``broadcast`` returns, sent by tasks or threads."""
    one_at_a_time: ClassVar[bool] = False
    """Whether each request has to wait for the reply to the one before."""
    most_sessions: ClassVar[int] = 10_000
    """More sessions would take too long, or need more than the system gives."""

    def missing(self) -> str | None:
        """Return what is not installed, or None."""
        absent = [name for name in self.needs if importlib.util.find_spec(name) is None]
        return f"no module {', '.join(absent)}" if absent else None

    def open_sink(self, job: Job, arrived: Callable[[bytes], None]) -> Any:
        """Start receiving; return a `Sink` (``await`` it unless blocking)."""
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

    def open_responder(self, job: Job) -> Any:
        """Reply to each request with its own bytes; return a `Server`."""
        raise NotImplementedError

    def open_requester(self, job: Job, address: Any) -> Any:
        """Connect to a responder; return a `Caller` that may be asked again while it asks.

        A blocking peer returns a `Line`.
        """
        raise NotImplementedError

    def open_hub(self, job: Job) -> Any:
        """Accept sessions; return a `Hub`."""
        raise NotImplementedError

    def open_crowd(self, job: Job, address: Any, arrived: Arrived) -> Any:
        """Prepare to join a hub; return a `Crowd`."""
        raise NotImplementedError
