"""A node's budget: what its sessions hold together, and that each of them goes on."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from seigr_toolset_transmissions import NodeConfig
from seigr_toolset_transmissions.node.ledger import Ledger, Share
from seigr_toolset_transmissions.protocol.frames import Part
from seigr_toolset_transmissions.protocol.machine import SessionMachine
from seigr_toolset_transmissions.protocol.outbox import FRAME_COST, longest_cost
from seigr_toolset_transmissions.protocol.phase import Link

if TYPE_CHECKING:
    from collections.abc import Callable


KIB = 1024


MIB = 1024 * KIB


class Timers:
    """Stands in for the loop: calls are due when the test says so."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []

    def call_later(self, seconds: float, call: Callable[[], None]) -> Any:
        assert 0 < seconds < 1
        self.calls.append(call)
        return self

    def cancel(self) -> None:
        self.calls.clear()

    def fire(self) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call()


class Book:
    """A ledger, and a stand-in for the inboxes of its node."""

    def __init__(self, **limits: Any) -> None:
        self.inboxes: dict[bytes, int] = {}
        self.awaited: set[bytes] = set()
        self.timers = Timers()
        self.relieved = 0
        self.config = NodeConfig(**limits)
        self.ledger = Ledger(
            self.config,
            inboxes=lambda: sum(self.inboxes.values()),
            inbox_of=lambda peer: self.inboxes.get(peer, 0),
            awaits=lambda peer: peer in self.awaited,
            call_later=self.timers.call_later,
            relieve=self._relieve,
        )

    def _relieve(self) -> None:
        self.relieved += 1

    def share(self, name: bytes = b"peer") -> Share:
        return Share(self.ledger, name)


SMALL: dict[str, Any] = {
    "max_message_bytes": 8 * KIB,
    "receive_window_bytes": 64 * KIB,
    "send_window_bytes": 64 * KIB,
    "max_buffered_bytes": 256 * KIB,
    "max_sessions": 8,
}


def test_by_default_there_is_a_first_window_for_each_possible_session() -> None:
    config = NodeConfig()
    ledger = Book().ledger
    assert ledger.first_window == 64 * KIB + FRAME_COST  # the largest frame
    assert ledger.first_send == ledger.first_window // 4
    each = ledger.first_window + ledger.first_send
    assert ledger.room > config.max_buffered_bytes // 5
    for _ in range(config.max_sessions):
        assert ledger.admits
        ledger.enter()
    assert ledger.committed == config.max_sessions * each
    assert ledger.room > config.max_buffered_bytes // 5


def test_sessions_beyond_those_expected_leave_the_room_that_ends_messages() -> None:
    book = Book(max_buffered_bytes=16 * MIB)
    shares: list[Share] = []
    while book.ledger.admits:
        shares.append(book.share(bytes([len(shares)])))
    assert len(shares) > book.ledger._expected
    whole = longest_cost(book.config.max_message_bytes)
    first = shares[-1].first_window
    assert shares[-1].grant(first, whole - first, whole - first) == whole - first
    assert book.ledger.committed <= book.config.max_buffered_bytes


def test_a_message_in_tiny_parts_gets_no_more_than_is_kept_for_one_and_counts_as_stuck() -> None:
    book = Book(**SMALL)
    hostile, honest = Peer(book, 0), Peer(book, 1)
    book.inboxes[b"others"] = book.ledger.room
    for peer, size in (hostile, 1), (honest, 4000):
        peer.to_send.extend([(size, False)] * (8000 // size))
        peer.to_send.append((8, True))
        for _ in range(1000):
            while peer.send(now=0.0):
                pass
            book.timers.fire()
    assert hostile.machine.committed <= longest_cost(book.config.max_message_bytes)
    assert hostile.machine.stuck_since == 0.0  # not excused as one that waits for room
    assert not honest.to_send


@pytest.mark.parametrize(
    ("limits", "first"),
    [
        ({"max_sessions": 100}, 256 * KIB),
        ({"max_sessions": 1000}, 512 * MIB // 4000),
        ({"max_message_bytes": 1000}, 32 * KIB),
        ({"max_message_bytes": 1000, "receive_window_bytes": 2000}, 2000),
        ({"max_message_bytes": 1000, "max_buffered_bytes": 16 * MIB}, 1000 + FRAME_COST),
    ],
)
def test_the_first_window_is_larger_with_fewer_sessions(limits: dict[str, Any], first: int) -> None:
    assert Book(**limits).ledger.first_window == first


def test_one_session_may_use_a_good_part_and_each_further_one_less() -> None:
    book = Book(max_sessions=100)
    given = []
    for number in range(100):
        share = book.share(bytes([number]))
        first = share.first_window
        given.append(share.grant(first, 8 * MIB - first, 0))
    assert given[:10] == [8 * MIB - 256 * KIB] * 10
    assert given == sorted(given, reverse=True)
    assert 0 < book.ledger.committed < 512 * MIB


def test_late_comers_find_room_however_greedy_those_before_are() -> None:
    book = Book(max_sessions=10)
    shares = [book.share(bytes([number])) for number in range(9)]
    for _ in range(100):
        for share in shares:
            share.grant(share.first_window + share._charged, 1 << 40, 0)
    late = book.share(b"late")
    assert late.grant(late.first_window, 8 * MIB, 0) > MIB


def test_room_that_is_freed_is_there_for_others() -> None:
    book = Book(**SMALL)
    one, other = book.share(b"one"), book.share(b"other")
    room = book.ledger.room
    granted = one.grant(one.first_window, 30 * KIB, 0)
    assert granted > 20 * KIB
    assert book.ledger.room == room - granted
    one.release(10 * KIB)
    assert book.ledger.room == room - granted + 10 * KIB
    one.leave()
    one.leave()
    one.wait()
    assert book.ledger.room == room
    other.leave()
    assert book.ledger.committed == 0
    assert not book.timers.calls


def test_messages_in_the_inbox_count_against_their_own_window_first() -> None:
    book = Book(**SMALL)
    share = book.share()
    book.inboxes = {b"peer": 2000, b"others": 1 << 20}
    assert book.ledger.room < 0
    assert share.grant(share.first_window - 3000, 3000, 0) == 1000
    assert share.grant(share.first_window - 2000, 2000, 0) == 0
    book.inboxes[b"peer"] = 0
    assert share.grant(share.first_window - 2000, 2000, 0) == 2000


def test_sessions_that_need_room_to_finish_a_message_get_it_in_order() -> None:
    book = Book(**SMALL)
    shares = [book.share(bytes([number])) for number in range(8)]
    first, needed, most = shares[0].first_window, 4 * KIB, book.ledger._most_finishers
    book.inboxes[b"others"] = book.ledger.room
    order: list[int] = []

    class Owner:
        def __init__(self, number: int) -> None:
            self.number = number

        def room_came(self) -> None:
            if shares[self.number].grant(first, needed, needed):
                order.append(self.number)

    assert most > 0
    for number, share in enumerate(shares):
        share.owner = Owner(number)
        share.owner.room_came()
    assert order == [*range(most)]
    for turn in range(most):  # those that have begun may continue, and no other begins
        assert shares[turn].grant(first + needed, needed, needed) == needed
    book.timers.fire()
    assert order == [*range(most)]
    shares[0].finished()
    shares[0].release(2 * needed)
    assert shares[most + 1].grant(first, needed, needed) == 0  # it is not its turn
    book.timers.fire()
    assert order == [*range(most + 1)]
    for number in range(1, 8):
        for share in shares[:number]:
            share.finished()
            share.release(2 * needed)
        book.timers.fire()
    assert order == [*range(8)]
    for share in shares:
        share.finished()
    book.timers.fire()
    assert not book.timers.calls


def test_a_session_that_cannot_ask_does_not_keep_others_from_finishing() -> None:
    book = Book(**SMALL)
    shares = [book.share(bytes([number])) for number in range(3)]
    first, needed = shares[0].first_window, 8 * KIB
    book.inboxes[b"others"] = MIB
    for share in shares:
        assert share.grant(first, needed, needed) == 0
    got = []

    class Owner:
        def room_came(self) -> None:
            got.append(shares[1].grant(first, needed, needed))

    shares[1].owner = Owner()
    book.inboxes.clear()
    book.timers.fire()
    assert got == [needed]


def test_stalled_sessions_are_looked_for_only_while_others_wait() -> None:
    book = Book(**SMALL)
    share = book.share()
    share.wait()
    for _ in range(300):
        share.wait()
        book.timers.fire()
    assert book.relieved == 0
    book.inboxes[b"others"] = MIB

    class Owner:
        def room_came(self) -> None:
            share.grant(share.first_window, 8 * KIB, 8 * KIB)

    share.owner = Owner()
    share.owner.room_came()
    for _ in range(300):
        book.timers.fire()
    assert book.relieved == 3
    share.leave()
    book.timers.fire()
    assert not book.timers.calls


def test_waiting_sessions_get_their_turns_one_after_the_other() -> None:
    book = Book(max_sessions=1000)
    tried: list[int] = []

    class Owner:
        def __init__(self, number: int, share: Share) -> None:
            self.number, self.share = number, share

        def room_came(self) -> None:
            tried.append(self.number)
            self.share.wait()

    for number in range(1000):
        share = book.share()
        share.owner = Owner(number, share)
        share.wait()
    for _ in range(16):
        book.timers.fire()
    assert tried[:2000] == [*range(1000), *range(1000)]
    assert len(tried) < 3000


def test_sending_shares_the_same_room() -> None:
    book = Book(**SMALL)
    one, other = book.share(b"one"), book.share(b"other")
    room = book.ledger.room
    assert one.lend(0, room // 3, alone=False)
    assert not one.lend(room // 3, KIB, alone=False)
    assert other.lend(0, KIB, alone=False)
    assert book.ledger.room == room - room // 3 - KIB
    one.give_back(room // 3)
    other.leave()
    one.leave()
    assert book.ledger.committed == 0


def test_a_lone_message_finds_room_when_others_have_taken_the_rest() -> None:
    book = Book(**SMALL)
    share, other = book.share(), book.share(b"other")
    book.inboxes[b"others"] = MIB
    assert not share.lend(0, 8 * KIB, alone=False)
    count = 0
    while share.lend(count * 8 * KIB, 8 * KIB, alone=True):
        count += 1
    assert count * 8 * KIB <= book.ledger.lane_size < (count + 1) * 8 * KIB
    assert not other.lend(0, 8 * KIB, alone=True)
    share.give_back(8 * KIB)
    assert other.lend(0, 8 * KIB, alone=True)
    share.leave()
    other.leave()
    assert book.ledger.lane == 0


def test_a_stopped_ledger_has_no_timer() -> None:
    book = Book(**SMALL)
    book.share().wait()
    assert book.timers.calls
    book.ledger.stop()
    assert not book.timers.calls


class Peer:
    """A peer that sends messages in parts, as far as it has credit, and its session's machine."""

    def __init__(self, book: Book, number: int) -> None:
        self.id = bytes([number])
        self.book = book
        share = book.share(self.id)
        self.machine = SessionMachine(
            self.id * 16,
            book.config,
            link=Link.UP,
            peer_max_message=1,
            budget=share,
            now=0.0,
        )
        share.owner = self
        self.credit = share.first_window
        self.sent = 0
        self.to_send: deque[tuple[int, bool]] = deque()
        """Frames: their sizes, and whether each is the last of its message."""
        self.waiting: deque[int] = deque()
        """Messages in the session's machine that the inbox has not taken."""

    def room_came(self) -> None:
        self.machine.retry(0.0)
        self.hear()

    def hear(self) -> None:
        """Let the peer have the acknowledgement that is due, if there is one."""
        if self.machine.ack_owed:
            self.machine.data_to_send(1)
            self.credit = self.machine._credit_told

    def send(self, now: float) -> bool:
        """Send one frame if there is credit for it; return whether there was."""
        if not self.to_send or self.sent + self.to_send[0][0] + FRAME_COST > self.credit:
            return False
        size, last = self.to_send.popleft()
        self.sent += size + FRAME_COST
        frame = [bytes(size)] if last else Part([bytes(size)])
        self.waiting.extend(map(len, self.machine.receive([frame], now)))
        self.hear()
        return True

    def hand_on(self) -> None:
        """Put the first message into the inbox."""
        size = self.waiting.popleft()
        self.machine.consumed(size, 1)
        self.book.inboxes[self.id] = self.book.inboxes.get(self.id, 0) + size + FRAME_COST
        self.hear()


class AnySchedule(RuleBasedStateMachine):
    """Whatever happens, the sum stays below the limit, and in the end every session finishes."""

    def __init__(self) -> None:
        super().__init__()
        self.book = Book(**SMALL)
        self.peers: list[Peer] = []
        self.now = 0.0
        self.count = 0

    def choose(self, number: int) -> Peer | None:
        return self.peers[number % len(self.peers)] if self.peers else None

    @rule()
    def one_comes(self) -> None:
        if len(self.peers) < SMALL["max_sessions"] and self.book.ledger.admits:
            self.count += 1
            self.peers.append(Peer(self.book, self.count % 256))

    @rule(number=st.integers(0, 7))
    def one_goes(self, number: int) -> None:
        peer = self.choose(number)
        if peer is not None:
            self.peers.remove(peer)
            peer.machine.abandon()
            while peer.waiting:
                peer.hand_on()
            peer.machine.budget.leave()

    @rule(
        number=st.integers(0, 7),
        size=st.integers(0, 8 * KIB),
        part=st.integers(500, 8 * KIB),
        count=st.integers(1, 20),
    )
    def one_wants_to_send(self, number: int, size: int, part: int, count: int) -> None:
        peer = self.choose(number)
        if peer is not None and len(peer.to_send) < 200:
            for _ in range(count):
                peer.to_send.extend((part, False) for _ in range(size // part))
                peer.to_send.append((size % part, True))

    @rule(number=st.integers(0, 7), count=st.integers(1, 100))
    def one_sends(self, number: int, count: int) -> None:
        peer = self.choose(number)
        while count and peer is not None and peer.send(self.now):
            count -= 1

    @rule(number=st.integers(0, 7), count=st.integers(1, 20))
    def the_inbox_takes_some(self, number: int, count: int) -> None:
        peer = self.choose(number)
        while count and peer is not None and peer.waiting:
            peer.hand_on()
            count -= 1

    @rule(number=st.integers(0, 7))
    def the_application_receives_all_of_one(self, number: int) -> None:
        peer = self.choose(number)
        if peer is not None:
            self.book.inboxes.pop(peer.id, None)

    @rule(seconds=st.floats(0, 3))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.book.timers.fire()

    @invariant()
    def no_more_is_held_and_promised_than_the_limit(self) -> None:
        held = sum(self.book.inboxes.values())
        assert held + sum(p.machine.committed for p in self.peers) <= SMALL["max_buffered_bytes"]
        assert all(peer.sent <= peer.credit for peer in self.peers)

    def teardown(self) -> None:
        """Let the application consume: every message that was begun arrives."""
        for _ in range(3000):
            for peer in self.peers:
                while peer.send(self.now):
                    pass
                while peer.waiting:
                    peer.hand_on()
            self.book.inboxes.clear()
            self.now += 0.01
            for peer in self.peers:
                peer.hear()
            self.book.timers.fire()
            if not any(peer.to_send for peer in self.peers):
                break
        assert not any(peer.to_send for peer in self.peers)
        for peer in self.peers:
            peer.machine.abandon()
            peer.machine.budget.leave()
        assert self.book.ledger.committed == 0


TestAnySchedule = AnySchedule.TestCase


TestAnySchedule.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
