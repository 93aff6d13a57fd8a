"""Receive windows that grow and shrink with the room there is and what is consumed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from helpers.session_machine import (
    CONFIG,
    CREDIT,
    NOW,
    PART,
    machine,
    output,
    owed,
)
from helpers.session_pair import NoBudget
from seigr_toolset_transmissions.errors import (
    STTProtocolError,
)
from seigr_toolset_transmissions.protocol import outbox
from seigr_toolset_transmissions.protocol.frames import (
    Ack,
    Close,
    Part,
    Pong,
)
from seigr_toolset_transmissions.protocol.outbox import FRAME_COST
from seigr_toolset_transmissions.protocol.window import CREDIT_SHARE

if TYPE_CHECKING:
    from seigr_toolset_transmissions.protocol.machine import (
        SessionMachine,
    )


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
