"""Every limit, time-out and size of a node, each with its unit and the reason for its default."""

from __future__ import annotations

from dataclasses import dataclass, fields

from .errors import STTConfigError

__all__ = ["NodeConfig"]

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """Settings of an `STTNode`. The defaults suit programs on a LAN or the Internet.

    Raises:
        STTConfigError: A value is not positive, or two of them contradict each other.

    """

    max_message_bytes: int = 4 * MIB
    """Largest message sent or accepted. What is larger belongs in several messages, so that a slow
    receiver can push back between them."""

    send_window_bytes: int = 8 * MIB
    """Messages accepted for one session and not yet acknowledged by the peer, in bytes. They are
    kept for retransmission, so this bounds the memory of a sender whose peer is away. Must hold at
    least one message of the largest size."""

    send_window_messages: int = 65_536
    """The same, in messages: bounds the memory that many small messages take."""

    receive_window_bytes: int = 8 * MIB
    """Credit: the most that a peer may send ahead of what the application has consumed. It begins
    with much less and gets more as the application consumes: what it sends in a second or two, as
    far as ``max_buffered_bytes`` allows. The product of a
    path's bandwidth and round-trip time must fit in it for full speed: 8 MiB is 640 Mbit/s at
    100 ms. Must hold one message of the largest size."""

    inbox_bytes: int = 8 * MIB
    """Received messages that wait in one endpoint's inbox, in bytes; when full, the peer waits."""

    inbox_messages: int = 65_536
    """The same, in messages."""

    connect_timeout: float = 10.0
    """Seconds for a dial in all: name look-up, connection and handshake."""

    handshake_timeout: float = 10.0
    """Seconds that a listener gives a stranger to prove that it knows the shared seed."""

    close_timeout: float = 5.0
    """Seconds that a close waits for the peer to acknowledge what was sent."""

    send_timeout: float = 10.0
    """Seconds that one of many recipients may take to accept a message before it counts as full."""

    resume_window: float = 120.0
    """Seconds that a session without a connection is kept, to be resumed; then it is lost."""

    reconnect_delay: float = 0.2
    """Seconds: the first reconnect waits a random time up to this; each further one up to twice
    as long as the one before (full jitter, so that a hub that restarts is not stormed)."""

    reconnect_delay_max: float = 30.0
    """Seconds: the longest that a reconnect waits."""

    ping_interval: float = 15.0
    """Seconds after which a peer is asked for a sign of life again, busy or not: it measures the
    round trip, too. Most NAT tables forget a silent TCP connection later than that."""

    ping_timeout: float = 15.0
    """Seconds of further silence, without a single byte, after which the connection is taken for
    dead."""

    write_timeout: float = 30.0
    """Seconds that a connection may take no bytes, send none of those that wait, and bring no
    acknowledgement, before it is taken for dead. However slow it is, one that moves is not."""

    ack_delay: float = 0.025
    """Seconds that an acknowledgement may wait for other traffic to travel with."""

    max_buffered_bytes: int = 512 * MIB
    """The most that a node holds for all its sessions together: what they have received and the
    application has not taken, what their peers have been promised they may send, and what was
    accepted for sending and is not acknowledged. When it is short, windows are smaller, and `send`
    waits; no session is ended for it. Up to three quarters of it are kept for first windows: with
    the default, 80 KiB each for ``max_sessions``. A node with few peers and little memory gets on
    better with a lower ``max_sessions``; one whose ``max_sessions`` do not fit may have to refuse
    some. Must be at least twice the receive window."""

    max_half_open: int = 256
    """Connections to a listening node that are in their handshake, at once. From half of that on,
    random ones are dropped for new ones: a member is through within milliseconds, while a silent
    stranger stays. Each takes some 2 KiB."""

    max_half_open_per_source: int = 16
    """The same, from one IPv4 address or one IPv6 network of 56 bits: further ones are dropped."""

    limit_loopback: bool = False
    """Whether ``max_half_open_per_source`` holds for this machine's own addresses, too. Only who
    runs programs that distrust each other on one machine needs that."""

    max_sessions: int = 4096
    """Sessions that a node holds at once. A peer beyond them is refused."""

    max_sessions_per_peer: int = 8
    """Sessions with one peer at once: two when both dial, the rest for programs that
    connect more than once."""

    max_suspended: int | None = None
    """Sessions kept without a connection, those included that a dialer has opened and never used.
    Beyond it one is given up: the oldest never used, else the oldest, which is reported. None: as
    many as there may be sessions, so that a hiccup that cuts them all at once loses none."""

    def __post_init__(self) -> None:
        """Refuse what cannot work, before it fails at run time."""
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and field.default is None:
                continue
            if field.type == "bool":
                if not isinstance(value, bool):
                    raise STTConfigError(f"{field.name} must be True or False, not {value!r}")
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise STTConfigError(f"{field.name} must be a number above 0, not {value!r}")
            if field.type != "float" and not isinstance(value, int):
                raise STTConfigError(f"{field.name} must be a whole number, not {value!r}")
        if self.max_buffered_bytes < 2 * self.receive_window_bytes:
            raise STTConfigError(
                "max_buffered_bytes must be at least twice receive_window_bytes "
                f"({2 * self.receive_window_bytes}), not {self.max_buffered_bytes}"
            )
        # Each message counts 64 bytes more than it has (`session.FRAME_COST`).
        room = 2 * max(self.max_message_bytes, 64)
        for name in ("send_window_bytes", "receive_window_bytes"):
            if getattr(self, name) < room:
                raise STTConfigError(
                    f"{name} must be at least twice max_message_bytes, and 128 ({room}), "
                    f"not {getattr(self, name)}"
                )
