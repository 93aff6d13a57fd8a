"""Dialling: from an address to an authenticated listener that waits for the third message."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from .errors import STTConnectError, STTIdentityError, reason_of
from .handshaking import Dialed, dial

if TYPE_CHECKING:
    from .access import Access
    from .noise import Handshake
    from .runtime import Runtime
    from .transports.base import Network

__all__ = ["Dialer"]


class Dialer:
    """Makes the connections that a node dials, for new sessions and for those that go on.

    Attributes:
        handshake: At its start, with the node's key and the group's; copied for each dial. Set
            before the first one.

    """

    handshake: Handshake

    def __init__(self, runtime: Runtime, network: Network, access: Access) -> None:
        self._runtime = runtime
        self._network = network
        self._access = access
        self._dialing: set[asyncio.Task[Dialed]] = set()

    def __len__(self) -> int:
        return len(self._dialing)

    async def dial(self, host: str, port: int, expect: bytes | None) -> Dialed:
        """Connect and shake hands up to the third message.

        Args:
            host: A name or address.
            port: Its port.
            expect: The node id that whoever answers must prove; None: any that is allowed.

        Raises:
            STTHandshakeError: Somebody answered, but not with the same shared seed.
            STTIdentityError: The peer is another than expected, is not allowed, or is this node.
            STTConnectError: Nobody could be reached there, or the node is stopping.

        After an error or a cancel no connection is left open.

        """
        task = self._runtime.own(dial(self._network, host, port, self.handshake.copy()))
        self._dialing.add(task)
        try:
            dialed = await task
        except asyncio.CancelledError:
            if task.cancelled() and not _being_cancelled():  # by `abort`
                raise STTConnectError("the node is stopping") from None
            if task.done() and not task.cancelled() and task.exception() is None:
                task.result().transport.abort()  # we were cancelled before we could take it
            raise
        except OSError as error:
            self._runtime.counters.handshakes_failed += 1
            raise STTConnectError(
                f"cannot reach {host} port {port}: {reason_of(error)}; "
                "is the node there running, and listening?"
            ) from error
        except STTConnectError:
            self._runtime.counters.handshakes_failed += 1
            raise
        finally:
            self._dialing.discard(task)
        try:
            self._check_identity(dialed.peer_node_id, f"{host} port {port}", expect)
        except STTIdentityError:
            self._runtime.counters.handshakes_failed += 1
            dialed.transport.abort()
            raise
        return dialed

    def _check_identity(self, peer_node_id: bytes, where: str, expect: bytes | None) -> None:
        if expect is not None and peer_node_id != expect:
            raise STTIdentityError(f"{where} is node {peer_node_id.hex()}, not {expect.hex()}")
        refusal = self._access.refusal(peer_node_id)
        if refusal is not None:
            raise STTIdentityError(f"{where} is node {peer_node_id.hex()}: {refusal}")

    def abort(self) -> None:
        """Give up all dials that are under way: the node is stopping."""
        for task in self._dialing:
            task.cancel()


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
