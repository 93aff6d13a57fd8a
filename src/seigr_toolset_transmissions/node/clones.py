"""Detects two live processes with one identity, as when a container is copied with its node seed.

A node draws an incarnation each time it starts and shows it in every handshake. A new incarnation
normally means that the peer has restarted, and that the old incarnation is gone. If the old one
returns, or answers a PING sent after the new one appeared, both processes are alive. Hubs of a
cluster share an identity on purpose: they say so in each handshake, and are not counted here.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..sessions.session import LiveSession
    from ..transports.base import Address
    from .runtime import Runtime

__all__ = ["Clones"]

logger: logging.Logger = logging.getLogger(__name__)

_PEERS = 4096
"""Peers remembered: the most recently seen."""

_FORMER = 4
"""Incarnations remembered for each peer besides the current one, so that copies are told apart."""

_SUSPECTS = 1024
"""How many connections of former incarnations are watched at a time."""

_LOG_SECONDS = 10.0
"""The log gets at most one line about clones in this period."""


class _Suspect:
    """A connection of an incarnation that should be over."""

    __slots__ = ("asked", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.asked = False  # whether a PING was sent since then


class Clones:
    """Notices when several live processes share an identity.

    Args:
        runtime: Whose ``report`` emits the error.

    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        # For each peer, where each incarnation was seen last; the present incarnation comes last.
        self._seen: OrderedDict[bytes, OrderedDict[bytes, Address]] = OrderedDict()
        self._suspects: dict[LiveSession, _Suspect] = {}
        self._logged = float("-inf")

    def seen(self, peer_node_id: bytes, incarnation: bytes, address: Address, now: float) -> None:
        """Note that a peer has just proven that this incarnation lives, at this address."""
        incarnations = self._seen.get(peer_node_id)
        if incarnations is None:
            incarnations = self._seen[peer_node_id] = OrderedDict()
            if len(self._seen) > _PEERS:
                self._seen.popitem(last=False)
        else:
            self._seen.move_to_end(peer_node_id)
        if incarnation in incarnations and next(reversed(incarnations)) != incarnation:
            self._tell(peer_node_id, address, next(reversed(incarnations.values())), now)
        incarnations[incarnation] = address
        incarnations.move_to_end(incarnation)
        if len(incarnations) > 1 + _FORMER:
            incarnations.popitem(last=False)

    def suspect(self, session: LiveSession, now: float) -> None:
        """Find out whether the peer still lives in the incarnation of this session."""
        if len(self._suspects) < _SUSPECTS:
            self._suspects.setdefault(session, _Suspect(now))
        session.ping()

    def check(self, now: float, patience: float) -> None:
        """Look for answers to the PINGs; ``patience`` is how long they may take, in seconds."""
        for session, suspect in list(self._suspects.items()):
            asked = session.machine.ping_time
            if not (session.connected and session.accepts) or now - suspect.since > 2 * patience:
                del self._suspects[session]
            elif asked is not None:
                suspect.asked = asked >= suspect.since
            elif not suspect.asked:  # the PING that it answered was sent too early to prove it
                session.ping()
                suspect.asked = True
            else:
                del self._suspects[session]
                self.seen(session.peer_node_id, session.peer_incarnation, session.address, now)

    def _tell(self, peer_node_id: bytes, one: Address, other: Address, now: float) -> None:
        reason = (
            f"two live processes share the identity {peer_node_id.hex()}: "
            f"one at {one[0]} port {one[1]}, one at {other[0]} port {other[1]}; "
            "give each a node seed of its own"
        )
        details = {"peer_node_id": peer_node_id, "addresses": (one, other), "reason": reason}
        self._runtime.report("identity_conflict", details)
        if now - self._logged >= _LOG_SECONDS:
            self._logged = now
            logger.warning("%s", reason)
