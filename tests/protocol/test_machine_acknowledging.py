"""The session's rules for acknowledgements, credit and pings, one at a time."""

from __future__ import annotations

import pytest

from helpers.session_machine import (
    CONFIG,
    CREDIT,
    NOW,
    due,
    machine,
    output,
    owed,
    sent,
    state,
)
from helpers.session_pair import SessionPair
from seigr_toolset_transmissions.config import NodeConfig
from seigr_toolset_transmissions.errors import (
    STTLimitError,
    STTProtocolError,
)
from seigr_toolset_transmissions.protocol.frames import (
    Ack,
    Ping,
    Pong,
)
from seigr_toolset_transmissions.protocol.machine import (
    ACK_SHARE,
    MAX_PONGS,
)
from seigr_toolset_transmissions.protocol.outbox import FRAME_COST

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
