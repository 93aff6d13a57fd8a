"""Receive windows that grow and shrink with the room there is and what is consumed."""

from __future__ import annotations

import pytest

from helpers.session_machine import (
    CONFIG,
    CREDIT,
    NOW,
    PART,
    due,
    machine,
    numbered,
    output,
    phase,
    sent,
    state,
)
from helpers.session_pair import SessionPair
from seigr_toolset_transmissions.config import NodeConfig
from seigr_toolset_transmissions.errors import (
    STTLimitError,
    STTMessageSizeError,
    STTProtocolError,
    STTSessionClosedError,
)
from seigr_toolset_transmissions.protocol import controls
from seigr_toolset_transmissions.protocol.frames import (
    Abort,
    Ack,
    Close,
    CloseAck,
    Frame,
    Pad,
    Part,
    Ping,
    Pong,
    Welcome,
    WelcomeStatus,
)
from seigr_toolset_transmissions.protocol.machine import (
    MAX_PONGS,
    SessionMachine,
)
from seigr_toolset_transmissions.protocol.outbox import FRAME_COST
from seigr_toolset_transmissions.protocol.phase import Link, Phase

# Which frame is legal when


FRAMES: dict[str, Frame] = {
    "data": [b"x"],
    "part": Part([b"x"]),
    "ack": Ack(0, CREDIT),
    "ping": Ping(1),
    "pong": Pong(1),
    "close": Close(0),
    "close_ack": CloseAck(0),
    "abort": Abort(0),
    "welcome": Welcome(WelcomeStatus.ACCEPTED, 0, CREDIT),
    "pad": Pad(3),
}


STATES = ["open", "closing", "close sent", "peer closed", "closed"]


LEGAL = {
    ("open", Link.UP): {"data", "part", "ack", "ping", "pong", "abort", "close"},
    ("closing", Link.UP): {"data", "part", "ack", "ping", "pong", "abort", "close"},
    ("close sent", Link.UP): {"data", "part", "ack", "ping", "pong", "abort", "close", "close_ack"},
    ("peer closed", Link.UP): {"ack", "ping", "pong", "abort"},
    ("open", Link.OPENING): {"welcome"},
    ("closing", Link.OPENING): {"welcome"},
    ("close sent", Link.OPENING): {"welcome"},
    ("peer closed", Link.OPENING): {"welcome"},
}


def in_state(name: str, link: Link) -> SessionMachine:
    one = machine()
    one.ping(NOW)
    one.data_to_send(1)
    match name:
        case "closing" | "close sent":
            one.close()
            if name == "close sent":
                assert output(one) == [Close(0)]
        case "peer closed":
            one.receive([Close(0)], NOW)
            assert output(one) == [CloseAck(0)]
        case "closed":
            one.phase = Phase.CLOSED
    one.link = link
    return one


@pytest.mark.parametrize("link", Link)
@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("kind", FRAMES)
def test_each_frame_is_legal_in_these_phases_on_these_links_and_fatal_in_others(
    kind: str, name: str, link: Link
) -> None:
    one = in_state(name, link)
    before = state(one)
    if name == "closed":
        assert one.receive([FRAMES[kind]], NOW) == []
        assert state(one) == before
    elif kind == "pad" or kind in LEGAL.get((name, link), ()):
        messages = one.receive([FRAMES[kind]], NOW)
        assert messages == ([b"x"] if kind == "data" else [])
        assert kind == "ack" or state(one) != before
    else:
        with pytest.raises(STTProtocolError):
            one.receive([FRAMES[kind]], NOW)
        assert state(one) == before


# Giving up


def test_an_abort_ends_the_session_and_says_how_far_it_had_come() -> None:
    one, other = machine(), machine()
    for message in (b"arrived", b"under way", b"waits"):
        one.outbox.send(message)
    buffers = one.data_to_send(1)
    assert one.outbox.sent
    other.receive([[b"arrived"]], NOW)
    assert b"".join(other.abort()) == Abort(1).encode()
    assert buffers
    one.receive([Abort(1), Ping(1)], NOW)
    assert one.aborted
    assert phase(one) is Phase.CLOSED
    undelivered = one.abandon()
    assert undelivered.unsent == (b"under way", b"waits")
    assert undelivered.unknown == ()


def test_an_abort_that_has_received_more_than_was_sent_breaks_the_protocol() -> None:
    one = machine()
    with pytest.raises(STTProtocolError):
        one.receive([Abort(1)], NOW)
    assert not one.aborted


@pytest.mark.parametrize("link", [Link.DOWN, Link.OPENING])
def test_without_a_connection_an_abort_sends_nothing(link: Link) -> None:
    assert machine(link=link).abort() == []


def test_an_illegal_frame_is_named() -> None:
    one = machine(link=Link.OPENING)
    with pytest.raises(STTProtocolError, match=r"a DATA frame while .* open .* opening"):
        one.receive([[b"x"]], NOW)
    with pytest.raises(STTProtocolError, match="a Ping frame"):
        one.receive([Ping(1)], NOW)


def test_bytes_after_the_end_are_ignored() -> None:
    one = machine()
    one.close()
    output(one)
    assert one.receive([CloseAck(0), Pong(77), Ping(1)], NOW) == []
    assert phase(one) is Phase.CLOSED
    assert output(one) == [Ack(0, CREDIT)]


def test_authenticated_bytes_are_a_sign_of_life() -> None:
    one = machine()
    assert one.last_received == NOW
    one.receive([], NOW + 1)
    assert one.last_received == NOW + 1


# Sending


def test_messages_go_out_in_order_and_whole() -> None:
    assert sent(machine(), b"a", b"", b"c" * 1000) == [[b"a", b"", b"c" * 1000]]


def test_nothing_goes_out_without_a_connection() -> None:
    one = machine(link=Link.DOWN)
    one.outbox.send(b"x")
    one.ping(NOW)
    assert not due(one)
    assert one.data_to_send(1000) == []
    assert one.ping_time is None


def test_a_budget_ends_a_turn_once_it_is_reached() -> None:
    one = machine()
    for message in numbered(10, 36):
        one.outbox.send(message)
    assert output(one, 1) == [numbered(10, 36)[:1]]
    assert output(one, 150) == [numbered(10, 36)[1:3]]
    assert due(one)
    assert output(one, 10_000) == [numbered(10, 36)[3:]]
    assert not due(one)


@pytest.mark.parametrize(("own", "peers"), [(100, 1000), (1000, 100)])
def test_a_message_longer_than_either_side_allows_is_not_accepted(own: int, peers: int) -> None:
    config = NodeConfig(max_message_bytes=own)
    one = machine(config=config, peer_max_message=peers)
    assert one.outbox.send(bytes(100))
    before = state(one)
    with pytest.raises(STTMessageSizeError, match="limit of this session is 100"):
        one.outbox.send(bytes(101))
    assert state(one) == before


def test_a_session_that_closes_takes_no_more() -> None:
    one = machine()
    one.close()
    with pytest.raises(STTSessionClosedError):
        one.outbox.send(b"x")
    one.close()  # does nothing
    assert phase(one) is Phase.CLOSING


def test_a_sender_stops_exactly_where_its_credit_ends() -> None:
    one = machine(peer_credit=2 * (10 + FRAME_COST) + FRAME_COST)
    for _ in range(3):
        one.outbox.send(bytes(10))
    assert due(one)
    assert output(one) == [[bytes(10)] * 2]
    assert not due(one)
    assert output(one) == []
    one.receive([Ack(2, 3 * (10 + FRAME_COST) - 1)], NOW)
    assert not due(one)
    one.receive([Ack(2, 3 * (10 + FRAME_COST))], NOW)
    assert due(one)
    assert output(one) == [[bytes(10)]]


def test_a_message_of_no_bytes_takes_credit_too() -> None:
    one = machine(peer_credit=FRAME_COST - 1)
    one.outbox.send(b"")
    assert output(one) == []
    one.receive([Ack(0, FRAME_COST)], NOW)
    assert output(one) == [[b""]]


# Receiving


def test_a_sender_that_exceeds_its_credit_is_caught_at_the_first_byte() -> None:
    fitting = [b"x" * (1000 - FRAME_COST)] * 4
    one = machine()
    assert one.receive([fitting], NOW) == fitting
    with pytest.raises(STTLimitError, match="64 bytes beyond the credit"):
        one.receive([[b""]], NOW)
    other = machine()
    other.receive([fitting[:3]], NOW)
    with pytest.raises(STTLimitError, match="1 bytes beyond the credit"):
        other.receive([[b"x" * (1000 - FRAME_COST + 1)]], NOW)


def test_new_credit_is_kept_until_it_is_sent() -> None:
    one = machine()
    full = [b"x" * (1000 - FRAME_COST)] * 4
    one.receive([full], NOW)
    one.consumed(4 * len(full[0]), 4)
    with pytest.raises(STTLimitError):  # the peer cannot know of the new credit
        one.receive([[b""]], NOW)
    assert output(one) == [Ack(4, CREDIT + 4000)]
    assert one.receive([full], NOW) == full


def test_a_message_that_is_too_long_for_the_receiver_is_refused() -> None:
    one = machine()
    assert one.receive([[bytes(1000)]], NOW)
    before = state(one)
    with pytest.raises(STTLimitError, match="max_message_bytes"):
        one.receive([[b"", bytes(1001)]], NOW)
    assert state(one) == before


def test_counters_show_what_was_sent_and_received() -> None:
    pair = SessionPair.connected(CONFIG)
    one, other = pair.dialer.machine, pair.listener.machine
    assert pair.send(pair.dialer, b"", b"abc", bytes(500))
    assert (one.outbox.messages_sent, one.outbox.bytes_sent) == (3, 503)
    assert (one.outbox.accepted, one.outbox.acked) == (3, 0)
    pair.pump()
    assert (other.messages_received, other.bytes_received, other.position) == (3, 503, 3)
    assert (one.outbox.messages_sent, one.outbox.bytes_sent) == (3, 503)
    assert (one.outbox.acked, one.outbox.unacked_cost) == (3, 0)
    assert (one.messages_received, one.bytes_received) == (0, 0)


# Messages in parts


@pytest.mark.usefixtures("short_parts")
@pytest.mark.parametrize(
    ("size", "parts", "rest"),
    [(PART, 0, PART), (PART + 1, 1, 1), (2 * PART, 2, 0), (1000, 15, 40)],
)
def test_a_message_longer_than_a_frame_goes_in_parts(size: int, parts: int, rest: int) -> None:
    message = bytes(range(250)) * 4
    one, other = machine(), machine()
    decoded = sent(one, message[:size])
    assert decoded == [
        *(Part([message[at : at + PART]]) for at in range(0, parts * PART, PART)),
        [message[size - rest : size]],
    ]
    assert one.outbox.accepted == parts + 1
    assert one.outbox.unacked_cost == size + (parts + 1) * FRAME_COST
    for frame in decoded[:-1]:
        assert other.receive([frame], NOW) == []
        assert other.messages_received == 0
    assert other.receive(decoded[-1:], NOW) == [message[:size]]
    assert (one.outbox.messages_sent, one.outbox.bytes_sent) == (1, size)
    assert (other.messages_received, other.bytes_received) == (1, size)
    other.consumed(size, 1)
    assert output(other) == [Ack(parts + 1, CREDIT + size + (parts + 1) * FRAME_COST)]


@pytest.mark.usefixtures("short_parts")
def test_a_message_in_parts_that_is_too_long_is_refused_on_both_sides() -> None:
    with pytest.raises(STTMessageSizeError):
        machine().outbox.send(bytes(1001))
    longest = [Part([bytes(PART)])] * 15
    assert machine().receive([*longest, [bytes(40)]], NOW) == [bytes(1000)]
    for last in ([bytes(41)], Part([bytes(20), bytes(21)])):
        other = machine()
        other.receive(longest, NOW)
        before = state(other)
        with pytest.raises(STTLimitError, match="max_message_bytes"):
            other.receive([last], NOW)
        assert state(other) == before


@pytest.mark.usefixtures("short_parts")
def test_parts_count_against_credit_and_window() -> None:
    config = NodeConfig(max_message_bytes=400, send_window_bytes=900, receive_window_bytes=900)
    one = machine(config=config, peer_credit=2 * (PART + FRAME_COST))
    cost = 400 + 7 * FRAME_COST
    assert one.outbox.send(bytes(400))
    assert one.outbox.unacked_cost == cost
    assert not one.outbox.send(bytes(400))
    assert not one.outbox.send(b"")  # 52 bytes are left
    assert output(one) == [Part([bytes(PART)])] * 2
    assert not due(one)
    other = machine(config=config)
    other.receive([[bytes(PART)] * 6], NOW)  # 768
    other.receive([Part([bytes(PART)])], NOW)  # 896
    with pytest.raises(STTLimitError, match="beyond the credit"):
        other.receive([Part([b"x"])], NOW)


@pytest.mark.usefixtures("short_parts")
def test_messages_before_and_after_one_in_parts_keep_their_order() -> None:
    pair = SessionPair.connected(CONFIG)
    messages = [b"before", bytes(300), b"", bytes(64), bytes(65), b"after"]
    assert pair.send(pair.dialer, *messages)
    while not pair.listener.machine.outbox.acked and len(pair.listener.delivered) < len(messages):
        pair.flush(pair.dialer, 100)
        pair.arrive(pair.listener)
    assert pair.listener.delivered == messages


@pytest.mark.usefixtures("short_parts")
@pytest.mark.parametrize("arrived", range(10))
def test_a_cut_in_the_middle_of_a_message_costs_only_what_was_under_way(arrived: int) -> None:
    pair = SessionPair.connected(CONFIG)
    message = bytes(range(200)) * 3  # ten frames
    assert pair.send(pair.dialer, message, b"next")
    pair.flush(pair.dialer)
    frame_bytes = 4 + PART
    pair.arrive(pair.listener, arrived * frame_bytes - min(1, arrived))  # the last one unfinished
    assert pair.listener.machine.position == max(0, arrived - 1)
    pair.resume()
    expected = 20 + len(message) + 4 * 10 + 8 - max(0, arrived - 1) * frame_bytes
    assert pair.flush(pair.dialer) == expected  # an ACK and the rest
    pair.pump()
    assert pair.listener.delivered == [message, b"next"]


# What a hostile peer may try


@pytest.mark.parametrize("record", [[Ack(0, CREDIT)], [Pad(0)], []], ids=str)
def test_a_flood_of_control_frames_is_refused(record: list[Frame]) -> None:
    one = machine()
    for k in range(controls.MAX_CONTROLS):
        one.receive(record, NOW + k / controls.MAX_CONTROLS / 2)
    with pytest.raises(STTLimitError, match="a flood of control frames"):
        one.receive(record, NOW + 0.6)


def test_control_frames_over_time_are_not_a_flood() -> None:
    one = machine()
    for k in range(2):
        for _ in range(controls.MAX_CONTROLS):
            one.receive([Ack(0, CREDIT)], NOW + k * controls.CONTROL_SECONDS)


def test_as_many_control_frames_as_messages_are_not_a_flood_however_fast() -> None:
    one = machine()
    sent(one, b"x", b"x")
    one.receive([[b"y"] * 3], NOW)
    one.receive([Ack(2, CREDIT)], NOW)
    for _ in range(controls.MAX_CONTROLS + 4):
        one.receive([Ack(2, CREDIT)], NOW)
    with pytest.raises(STTLimitError, match="a flood of control frames"):
        one.receive([Ack(2, CREDIT)], NOW)


def test_padding_may_come_before_the_welcome() -> None:
    one = machine(link=Link.OPENING)
    one.receive([Pad(3), Welcome(WelcomeStatus.ACCEPTED, 0, CREDIT)], NOW)
    assert one.link is Link.UP


# What the counts say


def test_send_says_how_much_is_pending_whatever_was_sent_before() -> None:
    one = machine()
    assert one.outbox.send(b"x" * 10) == 10 + FRAME_COST
    output(one)
    assert one.outbox.send(b"y" * 5) == 5 + FRAME_COST
    assert one.outbox.send(b"z") == 6 + 2 * FRAME_COST


@pytest.mark.usefixtures("short_parts")
def test_counts_over_several_messages_in_parts_and_a_cut() -> None:
    pair = SessionPair.connected(CONFIG)
    one, other = pair.dialer.machine, pair.listener.machine
    pair.send(pair.dialer, b"first")
    pair.flush(pair.dialer)
    for number in range(1, 4):
        size = 2 * PART + number
        pending = one.outbox.send(bytes(size))
        assert pending == size + 3 * FRAME_COST
        pair.dialer.accepted.append(bytes(size))
        assert one.outbox._slices == 3
        pair.flush(pair.dialer)
        assert one.outbox._slices == 0
        assert one.outbox.accepted == 1 + 3 * number
        assert one.outbox.messages_sent == 1 + number
    pair.cut_both()
    pair.opening_arrives(pair.dial())
    pair.heal()
    assert pair.listener.delivered == pair.dialer.accepted
    assert one.outbox._slices == 0
    assert other.messages_received == 4
    assert other.bytes_received == one.outbox.bytes_sent == 5 + 6 * PART + 1 + 2 + 3
    assert one.outbox.unacked_cost == 0


def test_the_credit_is_used_to_the_last_byte_and_the_budget_of_a_write_too() -> None:
    one = machine(peer_credit=2 * (10 + FRAME_COST))
    for letter in (b"a", b"b", b"c"):
        one.outbox.send(letter * 10)
    assert output(one) == [[b"a" * 10, b"b" * 10]]
    one.receive([Ack(2, 3 * (10 + FRAME_COST))], NOW)
    for letter in (b"d", b"e"):
        one.outbox.send(letter * 10)
    one.receive([Ack(2, CREDIT)], NOW)
    assert output(one, budget=10 + FRAME_COST) == [[b"c" * 10]]
    assert output(one, budget=2 * (10 + FRAME_COST)) == [[b"d" * 10, b"e" * 10]]


def test_each_breach_is_named() -> None:
    one = machine()
    with pytest.raises(STTLimitError, match=r"^a flood of PING frames$"):
        one.receive([Ping(1)] * (MAX_PONGS + 1), NOW)
    with pytest.raises(STTProtocolError, match=r"^a PONG that answers no PING$"):
        machine().receive([Pong(1)], NOW)
    closing = machine()
    closing.outbox.send(b"x")
    closing.close()
    with pytest.raises(STTProtocolError, match=r"^a CLOSE_ACK that answers no CLOSE$"):
        closing.receive([CloseAck(0)], NOW)
    with pytest.raises(STTSessionClosedError, match=r"^the session is closed and accepts no more"):
        closing.outbox.send(b"y")
    one = machine()
    one.receive([[bytes(1000)]] * 3, NOW)
    with pytest.raises(STTLimitError, match=r"^256 bytes beyond the credit$"):
        one.receive([[bytes(1000)]], NOW)


def test_pongs_that_waited_for_a_lost_connection_do_not_count_on_the_next() -> None:
    pair = SessionPair.connected(CONFIG)
    one = pair.listener.machine
    one.receive([Ping(1)] * MAX_PONGS, NOW)
    pair.cut_both()
    pair.opening_arrives(pair.dial())
    one.receive([Ping(1)] * MAX_PONGS, NOW)


def test_a_peer_is_reassured_with_the_last_acknowledgement_unless_it_is_told_something() -> None:
    one = machine()
    one.receive([[b"a", b"b"]], NOW)
    [ack] = output(one)
    assert isinstance(ack, Ack)
    assert ack.recv_next == 2
    one.reassure()
    one.reassure()
    assert output(one) == [ack]
    one.receive([Ping(7)], NOW)
    one.reassure()
    assert output(one) == [Pong(7)]
    one.close()
    output(one)
    one.reassure()
    assert output(one) == [Pad(0)]  # no ACK may follow a CLOSE
    one.detach()
    one.reassure()
    assert not due(one)
