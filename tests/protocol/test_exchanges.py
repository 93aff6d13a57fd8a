"""The books on open requests, between two outboxes whose frames are carried by hand."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from helpers.session_pair import NoBudget
from seigr_toolset_transmissions.config import NodeConfig
from seigr_toolset_transmissions.errors import (
    STTLimitError,
    STTMessageSizeError,
    STTProtocolError,
    STTSessionClosedError,
)
from seigr_toolset_transmissions.protocol.exchanges import (
    MAX_OPEN,
    Exchanges,
    ReplyStatus,
)
from seigr_toolset_transmissions.protocol.frames import (
    Cancel,
    FrameDecoder,
    ReplyEnd,
    RequestEnd,
)
from seigr_toolset_transmissions.protocol.outbox import Outbox

ALL = 1 << 30
OK, FAILED, CANCELLED = ReplyStatus.OK, ReplyStatus.FAILED, ReplyStatus.CANCELLED


class Side:
    """One side's books."""

    def __init__(self, **settings: Any) -> None:
        config = NodeConfig(**settings)
        size = config.max_message_bytes
        self.outbox = Outbox(config, peer_max_message=size, credit=ALL, lender=NoBudget())
        self.books = Exchanges(self.outbox)

    def carry(self, peer: Side, *, acknowledged: bool = True) -> None:
        """Deliver all that is to be sent."""
        buffers: list[bytes | memoryview] = []
        self.outbox.take(buffers, ALL)
        for frame in FrameDecoder().feed(b"".join(buffers)):
            if isinstance(frame, RequestEnd):
                peer.books.on_request(b"".join(frame.pieces))
            elif isinstance(frame, ReplyEnd):
                peer.books.on_reply(b"".join(frame.pieces))
        if acknowledged:
            self.outbox.acknowledge(self.outbox.accepted, ALL)

    def cancels(self) -> list[int]:
        """The ids of the CANCELs that go out now."""
        frames = FrameDecoder().feed(b"".join(self.books.cancels_due()))
        return [frame.request_id for frame in frames if isinstance(frame, Cancel)]


def test_a_request_comes_back_as_the_outcome_of_its_ticket() -> None:
    asker, server = Side(), Side()
    assert asker.books.ask(b"one", "first")
    assert asker.books.ask(b"", "second")
    asker.carry(server)
    assert server.books.arrived == [(0, b"one"), (1, b"")]
    assert server.books.answer(1, OK, b"to the second")
    assert server.books.answer(0, FAILED, b"")
    server.carry(asker)
    assert asker.books.outcomes == [
        ("second", OK, b"to the second"),
        ("first", FAILED, b""),
    ]
    assert asker.books.asked == 2


def test_no_more_than_so_many_are_open_and_a_cancelled_one_is_until_its_reply() -> None:
    asker, server = Side(), Side()
    full = []
    for number in range(MAX_OPEN):
        full.append(asker.books.full)
        asker.books.ask(b"", number)
    full.append(asker.books.full)
    asker.books.cancel(5)
    asker.carry(server)
    full.append(asker.books.full)
    server.books.answer(5, CANCELLED, b"")
    server.carry(asker)
    full.append(asker.books.full)
    assert full == [False] * MAX_OPEN + [True, True, False]
    assert asker.books.outcomes == []
    assert asker.books.late == 1
    server.books.on_request(struct.pack(">Q", MAX_OPEN))
    with pytest.raises(STTLimitError, match="open requests"):
        server.books.on_request(struct.pack(">Q", MAX_OPEN + 1))


def test_a_cancel_goes_out_once_the_request_is_acknowledged_and_again_after_a_cut() -> None:
    asker, server = Side(), Side()
    asker.books.ask(b"", "a")
    asker.books.ask(b"", "b")
    asker.books.cancel(1)
    asker.books.cancel(1)
    assert asker.cancels() == []
    asker.carry(server, acknowledged=False)
    assert asker.cancels() == []
    asker.outbox.acknowledge(1, ALL)
    assert asker.cancels() == []
    asker.outbox.acknowledge(2, ALL)
    assert asker.cancels() == [1]
    assert asker.cancels() == []
    asker.books.reconnect()
    assert asker.cancels() == [1]
    asker.books.reconnect()
    server.books.answer(1, OK, b"too late")
    server.carry(asker)
    assert asker.cancels() == []
    asker.books.cancel(1)
    asker.books.cancel(7)
    assert asker.cancels() == []


def test_the_owner_hears_of_a_cancel_as_long_as_it_has_not_answered() -> None:
    asker, server = Side(), Side()
    asker.books.ask(b"", "a")
    asker.books.ask(b"", "b")
    asker.carry(server)
    server.books.on_cancel(1)
    assert server.books.cancelled == [1]
    server.books.on_cancel(1)
    assert server.books.cancelled == [1]  # once for each request, however often it comes
    server.books.answer(0, OK, b"")
    server.books.on_cancel(0)
    assert server.books.cancelled == [1]
    with pytest.raises(STTProtocolError, match="CANCEL of request 2, which has not arrived"):
        server.books.on_cancel(2)


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (b"", "too short"),
        (bytes(7), "too short"),
        (struct.pack(">Q", 1), "a request 1 when 0 was due"),
        (struct.pack(">Q", 2**64 - 1), "when 0 was due"),
    ],
)
def test_a_request_that_breaks_the_protocol_is_refused(message: bytes, complaint: str) -> None:
    with pytest.raises(STTProtocolError, match=complaint):
        Side().books.on_request(message)


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (b"", "too short"),
        (bytes(8), "too short"),
        (struct.pack(">QB", 1, 0), "not open"),
        (struct.pack(">QB", 0, 4), "unknown status 4"),
    ],
)
def test_a_reply_that_breaks_the_protocol_is_refused(message: bytes, complaint: str) -> None:
    side = Side()
    side.books.ask(b"", "ticket")
    with pytest.raises(STTProtocolError, match=complaint):
        side.books.on_reply(message)
    assert len(side.books.lose(side.outbox.abandon())) == 1  # whoever asked still gets an outcome


def test_an_id_is_used_once_and_answered_once() -> None:
    asker, server = Side(), Side()
    asker.books.ask(b"", "ticket")
    asker.carry(server)
    with pytest.raises(STTProtocolError, match="when 1 was due"):
        server.books.on_request(struct.pack(">Q", 0))
    asker.books.on_reply(struct.pack(">QB", 0, 0))
    with pytest.raises(STTProtocolError, match="not open"):
        asker.books.on_reply(struct.pack(">QB", 0, 0))


def test_without_room_no_id_is_used() -> None:
    asker = Side(send_window_messages=1)
    assert asker.books.ask(b"", "a")
    assert not asker.books.ask(b"", "b")
    assert not asker.books.answer(0, OK, b"")
    assert asker.books.asked == 1
    with pytest.raises(STTMessageSizeError):
        asker.books.ask(bytes(asker.outbox.unacked_cost + (1 << 24)), "c")


def test_at_the_end_each_open_ticket_is_given_back_with_whether_it_was_ever_sent() -> None:
    asker, server = Side(), Side()
    for ticket in ("answered", "taken", "cancelled", "sent"):
        asker.books.ask(b"", ticket)
    asker.carry(server, acknowledged=False)
    asker.outbox.acknowledge(3, ALL)
    server.books.answer(0, OK, b"")
    server.books.answer(1, OK, b"")
    server.carry(asker)
    asker.books.outcomes.pop(0)
    asker.books.cancel(2)
    asker.books.ask(b"", "waits")
    lost = asker.books.lose(asker.outbox.abandon())
    assert sorted(map(str, lost)) == ["('sent', False)", "('taken', False)", "('waits', True)"]
    assert asker.books.lose(asker.outbox.abandon()) == []
    with pytest.raises(STTSessionClosedError):
        asker.books.ask(b"", "late")


def test_a_reply_carries_its_request_and_its_status_in_these_bytes() -> None:
    side = Side()
    side.books.on_request(bytes(8) + b"x")
    side.books.answer(0, FAILED, b"why")
    side.books.ask(b"what", "ticket")
    buffers: list[bytes | memoryview] = []
    side.outbox.take(buffers, ALL)
    reply = bytes.fromhex("b000000c 0000000000000000 01") + b"why"
    assert b"".join(buffers) == reply + bytes.fromhex("a000000c 0000000000000000") + b"what"
