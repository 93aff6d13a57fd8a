"""Hubs in processes of their own that are killed under load: what is sent arrives or is reported.

The same with 100 kills is ``python -m tests.soak.kill_hub``.
"""

from __future__ import annotations

import socket

import pytest

from helpers.nats_server import needs_nats
from soak.kill_hub import Account, soak

pytestmark = pytest.mark.once

needs_unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="hubs meet in a folder")


@pytest.mark.parametrize(
    "at", [pytest.param("folder", marks=needs_unix), pytest.param("nats", marks=needs_nats)]
)
async def test_whatever_was_accepted_for_a_killed_hub_arrives_once_or_is_reported(
    at: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = await soak(hub_count=2, peer_count=3, kills=1, seed=1, at=at)
    assert code == 0, capsys.readouterr().out


def account(
    accepted: int, arrived: list[int], unsent: tuple[int, ...] = (), unknown: tuple[int, ...] = ()
) -> Account:
    made = Account()
    made.accepted = accepted
    made.unsent += unsent
    made.unknown += unknown
    for number in arrived:
        made.arrived(number)
    return made


@pytest.mark.parametrize(
    ("it", "problem"),
    [
        (account(4, [0, 2], unsent=(3,), unknown=(1, 2)), None),
        (account(3, [0, 1]), "neither arrived nor reported: [2]"),
        (account(3, [0, 2]), "neither arrived nor reported: [1]"),
        (account(2, [0, 1, 1]), "twice or out of order: [1]"),
        (account(2, [1, 0]), "twice or out of order: [0]"),
        (account(2, [0, 1], unsent=(1,)), "arrived, but reported as unsent: [1]"),
        (account(2, [0], unsent=(1,), unknown=(1,)), "reports of the same messages: [0]"),
        (account(1, [0, 1]), "arrived, but never accepted: [1]"),
    ],
)
def test_what_is_lost_duplicated_or_wrongly_reported_is_noticed(
    it: Account, problem: str | None
) -> None:
    if problem is None:
        assert it.problems() == []
    else:
        assert any(problem in found for found in it.problems())
