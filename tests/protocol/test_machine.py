"""The session's rules, one at a time; `test_session_pair` has everything happen at once."""

from __future__ import annotations

import pytest

from helpers.session_pair import SESSION_ID, NoBudget, SessionPair, Side
from seigr_toolset_transmissions.config import NodeConfig
from seigr_toolset_transmissions.errors import (
    STTLimitError,
    STTMessageSizeError,
    STTProtocolError,
    STTSessionClosedError,
)
from seigr_toolset_transmissions.protocol import controls, frames, outbox
from seigr_toolset_transmissions.protocol import machine as session
from seigr_toolset_transmissions.protocol.frames import (
    Abort,
    Ack,
    Close,
    CloseAck,
    Frame,
    FrameDecoder,
    Pad,
    Part,
    Ping,
    Pong,
    Welcome,
    WelcomeStatus,
)
from seigr_toolset_transmissions.protocol.machine import (
    ACK_SHARE,
    MAX_PONGS,
    SessionMachine,
)
from seigr_toolset_transmissions.protocol.outbox import FRAME_COST, Outbox, Undelivered
from seigr_toolset_transmissions.protocol.phase import Link, Phase
from seigr_toolset_transmissions.protocol.window import CREDIT_SHARE, ReceiveWindow

PART = 64
"""Longest payload of a frame where the fixture `short_parts` is used."""

CONFIG = NodeConfig(max_message_bytes=1000, send_window_bytes=4000, receive_window_bytes=4000)
CREDIT = CONFIG.receive_window_bytes
NOW = 5.0


@pytest.fixture
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_DATA_BYTES", PART)
    monkeypatch.setattr(session, "MAX_DATA_BYTES", PART)
    monkeypatch.setattr(outbox, "MAX_DATA_BYTES", PART)


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


# Acknowledgements


def test_an_acknowledgement_travels_with_other_output() -> None:
    one = machine()
    one.receive([[b"x"]], NOW)
    assert owed(one)
    assert not due(one)
    one.outbox.send(b"answer")
    assert output(one) == [Ack(1, CREDIT), [b"answer"]]
    assert not owed(one)
    assert output(one) == []


def test_an_acknowledgement_is_due_for_a_share_of_the_window() -> None:
    one = machine()
    share = CREDIT // ACK_SHARE
    one.receive([[b"", bytes(share - 2 * FRAME_COST - 1)]], NOW)
    assert not due(one)
    one.receive([[b""]], NOW)
    assert due(one)
    assert output(one) == [Ack(3, CREDIT)]
    exact = machine()
    exact.receive([[bytes(share - FRAME_COST)]], NOW)
    assert due(exact)


def test_the_time_of_the_last_acknowledgement_is_noted() -> None:
    one = machine()
    sent(one, b"a")
    one.receive([Ping(7)], NOW + 1)
    assert one.last_ack == NOW
    one.receive([Ack(1, CREDIT)], NOW + 2)
    assert one.last_ack == NOW + 2


def test_new_credit_is_sent_at_once_to_a_sender_that_has_used_most_of_it() -> None:
    size = CREDIT // 16 - FRAME_COST
    for used, at_once in ((7, False), (8, False), (9, True)):
        one = machine()
        one.receive([[bytes(size)] * used], NOW)
        output(one)
        assert not owed(one)
        one.consumed(size, 1)
        assert owed(one)
        assert due(one) is at_once
        assert output(one) == [Ack(used, CREDIT + size + FRAME_COST)]
        assert not owed(one)


def test_consuming_a_message_advances_the_credit_by_its_cost() -> None:
    one = machine()
    one.receive([[b"a", b"bcd"]], NOW)
    assert output(one) == [Ack(2, CREDIT)]
    one.consumed(1, 1)
    assert output(one) == [Ack(2, CREDIT + 1 + FRAME_COST)]
    one.consumed(3, 1)
    assert output(one) == [Ack(2, CREDIT + 4 + 2 * FRAME_COST)]


def test_acknowledging_frames_that_were_never_sent_is_fatal() -> None:
    one = machine()
    sent(one, b"a", b"b")
    one.outbox.send(b"not sent yet")
    before = state(one)
    with pytest.raises(STTProtocolError, match="frame 3, not from 0 to 2"):
        one.receive([Ack(3, CREDIT)], NOW)
    assert state(one) == before


def test_an_acknowledgement_taken_back_is_fatal() -> None:
    one = machine()
    sent(one, b"a", b"b")
    one.receive([Ack(2, CREDIT)], NOW)
    with pytest.raises(STTProtocolError, match="frame 1, not from 2"):
        one.receive([Ack(1, CREDIT)], NOW)


def test_credit_taken_back_is_fatal() -> None:
    one = machine()
    one.receive([Ack(0, CREDIT)], NOW)
    before = state(one)
    with pytest.raises(STTProtocolError, match="takes credit back"):
        one.receive([Ack(0, CREDIT - 1)], NOW)
    assert state(one) == before


@pytest.mark.usefixtures("short_parts")
@pytest.mark.parametrize("budget", [1, 100, 1 << 20])
@pytest.mark.parametrize("window", [256, 257, 320, 400])
def test_exhausted_windows_and_credit_never_stop_both_sides(window: int, budget: int) -> None:
    config = NodeConfig(
        max_message_bytes=128,  # three frames with one that is empty: 320 bytes at most
        send_window_bytes=max(window, 320),
        receive_window_bytes=max(window, 320),
        send_window_messages=4,
    )
    pair = SessionPair.connected(config)
    messages = [bytes([size]) * size for size in range(129)]
    left = {side.name: list(messages) for side in pair.sides}
    while any(left.values()):
        for side in pair.sides:
            while left[side.name] and pair.send(side, left[side.name][0]):
                del left[side.name][0]
        before = sum(len(side.delivered) for side in pair.sides)
        pair.pump(budget=budget)
        assert sum(len(side.delivered) for side in pair.sides) > before
    assert pair.dialer.delivered == pair.listener.delivered == messages


def test_a_stream_flows_without_any_timer_while_the_application_consumes() -> None:
    pair = SessionPair.connected(CONFIG)
    pair.send(pair.dialer, *[bytes(100)] * 1000)
    for _ in range(50):
        pair.pump(only_due=True)
        pair.send(pair.dialer, *[bytes(100)] * 1000)
    assert len(pair.listener.delivered) > 50 * 10
    assert pair.listener.delivered == pair.dialer.accepted[: len(pair.listener.delivered)]


# Liveness


def test_a_ping_measures_the_round_trip() -> None:
    one = machine()
    assert one.rtt is None
    assert one.min_rtt is None
    for token, (taken, smoothed, least) in enumerate(
        [(0.8, 0.8, 0.8), (1.6, 0.9, 0.8), (0.1, 0.8, 0.1)], start=1
    ):
        one.ping(10.0)
        asked = one.ping_time
        assert asked == 10.0
        assert due(one)
        assert output(one) == [Ping(token)]
        one.receive([Pong(token)], 10.0 + taken)
        assert one.ping_time is None
        assert one.rtt == pytest.approx(smoothed)
        assert one.min_rtt == pytest.approx(least)


def test_one_ping_at_a_time() -> None:
    one = machine()
    one.ping(1.0)
    one.ping(2.0)
    assert output(one) == [Ping(1)]
    one.ping(3.0)
    assert output(one) == []
    assert one.ping_time == 1.0


def test_everyone_that_asks_is_told_of_the_round_trip_once() -> None:
    one = machine()
    first: list[float] = []
    second: list[float] = []
    note_first, note_second = first.append, second.append
    one.ping(1.0, note_first)
    one.ping(2.0, note_second)  # no PING of its own
    one.ping(3.0, note_second)
    assert output(one) == [Ping(1)]
    one.receive([Pong(1)], 4.0)
    assert (first, second) == ([3.0], [3.0])
    one.ping(5.0, note_second)
    one.receive([Pong(2)], 6.0)
    assert (first, second) == ([3.0], [3.0, 1.0])


def test_a_question_asked_over_one_connection_is_not_answered_over_the_next() -> None:
    pair = SessionPair.connected(CONFIG)
    one = pair.dialer.machine
    heard: list[float] = []
    one.ping(NOW, heard.append)
    one.detach()
    one.ping(NOW, heard.append)  # without a connection
    pair.resume()
    one.ping(NOW)
    one.receive([Pong(2)], NOW)
    assert heard == []


def test_a_ping_is_answered_with_the_acknowledgement_that_is_owed() -> None:
    one = machine()
    one.receive([[b"x"], Ping(2**64 - 1)], NOW)
    assert due(one)
    assert output(one) == [Pong(2**64 - 1), Ack(1, CREDIT)]


@pytest.mark.parametrize("token", [0, 2])
def test_a_pong_that_answers_no_ping_is_fatal(token: int) -> None:
    one = machine()
    one.ping(NOW)
    output(one)
    with pytest.raises(STTProtocolError, match="answers no PING"):
        one.receive([Pong(token)], NOW)
    one.receive([Pong(1)], NOW)
    with pytest.raises(STTProtocolError, match="answers no PING"):
        one.receive([Pong(1)], NOW)


def test_pings_that_cannot_be_answered_yet_are_bounded() -> None:
    one = machine()
    one.receive([Ping(7)] * MAX_PONGS, NOW)
    assert output(one) == [Pong(7)] * MAX_PONGS
    one.receive([Ping(7)] * MAX_PONGS, NOW)
    with pytest.raises(STTLimitError, match="flood"):
        one.receive([Ping(7)], NOW)


def test_an_unanswered_ping_is_forgotten_with_its_connection() -> None:
    pair = SessionPair.connected(CONFIG)
    one, other = pair.dialer.machine, pair.listener.machine
    one.ping(NOW)
    other.receive([Ping(99)] * MAX_PONGS, NOW)
    pair.resume()
    assert one.ping_time is None
    assert output(one) == [Ack(0, CREDIT)]
    assert output(other) == []  # no PONG for the old connection
    other.receive([Ping(99)] * MAX_PONGS, NOW)  # and none of them counts


# Resuming


def test_a_new_session_starts_with_the_listeners_welcome() -> None:
    pair = SessionPair(CONFIG, CONFIG)
    assert pair.send(pair.dialer, b"waits")
    assert not due(pair.dialer.machine)
    pair.flush(pair.listener)
    pair.arrive(pair.dialer)
    assert pair.dialer.machine.link is Link.UP
    assert output(pair.dialer.machine) == [Ack(0, CREDIT), [b"waits"]]


def test_a_welcome_comes_before_everything_else() -> None:
    one = machine()
    one.outbox.send(b"x")
    one.receive([Ping(1)], NOW)
    one.welcome()
    assert output(one) == [Welcome(WelcomeStatus.ACCEPTED, 0, CREDIT), Pong(1), [b"x"]]


MESSAGES = [b"first", b"", b"third" * 20, b"4", b"fifth" * 9]
WIRE_BYTES = sum(4 + len(message) for message in MESSAGES)


@pytest.mark.parametrize("sender_dials", [True, False])
@pytest.mark.parametrize("heard", [True, False])
@pytest.mark.parametrize("arrived", range(WIRE_BYTES + 1))
def test_a_session_resumes_from_any_cut(arrived: int, heard: bool, sender_dials: bool) -> None:
    pair = SessionPair.connected(CONFIG)
    sender = pair.dialer if sender_dials else pair.listener
    receiver = pair.peer(sender)
    assert pair.send(sender, *MESSAGES)
    pair.flush(sender)
    pair.arrive(receiver, arrived)
    if heard:
        pair.flush(receiver)  # the acknowledgement
        pair.arrive(sender)
    assert pair.send(sender, b"sent while cut")
    pair.reconnect()
    pair.heal()
    assert receiver.delivered == [*MESSAGES, b"sent while cut"]
    assert sender.machine.outbox.unacked_cost == 0
    assert sender.machine.epoch == pair.peer(sender).machine.epoch == 1


def test_unacknowledged_frames_are_sent_again_before_anything_new() -> None:
    pair = SessionPair.connected(CONFIG)
    pair.send(pair.dialer, *numbered(5))
    pair.flush(pair.dialer)
    pair.arrive(pair.listener, 2 * 8)
    pair.send(pair.dialer, b"new")
    pair.resume()
    assert output(pair.dialer.machine) == [Ack(0, CREDIT), [*numbered(5)[2:], b"new"]]


def test_frames_that_are_sent_again_take_no_more_credit() -> None:
    pair = SessionPair.connected(CONFIG)
    full = [bytes(CREDIT // 4 - FRAME_COST)] * 4
    assert pair.send(pair.dialer, *full)
    for _ in range(3):
        pair.flush(pair.dialer)
        pair.resume()
    pair.pump(consume=False)
    assert pair.listener.delivered == full
    pair.pump()
    assert pair.send(pair.dialer, *full)
    pair.pump()
    assert pair.listener.delivered == full * 2


def test_attempts_that_fail_before_the_welcome_arrives_are_repeated_with_higher_epochs() -> None:
    pair = SessionPair.connected(CONFIG)
    for side in pair.sides:
        pair.send(side, *numbered(3))
    for _ in range(2):
        pair.reconnect()  # the WELCOME is lost
    pair.cut(pair.dialer)
    pair.dial()  # the opening is lost
    pair.cut(pair.dialer)
    pair.opening_arrives(pair.dial())
    pair.heal()
    assert pair.dialer.delivered == pair.listener.delivered == numbered(3)
    assert pair.listener.machine.epoch == 4


def test_a_listener_resumes_although_it_has_not_noticed_the_cut() -> None:
    pair = SessionPair.connected(CONFIG)
    pair.send(pair.listener, *numbered(3))
    pair.flush(pair.listener)
    pair.cut(pair.dialer)
    assert pair.listener.machine.link is Link.UP
    pair.opening_arrives(pair.dial())
    pair.pump()
    assert pair.dialer.delivered == numbered(3)


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_a_stale_opening_is_refused_and_changes_nothing(epoch: int) -> None:
    one = machine()
    one.resume(2, 0, CREDIT)
    sent(one, b"x")
    before = state(one)
    with pytest.raises(STTProtocolError, match=f"epoch {epoch} after one of epoch 2"):
        one.resume(epoch, 0, CREDIT)
    assert state(one) == before
    one.resume(3, 1, CREDIT)
    assert one.epoch == 3


@pytest.mark.parametrize(("recv_next", "credit"), [(2, CREDIT), (0, CREDIT - 1)])
def test_an_impossible_opening_is_refused_and_changes_nothing(recv_next: int, credit: int) -> None:
    one = machine()
    sent(one, b"x")
    before = state(one)
    with pytest.raises(STTProtocolError):
        one.resume(1, recv_next, credit)
    assert state(one) == before


def test_an_opening_carries_the_position_and_the_credit() -> None:
    one = machine(link=Link.OPENING, peer_credit=0)
    one.receive([Welcome(WelcomeStatus.ACCEPTED, 0, CREDIT), [b"a", b"bc"]], NOW)
    one.consumed(1, 1)
    one.detach()
    assert one.reopening() == (1, 2, CREDIT + 1 + FRAME_COST)
    one.detach()
    assert one.reopening() == (2, 2, CREDIT + 1 + FRAME_COST)


@pytest.mark.parametrize(
    ("recv_next", "credit"), [(3, CREDIT), (2, CREDIT - 1)], ids=["position", "credit"]
)
def test_an_impossible_welcome_is_fatal(recv_next: int, credit: int) -> None:
    one = machine(link=Link.OPENING)
    one.receive([Welcome(WelcomeStatus.ACCEPTED, 0, CREDIT)], NOW)
    sent(one, b"a", b"b")
    one.detach()
    one.reopening()
    with pytest.raises(STTProtocolError):
        one.receive([Welcome(WelcomeStatus.ACCEPTED, recv_next, credit)], NOW)


# What the listener may answer instead


def resuming(*, delivered: int = 1, pending: tuple[bytes, ...] = (b"c",)) -> SessionMachine:
    """Return a dialer that sent 2 messages, of which the peer has, accepted another, and dials."""
    one = machine(link=Link.OPENING, peer_credit=0)
    one.receive([Welcome(WelcomeStatus.ACCEPTED, 0, CREDIT)], NOW)
    sent(one, b"a", b"b")
    one.receive([Ack(delivered, CREDIT)], NOW)
    for message in pending:
        one.outbox.send(message)
    one.detach()
    one.reopening()
    return one


def test_the_answer_of_an_ended_session_says_exactly_what_arrived() -> None:
    one = resuming()
    one.receive([Welcome(WelcomeStatus.ENDED, 1, 0)], NOW)
    assert one.refusal is WelcomeStatus.ENDED
    assert phase(one) is Phase.OPEN
    assert one.abandon() == Undelivered(unsent=(b"b", b"c"), unknown=())
    other = resuming()
    other.receive([Welcome(WelcomeStatus.ENDED, 2, 0)], NOW)
    assert other.abandon() == Undelivered(unsent=(b"c",), unknown=())


@pytest.mark.parametrize("status", [WelcomeStatus.ENDED, WelcomeStatus.UNKNOWN])
def test_a_session_that_is_gone_and_owes_nothing_is_closed(status: WelcomeStatus) -> None:
    one = machine(link=Link.OPENING, peer_credit=0)
    one.receive([Welcome(WelcomeStatus.ACCEPTED, 0, CREDIT)], NOW)
    sent(one, b"a")
    one.receive([Ack(1, CREDIT)], NOW)
    one.detach()
    one.reopening()
    one.receive([Welcome(status, 1 if status is WelcomeStatus.ENDED else 0, 0)], NOW)
    assert phase(one) is Phase.CLOSED
    assert one.abandon() == Undelivered((), ())


def test_an_ended_session_whose_position_is_impossible_is_fatal() -> None:
    for position in (0, 3):
        with pytest.raises(STTProtocolError, match=f"frame {position}, not from 1 to 2"):
            resuming().receive([Welcome(WelcomeStatus.ENDED, position, 0)], NOW)


@pytest.mark.parametrize("pending", [(), (b"c",)])
def test_an_unknown_session_leaves_sent_messages_unknown(pending: tuple[bytes, ...]) -> None:
    one = resuming(pending=pending)
    one.receive([Welcome(WelcomeStatus.UNKNOWN, 0, 0)], NOW)
    assert one.refusal is WelcomeStatus.UNKNOWN
    assert phase(one) is Phase.OPEN  # it is lost, and not closed
    assert one.abandon() == Undelivered(unsent=pending, unknown=(b"b",))


@pytest.mark.parametrize("owing", [True, False])
def test_a_session_refused_for_now_can_be_resumed_later(owing: bool) -> None:
    pair = SessionPair.connected(CONFIG)
    if owing:
        pair.send(pair.dialer, b"x")
        pair.flush(pair.dialer)
    pair.cut_both()
    wire = pair.dial()
    wire.to_dialer.extend(Welcome(WelcomeStatus.REFUSED, 0, 0).encode())
    pair.arrive(pair.dialer)
    refusal = pair.dialer.machine.refusal
    assert refusal is WelcomeStatus.REFUSED
    assert pair.dialer.machine.phase is Phase.OPEN
    pair.opening_arrives(pair.dial())
    assert pair.dialer.machine.refusal is None
    pair.send(pair.dialer, b"y")
    pair.heal()
    assert pair.listener.delivered == ([b"x", b"y"] if owing else [b"y"])


# Closing


def both_closed(pair: SessionPair) -> bool:
    return all(
        side.acknowledged_end
        and side.undelivered == Undelivered((), ())
        and side.machine.phase is Phase.CLOSED
        for side in pair.sides
    )


def test_a_close_is_three_frames() -> None:
    one, other = machine(), machine()
    one.close()
    assert due(one)
    assert output(one) == [Close(0)]
    assert not due(one)
    other.receive([Close(0)], NOW)
    assert phase(other) is Phase.PEER_CLOSED
    assert due(other)
    assert output(other) == [CloseAck(0)]
    one.receive([CloseAck(0)], NOW)
    assert phase(one) is Phase.CLOSED
    assert due(one)
    assert output(one) == [Ack(0, CREDIT)]
    other.receive([Ack(0, CREDIT)], NOW)
    assert phase(other) is Phase.CLOSED
    assert not due(one)
    assert not due(other)


@pytest.mark.parametrize("closer", ["dialer", "listener", "both"])
def test_a_close_delivers_everything_that_both_sides_had_accepted(closer: str) -> None:
    pair = SessionPair.connected(CONFIG)
    for side in pair.sides:
        pair.send(side, *numbered(5))
        if closer in (side.name, "both"):
            side.machine.close()
    pair.pump()
    assert both_closed(pair)
    assert pair.dialer.delivered == pair.listener.delivered == numbered(5)


def test_when_both_close_at_once_both_closes_are_acknowledged() -> None:
    one, other = machine(), machine()
    for side in (one, other):
        side.close()
        assert output(side) == [Close(0)]
    for side in (one, other):
        side.receive([Close(0)], NOW)
        assert phase(side) is Phase.CLOSING
    answers = [output(side) for side in (one, other)]
    assert answers == [[CloseAck(0)]] * 2
    for side in (one, other):
        side.receive([CloseAck(0)], NOW)
        assert phase(side) is Phase.CLOSED


def test_an_end_that_arrives_with_a_close_leaves_the_peers_close_acknowledged() -> None:
    one = machine()
    one.close()
    output(one)
    one.receive([Close(0), CloseAck(0)], NOW)
    assert phase(one) is Phase.CLOSED
    assert output(one) == [Ack(0, CREDIT), CloseAck(0)]


def test_a_close_waits_for_credit_for_accepted_messages() -> None:
    one = machine(peer_credit=FRAME_COST)
    one.outbox.send(b"")
    one.outbox.send(b"")
    one.close()
    assert output(one) == [[b""]]
    assert not due(one)
    one.receive([Ack(1, 2 * FRAME_COST)], NOW)
    assert output(one) == [[b""], Close(2)]


def test_the_peers_close_is_answered_after_all_messages_that_have_credit() -> None:
    one = machine(peer_credit=3 * (4 + FRAME_COST))
    for message in numbered(5):
        one.outbox.send(message)
    one.receive([Close(0)], NOW)
    assert output(one, 1) == [numbered(5)[:1]]
    assert output(one, 1) == [numbered(5)[1:2]]
    assert output(one) == [numbered(5)[2:3], CloseAck(3)]
    assert not due(one)
    one.receive([Ack(2, CREDIT)], NOW)  # not all yet, and credit that comes too late
    assert phase(one) is Phase.PEER_CLOSED
    assert not due(one)
    assert output(one) == []
    one.receive([Ack(3, CREDIT)], NOW)
    assert phase(one) is Phase.CLOSED
    assert one.abandon() == Undelivered(unsent=tuple(numbered(5)[3:]), unknown=())


@pytest.mark.usefixtures("short_parts")
@pytest.mark.parametrize("closer", ["dialer", "listener"])
def test_a_close_can_break_off_a_message_in_parts_that_has_no_credit(closer: str) -> None:
    pair = SessionPair.connected(CONFIG)
    side = pair.dialer if closer == "dialer" else pair.listener
    peer = pair.peer(side)
    fill = [bytes(PART)] * 29
    assert pair.send(peer, *fill)
    pair.pump(consume=False)  # 3,712 bytes of the credit are used
    assert pair.send(peer, b"m" * 300)
    pair.flush(peer)
    side.machine.close()
    pair.pump(consume=False)
    assert side.undelivered == Undelivered((), ())
    assert side.delivered == fill
    assert side.machine.messages_received == 29
    assert peer.undelivered == Undelivered(unsent=(b"m" * 300,), unknown=())


@pytest.mark.usefixtures("short_parts")
@pytest.mark.parametrize("final", [0, 1, 2])
def test_a_close_that_contradicts_what_arrived_is_fatal(final: int) -> None:
    one = machine()
    if final == 1:
        one.receive([Part([b"x"])], NOW)  # the position is right, but a message has only begun
    else:
        one.receive([[b"x"]], NOW)
    with pytest.raises(STTProtocolError, match=f"a CLOSE at frame {final}, when 1 had arrived"):
        one.receive([Close(final)], NOW)


@pytest.mark.parametrize("final", [0, 2])
def test_an_answer_to_a_close_that_contradicts_what_arrived_is_fatal(final: int) -> None:
    one = machine()
    one.receive([[b"x"]], NOW)
    one.close()
    output(one)
    with pytest.raises(STTProtocolError, match="a CLOSE_ACK at frame"):
        one.receive([CloseAck(final)], NOW)


def test_between_close_and_its_answer_nothing_is_acknowledged() -> None:
    one = machine()
    one.close()
    output(one)
    one.receive([[bytes(900)] * 4], NOW)
    one.consumed(3600, 4)
    assert not owed(one)
    assert not due(one)
    one.receive([CloseAck(4)], NOW)
    assert output(one) == [Ack(4, CREDIT + 3600 + 4 * FRAME_COST)]


# A close across a cut. Each step is what has arrived when the cut comes.

CLOSE_STEPS = ["nothing", "CLOSE", "CLOSE_ACK", "ACK"]


def close_up_to(pair: SessionPair, closer: Side, step: str) -> None:
    peer = pair.peer(closer)
    closer.machine.close()
    pair.flush(closer)
    for arrived, side in zip(CLOSE_STEPS[1:], (peer, closer, peer), strict=True):
        if CLOSE_STEPS.index(step) < CLOSE_STEPS.index(arrived):
            return
        pair.arrive(side)
        if side.wire is not None:
            pair.flush(side)


@pytest.mark.parametrize("listener_notices", [True, False])
@pytest.mark.parametrize("owing", [True, False])
@pytest.mark.parametrize("step", CLOSE_STEPS)
@pytest.mark.parametrize("closer", ["dialer", "listener"])
def test_a_close_survives_a_cut_at_any_step(
    closer: str, step: str, owing: bool, listener_notices: bool
) -> None:
    pair = SessionPair.connected(CONFIG)
    side = pair.dialer if closer == "dialer" else pair.listener
    if owing:  # the closer's messages are under way with its CLOSE
        pair.send(side, *numbered(3))
    close_up_to(pair, side, step)
    if pair.dialer.wire is not None:
        pair.cut(pair.dialer)
    if pair.listener.wire is not None and (listener_notices or pair.dialer.ended):
        pair.cut(pair.listener)
    if not pair.dialer.ended:
        pair.opening_arrives(pair.dial())
        pair.heal()
    assert both_closed(pair)
    assert pair.peer(side).delivered == side.accepted


@pytest.mark.parametrize("step", CLOSE_STEPS)
@pytest.mark.parametrize("closer", ["dialer", "listener"])
def test_a_close_across_a_cut_reports_exactly_what_the_other_side_could_not_send(
    closer: str, step: str
) -> None:
    pair = SessionPair.connected(CONFIG)
    side = pair.dialer if closer == "dialer" else pair.listener
    peer = pair.peer(side)
    pair.send(peer, *[bytes(900)] * 4)
    pair.pump(consume=False)
    peer.accepted[:] = peer.accepted[:4]
    assert pair.send(peer, b"x" * 900)  # there is no credit for it
    close_up_to(pair, side, step)
    pair.cut_both()
    if not pair.dialer.ended:
        pair.opening_arrives(pair.dial())
        for _ in range(2):
            pair.pump(consume=False)
            if pair.dialer.wire is not None:
                pair.reconnect()
    if not peer.ended:
        pair.end(peer)
    assert side.undelivered == Undelivered((), ())
    assert peer.undelivered == Undelivered(unsent=(b"x" * 900,), unknown=())
    assert side.delivered == [bytes(900)] * 4


@pytest.mark.parametrize("arrives", [True, False])
def test_both_closing_at_once_survive_a_cut(arrives: bool) -> None:
    pair = SessionPair.connected(CONFIG)
    for side in pair.sides:
        pair.send(side, *numbered(3))
        side.machine.close()
        pair.flush(side)
    if arrives:
        for side in pair.sides:
            pair.arrive(side)
    pair.reconnect()
    pair.heal()
    assert both_closed(pair)
    assert pair.dialer.delivered == pair.listener.delivered == numbered(3)


def test_only_a_listener_takes_the_end_of_the_connection_for_the_end_of_a_closed_session() -> None:
    listener = machine()
    listener.receive([Close(0)], NOW)
    listener.detach()
    assert phase(listener) is Phase.CLOSED
    owing = machine()
    sent(owing, b"x")
    owing.receive([Close(0)], NOW)
    owing.detach()
    assert phase(owing) is Phase.PEER_CLOSED
    dialer = machine(link=Link.OPENING)
    dialer.receive([Welcome(WelcomeStatus.ACCEPTED, 0, CREDIT), Close(0)], NOW)
    dialer.detach()
    assert phase(dialer) is Phase.PEER_CLOSED


# What happens to messages when a session is given up


def test_an_abandoned_session_reports_what_was_sent_and_what_was_not() -> None:
    one = machine(peer_credit=3 * (4 + FRAME_COST))
    messages = numbered(5)
    sent(one, *messages)
    one.receive([Ack(1, 3 * (4 + FRAME_COST))], NOW)
    assert one.abandon() == Undelivered(unsent=tuple(messages[3:]), unknown=tuple(messages[1:3]))
    assert phase(one) is Phase.CLOSED
    assert one.link is Link.DOWN
    assert one.abandon() == Undelivered((), ())
    assert one.outbox.messages_sent == 5


def test_an_idle_session_has_nothing_undelivered() -> None:
    assert machine().abandon() == Undelivered((), ())


@pytest.mark.usefixtures("short_parts")
@pytest.mark.parametrize("acked", [0, 1])
@pytest.mark.parametrize("frames_sent", range(1, 4))
def test_a_message_whose_last_part_was_never_sent_is_unsent(frames_sent: int, acked: int) -> None:
    message = bytes(150)  # three frames
    credit = min(frames_sent * (PART + FRAME_COST), 150 + 3 * FRAME_COST)
    one = machine(peer_credit=credit)
    sent(one, message)
    one.receive([Ack(acked, credit)], NOW)
    unsent, unknown, _ = one.abandon()
    if frames_sent < 3:
        assert (unsent, unknown) == ((message,), ())
    else:
        assert (unsent, unknown) == ((), (message,))


def test_messages_that_a_new_connection_has_not_carried_yet_are_unsent() -> None:
    one = machine()
    sent(one, *numbered(3))
    one.resume(1, 1, CREDIT)
    one.outbox.send(b"x")
    assert output(one, 1) == [Welcome(WelcomeStatus.ACCEPTED, 0, CREDIT), numbered(3)[1:2]]
    assert one.abandon() == Undelivered(unsent=(numbered(3)[2], b"x"), unknown=(numbered(3)[1],))


def test_sent_messages_stay_unknown_while_there_is_no_connection() -> None:
    one = machine()
    sent(one, b"a")
    one.outbox.send(b"b")
    one.detach()
    assert one.abandon() == Undelivered(unsent=(b"b",), unknown=(b"a",))


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


# Windows that grow and shrink


class Share(NoBudget):
    """A budget with a first window of a few messages, and so much room beyond it."""

    first_window = 800
    first_send = 800

    def __init__(self, room: int = 1 << 20) -> None:
        super().__init__()
        self.room = room
        self.granted = self.waits = 0
        self.asked: list[tuple[int, int, int]] = []

    def grant(self, promised: int, wanted: int, needed: int) -> int:
        self.asked.append((promised, wanted, needed))
        granted = min(wanted, max(self.room, self.first_window - promised))
        self.granted = max(0, promised + granted - self.first_window)
        return granted

    def release(self, cost: int) -> None:
        assert 0 < cost <= self.granted
        self.granted -= cost

    def wait(self) -> None:
        self.waits += 1


MESSAGE_COST = 100 + FRAME_COST


def use_a_window(one: SessionMachine, now: float) -> None:
    """Let as much arrive as the window holds, let it be consumed, and let credit be given."""
    for _ in range(one.window // MESSAGE_COST + 1):
        one.receive([[bytes(100)]], now)
        one.consumed(100, 1)
        output(one)


def test_the_first_window_comes_from_the_budget_and_grows_with_consumption() -> None:
    budget = Share()
    one = machine(budget=budget)
    assert one.window == one.promised_cost == 800
    for window in (1600, 3200, 4000, 4000):
        use_a_window(one, NOW)
        assert one.window == window
        assert one.committed <= window
    assert one.committed > CREDIT - 3 * MESSAGE_COST
    assert budget.granted == one.committed - budget.first_window


def test_a_grown_window_is_renewed_once_a_good_part_of_it_is_consumed() -> None:
    one = machine(budget=Share())
    while one.window < CREDIT:
        use_a_window(one, NOW)
    while one.committed < one.window:
        one.receive([[bytes(100)]], NOW)
        one.consumed(100, 1)
        output(one)
    one.receive([[bytes(100)]], NOW)
    output(one)
    one.consumed(100, 1)
    output(one)
    assert MESSAGE_COST <= CREDIT // CREDIT_SHARE
    assert one.committed == one.window - MESSAGE_COST
    one.receive([[bytes(100)]], NOW)
    output(one)
    one.consumed(100, 1)
    assert one.ack_owed
    output(one)
    assert one.committed == one.window


def test_a_small_window_is_renewed_with_each_message() -> None:
    one = machine(budget=Share())
    one.receive([[bytes(1)]], NOW)
    output(one)
    one.consumed(1, 1)
    assert one.ack_owed
    output(one)
    assert one.committed == one.window


def test_the_window_of_a_slow_peer_stays_small() -> None:
    one = machine(budget=Share())
    for turn in range(1, 10):
        use_a_window(one, NOW + turn * 1.5)
        assert one.window == 800


def test_a_long_round_trip_does_not_keep_the_window_small() -> None:
    one = machine(budget=Share())
    one.rtt = 1.0
    use_a_window(one, NOW + 1.5)
    assert one.window == 1600


def test_the_window_grows_with_what_the_application_receives_and_not_with_the_inbox() -> None:
    budget = Share()
    one = machine(budget=budget)
    for _ in range(20):
        budget.in_inbox += MESSAGE_COST
        one.receive([[bytes(100)]], NOW)
        one.consumed(100, 1)
        output(one)
    assert one.window == 800
    budget.in_inbox = 16 * MESSAGE_COST
    one.receive([[bytes(100)]], NOW)
    one.consumed(100, 1)
    output(one)
    assert one.window == 1600


def test_the_window_shrinks_to_the_room_there_is_and_grows_again() -> None:
    budget = Share()
    one = machine(budget=budget)
    while one.window < CREDIT:
        use_a_window(one, NOW)
    budget.room = 0
    while one.committed > 800:
        one.receive([[bytes(100)]], NOW)
        one.consumed(100, 1)
        output(one)
        assert 0 <= one.window - max(800, one.committed) <= one.window // CREDIT_SHARE
    assert one.committed == 800
    assert budget.granted == budget.waits == 0  # what is its own needs no waiting
    budget.room = 1 << 20
    use_a_window(one, NOW)
    assert one.window == 1600


def test_without_room_there_is_no_credit_until_the_owner_says_to_try_again() -> None:
    class Empty(Share):
        empty = True

        def grant(self, promised: int, wanted: int, needed: int) -> int:
            return 0 if self.empty else super().grant(promised, wanted, needed)

    budget = Empty()
    one = machine(budget=budget)
    for _ in range(4):
        one.receive([[bytes(100)]], NOW)
        one.consumed(100, 1)
    assert output(one) == [Ack(4, 800)]
    assert budget.waits == 1
    assert not owed(one)
    one.retry(NOW + 9)
    assert budget.waits == 2
    assert not owed(one)  # to try in vain costs no acknowledgement
    budget.empty = False
    one.retry(NOW + 9)
    assert one.output_due  # the peer has used half of what it had
    assert output(one) == [Ack(4, 800 + 4 * MESSAGE_COST)]
    assert not owed(one)


def test_a_message_that_has_begun_keeps_getting_credit_but_no_more_than_it_can_cost() -> None:
    budget = Share()
    one = machine(budget=budget)
    size, most = 0, CONFIG.max_message_bytes
    while size < most - outbox.FIRST_PART_BYTES:
        one.receive([Part([bytes(outbox.FIRST_PART_BYTES)])], NOW)
        size += outbox.FIRST_PART_BYTES
        output(one)
        assert one.promised_cost == min(800, outbox.longest_cost(most - size))
        assert budget.asked[-1][2] > 0
    asked = len(budget.asked)
    one.receive([[bytes(most - size)]], NOW)
    one.consumed(CONFIG.max_message_bytes, 1)
    output(one)
    assert one.committed == one.promised_cost == one.window  # nothing is left of it
    assert [needed for _, _, needed in budget.asked[asked:]] == [0]


@pytest.mark.parametrize(("parts", "size", "credit"), [(1, 700, 428), (7, 100, 108)])
def test_the_credit_for_a_message_in_parts_ends_with_what_is_missing_or_what_is_kept_for_it(
    parts: int, size: int, credit: int
) -> None:
    one = machine(budget=Share())
    for _ in range(parts):
        one.receive([Part([bytes(size)])], NOW)
        output(one)
    missing = outbox.longest_cost(CONFIG.max_message_bytes - parts * size)
    kept = outbox.longest_cost(CONFIG.max_message_bytes) - parts * (size + FRAME_COST)
    assert one.promised_cost == min(missing, kept) == credit


def test_a_message_in_the_smallest_parts_does_not_get_endless_credit() -> None:
    one = machine(budget=Share())
    spent = 0
    while one.promised_cost >= 1 + FRAME_COST:
        one.receive([Part([b"y"])], NOW)
        spent += 1 + FRAME_COST
        output(one)
    longest = outbox.longest_cost(CONFIG.max_message_bytes)
    assert longest - FRAME_COST <= spent <= longest + 1 + FRAME_COST
    assert one.stuck_since is not None


def test_a_message_that_stalls_is_distinguished_from_one_that_waits_for_us() -> None:
    budget = Share()
    one = machine(budget=budget)
    since = [one.stuck_since]
    for number in range(3):
        one.receive([Part([b"y" * 100])], NOW + number)
        since.append(one.stuck_since)
    assert since == [None, NOW, NOW + 1, NOW + 2]
    budget.room = 0
    output(one)
    since = [one.stuck_since]
    assert budget.waits == 1
    budget.room = 1 << 20
    one.retry(NOW + 9)
    since.append(one.stuck_since)
    one.moves(NOW + 12)
    since.append(one.stuck_since)
    one.receive([[b""]], NOW + 14)
    since.append(one.stuck_since)
    assert since == [None, NOW + 9, NOW + 12, None]


def test_the_side_that_closes_first_lets_the_peer_send_what_it_has_accepted() -> None:
    one = machine(budget=Share())
    one.close()
    assert output(one) == [Ack(0, CREDIT), Close(0)]


def test_a_session_that_has_ended_has_promised_nothing() -> None:
    budget = Share()
    one = machine(budget=budget)
    while one.window < CREDIT:
        use_a_window(one, NOW)
    one.receive([[bytes(1000)]], NOW)
    one.abandon()
    assert one.promised_cost == 0
    assert one.committed == one.held_cost == 1000 + FRAME_COST
    assert budget.granted == 1000 + FRAME_COST - budget.first_window
    one.consumed(1000, 1)
    assert budget.granted == 0


def test_messages_that_a_breach_takes_along_do_not_count_as_received() -> None:
    one = machine()
    one.receive([[b"one"]], NOW)
    with pytest.raises(STTProtocolError):
        one.receive([[b"two"], Pong(99)], NOW)
    assert one.position == 1
    assert (one.messages_received, one.bytes_received) == (1, 3)


def test_the_end_of_a_message_in_parts_that_a_breach_takes_along_does_not_count() -> None:
    one = machine()
    one.receive([Part([b"x" * PART])], NOW)
    before = (one.position, one.messages_received, one.bytes_received, one.held_cost)
    with pytest.raises(STTProtocolError):
        one.receive([[b"y"], Part([b"z"]), Pong(99)], NOW)
    assert (one.position, one.messages_received, one.bytes_received, one.held_cost) == before


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
