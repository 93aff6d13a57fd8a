"""Exactly once and in order, wherever the cable breaks: two whole nodes, in virtual time.

The scenario sends ten messages each way at once, some of them in parts. It is cut at some byte
offsets here and at every offset by ``python -m tests.soak.every_cut``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from helpers.fault_network import Direction, Fault, Kind
from helpers.lossless import messages, run_scenario
from seigr_toolset_transmissions import session

if TYPE_CHECKING:
    from collections.abc import Iterator

PART_BYTES = 100
SIZES = [0, 1, 64, 99, 100, 101, 250, 30, 5, 7]
TO_LISTENER = messages(b"out", SIZES)
TO_DIALER = messages(b"in", SIZES)
STRIDE = 31


@pytest.fixture(autouse=True)
def _short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "MAX_DATA_BYTES", PART_BYTES)


def offsets(direction: Direction) -> Iterator[int]:
    """Some offsets of the undisturbed scenario's bytes, the first and the last included."""
    total = run_scenario(TO_LISTENER, TO_DIALER).cables[0].passed[direction]
    yield from range(0, total, STRIDE)
    yield total


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name)
@pytest.mark.parametrize("direction", Direction, ids=lambda direction: direction.name)
def test_a_cut_anywhere_loses_doubles_and_reorders_nothing(
    direction: Direction, kind: Kind
) -> None:
    for offset in offsets(direction):
        outcome = run_scenario(TO_LISTENER, TO_DIALER, [Fault(direction, offset, kind)])
        assert outcome.at_listener == TO_LISTENER, offset
        assert outcome.at_dialer == TO_DIALER, offset


def test_a_message_longer_than_any_connection_lives_arrives() -> None:
    """Each new connection carries a part at least, so that a long message gets on."""
    long = messages(b"long", [20 * PART_BYTES])
    faults = [Fault(Direction.OUT, 900, Kind.RST) for _ in range(15)]
    outcome = run_scenario(long, [], faults)
    assert outcome.at_listener == long
    assert len(outcome.cables) > 5


def test_a_thousand_cuts_in_a_row_lose_nothing() -> None:
    many = messages(b"m", [20] * 2000)
    faults = [Fault(Direction.OUT, 400 + k % 700, list(Kind)[k % 2]) for k in range(1000)]
    outcome = run_scenario(many, many, faults)
    assert outcome.at_listener == many
    assert outcome.at_dialer == many


def test_both_sides_tell_of_a_cut_and_of_its_end() -> None:
    outcome = run_scenario(TO_LISTENER, TO_DIALER, [Fault(Direction.OUT, 700, Kind.RST)])
    expected = [
        "session_created",
        "peer_connected",
        "session_suspended",
        "session_resumed",
        "session_closed",
        "peer_disconnected",
    ]
    assert outcome.events == {"listener": expected, "dialer": expected}
