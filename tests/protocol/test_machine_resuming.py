"""The session's rules for going on over another connection, one at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from helpers.session_machine import (
    CONFIG,
    CREDIT,
    NOW,
    due,
    machine,
    numbered,
    output,
    phase,
    sent,
    state,
)
from helpers.session_pair import SessionPair
from seigr_toolset_transmissions.errors import (
    STTProtocolError,
)
from seigr_toolset_transmissions.protocol.frames import (
    Ack,
    Ping,
    Pong,
    Welcome,
    WelcomeStatus,
)
from seigr_toolset_transmissions.protocol.outbox import FRAME_COST, Undelivered
from seigr_toolset_transmissions.protocol.phase import Link, Phase

if TYPE_CHECKING:
    from seigr_toolset_transmissions.protocol.machine import (
        SessionMachine,
    )

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
