"""Requests between two honest sides over any network: each has one outcome, and it is the truth.

The state machine of `test_session_pair`, in which both sides ask, answer and cancel as well.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule, run_state_machine_as_test

from protocol.test_session_pair import FIRST_PART, IS_DIALER, PART, SIZES, LossyPair
from seigr_toolset_transmissions.errors import STTMessageSizeError, STTSessionClosedError
from seigr_toolset_transmissions.protocol import frames, outbox
from seigr_toolset_transmissions.protocol.exchanges import (
    REPLY_BYTES,
    REQUEST_BYTES,
    Exchanges,
    ReplyStatus,
)
from seigr_toolset_transmissions.protocol.phase import Phase

if TYPE_CHECKING:
    import pytest

EXAMPLES = int(os.environ.get("STT_PAIR_EXAMPLES", "150"))


class Ticket:
    """One request and all that became of it."""

    def __init__(self, request_id: int, data: bytes) -> None:
        self.request_id = request_id
        self.data = data
        self.cancelled = False
        self.handled = 0
        self.reply: tuple[int, bytes] | None = None  # as the other side gave it
        self.outcomes: list[tuple[int, bytes] | None] = []  # None: the session was lost


class TalkingPair(LossyPair):
    def __init__(self) -> None:
        super().__init__()
        self.tickets: dict[str, list[Ticket]] = {"dialer": [], "listener": []}
        self.open: dict[str, list[Ticket]] = {"dialer": [], "listener": []}  # to be answered there
        self.cancelled_there: dict[str, set[int]] = {"dialer": set(), "listener": set()}
        self.over: set[str] = set()

    def books(self, name: str) -> Exchanges:
        side = self.pair.dialer if name == "dialer" else self.pair.listener
        return side.machine.exchange()

    @rule(is_dialer=IS_DIALER, size=SIZES, count=st.integers(1, 3))
    def ask(self, is_dialer: bool, size: int, count: int) -> None:
        side = self.side(is_dialer)
        books = self.books(side.name)
        for number in range(count):
            data = (b"%d?" % number * size)[:size]
            ticket = Ticket(books.asked, data)
            try:
                accepted = books.ask(data, ticket)
            except STTSessionClosedError:
                assert side.machine.phase is not Phase.OPEN
                return
            except STTMessageSizeError:
                limit = min(config.max_message_bytes for config in self.configs.values())
                assert len(data) + REQUEST_BYTES > limit
                return
            if accepted:
                self.tickets[side.name].append(ticket)

    @rule(is_dialer=IS_DIALER, size=SIZES, status=st.sampled_from(ReplyStatus), which=st.randoms())
    def answer(self, is_dialer: bool, size: int, status: ReplyStatus, which: object) -> None:
        side = self.side(is_dialer)
        waiting = self.open[side.name]
        if not waiting or side.ended:
            return
        ticket = which.choice(waiting)  # type: ignore[attr-defined]
        data = (b"%d!" % ticket.request_id * size)[:size]
        try:
            accepted = self.books(side.name).answer(ticket.request_id, status, data)
        except STTSessionClosedError:
            assert side.machine.phase is not Phase.OPEN
            return
        except STTMessageSizeError:
            limit = min(config.max_message_bytes for config in self.configs.values())
            assert len(data) + REPLY_BYTES > limit
            return
        if accepted:
            ticket.reply = (status, data)
            waiting.remove(ticket)

    @precondition(lambda self: any(self.tickets.values()))
    @rule(is_dialer=IS_DIALER, which=st.randoms())
    def cancel(self, is_dialer: bool, which: object) -> None:
        side = self.side(is_dialer)
        if self.tickets[side.name] and not side.ended:
            ticket = which.choice(self.tickets[side.name])  # type: ignore[attr-defined]
            given_back = self.books(side.name).cancel(ticket.request_id)
            assert (given_back is None) == bool(ticket.cancelled or ticket.outcomes)
            ticket.cancelled = ticket.cancelled or given_back is ticket
            side.machine.tell_cancels()

    @rule(is_dialer=IS_DIALER, size=SIZES, which=st.randoms(), written=st.booleans())
    def cancel_into_a_cut(self, is_dialer: bool, size: int, which: object, written: bool) -> None:
        self.ask(is_dialer, size, 1)
        self.talk(2, 1 << 20, 1 << 20, consuming=True)
        self.what_has_come_is_what_was_sent()
        self.cancel(is_dialer, which)
        if written:
            self.write(is_dialer, 1 << 20)
        self.resume()

    @invariant()
    def what_has_come_is_what_was_sent(self) -> None:
        if not hasattr(self, "pair"):
            return
        for side in self.pair.sides:
            if side.name not in self.over:
                self.take(side.name)

    def take(self, name: str) -> None:
        side = self.pair.dialer if name == "dialer" else self.pair.listener
        books, peers = self.books(name), self.tickets[self.pair.peer(side).name]
        for request_id, data in books.arrived:
            ticket = peers[request_id]
            ticket.handled += 1
            assert (ticket.handled, ticket.data) == (1, data)
            self.open[name].append(ticket)
            side.machine.consumed(len(data) + REQUEST_BYTES, 1)
        books.arrived.clear()
        for request_id in books.cancelled:
            assert peers[request_id].cancelled
            assert peers[request_id].reply is None
            self.cancelled_there[name].add(request_id)
        books.cancelled.clear()
        for ticket, status, data in books.outcomes:
            assert isinstance(ticket, Ticket)
            assert ticket.reply == (status, data)
            assert not ticket.cancelled
            ticket.outcomes.append((status, data))
        books.outcomes.clear()
        if side.undelivered is not None:
            self.over.add(name)
            for lost, unsent in books.lose(side.undelivered):
                assert isinstance(lost, Ticket)
                assert not (unsent and lost.handled)
                lost.outcomes.append(None)

    # What the plain pair checks of messages alone

    def check_what_arrived(self, side: object) -> None: ...

    def check_that_memory_is_bounded(self, side: object) -> None: ...

    def check_the_counters(self, side: object) -> None: ...

    def check_the_fate_of_messages(self, side: object) -> None: ...

    def teardown(self) -> None:
        if not hasattr(self, "pair"):
            return
        if self.heal:
            for _ in range(20):
                self.pair.heal()
                self.what_has_come_is_what_was_sent()
                for name, waiting in self.open.items():
                    if name not in self.over and not self.closers:
                        cancelled = {one.request_id for one in waiting if one.cancelled}
                        assert cancelled <= self.cancelled_there[name]
                    if name not in self.over:
                        for ticket in list(waiting):
                            self.answer_at_last(name, ticket)
            self.check_the_healed()
        super().teardown()
        self.what_has_come_is_what_was_sent()
        for tickets in self.tickets.values():
            for ticket in tickets:
                assert len(ticket.outcomes) == (0 if ticket.cancelled else 1)
        for side in self.pair.sides:
            assert self.books(side.name).lose(side.machine.abandon()) == []

    def answer_at_last(self, name: str, ticket: Ticket) -> None:
        try:
            if self.books(name).answer(ticket.request_id, ReplyStatus.OK, b""):
                ticket.reply = (ReplyStatus.OK, b"")
                self.open[name].remove(ticket)
        except STTSessionClosedError:
            pass

    def check_the_healed(self) -> None:
        if self.closers or self.gave_up:
            return
        for side in self.pair.sides:
            assert side.machine.outbox.unacked_cost == 0
            assert side.delivered == self.pair.peer(side).accepted
        for name, tickets in self.tickets.items():
            for ticket in tickets:
                assert ticket.handled == 1
                assert ticket.cancelled or ticket.outcomes == [ticket.reply]
            assert not self.open[name]
            assert not self.books(name).full
            assert self.books(name).late == sum(ticket.cancelled for ticket in tickets)


def test_each_request_has_one_outcome_whatever_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_DATA_BYTES", PART)
    monkeypatch.setattr(outbox, "MAX_DATA_BYTES", PART)
    monkeypatch.setattr(outbox, "FIRST_PART_BYTES", FIRST_PART)
    run_state_machine_as_test(
        TalkingPair,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
