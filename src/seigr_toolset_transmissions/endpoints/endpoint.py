"""One endpoint: its inbox, and what is known of it."""

from __future__ import annotations

from functools import partial
from time import time
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from ..errors import STTSessionClosedError
from ..stats import Traffic
from .waiting import Inbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..errors import STTError

__all__ = [
    "Endpoint",
    "EndpointInfo",
    "check_id",
    "check_ids",
    "check_metadata",
    "no_session",
]


class EndpointInfo(TypedDict):
    """What is known of an endpoint: a new dict for each call of `EndpointManager.get_endpoint`."""

    address: Any
    """As given. A node keeps the text ``"host:port"`` as ``(host, port)``."""
    metadata: dict[str, Any]
    """The live dict that was given, or one of the endpoint's own if none was."""
    connected_at: float
    """When the endpoint was added, in seconds since the epoch."""
    state: str
    """One word. On a node: ``"connected"``, ``"suspended"``, ``"connecting"``, ``"waiting"`` (it
    will be dialed again) or ``"disconnected"``. A manager on its own knows no connections, and says
    ``"known"``."""
    bytes_sent: int
    """Bytes of messages accepted for sending since the endpoint was added. On a node: by all its
    sessions with the peer, however they were sent, except those that ended before it was added."""
    bytes_received: int
    """Bytes of messages received, counted in the same way, whoever takes them."""
    last_activity: float | None
    """When a message was last accepted in either direction, in seconds since the epoch, or None.
    On a node: when one last came in, or went out over a connection."""
    rtt: float | None
    """The smoothed round-trip time in seconds; None while it is unknown."""
    min_rtt: NotRequired[float | None]
    """The shortest round-trip time; only on a node."""


class Endpoint(Inbox):
    """One endpoint: its inbox, and what is known of it.

    Attributes:
        wanted: Whether it was added with ``connect=True``.
        temporary: Whether the transport added it by itself.
        kept: Whether it stays although it is temporary, because a receive waits for its return.
        dialed: Whether the transport is dialing it.
        messages_sent: Of the connections that have ended; so are ``messages_received`` and
            ``resumes``. A manager on its own counts none.
        ended: How its last session ended, in words that name the peer; None while it has one, or
            had none yet.

    """

    __slots__ = (
        "address",
        "bytes_received",
        "bytes_sent",
        "connected_at",
        "dialed",
        "ended",
        "kept",
        "last_activity",
        "messages_received",
        "messages_sent",
        "metadata",
        "resumes",
        "temporary",
        "wanted",
    )

    def __init__(self, endpoint_id: bytes) -> None:
        super().__init__(endpoint_id)
        self.dialed: bool = False

    def begin(
        self, address: Any, metadata: dict[str, Any] | None, *, connect: bool, temporary: bool
    ) -> None:
        """Start as a newly added endpoint; messages and waiters stay."""
        self.wanted: bool = connect
        self.temporary: bool = temporary
        self.kept: bool = False
        self.address: Any = address
        self.metadata: dict[str, Any] = {} if metadata is None else metadata
        self.connected_at: float = time()
        self.last_activity: float | None = None
        self.bytes_sent: int = 0
        self.bytes_received: int = 0
        self.messages_sent: int = 0
        self.messages_received: int = 0
        self.resumes: int = 0
        self.retiring = False
        self.ended: str | None = None
        self.over: Callable[[], STTError] | None = None

    def count(self, traffic: Traffic) -> None:
        """Add traffic to the totals."""
        self.bytes_sent += traffic.bytes_sent
        self.bytes_received += traffic.bytes_received
        self.messages_sent += traffic.messages_sent
        self.messages_received += traffic.messages_received
        self.resumes += traffic.resumes
        self.last_activity = _latest(self.last_activity, traffic.last_activity)

    def total(self, present: Iterable[Traffic]) -> Traffic:
        """Return the totals, with the traffic of the present connections."""
        # A snapshot calls this for each endpoint: one loop takes a third of the time of six sums.
        size, came, last = self.bytes_sent, self.bytes_received, self.last_activity
        sent, received, resumes = self.messages_sent, self.messages_received, self.resumes
        for traffic in present:
            size += traffic.bytes_sent
            came += traffic.bytes_received
            sent += traffic.messages_sent
            received += traffic.messages_received
            resumes += traffic.resumes
            last = _latest(last, traffic.last_activity)
        return Traffic(size, came, last, sent, received, resumes)

    def judge(self) -> None:
        """Decide again whether a message may still come: see `Inbox.over`."""
        if self.ended is None or self.wanted or self.dialed:
            self.over = None
        else:
            self.over = partial(STTSessionClosedError, no_session(self.ended))


def no_session(how: str) -> str:
    """Return the error text for a receive whose peer has no session any more."""
    return f"{how}; receive_from(..., reconnect=True) waits until it connects again"


def _latest(one: float | None, other: float | None) -> float | None:
    """Return the later of two times; None if there is none."""
    if one is None or other is None:
        return one if other is None else other
    return max(one, other)


def check_id(endpoint_id: Any) -> None:
    """Raise TypeError or ValueError if this cannot be an id."""
    if not isinstance(endpoint_id, bytes):
        raise TypeError(f"an endpoint id must be bytes, not {type(endpoint_id).__name__}")
    if not endpoint_id:
        raise ValueError("an endpoint id must not be empty")


def check_ids(ids: Any, name: str = "ids") -> list[bytes]:
    """Return them as a list; raise TypeError or ValueError unless all of them can be ids."""
    if isinstance(ids, bytes | bytearray | memoryview | str):
        raise TypeError(f"{name} must be an iterable of ids, not one {type(ids).__name__}")
    checked = list(ids)
    for endpoint_id in checked:
        check_id(endpoint_id)
    return checked


def check_metadata(metadata: object) -> None:
    """Raise TypeError if this cannot be metadata."""
    if metadata is not None and not isinstance(metadata, dict):
        raise TypeError(f"metadata must be a dict or None, not {type(metadata).__name__}")
