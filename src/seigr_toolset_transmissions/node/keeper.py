"""Keeps a session with each endpoint added with ``connect=True``, and knows each peer's state."""

from __future__ import annotations

import asyncio
import math
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import STTConnectError, STTEndpointError, STTHandshakeError, STTIdentityError
from ..sessions.public import SessionState
from .backoff import STABLE_SECONDS, pause
from .dial_slots import Rank
from .duty import Duty
from .runtime import NOT_RUNNING

if TYPE_CHECKING:
    from ..sessions.session import LiveSession
    from .connecting import Connector
    from .registry import Registry

__all__ = ["Keeper"]


_LASTING = 2
"""After this many refusals in a row, waiting calls fail. (A single refusal may be due to a listener
that is just starting or stopping.)"""


class _Kept:
    """One endpoint that is kept connected."""

    __slots__ = ("attempts", "duty", "error", "refusals", "retry")

    def __init__(self) -> None:
        self.attempts = 0  # how many have failed since the last session
        self.refusals = 0  # how many of the last ones in a row met another node, or another seed
        self.error: STTConnectError | STTEndpointError | None = None  # that of the last dial
        self.retry = asyncio.Event()
        self.duty: Duty


class Keeper:
    """Keeps a session with each endpoint that was added with ``connect=True``."""

    def __init__(self, registry: Registry, connector: Connector) -> None:
        self._registry = registry
        self._connector = connector
        self._runtime = registry.runtime
        self._kept: dict[bytes, _Kept] = {}

    def want(self, endpoint_id: bytes) -> None:
        """Connect to the endpoint, and again after each session, for as long as it is wanted."""
        kept = self._kept.get(endpoint_id)
        if kept is not None:
            kept.retry.set()
            return
        kept = self._kept[endpoint_id] = _Kept()
        kept.duty = Duty(self._runtime, partial(self._keep, endpoint_id, kept))

    def waits(self, endpoint_id: bytes) -> bool:
        """Whether the endpoint is kept connected; if it has no session, it is dialed in a while."""
        return endpoint_id in self._kept

    def retry_now(self, endpoint_id: bytes) -> None:
        """Dial without waiting for the back-off to pass."""
        kept = self._kept.get(endpoint_id)
        if kept is not None:
            kept.retry.set()

    def stop(self) -> None:
        """Stop dialing."""
        for kept in self._kept.values():
            kept.duty.end()
        self._kept.clear()
        self._registry.arrivals.note_all()

    async def session_with(self, endpoint_id: bytes, *, kept: bool) -> LiveSession | None:
        """Wait until the peer has a session to send over; never dial.

        With ``kept``, return None as soon as the endpoint is no longer kept connected.

        Raises:
            STTConnectError: The node stops; or the endpoint is kept connected, and twice in a row
                another node answered, or one with another shared seed.
            STTEndpointError: The endpoint was removed.

        """
        runtime, registry = self._runtime, self._registry
        self._connector.hurry(endpoint_id)
        while (session := registry.routes.get(endpoint_id)) is None:
            found = self._kept.get(endpoint_id)
            if kept and (found is None or not runtime.endpoints.wanted(endpoint_id)):
                return None
            if not runtime.running or runtime.stopping:
                raise STTConnectError("the node is stopping" if runtime.stopping else NOT_RUNNING)
            if endpoint_id not in runtime.endpoints.manager:
                raise STTEndpointError(f"endpoint {endpoint_id.hex()} was removed")
            if found is not None and found.refusals >= _LASTING:
                assert found.error is not None  # noqa: S101  set with `refusals`
                raise copy(found.error) from found.error
            await registry.arrivals.change(endpoint_id)
        return session

    async def _keep(self, endpoint_id: bytes, kept: _Kept) -> None:
        runtime = self._runtime
        # A handler of its event may have stopped the node.
        while runtime.running and runtime.endpoints.wanted(endpoint_id):
            session = self._registry.routes.get(endpoint_id)
            try:
                if session is None:
                    rank = Rank.AGAIN if kept.attempts else Rank.WANTED
                    if endpoint_id in self._registry.arrivals.waiting:
                        rank = Rank.ASKED
                    session = await self._connector.connect_to(endpoint_id, rank)
            except (STTConnectError, STTEndpointError) as error:
                kept.attempts += 1
                kept.error = error
                if isinstance(error, STTHandshakeError | STTIdentityError):
                    kept.refusals += 1
                    self._registry.arrivals.note(endpoint_id)
                else:
                    kept.refusals = 0
                details = {
                    "peer_node_id": endpoint_id,
                    "reason": str(error),
                    "attempts": kept.attempts,
                }
                # In a task of its own, so that nothing a handler does to it ends this one.
                telling = runtime.own(runtime.emit_error("connect_failed", details))
                await asyncio.wait((telling,))
            else:
                kept.refusals = 0
                kept.error = None
                began = runtime.loop.time()
                await session.wait_closed()
                # A peer that ends each session at once must not be dialed again and again.
                lasted = runtime.loop.time() - began >= STABLE_SECONDS
                kept.attempts = 0 if lasted or session.machine.progress else kept.attempts + 1
                kept.retry.clear()  # it was meant for dials before this session
            await pause(runtime.config, kept.attempts, kept.retry, math.inf)
        if self._kept.get(endpoint_id) is kept:
            del self._kept[endpoint_id]

    def absence(self, endpoint_id: bytes) -> str:
        """Say why a peer has no session; "" if it has one."""
        if endpoint_id in self._registry.routes:
            return ""
        kept = self._kept.get(endpoint_id)
        if kept is not None and kept.error is not None:
            return f"the last dial failed: {kept.error}"
        if kept is not None or self._connector.is_dialing(endpoint_id):
            return "it is still being dialed"
        return "nobody dials it: add it with connect=True, or let the peer connect"

    def status(self, endpoint_id: bytes) -> dict[str, Any]:
        """Return how this node is connected to a peer, for `EndpointManager.get_endpoint`."""
        session = self._registry.routes.get(endpoint_id)
        if session is None:
            if self._connector.is_dialing(endpoint_id):
                state = "connecting"
            else:
                state = "waiting" if self.waits(endpoint_id) else "disconnected"
            return {"state": state, "rtt": None, "min_rtt": None}
        state = "connected" if session.state is SessionState.OPEN else "suspended"
        return {"state": state, "rtt": session.rtt, "min_rtt": session.min_rtt}
