"""`HealthMonitor`: how well each connected peer answers, measured with the protocol's own PING.

One timer serves all peers. Each peer has exactly one entry in the agenda: the time when its probe
is due, or the answer to it. Nothing runs in between: an answer is a call from its session, and a
task exists only while there are changes to emit.
"""

from __future__ import annotations

import heapq
import math
from itertools import count
from typing import TYPE_CHECKING, Self

from ..errors import STTConfigError
from ..sessions.public import SessionState
from ..stats import Health, HealthStatus
from .runtime import NOT_RUNNING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from types import TracebackType, UnionType

    from ..sessions.session import LiveSession
    from .node import STTNode
    from .registry import Registry

__all__ = ["HealthMonitor"]

_PROBES = 20
"""The loss is measured over this many of the latest probes."""

_TURNS = 100
"""The timer rings at most this many times in an interval. With thousands of peers, each turn serves
several of them."""


class HealthMonitor:
    """Finds out how well each connected peer answers, for as long as its block lasts.

    ::

        async with HealthMonitor(node) as monitor:
            ...
            monitor.status(peer_id)  # HealthStatus.HEALTHY

    Each peer that has a session is probed once in an interval: the node sends a PING over the
    session that carries messages to it, and the peer's node answers, whatever the peer's program is
    doing. Probes of different peers are spread over the interval; a peer that has just
    connected is probed at once. A probe is lost if its answer takes longer than ``timeout``: the
    peer hangs, the network is down or slow, or what is sent to the peer before the PING takes too
    long. It is lost at once if the session is suspended, because no answer is possible then. The
    first answer makes a peer healthy again.

    Whenever a verdict changes, the node's emitter emits ``health_changed`` with ``peer_node_id``
    and ``status``, a `HealthStatus`. If its handlers are slow, measuring goes on, and a peer whose
    verdict has changed more than once gets one event, with the latest verdict. The monitor forgets
    a peer without a session; ``peer_disconnected`` reports that. A peer that comes back starts over
    as ``unknown``.

    Several monitors may watch one node; each of them emits its own events. While the node is
    stopped, it has no peers, and nothing is measured.

    Args:
        node: The node whose peers to watch. It must be running when the block is entered.
        interval: Seconds from one probe of a peer to the next.
        timeout: Seconds that an answer may take; no more than ``interval``.
        suspect_after: How many lost probes in a row make a peer suspect.
        unhealthy_after: How many make it unhealthy; no fewer than ``suspect_after``.

    Raises:
        STTConfigError: A value is not positive, or two of them contradict each other.

    """

    def __init__(
        self,
        node: STTNode,
        interval: float = 5.0,
        timeout: float = 2.0,
        suspect_after: int = 1,
        unhealthy_after: int = 3,
    ) -> None:
        _check(interval, timeout, suspect_after, unhealthy_after)
        self._node = node
        self._interval = interval
        self._timeout = timeout
        self._suspect_after = suspect_after
        self._unhealthy_after = unhealthy_after
        self._registry: Registry | None = None  # within the block
        self._loop: asyncio.AbstractEventLoop  # from the first block on
        self._watched: dict[bytes, _Watched] = {}
        self._agenda: list[tuple[float, int, _Watched]] = []  # a heap
        self._serial = count()
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = 0.0  # if there is a timer
        self._last_turn = float("-inf")
        self._untold: dict[bytes, None] = {}  # peers whose new verdict is not emitted yet
        self._teller: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin to measure.

        Raises:
            RuntimeError: The node is not running, or runs in another event loop, or in this forked
                child's parent; or the monitor is already in use.

        """
        registry = self._node._registry  # noqa: SLF001 - the monitor is a part of the node
        registry.check_caller()
        if not registry.runtime.running:
            raise RuntimeError(NOT_RUNNING)
        if self._registry is not None:
            raise RuntimeError("this monitor is already in use: make another one")
        self._registry, self._loop = registry, registry.loop
        self._last_turn = float("-inf")  # the clock of another loop may be another
        registry.followers.add(self._route_changed)
        now, peers = self._loop.time(), list(registry.routes)
        for place, peer_node_id in enumerate(peers):
            self._watch(peer_node_id, now + self._interval * place / len(peers), 0.0)
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Stop measuring, forget all peers, and emit no more events; never waits."""
        registry, self._registry = self._registry, None
        if registry is not None:
            registry.followers.discard(self._route_changed)
        for watched in self._watched.values():
            watched.gone = True
        self._watched.clear()
        self._rest()

    def status(self, endpoint_id: bytes) -> HealthStatus:
        """Return the verdict on a peer; ``UNKNOWN`` if it has no session."""
        watched = self._watched.get(endpoint_id)
        return HealthStatus.UNKNOWN if watched is None else watched.status

    def health(self, endpoint_id: bytes) -> Health:
        """Return the verdict on a peer and its figures, which are None if it has no session.

        The object is a snapshot: it does not change.
        """
        watched = self._watched.get(endpoint_id)
        return _NOTHING if watched is None else watched.health()

    # ------------------------------------------------------------------ who is watched

    def _route_changed(self, peer_node_id: bytes) -> None:
        """Note that a peer may have come or gone."""
        assert self._registry is not None  # noqa: S101  else it would not call us
        watched = self._watched.get(peer_node_id)
        if peer_node_id not in self._registry.routes:
            if watched is not None:
                watched.gone = True
                del self._watched[peer_node_id]
                if not self._watched:
                    self._rest()
        elif watched is None:
            # However many peers connect at once, their second and later probes are spread out.
            later = self._interval * int.from_bytes(peer_node_id[:2], "big") / 0x10000
            self._watch(peer_node_id, self._loop.time(), later)

    def _watch(self, peer_node_id: bytes, due: float, later: float) -> None:
        watched = self._watched[peer_node_id] = _Watched(self._answered, peer_node_id, due, later)
        self._enter(watched, due)

    def _rest(self) -> None:
        """Stop the timer: there is nobody to watch."""
        self._agenda.clear()
        self._untold.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # ---------------------------------------------------------------------- the agenda

    def _enter(self, watched: _Watched, when: float) -> None:
        heapq.heappush(self._agenda, (when, next(self._serial), watched))
        self._set_timer()

    def _set_timer(self) -> None:
        if not self._agenda:
            return
        when = max(self._agenda[0][0], self._last_turn + self._interval / _TURNS)
        if self._timer is not None:
            if self._rings_at <= when:
                return
            self._timer.cancel()
        self._rings_at = when
        self._timer = self._loop.call_at(when, self._ring)

    def _ring(self) -> None:
        self._timer = None
        # If the loop was held up, answers may have arrived that it has not read yet. It reads them
        # in its next turn, after whatever is due in that turn. So judge in the turn after that.
        self._loop.call_soon(self._loop.call_soon, self._turn, self._loop.time())

    def _turn(self, now: float) -> None:
        """Do what was due when the timer rang, and set the timer for what comes next."""
        registry, agenda = self._registry, self._agenda
        if registry is None or not agenda:
            return
        self._last_turn = now
        while agenda and agenda[0][0] <= now:
            _, _, watched = heapq.heappop(agenda)
            if not watched.gone:
                self._judge(watched, now)
                if watched.due <= now:
                    self._probe(watched, registry.routes[watched.peer_node_id])
                when = watched.due if watched.probed is None else watched.deadline
                heapq.heappush(agenda, (when, next(self._serial), watched))
        self._set_timer()

    def _judge(self, watched: _Watched, now: float) -> None:
        """Count a probe as lost if it was not answered by its deadline."""
        session = watched.probed
        if session is None or now < watched.deadline:
            return
        watched.probed = None
        # The end of a session says nothing about a peer that has another one.
        if session.state is not SessionState.CLOSED:
            self._note(watched, None)

    def _probe(self, watched: _Watched, session: LiveSession) -> None:
        now, interval = self._loop.time(), self._interval
        watched.due += interval + watched.later
        watched.later = 0.0
        if watched.due <= now:  # the loop was held up: skip the probes that it missed
            watched.due += interval * (1 + (now - watched.due) // interval)
        if session.state is SessionState.OPEN:
            watched.probed = session
            watched.deadline = now + self._timeout
            session.ping(watched.answered)
        else:
            self._note(watched, None)

    def _answered(self, watched: _Watched, seconds: float) -> None:
        """Note that a peer has answered the PING of its probe."""
        if watched.probed is None:
            return  # too late: the probe was counted as lost
        watched.probed = None
        # If the probe joined a PING that was already under way, the answer may be too late.
        self._note(watched, seconds if seconds <= self._timeout else None)

    # ------------------------------------------------------------------------ verdicts

    def _note(self, watched: _Watched, seconds: float | None) -> None:
        """Count a probe; ``seconds`` is None if it was lost."""
        watched.note(seconds)
        status = watched.status
        if not watched.failures:
            status = HealthStatus.HEALTHY
        elif watched.failures >= self._unhealthy_after:
            status = HealthStatus.UNHEALTHY
        elif watched.failures >= self._suspect_after:
            status = HealthStatus.SUSPECT
        if status is watched.status or self._registry is None:
            return
        watched.status = status
        runtime = self._registry.runtime
        if runtime.events.observed("health_changed"):
            self._untold[watched.peer_node_id] = None
            if self._teller is None or self._teller.done():
                self._teller = runtime.own(self._tell(self._registry))

    async def _tell(self, registry: Registry) -> None:
        """Emit what has changed, until nothing is left."""
        while self._untold:
            peer_node_id = next(iter(self._untold))
            del self._untold[peer_node_id]
            status = self.status(peer_node_id)
            if status is not HealthStatus.UNKNOWN:  # it has not gone in the meantime
                await registry.emit("health_changed", peer_node_id=peer_node_id, status=status)


class _Watched:
    """One peer: how it has answered, and when its turn comes next."""

    __slots__ = (
        "_deviation",
        "_history",
        "_note_answer",
        "_probes",
        "_rtt",
        "deadline",
        "due",
        "failures",
        "gone",
        "later",
        "peer_node_id",
        "probed",
        "status",
    )

    def __init__(
        self,
        note_answer: Callable[[_Watched, float], None],
        peer_node_id: bytes,
        due: float,
        later: float,
    ) -> None:
        self.peer_node_id = peer_node_id
        self.gone = False
        self.due = due  # when it is probed next
        self.later = later  # how much the probe after that is put off, once
        self.probed: LiveSession | None = None  # the session of a probe that may be answered yet
        self.deadline = due  # when that probe is lost
        self.failures = 0  # lost probes since the last answer
        self.status = HealthStatus.UNKNOWN
        self._note_answer = note_answer
        self._history = 0  # a bit for each of the last probes, the last one lowest; 1: lost
        self._probes = 0
        self._rtt: float | None = None
        self._deviation = 0.0

    def answered(self, seconds: float) -> None:
        """Pass on that the PING was answered."""
        if not self.gone:
            self._note_answer(self, seconds)

    def note(self, seconds: float | None) -> None:
        """Count a probe; ``seconds`` is None if it was lost."""
        lost = seconds is None
        self._history = (self._history << 1 | lost) & ((1 << _PROBES) - 1)
        self._probes = min(self._probes + 1, _PROBES)
        if seconds is None:
            self.failures += 1
            return
        self.failures = 0
        if self._rtt is None:  # RFC 6298: alpha 1/8, beta 1/4
            self._rtt, self._deviation = seconds, seconds / 2
        else:
            self._deviation += (abs(self._rtt - seconds) - self._deviation) / 4
            self._rtt += (seconds - self._rtt) / 8

    def health(self) -> Health:
        """Return the verdict and the figures."""
        return Health(
            self.status,
            self._rtt,
            None if self._rtt is None else self._deviation,
            self._history.bit_count() / self._probes if self._probes else None,
        )


_NOTHING = Health(HealthStatus.UNKNOWN, None, None, None)


def _check(interval: float, timeout: float, suspect_after: int, unhealthy_after: int) -> None:
    for name, seconds in (("interval", interval), ("timeout", timeout)):
        if not (_is_number(seconds, int | float) and 0 < seconds < math.inf):
            raise STTConfigError(f"{name} must be a number of seconds above 0, not {seconds!r}")
    if timeout > interval:
        raise STTConfigError(
            f"timeout must be at most {interval}, so that a probe is over before the next one "
            f"begins (interval), not {timeout}"
        )
    for name, probes in (("suspect_after", suspect_after), ("unhealthy_after", unhealthy_after)):
        if not (_is_number(probes, int) and probes > 0):
            raise STTConfigError(f"{name} must be a whole number above 0, not {probes!r}")
    if unhealthy_after < suspect_after:
        raise STTConfigError(
            f"unhealthy_after must be at least {suspect_after}, so that a peer is suspect first "
            f"(suspect_after), not {unhealthy_after}"
        )


def _is_number(value: object, kind: type[int] | UnionType) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
