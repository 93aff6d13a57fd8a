"""Every limit, timeout and size of a node, each with its unit and the reason for its default."""

from __future__ import annotations

from dataclasses import dataclass, fields

from .errors import STTConfigError

__all__ = ["NodeConfig"]

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """The settings of an `STTNode`. The defaults suit programs on a LAN or the Internet.

    Args:
        max_message_bytes: The longest message, sent or received, in bytes. Split anything longer
            into several messages, so that a slow receiver can push back between them.
        send_window_bytes: Bytes accepted for sending in one session and not yet acknowledged. They
            are kept to be sent again, so this bounds the memory of a sender whose peer is away.
            Must be at least twice ``max_message_bytes``.
        send_window_messages: The same, in messages: this bounds the memory that many small messages
            take.
        receive_window_bytes: Credit, in bytes: the most that a peer may send ahead of what the
            application has consumed. A session starts with much less, and gets more as the
            application consumes more: up to what the peer sends in a second or two, if
            ``max_buffered_bytes`` allows. Full speed takes the product of a path's bandwidth and
            round-trip time: 8 MiB is 640 Mbit/s at 100 ms. Must be at least twice
            ``max_message_bytes``.
        inbox_bytes: Bytes of received messages that wait in one endpoint's inbox. When it is full,
            the peer waits.
        inbox_messages: The same, in messages.
        connect_timeout: Seconds for a whole dial: name look-up, connection and handshake.
        handshake_timeout: Seconds that a listener gives a connection to prove that it knows the
            shared seed.
        close_timeout: Seconds that a close waits for the peer to acknowledge everything.
        send_timeout: Seconds that each of several recipients has to accept a message before it
            counts as full, or to reply to a request (`EndpointManager.request_many`).
        resume_window: Seconds that a session is kept without a connection, so that it can be
            resumed; then it is lost.
        reconnect_delay: Seconds. The first reconnect waits a random time up to this, and each
            further one up to twice as long as the one before (full jitter, so that peers do not
            storm a hub that restarts).
        reconnect_delay_max: Seconds: the longest wait before a reconnect.
        ping_interval: Seconds between two PINGs, whether the session is busy or not: they also
            measure the round trip. Most NAT tables keep a silent TCP connection for longer than
            that.
        ping_timeout: Seconds of silence after a PING, without a single byte, after which the
            connection counts as dead.
        write_timeout: Seconds after which a connection counts as dead if it accepts no bytes, sends
            none of those that wait, and brings no acknowledgement. A slow connection that moves
            never does.
        ack_delay: Seconds that an acknowledgement waits for other traffic to travel with.
        handler_warning: Seconds that a handler may run while messages or events of its session wait
            for it. Then a warning in the log names it, as it may be waiting for its own peer: see
            ``docs/events.md``. None: no such warning.
        max_buffered_bytes: The most bytes that a node holds for all its sessions together: received
            and not yet taken by the application, promised to peers that may still send them, and
            accepted for sending and not yet acknowledged. When memory is short, windows shrink and
            `send` waits; no session ends because of it. Up to three quarters are reserved for first
            windows: with the defaults, 80 KiB for each of ``max_sessions``. If a node has few peers
            and little memory, lower ``max_sessions``; if ``max_sessions`` do not fit, the node may
            have to refuse some. Must be at least twice ``receive_window_bytes``.
        max_half_open: Connections to a listening node that may be in their handshake at once.
            Beyond half of that, new ones displace random ones: a member is through within
            milliseconds, while a silent stranger stays. Each takes about 2 KiB.
        max_half_open_per_source: The same, from one IPv4 address or one IPv6 network of 56 bits.
            Further ones are dropped.
        limit_loopback: Whether ``max_half_open_per_source`` holds for this machine's own addresses
            too. That is only needed if programs on one machine do not trust each other.
        max_sessions: Sessions that a node holds at once. Further ones are refused.
        max_sessions_per_peer: Sessions with one peer at once: two if both dial, the rest for
            programs that connect more often.
        max_requests: Requests of one session whose handlers run at once. Further ones wait.
        max_suspended: Sessions kept without a connection, including those that a dialer opened and
            never used. Beyond that, one is given up: the oldest that was never used, or else the
            oldest, which is reported. None: no limit but ``max_sessions``, so that a hiccup that
            cuts all of them at once loses none.

    Raises:
        STTConfigError: A value is not positive, or two of them contradict each other.

    """

    max_message_bytes: int = 4 * MIB
    send_window_bytes: int = 8 * MIB
    send_window_messages: int = 65_536
    receive_window_bytes: int = 8 * MIB
    inbox_bytes: int = 8 * MIB
    inbox_messages: int = 65_536
    connect_timeout: float = 10.0
    handshake_timeout: float = 10.0
    close_timeout: float = 5.0
    send_timeout: float = 10.0
    resume_window: float = 120.0
    reconnect_delay: float = 0.2
    reconnect_delay_max: float = 30.0
    ping_interval: float = 15.0
    ping_timeout: float = 15.0
    write_timeout: float = 30.0
    ack_delay: float = 0.025
    handler_warning: float | None = 10.0
    max_buffered_bytes: int = 512 * MIB
    max_half_open: int = 256
    max_half_open_per_source: int = 16
    limit_loopback: bool = False
    max_sessions: int = 4096
    max_sessions_per_peer: int = 8
    max_requests: int = 64
    max_suspended: int | None = None

    def __post_init__(self) -> None:
        """Refuse settings that cannot work, before they fail at run time."""
        for field in fields(self):
            value, kind = getattr(self, field.name), str(field.type)
            if value is None and kind.endswith("| None"):
                continue
            if kind == "bool":
                if not isinstance(value, bool):
                    raise STTConfigError(f"{field.name} must be True or False, not {value!r}")
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise STTConfigError(f"{field.name} must be a number above 0, not {value!r}")
            if not kind.startswith("float") and not isinstance(value, int):
                raise STTConfigError(f"{field.name} must be a whole number, not {value!r}")
        if self.max_buffered_bytes < 2 * self.receive_window_bytes:
            raise STTConfigError(
                f"max_buffered_bytes must be at least {2 * self.receive_window_bytes}, so that two "
                "of the largest windows (receive_window_bytes) fit, "
                f"not {self.max_buffered_bytes}"
            )
        # Each message costs 64 bytes more than its length (`outbox.FRAME_COST`).
        room = 2 * max(self.max_message_bytes, 64)
        for name in ("send_window_bytes", "receive_window_bytes"):
            if getattr(self, name) < room:
                raise STTConfigError(
                    f"{name} must be at least {room}, so that two of the longest messages "
                    f"(max_message_bytes) fit, not {getattr(self, name)}"
                )
