"""The node of a command, made from the user's seeds; standard error says what happens to it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from .. import NodeConfig, Session, SessionState, STTNode
from ..discovery import Announcement
from ..errors import (
    STTConnectError,
    STTHandshakeError,
    STTIdentityError,
    STTSessionLostError,
)
from ..seeing import serve_console, serve_monitor
from .addresses import LOOPBACK, format_address, short_id
from .failures import Failure, Misuse
from .notes import complain, note

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from .seeds import Seeds

__all__ = ["connect_to", "leave", "note_listening", "running"]

_GOODBYE_SECONDS = 1.0
"""How long an interrupted command tries to deliver what it has accepted."""

_FIRST_RETRY_SECONDS = 0.2
_LONGEST_RETRY_SECONDS = 5.0

_FOR_THIS_RUN = " (an identity for this run: no node seed was given)"


@asynccontextmanager
async def running(
    seeds: Seeds,
    config: NodeConfig,
    listen: tuple[str, int] | None = None,
    monitor: Path | None = None,
    *,
    console: int | None = None,
    announce: bool = False,
) -> AsyncIterator[STTNode]:
    """Run a node; at the end deliver everything, close its sessions, and stop it.

    Args:
        seeds: What the node is made of.
        config: Its settings.
        listen: Where to listen; None: it only dials.
        monitor: The socket at which the node is shown; None: it is not.
        console: The port of its web console, 0 for any; None: it has none.
        announce: Whether to announce it on the local network.

    Raises:
        Misuse: It cannot be announced, or be shown in a browser, without another package; or it
            cannot be announced at the address.
        Failure: Multicast DNS cannot be used.
        Failure: Not everything could be delivered; the user knows that already.
        STTListenError: There is no listening there, or no showing the node.

    """
    host, port = listen or ("127.0.0.1", 0)
    node = STTNode(seeds.node, seeds.shared, host, port, config=config)
    _tell(node)
    async with nullcontext() if monitor is None else serve_monitor(node, monitor):
        await node.start(server_mode=listen is not None)
        drain: float | None = _GOODBYE_SECONDS
        try:
            async with AsyncExitStack() as block:
                if console is not None:
                    await _show(node, console, block)
                if announce:
                    await _announce(node, block)
                yield node
            drain = None
        finally:
            lost = await node.stop(drain)
            for error in lost:
                _complain_of(error)
    if lost:
        raise Failure


async def _show(node: STTNode, port: int, block: AsyncExitStack) -> None:
    """Show the node in a browser until the block ends."""
    try:
        shown = await block.enter_async_context(serve_console(node, port=port))
    except ModuleNotFoundError as error:
        raise Misuse(f"--console: {error}") from error
    note(f"open {shown.url} to see this node; anyone who has this address can")


async def _announce(node: STTNode, block: AsyncExitStack) -> None:
    """Announce the node until the block ends."""
    try:
        await block.enter_async_context(Announcement(node))
    except (ModuleNotFoundError, ValueError) as error:
        raise Misuse(f"--announce: {error}") from error
    except OSError as error:
        raise Failure(f"--announce: {error.strerror or error}") from error
    assert node.address is not None  # noqa: S101  it listens
    where = "this machine" if node.address[0] == LOOPBACK else "the local network"
    note(f"members of the group on {where} find this node with `stt discover`")


async def leave(session: Session) -> None:
    """Close a session early, if the peer answers soon enough; one that was lost is left alone."""
    if session.state is SessionState.CLOSED:
        return  # whoever waited for its end has reported that
    try:
        async with asyncio.timeout(_GOODBYE_SECONDS):
            await session.close()
    except TimeoutError:
        pass  # `running` reports what comes of it
    except STTSessionLostError as error:
        _complain_of(error)


def _complain_of(error: STTSessionLostError) -> None:
    complain(f"not everything was delivered to {short_id(error.peer_node_id)}: {error}")


async def connect_to(
    node: STTNode,
    address: tuple[str, int],
    *,
    expect: bytes | None,
    seeds: Seeds,
    retry: bool = False,
) -> Session:
    """Connect to a peer; note who it is, and who we are if that is new.

    Args:
        node: Ours.
        address: Where the peer listens.
        expect: Its node id; None: any.
        seeds: What our node is made of.
        retry: Try again while no node can be reached there.

    Raises:
        STTConnectError: As `STTNode.connect` does.

    """
    try:
        if retry:
            session = await _connect_patiently(node, address, expect)
        else:
            session = await node.connect(*address, expect=expect)
    except asyncio.CancelledError:
        note(f"interrupted: not connected to {format_address(address)}, so nothing was sent")
        raise
    me = f" as {short_id(node.node_id)}{_FOR_THIS_RUN}" if seeds.ephemeral else ""
    note(f"connected to {session.peer_node_id.hex()}{me}")
    return session


async def _connect_patiently(
    node: STTNode, address: tuple[str, int], expect: bytes | None
) -> Session:
    """Connect as soon as a node can be reached there; an answer from the wrong node is an error."""
    waited = 0.0
    while True:
        try:
            return await node.connect(*address, expect=expect)
        except (STTHandshakeError, STTIdentityError):
            raise
        except STTConnectError as error:
            if not waited:
                note(str(error))
                note("trying again until it answers; Ctrl-C ends")
        waited = min(_LONGEST_RETRY_SECONDS, 2 * waited or _FIRST_RETRY_SECONDS)
        await asyncio.sleep(waited)


def note_listening(node: STTNode, seeds: Seeds, address: tuple[str, int]) -> None:
    """Note where the node listens, as whom, and on which port if any free one was asked for."""
    assert node.address is not None  # noqa: S101  it listens
    where = format_address((address[0], node.address[1]))
    new = _FOR_THIS_RUN if seeds.ephemeral else ""
    note(f"listening on {where} as {node.node_id.hex()}{new}")
    if address[0] == LOOPBACK:
        note(f"this machine only; for peers on others, listen on :{node.address[1]}")


def _tell(node: STTNode) -> None:
    """Note what goes wrong with the node's sessions."""
    wait = node.config.resume_window

    async def on_suspended(session_id: bytes) -> None:
        note(
            f"the connection{_to(node, session_id)} is broken; "
            f"it has {wait:g} s to come back, and what was not delivered waits for it"
        )

    async def on_resumed(session_id: bytes) -> None:
        note(f"the connection{_to(node, session_id)} is back")

    async def on_error(error_type: str, details: dict[str, Any]) -> None:
        if error_type == "handshake_failed":
            address, count = details["address"], details["count"]
            others = f" (and {count - 1} more)" if count > 1 else ""
            note(f"a handshake with {address[0]}{others} failed: {details['reason']}")
        elif error_type in ("limit_reached", "protocol_error"):
            note(details["reason"])
        elif error_type == "handler_failed" and details["event"] == "request":
            complain(f"a request could not be answered: {details['exception']}")
        elif error_type == "connect_failed":  # a suspended session: no endpoint is dialed here
            note(_stranger_at_address(node, details["session_id"]))

    node.events.register("session_suspended", on_suspended)
    node.events.register("session_resumed", on_resumed)
    node.events.register("error", on_error)


def _stranger_at_address(node: STTNode, session_id: bytes) -> str:
    session = node.get_session(session_id)
    if session is None or session.dial_address is None:
        return "another node answers at the peer's address"
    return (
        f"{format_address(session.dial_address)} answers, but not as "
        f"{short_id(session.peer_node_id)}: another node listens there now (restarted without the "
        "same --seed, or with another --shared?), or a relay without its target. "
        "Still trying (Ctrl-C ends)"
    )


def _to(node: STTNode, session_id: bytes) -> str:
    session = node.get_session(session_id)
    return "" if session is None else f" to {short_id(session.peer_node_id)}"
