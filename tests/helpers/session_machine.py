"""A session machine alone, and what it sends."""

from __future__ import annotations

from helpers.session_pair import SESSION_ID, NoBudget
from seigr_toolset_transmissions.config import NodeConfig
from seigr_toolset_transmissions.protocol.frames import (
    Frame,
    FrameDecoder,
)
from seigr_toolset_transmissions.protocol.machine import (
    SessionMachine,
)
from seigr_toolset_transmissions.protocol.outbox import Outbox
from seigr_toolset_transmissions.protocol.phase import Link, Phase
from seigr_toolset_transmissions.protocol.window import ReceiveWindow

__all__ = [
    "CONFIG",
    "CREDIT",
    "NOW",
    "PART",
    "due",
    "machine",
    "numbered",
    "output",
    "owed",
    "phase",
    "sent",
    "state",
]


PART = 64
"""Longest payload of a frame where the fixture `short_parts` is used."""

CONFIG = NodeConfig(max_message_bytes=1000, send_window_bytes=4000, receive_window_bytes=4000)
CREDIT = CONFIG.receive_window_bytes
NOW = 5.0


def machine(
    *,
    config: NodeConfig = CONFIG,
    link: Link = Link.UP,
    peer_max_message: int = 1000,
    peer_credit: int = CREDIT,
    budget: NoBudget | None = None,
) -> SessionMachine:
    return SessionMachine(
        SESSION_ID,
        config,
        link=link,
        peer_max_message=peer_max_message,
        peer_credit=peer_credit,
        budget=budget or NoBudget(),
        now=NOW,
    )


def output(one: SessionMachine, budget: int = 1 << 20) -> list[Frame]:
    """Take what is to be sent, as the frames that the peer reads."""
    decoder = FrameDecoder()
    result = decoder.feed(b"".join(one.data_to_send(budget)))
    assert not decoder.midway
    return result


# What follows has no effect of its own; as functions, because a type checker holds an attribute
# that was asserted for unchanged by the calls in between.


def due(one: SessionMachine) -> bool:
    return one.output_due


def owed(one: SessionMachine) -> bool:
    return one.ack_owed


def phase(one: SessionMachine) -> Phase:
    return one.phase


def sent(one: SessionMachine, *messages: bytes) -> list[Frame]:
    for message in messages:
        assert one.outbox.send(message)
    return output(one)


def numbered(count: int, size: int = 4) -> list[bytes]:
    return [b"%0*d" % (size, number) for number in range(count)]


def state(one: SessionMachine) -> dict[str, object]:
    """Return all that the machine and its outbox hold, except when it last heard from the peer."""
    slots = (*ReceiveWindow.__slots__, *SessionMachine.__slots__)
    held = {name: getattr(one, name) for name in slots}
    del held["last_received"], held["outbox"]
    held["controls"] = one.controls.count
    held |= {f"outbox.{name}": getattr(one.outbox, name) for name in Outbox.__slots__}
    return {name: list(value) if isinstance(value, list) else value for name, value in held.items()}
