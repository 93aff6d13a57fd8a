"""The session's rules for its end, with and without a cut, one at a time."""

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
    owed,
    phase,
    sent,
)
from helpers.session_pair import SessionPair, Side
from seigr_toolset_transmissions.errors import (
    STTProtocolError,
)
from seigr_toolset_transmissions.protocol.frames import (
    Ack,
    Close,
    CloseAck,
    Part,
    Welcome,
    WelcomeStatus,
)
from seigr_toolset_transmissions.protocol.outbox import FRAME_COST, Undelivered
from seigr_toolset_transmissions.protocol.phase import Link, Phase

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
