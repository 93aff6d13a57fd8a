"""Nodes that are always stopped, and helpers to observe them.

Deriving keys takes 100 ms per seed and process, so the tests share a few names.
"""

from __future__ import annotations

import asyncio
import functools
import socket
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from helpers.clock import run_virtual
from seigr_toolset_transmissions import NodeConfig, Session, STTNode
from seigr_toolset_transmissions.sessions.session import LiveSession
from seigr_toolset_transmissions.transports.memory import MemoryNetwork

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType

    from seigr_toolset_transmissions.transports.base import Address, Network

__all__ = [
    "BUILT_IN",
    "SHARED_SEED",
    "EventLog",
    "Nodes",
    "Pair",
    "address_of",
    "assert_no_task_left",
    "assert_nothing_held",
    "cancel_all_others",
    "free_port",
    "in_virtual_time",
    "live",
    "memory_nodes",
    "seed_of",
    "until",
]

SHARED_SEED = b"the shared seed of the node tests"

BUILT_IN = {
    "session_created": {"session_id"},
    "peer_connected": {"peer_node_id"},
    "data_received": {"session_id", "data"},
    "session_suspended": {"session_id"},
    "session_resumed": {"session_id"},
    "session_closed": {"session_id"},
    "peer_disconnected": {"peer_node_id"},
    "health_changed": {"peer_node_id", "status"},
    "hub_joined": {"hub"},
    "hub_suspended": {"hub"},
    "hub_resumed": {"hub"},
    "hub_lost": {"hub"},
    "error": {"error_type", "details"},
}
"""The events that a node emits, and its monitors, with exactly these keyword arguments."""


def seed_of(name: str) -> bytes:
    """Return the node seed of ``alice``, ``bob`` or ``carol``."""
    return f"the node seed of {name}".encode().ljust(32, b"!")


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def in_virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an asynchronous test on a loop with virtual time instead of the usual loops."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        run_virtual(test(*args, **kwargs))

    return run


def cancel_all_others() -> None:
    """Do what many programs do on a signal: cancel all tasks but this one."""
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Wait until the condition holds; fail if it does not hold in time."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  it may be anything
            await asyncio.sleep(0.001)


class EventLog:
    """Records a node's events as they are emitted; ``data_received`` only on request.

    It registers handlers, so recording ``data_received`` makes the node push.
    """

    def __init__(self, node: STTNode, *names: str) -> None:
        self.entries: list[tuple[str, dict[str, Any]]] = []
        for name in names or (name for name in BUILT_IN if name != "data_received"):
            node.events.register(name, functools.partial(self._note, name))

    async def _note(self, name: str, /, *args: Any, **kwargs: Any) -> None:
        assert not args
        self.entries.append((name, kwargs))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.entries]

    @property
    def errors(self) -> list[tuple[str, dict[str, Any]]]:
        return [
            (kwargs["error_type"], kwargs["details"])
            for name, kwargs in self.entries
            if name == "error"
        ]

    def of(self, name: str) -> list[dict[str, Any]]:
        """Return the keyword arguments of each event of this name."""
        return [kwargs for other, kwargs in self.entries if other == name]

    async def until(self, name: str, count: int = 1, seconds: float = 20) -> dict[str, Any]:
        """Wait for event number ``count`` of this name, and return its keyword arguments."""
        await until(lambda: len(self.of(name)) >= count, seconds)
        return self.of(name)[count - 1]


class Pair(NamedTuple):
    """Two nodes with a session, and its two ends."""

    dialer: STTNode
    listener: STTNode
    near: Session
    far: Session


class Nodes:
    """Makes nodes. Leaving the block stops them and checks that they leave nothing behind.

    Args:
        network: What carries the bytes; TCP if None.
        settings: The `NodeConfig` of all nodes that do not get their own.

    """

    def __init__(self, network: Network | None = None, **settings: Any) -> None:
        self.network = network
        self.config = NodeConfig(**settings)
        self.made: list[STTNode] = []

    def make(
        self,
        name: str = "alice",
        *,
        shared: bytes = SHARED_SEED,
        config: NodeConfig | None = None,
        **options: Any,
    ) -> STTNode:
        options.setdefault("network", self.network)
        node = STTNode(seed_of(name), shared, config=config or self.config, **options)
        self.made.append(node)
        return node

    async def start(self, name: str = "alice", **options: Any) -> STTNode:
        """Return a node that only dials."""
        node = self.make(name, **options)
        await node.start()
        return node

    async def listen(self, name: str = "bob", **options: Any) -> STTNode:
        """Return a node that listens."""
        node = self.make(name, **options)
        await node.start(server_mode=True)
        return node

    async def pair(self, *, via: Address | None = None, **settings: Any) -> Pair:
        """Return Alice, who has dialed Bob, at ``via`` instead of his own address if given."""
        config = NodeConfig(**settings) if settings else None
        listener = await self.listen("bob", config=config)
        dialer = await self.start("alice", config=config)
        return await self.connect(dialer, listener, via)

    async def connect(self, dialer: STTNode, listener: STTNode, via: Address | None = None) -> Pair:
        """Connect two nodes; return once the listener knows the session too."""
        near = await dialer.connect(*(via or address_of(listener)))
        await until(lambda: listener.get_session(near.session_id) is not None)
        far = listener.get_session(near.session_id)
        assert far is not None
        return Pair(dialer, listener, near, far)

    async def __aenter__(self) -> Self:
        self._tasks_before = asyncio.all_tasks()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        async with asyncio.timeout(40):
            await asyncio.gather(*(node.stop(drain=0) for node in self.made))
        if kind is None:
            for node in self.made:
                assert_nothing_held(node)
            await assert_no_task_left(self._tasks_before)


def live(session: Session | None) -> LiveSession:
    """Return the session with its inner verbs, as the node has it."""
    assert isinstance(session, LiveSession)
    return session


def memory_nodes(**settings: Any) -> Nodes:
    """Return nodes on one in-memory network, for virtual time."""
    return Nodes(MemoryNetwork(), **settings)


def address_of(node: STTNode) -> Address:
    """Return a listening node's address."""
    assert node.address is not None
    return node.address


def assert_nothing_held(node: STTNode) -> None:
    """Check that a stopped node holds no session, peer, connection, handshake or dial."""
    assert node.sessions == []
    registry = node._registry
    for name in ("sessions", "peers", "routes", "connections", "opening", "unconfirmed"):
        assert not getattr(registry, name), name
    assert not node._life.acceptor.answering
    assert not len(node._life.acceptor._admission)
    assert not len(node._life.dialer)
    assert not len(node._life.connector)
    assert registry.reconnects._suspensions == {}
    assert node._life._stopping is None
    assert node.address is None


async def assert_no_task_left(before: set[asyncio.Task[Any]]) -> None:
    """Check that no new task runs, apart from those that end in this turn of the loop."""
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:
        await asyncio.sleep(0)
    assert not {task for task in left if not task.done()}
