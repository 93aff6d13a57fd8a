"""What a session holds for sending: windows, credit, what is sent again, and what was lost.

`test_session` has the same behind a whole session, and `test_session_pair` under any schedule.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.session_pair import NoBudget
from seigr_toolset_transmissions.config import NodeConfig
from seigr_toolset_transmissions.errors import (
    STTMessageSizeError,
    STTProtocolError,
    STTSessionClosedError,
)
from seigr_toolset_transmissions.protocol import frames, outbox
from seigr_toolset_transmissions.protocol.frames import (
    Frame,
    FrameDecoder,
    FrameType,
    Part,
    ReplyEnd,
    RequestEnd,
)
from seigr_toolset_transmissions.protocol.outbox import FRAME_COST, Outbox, Undelivered

PART = 64
"""Longest payload of a frame where the fixture `short_parts` is used."""

CONFIG = NodeConfig(max_message_bytes=1000, send_window_bytes=4000)
ALL = 1 << 20


@pytest.fixture
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_DATA_BYTES", PART)
    monkeypatch.setattr(outbox, "MAX_DATA_BYTES", PART)


def make(
    config: NodeConfig = CONFIG,
    *,
    peer_max_message: int = 1000,
    credit: int = ALL,
    lender: NoBudget | None = None,
) -> Outbox:
    return Outbox(
        config, peer_max_message=peer_max_message, credit=credit, lender=lender or NoBudget()
    )


def take(box: Outbox, budget: int = ALL) -> list[Frame]:
    """Hand over what may be sent; return it as the peer decodes it."""
    buffers: list[bytes | memoryview] = []
    box.take(buffers, budget)
    return FrameDecoder().feed(b"".join(buffers))


def state(box: Outbox) -> dict[str, object]:
    held = {name: getattr(box, name) for name in Outbox.__slots__}
    return {name: list(value) if isinstance(value, list) else value for name, value in held.items()}


def test_the_window_is_bounded_in_bytes() -> None:
    box = make(replace(CONFIG, max_message_bytes=100, send_window_bytes=300))
    assert box.send(bytes(100))
    assert box.send(bytes(300 - 164 - FRAME_COST))
    assert box.unacked_cost == 300
    assert not box.send(b"")
    assert not box.send(bytes(100))
    take(box)
    assert not box.send(b"")
    assert box.acknowledge(1, ALL) == 1
    assert box.unacked_cost == 300 - 164
    assert box.send(bytes(100))
    assert box.unacked_cost == 300
    assert not box.send(b"")
    assert (box.messages_sent, box.bytes_sent) == (3, 100 + 72 + 100)


def test_the_window_is_bounded_in_frames() -> None:
    box = make(NodeConfig(send_window_messages=2), peer_max_message=1 << 22)
    assert box.send(b"")
    assert box.send(b"")
    assert not box.send(b"")
    assert not box.send(bytes(1 << 20))
    take(box)
    box.acknowledge(1, ALL)
    assert box.send(b"")
    assert not box.send(b"")


def test_frames_are_handed_out_only_as_far_as_there_is_credit() -> None:
    box = make(credit=2 * FRAME_COST + 30)
    assert box.send(bytes(10)) == FRAME_COST + 10
    assert box.send(bytes(20)) == 2 * FRAME_COST + 30
    assert box.send(bytes(20)) == 2 * FRAME_COST + 30  # this one waits for credit
    assert take(box) == [[bytes(10), bytes(20)]]
    assert not box.can_send()
    assert box.send(b"") == 1  # accepted, and nothing to be sent now
    box.acknowledge(0, 3 * FRAME_COST + 50)
    assert box.can_send()
    assert take(box) == [[bytes(20)]]
    assert [len(message) for message in box.pending] == [0]


@pytest.mark.parametrize(("own", "peers"), [(100, 1000), (1000, 100)])
def test_a_message_longer_than_either_side_allows_changes_nothing(own: int, peers: int) -> None:
    box = make(replace(CONFIG, max_message_bytes=own), peer_max_message=peers)
    assert box.send(bytes(100))
    before = state(box)
    with pytest.raises(STTMessageSizeError, match="limit of this session is 100"):
        box.send(bytes(101))
    assert state(box) == before


def test_a_closed_outbox_accepts_nothing_and_still_hands_out_what_it_has() -> None:
    box = make()
    box.send(b"before")
    box.closed = True
    with pytest.raises(STTSessionClosedError):
        box.send(b"after")
    assert take(box) == [[b"before"]]


@pytest.mark.usefixtures("short_parts")
@pytest.mark.parametrize("size", [PART + 1, 2 * PART - 1, 2 * PART, 2 * PART + 1])
def test_a_long_message_goes_in_full_parts_and_the_rest(size: int) -> None:
    box, message = make(), bytes(range(256)) * 2
    message = message[:size]
    box.send(message)
    *parts, rest = take(box)
    assert all(isinstance(part, Part) for part in parts)
    joined = [b"".join(part.pieces) for part in parts if isinstance(part, Part)]
    assert [len(part) for part in joined] == [PART] * (size // PART)
    assert rest == [message[size - size % PART :]]
    assert b"".join(joined) + rest[0] == message
    assert (box.messages_sent, box.accepted) == (1, size // PART + 1)


@pytest.mark.usefixtures("short_parts")
def test_unacknowledged_frames_are_sent_again_before_waiting_ones() -> None:
    box, long = make(), bytes(PART + 5)
    for message in (b"a", long, b"b"):
        box.send(message)
    sent = take(box)
    box.send(b"c")
    assert box.acknowledge(2, ALL) == 2  # a, and the first part
    assert (box.acked, box.sent) == (2, 4)
    box.send_again()
    assert (box.acked, box.sent) == (2, 2)
    assert sent == [[b"a"], Part([bytes(PART)]), [bytes(5), b"b"]]
    assert take(box) == [[bytes(5), b"b", b"c"]]
    assert (box.empty, box.unacked_cost) == (False, 5 + 1 + 1 + 3 * FRAME_COST)
    box.acknowledge(5, ALL)
    assert (box.empty, box.unacked_cost) == (True, 0)


@pytest.mark.parametrize(("recv_next", "credit"), [(0, ALL), (3, ALL), (2, ALL - 1)])
def test_an_acknowledgement_that_cannot_be_true_changes_nothing(
    recv_next: int, credit: int
) -> None:
    box = make()
    for message in (b"a", b"b", b"c"):
        box.send(message)
    take(box, 2 * FRAME_COST)
    assert box.sent == 2
    box.acknowledge(1, ALL)
    before = state(box)
    with pytest.raises(STTProtocolError, match="an acknowledgement"):
        box.acknowledge(recv_next, credit)
    assert state(box) == before


@pytest.mark.usefixtures("short_parts")
def test_messages_that_may_have_arrived_are_counted_however_they_are_cut() -> None:
    box = make()
    box.send(bytes(3 * PART))
    box.send(b"next")
    box.send(bytes(9 * PART))
    take(box)
    assert box.messages_ever_sent == 3
    box.send_again()
    assert box.messages_ever_sent == 0
    take(box, 2 * PART)
    assert box.messages_ever_sent == 0  # only parts of the first have left
    box.acknowledge(1, ALL)
    take(box, 6 * PART)
    assert box.messages_ever_sent == 2
    assert len(box.abandon().unknown) == 2
    assert box.messages_ever_sent == 2


@pytest.mark.usefixtures("short_parts")
def test_abandoned_messages_are_sorted_by_whether_they_may_have_arrived() -> None:
    box, long = make(), bytes(PART + 5)
    for message in (b"arrived", b"sent", long):
        box.send(message)
    take(box, 3 * FRAME_COST)  # the long one but in part
    box.acknowledge(1, ALL)
    box.send(b"new")
    assert box.abandon() == Undelivered(unsent=(long, b"new"), unknown=(b"sent",))
    assert box.empty
    with pytest.raises(STTSessionClosedError):
        box.send(b"x")


def test_messages_never_handed_out_are_unsent() -> None:
    box = make()
    box.send(b"a")
    assert box.abandon() == Undelivered(unsent=(b"a",), unknown=())


@pytest.mark.usefixtures("short_parts")
def test_parts_sent_and_parts_that_wait_are_both_sent_again() -> None:
    box, long = make(), bytes(range(200))
    for _ in range(2):
        box.send(long)
    take(box, 2 * FRAME_COST)  # two frames of the first
    box.send_again()
    parts = [Part([long[:PART]]), Part([long[PART : 2 * PART]]), Part([long[2 * PART : 3 * PART]])]
    assert take(box) == [*parts, [long[3 * PART :]], *parts, [long[3 * PART :]]]


def test_messages_known_not_to_have_arrived_are_unsent() -> None:
    box = make()
    box.send(b"a")
    box.send(b"b")
    take(box)
    box.acknowledge(1, ALL)
    box.presume_lost()
    assert box.abandon() == Undelivered(unsent=(b"b",), unknown=())


def frames_of(box: Outbox) -> list[tuple[bytes, bool]]:
    """The payloads of the frames that are handed over, and whether each ends a message."""
    payloads: list[tuple[bytes, bool]] = []
    for frame in take(box):
        if isinstance(frame, Part):
            payloads.append((b"".join(frame.pieces), False))
        else:
            assert isinstance(frame, list)
            payloads += [(payload, True) for payload in frame]
    return payloads


def carried(box: Outbox) -> list[bytes]:
    """Only the payloads."""
    return [payload for payload, _ in frames_of(box)]


def test_after_a_cut_no_frame_is_longer_than_all_before_it() -> None:
    box, long = make(NodeConfig(), peer_max_message=1 << 22), bytes(range(256)) * 1200
    box.send(long)
    take(box)
    box.send_again()
    payloads = carried(box)
    assert b"".join(payloads) == long
    assert [len(payload) for payload in payloads[:4]] == [256, 256, 512, 1024]
    ahead = 0
    for payload in payloads:
        assert len(payload) <= min(max(ahead, 256), 1 << 16)
        ahead += len(payload)
    assert len(payloads) <= len(long) // (1 << 16) + 10


def test_after_a_cut_short_messages_let_a_long_one_begin_with_a_longer_part() -> None:
    box = make(NodeConfig(), peer_max_message=1 << 22)
    for size in (100, 100, 100, 100, 100, 2000):
        box.send(bytes(size))
    take(box)
    box.send_again()
    assert [len(payload) for payload in carried(box)] == [100] * 5 + [500, 1000, 500]


def test_short_messages_are_sent_again_as_they_were() -> None:
    box = make()
    messages = [bytes([k]) * 100 for k in range(10)]
    for message in messages:
        box.send(message)
    take(box)
    box.send_again()
    assert carried(box) == messages


def test_the_rest_of_a_message_is_split_again_and_the_counts_stay_right() -> None:
    box, long = make(NodeConfig(), peer_max_message=1 << 22), bytes(range(250)) * 40
    for message in (b"first", long, b"last"):
        box.send(message)
    take(box)
    box.acknowledge(1, ALL)
    arrived = b""
    while len(arrived) < len(long):
        box.send_again()
        payloads = carried(box)
        assert b"".join(payloads) == long[len(arrived) :] + b"last"
        assert (box.messages_sent, box.messages_acked, box.sent) == (3, 1, box.accepted)
        assert box.bytes_sent == len(long) + 9
        frames = box.accepted - box.acked
        assert frames == len(payloads) <= 10
        assert box.unacked_cost == len(long) - len(arrived) + 4 + frames * FRAME_COST
        arrived += payloads[0]  # one frame gets across each connection
        box.acknowledge(box.acked + 1, ALL)
    assert box.messages_acked == 2
    box.acknowledge(box.accepted, ALL)
    assert (box.messages_acked, box.unacked_cost, box.empty) == (3, 0, True)


@given(
    sizes=st.lists(st.integers(0, 5000), min_size=1, max_size=8),
    connections=st.lists(st.integers(0, 4000), max_size=30),
)
def test_wherever_it_is_cut_each_message_arrives_once_and_is_reported_exactly(
    sizes: list[int], connections: list[int]
) -> None:
    """A model: the peer takes whole frames of the bytes that a connection carried."""
    config = NodeConfig(max_message_bytes=5000, send_window_bytes=1 << 20)
    box = make(config, peer_max_message=5000)
    messages = [bytes([k]) * size for k, size in enumerate(sizes)]
    for message in messages:
        assert box.send(message)
    arrived: list[bytes] = []
    begun, position = b"", 0
    for carries in [*connections, 1 << 20]:
        left = carries
        for payload, last in frames_of(box):
            left -= len(payload) + 4
            if left < 0:
                break
            begun += payload
            position += 1
            if last:
                arrived.append(begun)
                begun = b""
        assert (box.messages_sent, box.bytes_sent) == (len(messages), sum(sizes))
        assert arrived == messages[: len(arrived)]
        box.acknowledge(position, ALL)
        assert box.messages_acked == len(arrived)
        rest = sum(sizes[len(arrived) :]) - len(begun)
        assert box.unacked_cost == rest + (box.accepted - box.acked) * FRAME_COST
        box.send_again()
    assert arrived == messages
    assert box.empty


def test_messages_split_again_are_abandoned_as_a_whole() -> None:
    box, long = make(NodeConfig(), peer_max_message=1 << 22), bytes(range(200)) * 50
    for message in (b"arrived", long, b"waits"):
        box.send(message)
    take(box)
    box.acknowledge(1, ALL)
    box.send_again()
    take(box, 600)
    assert box.sent < box.accepted
    assert box.abandon() == Undelivered(unsent=(long, b"waits"), unknown=())


class Bank(NoBudget):
    """Lends up to this many bytes."""

    first_send = 500

    def __init__(self, room: int = ALL) -> None:
        super().__init__()
        self.room = room
        self.lent = 0
        self.asked: list[tuple[int, int, bool]] = []

    def lend(self, over: int, wanted: int, *, alone: bool) -> bool:
        assert over == self.lent
        self.asked.append((over, wanted, alone))
        if self.lent + wanted > self.room:
            return False
        self.lent += wanted
        return True

    def give_back(self, size: int) -> None:
        assert 0 <= size <= self.lent
        self.lent -= size


def test_a_little_is_held_without_asking_the_node_and_more_is_asked_for_in_large_steps() -> None:
    bank = Bank()
    box = make(lender=bank)
    while box.send(bytes(36)):
        assert box.unacked_cost <= 500 + bank.lent
    assert box.unacked_cost == CONFIG.send_window_bytes
    assert bank.asked == [(0, 500, False), (500, 1000, False), (1500, 2000, False)]
    assert not box.short  # it is this session's own window that is full


def test_without_room_in_the_node_nothing_is_accepted() -> None:
    bank = Bank(room=100)
    box = make(lender=bank)
    sent = 0
    while box.send(bytes(36)):
        sent += 1
    assert (sent, bank.lent) == (6, 100)
    assert box.short
    before = state(box)
    assert not box.send(bytes(36))
    assert state(box) == before
    bank.room = ALL
    assert box.send(bytes(36))
    assert not box.short


def test_the_budget_gets_back_what_is_acknowledged() -> None:
    bank = Bank()
    box = make(lender=bank)
    while box.send(bytes(36)):
        pass
    take(box)
    box.acknowledge(19, ALL)
    assert bank.lent == 3500
    box.acknowledge(20, ALL)
    assert bank.lent == 1500  # what is held still, 500 of it without asking
    box.acknowledge(37, ALL)
    assert bank.lent == 0
    assert box.send(bytes(36))
    assert bank.lent == 0


@pytest.mark.usefixtures("short_parts")
@pytest.mark.parametrize("size", [36, PART + 8], ids=["whole", "in parts"])
@pytest.mark.parametrize("first", [500, 3900])
def test_the_whole_window_is_free_again_when_all_is_acknowledged(size: int, first: int) -> None:
    bank = Bank()
    bank.first_send = first
    box = make(replace(CONFIG, send_window_messages=60), lender=bank)
    for _ in range(2):
        while box.send(bytes(size)):
            pass
        assert box.unacked_cost == CONFIG.send_window_bytes
        take(box)
        box.acknowledge(box.accepted, ALL)
        assert (box.empty, bank.lent) == (True, 0)


def test_the_budget_gets_back_what_is_lost() -> None:
    bank = Bank()
    box = make(lender=bank)
    while box.send(bytes(36)):
        pass
    box.abandon()
    assert bank.lent == 0


def test_a_large_message_of_an_outbox_with_nothing_else_is_named_as_such() -> None:
    bank = Bank(room=0)
    box = make(lender=bank)
    assert not box.send(bytes(1000))
    assert box.send(b"")
    assert not box.send(bytes(1000))
    alone = [last for _, _, last in bank.asked]
    assert alone == [False, True, False, False]


def test_a_full_window_of_messages_does_not_ask_the_node() -> None:
    bank = Bank()
    box = make(replace(CONFIG, send_window_messages=2), lender=bank)
    assert box.send(b"")
    assert box.send(b"")
    assert not box.send(bytes(1000))
    assert not box.short
    assert not bank.asked


# -------------------------------------------------------------------- requests and replies


@pytest.mark.parametrize("kind", [FrameType.REQUEST, FrameType.REPLY])
@pytest.mark.parametrize("size", [0, 9, 1000])
def test_only_the_last_frame_says_what_a_message_is(kind: FrameType, size: int) -> None:
    box = make()
    assert box.send(b"before")
    assert box.send_as(kind, bytes(size))
    assert box.send(b"after")
    before, last, after = take(box)
    assert (before, after) == ([b"before"], [b"after"])
    assert isinstance(last, RequestEnd if kind is FrameType.REQUEST else ReplyEnd)
    assert b"".join(last.pieces) == bytes(size)
    assert (box.messages_sent, box.accepted) == (3, 3)
    assert box.unacked_cost == 11 + size + 3 * FRAME_COST
    assert box.acknowledge(3, ALL) == 3
    assert (box.messages_acked, box.empty, box.unacked_cost) == (3, True, 0)


@pytest.mark.usefixtures("short_parts")
@pytest.mark.parametrize("size", [PART, PART + 1, 2 * PART, 3 * PART - 1])
def test_a_long_request_goes_in_parts_too(size: int) -> None:
    box, message = make(), bytes(range(256))[:size]
    box.send_as(FrameType.REQUEST, message)
    *parts, last = take(box)
    assert isinstance(last, RequestEnd)
    pieces = [piece for part in parts if isinstance(part, Part) for piece in part.pieces]
    assert b"".join(pieces + last.pieces) == message
    assert len(parts) == (0 if size == PART else size // PART)
    assert box.messages_sent == 1


def test_a_request_that_was_cut_is_a_request_when_it_is_sent_again() -> None:
    box, message = make(NodeConfig(), peer_max_message=1 << 22), bytes(range(200)) * 20
    box.send_as(FrameType.REQUEST, message)
    box.send(b"plain")
    take(box)
    box.send_again()
    arrived = b""
    for position in range(1, 4):
        first, *_ = take(box, 1)
        assert isinstance(first, Part)
        arrived += b"".join(first.pieces)
        box.acknowledge(position, ALL)
    box.send_again()
    *parts, request, plain = take(box)
    assert isinstance(request, RequestEnd)
    assert plain == [b"plain"]
    rest = [piece for part in parts if isinstance(part, Part) for piece in part.pieces]
    assert arrived + b"".join(rest + request.pieces) == message
    box.acknowledge(box.accepted, ALL)
    assert box.empty


def test_requests_and_replies_are_no_messages_that_were_lost() -> None:
    box = make()
    box.send_as(FrameType.REQUEST, b"sent")
    box.send_as(FrameType.REPLY, b"a reply")
    take(box)
    box.send_as(FrameType.REQUEST, b"waits")
    box.send(b"plain")
    assert box.abandon() == Undelivered((b"plain",), (), unsent_requests=(b"waits",))
    with pytest.raises(STTSessionClosedError):
        box.send_as(FrameType.REQUEST, b"late")


def test_a_request_that_is_too_long_changes_nothing() -> None:
    box = make()
    before = state(box)
    with pytest.raises(STTMessageSizeError, match="1000"):
        box.send_as(FrameType.REQUEST, bytes(1001))
    assert state(box) == before
