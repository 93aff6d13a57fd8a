"""Two honest sides, any network: everything arrives once and in order, or is reported exactly.

A Hypothesis state machine sends, cuts, reconnects, pings and closes as it likes. The number of runs
is set by the environment, so a long search is::

    STT_PAIR_EXAMPLES=20000 python -m pytest tests/protocol/test_session_pair.py --timeout=0
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from helpers.session_pair import SessionPair, Side, Wire
from seigr_toolset_transmissions.config import NodeConfig
from seigr_toolset_transmissions.errors import STTMessageSizeError, STTSessionClosedError
from seigr_toolset_transmissions.protocol import frames, outbox
from seigr_toolset_transmissions.protocol import machine as session
from seigr_toolset_transmissions.protocol.frames import WelcomeStatus
from seigr_toolset_transmissions.protocol.outbox import FRAME_COST
from seigr_toolset_transmissions.protocol.phase import Link, Phase

PART = 128
"""Longest payload of a frame in these runs, so that short messages go in parts."""
FIRST_PART = 64
"""Longest payload of the first frame after a cut, so that messages are split again."""
MOST_CUTS = 3
"""How many more frames what waits can take after a cut than before."""

EXAMPLES = int(os.environ.get("STT_PAIR_EXAMPLES", "250"))

CONFIGS = {
    # A message of the largest size takes at most 5 frames, and so 620 bytes, of each window.
    "least": NodeConfig(max_message_bytes=300, send_window_bytes=620, receive_window_bytes=620),
    "little credit": NodeConfig(
        max_message_bytes=300, send_window_bytes=2000, receive_window_bytes=700
    ),
    "few frames": NodeConfig(
        max_message_bytes=300,
        send_window_bytes=900,
        send_window_messages=3,
        receive_window_bytes=3000,
    ),
    "ample": NodeConfig(max_message_bytes=70, send_window_bytes=5000, receive_window_bytes=5000),
    "no parts": NodeConfig(max_message_bytes=40, send_window_bytes=300, receive_window_bytes=200),
}

SIZES = st.one_of(
    st.integers(0, 20),
    st.sampled_from((PART - 1, PART, PART + 1, 2 * PART, 300)),
    st.integers(0, 300),
)
BYTES = st.one_of(st.just(1 << 20), st.just(1 << 20), st.integers(1, 40), st.integers(1, 2000))
IS_DIALER = st.booleans()
CLOSERS = st.sampled_from(("dialer", "listener", "both"))
SOMETIMES = st.integers(0, 9).map(lambda number: number > 6)
RARELY = st.integers(0, 9).map(lambda number: number == 9)
MOSTLY = st.integers(0, 9).map(lambda number: number < 8)


class LossyPair(RuleBasedStateMachine):
    pair: SessionPair
    heal: bool
    configs: dict[str, NodeConfig]

    @initialize(
        dialer=st.sampled_from(sorted(CONFIGS)),
        listener=st.sampled_from(sorted(CONFIGS)),
        greeted=st.booleans(),
        heal=st.sampled_from((True, True, True, False)),
        hasty=st.booleans(),
    )
    def connect(self, dialer: str, listener: str, greeted: bool, heal: bool, hasty: bool) -> None:
        self.configs = {"dialer": CONFIGS[dialer], "listener": CONFIGS[listener]}
        self.pair = SessionPair(*self.configs.values())
        if greeted:
            self.pair.pump()
        self.heal = heal
        self.hasty = hasty  # to close; else most runs would end before much has happened
        self.late: list[Wire] = []  # whose openings are under way although the dialer gave them up
        self.closers: set[str] = set()
        self.gave_up = False
        self.serial = 0

    def side(self, is_dialer: bool) -> Side:
        return self.pair.dialer if is_dialer else self.pair.listener

    # The application

    @rule(is_dialer=IS_DIALER, size=SIZES, count=st.integers(1, 4), too_long=RARELY)
    def send(self, is_dialer: bool, size: int, count: int, too_long: bool) -> None:
        side = self.side(is_dialer)
        limit = min(config.max_message_bytes for config in self.configs.values())
        size = limit + 1 if too_long else min(size, limit)
        for _ in range(count):
            self.serial += 1
            message = (b"%d " % self.serial * size)[:size]
            before = side.machine.outbox.unacked_cost
            if side.machine.phase is not Phase.OPEN:
                with pytest.raises(STTSessionClosedError):
                    side.machine.outbox.send(message)
            elif size > limit:
                with pytest.raises(STTMessageSizeError):
                    side.machine.outbox.send(message)
            elif self.pair.send(side, message):
                assert side.machine.outbox.unacked_cost - before >= size + FRAME_COST
                continue
            assert side.machine.outbox.unacked_cost == before

    @rule(is_dialer=IS_DIALER, count=st.integers(1, 8))
    def consume(self, is_dialer: bool, count: int) -> None:
        self.pair.consume(self.side(is_dialer), count)

    @rule(is_dialer=IS_DIALER)
    def ping(self, is_dialer: bool) -> None:
        self.side(is_dialer).machine.ping(self.pair.now)

    @precondition(lambda self: self.serial > 3)
    @rule(closers=CLOSERS, really=RARELY)
    def close(self, closers: str, really: bool) -> None:
        for side in self.pair.sides:
            if closers in (side.name, "both") and (really or self.hasty):
                if side.machine.phase is Phase.OPEN:
                    self.closers.add(side.name)
                side.machine.close()

    @precondition(lambda self: self.serial > 8)
    @rule(is_dialer=IS_DIALER, really=SOMETIMES)
    def give_up_what_is_cut(self, is_dialer: bool, really: bool) -> None:
        side = self.side(is_dialer)
        if really and side.machine.link is Link.DOWN and not side.ended:
            self.pair.end(side)
            self.gave_up = True

    # The network

    @rule(is_dialer=IS_DIALER, budget=BYTES)
    def write(self, is_dialer: bool, budget: int) -> None:
        side = self.side(is_dialer)
        if side.wire is not None:
            self.pair.flush(side, budget)

    @rule(is_dialer=IS_DIALER, count=BYTES, seconds=st.floats(0, 2))
    def arrive(self, is_dialer: bool, count: int, seconds: float) -> None:
        self.pair.now += seconds
        side = self.side(is_dialer)
        if side.wire is not None:
            self.pair.arrive(side, count)

    @rule(rounds=st.integers(1, 4), budget=BYTES, count=BYTES, consuming=st.booleans())
    def talk(self, rounds: int, budget: int, count: int, consuming: bool) -> None:
        """Take several steps at once, to get further."""
        for _ in range(rounds):
            for is_dialer in (True, False):
                if consuming:
                    self.consume(is_dialer, 8)
                self.write(is_dialer, budget)
            for is_dialer in (True, False):
                self.arrive(is_dialer, count, 0.01)

    @rule(
        is_dialer=IS_DIALER,
        size=SIZES,
        count=st.integers(1, 4),
        arrived=BYTES,
        heard=st.booleans(),
        noticed=st.booleans(),
        given_up=RARELY,
    )
    def send_into_a_cut(
        self,
        is_dialer: bool,
        size: int,
        count: int,
        arrived: int,
        heard: bool,
        noticed: bool,
        given_up: bool,
    ) -> None:
        """The heart of it: part of what was sent arrives, with or without its acknowledgement."""
        self.talk(2, 1 << 20, 1 << 20, consuming=True)
        self.send(is_dialer, size, count, too_long=False)
        self.write(is_dialer, 1 << 20)
        self.arrive(not is_dialer, arrived, 0.01)
        if heard:
            self.write(not is_dialer, 1 << 20)
            self.arrive(is_dialer, 1 << 20, 0.01)
        if noticed:
            self.notice_a_cut(is_dialer=False)
            self.give_up_what_is_cut(is_dialer=False, really=given_up)
        self.resume()

    @rule(
        closers=CLOSERS,
        size=SIZES,
        steps=st.integers(0, 3),
        arrived=BYTES,
        noticed=st.booleans(),
        really=RARELY,
    )
    def close_into_a_cut(
        self, closers: str, size: int, steps: int, arrived: int, noticed: bool, really: bool
    ) -> None:
        """Each step lets one of CLOSE, CLOSE_ACK and the last ACK arrive, the cut a part of one."""
        for is_dialer in (True, False):
            self.send(is_dialer, size, 1, too_long=False)
        self.close(closers, really)
        self.talk(steps, 1 << 20, 1 << 20, consuming=False)
        self.talk(1, 1 << 20, arrived, consuming=False)
        if noticed:
            self.notice_a_cut(is_dialer=False)
        self.resume()

    def resume(self) -> None:
        if not self.pair.dialer.ended:
            self.dial_again(listener_notices=False, arrives=True)
            self.write(is_dialer=False, budget=1 << 20)
            self.arrive(is_dialer=True, count=1 << 20, seconds=0.01)

    @rule(is_dialer=IS_DIALER)
    def notice_a_cut(self, is_dialer: bool) -> None:
        side = self.side(is_dialer)
        if side.wire is not None:
            if side.wire.opening is not None:
                self.late.append(side.wire)
            self.pair.cut(side)

    @precondition(lambda self: not self.pair.dialer.ended)
    @rule(listener_notices=st.booleans(), arrives=MOSTLY)
    def dial_again(self, listener_notices: bool, arrives: bool) -> None:
        self.notice_a_cut(is_dialer=True)
        if listener_notices:
            self.notice_a_cut(is_dialer=False)
        if not self.pair.dialer.ended:
            self.pair.dial()
            if arrives:
                self.opening_arrives()

    @rule()
    def opening_arrives(self) -> None:
        wire = self.pair.dialer.wire
        if wire is not None and wire.opening is not None:
            ended = self.pair.listener.ended
            answer = WelcomeStatus.ENDED if ended else WelcomeStatus.ACCEPTED
            assert self.pair.opening_arrives(wire) is answer

    @precondition(lambda self: self.late)
    @rule()
    def late_opening_arrives(self) -> None:
        wire = self.late.pop(0)
        assert wire.opening is not None
        ended, known = self.pair.listener.ended, self.pair.listener.machine.epoch
        answer = WelcomeStatus.UNKNOWN if wire.opening[0] <= known else WelcomeStatus.ACCEPTED
        assert self.pair.opening_arrives(wire) is (WelcomeStatus.ENDED if ended else answer)

    @invariant()
    def what_holds_at_all_times(self) -> None:
        for side in self.pair.sides:
            self.check_what_arrived(side)
            self.check_that_memory_is_bounded(side)
            self.check_the_counters(side)

    def check_what_arrived(self, side: Side) -> None:
        accepted = self.pair.peer(side).accepted
        assert side.delivered == accepted[: len(side.delivered)]
        outbox = self.pair.peer(side).machine.outbox
        assert outbox.acked <= side.machine.position
        assert outbox.messages_acked <= len(side.delivered)

    def check_that_memory_is_bounded(self, side: Side) -> None:
        config = self.configs[side.name]
        waiting = sum(len(message) + FRAME_COST for message in side.waiting)
        assert waiting <= config.receive_window_bytes
        most = config.send_window_bytes + MOST_CUTS * FRAME_COST
        assert side.machine.outbox.unacked_cost <= most

    def check_the_counters(self, side: Side) -> None:
        machine = side.machine
        assert machine.outbox.messages_sent == len(side.accepted)
        assert machine.outbox.bytes_sent == sum(map(len, side.accepted))
        assert machine.messages_received == len(side.delivered)
        assert machine.bytes_received >= sum(map(len, side.delivered))
        if machine.rtt is not None:
            assert machine.min_rtt is not None
            assert 0 <= machine.min_rtt <= machine.rtt + 1e-9

    # How it ends

    def teardown(self) -> None:
        if not hasattr(self, "pair"):
            return
        if self.heal:
            self.pair.heal()
            self.check_the_healed()
        for side in self.pair.sides:
            if not side.ended:
                self.pair.end(side)
        for side in self.pair.sides:
            self.check_the_fate_of_messages(side)

    def check_the_fate_of_messages(self, side: Side) -> None:
        assert side.undelivered is not None
        unsent, unknown, _ = side.undelivered
        uncertain = len(side.accepted) - len(unsent) - len(unknown)
        assert (*unknown, *unsent) == tuple(side.accepted[uncertain:])
        delivered = len(self.pair.peer(side).delivered)
        assert uncertain <= delivered <= uncertain + len(unknown)
        if side.machine.refusal is WelcomeStatus.ENDED:
            assert not unknown  # the peer still knew how far it had come
        if side.acknowledged_end and side.name in self.closers and not self.gave_up:
            peers_answer = side.machine.refusal is None
            assert not unknown
            assert not (unsent and peers_answer and len(self.closers) == 1)

    def check_the_healed(self) -> None:
        dialer, listener = self.pair.sides
        if not self.closers and not self.gave_up:
            for side in self.pair.sides:
                assert side.machine.phase is Phase.OPEN
                assert side.machine.link is Link.UP
                assert side.machine.outbox.unacked_cost == 0
                assert side.machine.outbox.messages_acked == len(side.accepted)
                assert side.delivered == self.pair.peer(side).accepted
            return
        assert dialer.ended
        assert dialer.undelivered is not None
        if self.gave_up:
            return
        # The dialer comes back until it knows; so it always learns what became of its messages.
        assert not dialer.undelivered.unknown
        if "listener" not in self.closers:
            assert not dialer.undelivered.unsent
        # The listener cannot. It may miss only the dialer's very last word.
        if not listener.ended:
            assert listener.machine.phase in (Phase.CLOSING, Phase.PEER_CLOSED)
            assert "dialer" in self.closers
            assert dialer.acknowledged_end
            assert not dialer.undelivered.unsent
        else:
            assert listener.undelivered is not None
            assert not listener.undelivered.unknown
            if "dialer" not in self.closers:
                assert not listener.undelivered.unsent


def test_two_honest_sides_lose_nothing_whatever_happens_to_their_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(frames, "MAX_DATA_BYTES", PART)
    monkeypatch.setattr(session, "MAX_DATA_BYTES", PART)
    monkeypatch.setattr(outbox, "MAX_DATA_BYTES", PART)
    monkeypatch.setattr(outbox, "FIRST_PART_BYTES", FIRST_PART)
    run_state_machine_as_test(
        LossyPair,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=60,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
