"""Hubs in processes of their own behind a balancer: no session is lost, whatever hub it lands at.

The same with more hubs, peers and cuts is ``python -m tests.soak.landing_elsewhere``.
"""

from __future__ import annotations

import socket

import pytest

from soak.landing_elsewhere import Side, Stream, judge, soak

pytestmark = pytest.mark.once

needs_unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="hubs meet in a folder")


@needs_unix
async def test_cut_sessions_that_land_at_any_hub_are_not_lost() -> None:
    assert await soak(hub_count=3, peer_count=4, cuts=24, rounds=0, seed=1) == 0


@needs_unix
async def test_replacing_every_hub_under_load_loses_nothing() -> None:
    assert await soak(hub_count=2, peer_count=4, cuts=0, rounds=1, seed=1) == 0


def test_what_one_side_has_sent_and_the_other_has_not_received_is_noticed() -> None:
    sent, received = Stream(accepted=2), Stream(received=2)
    assert judge(Side({"aa": sent}), Side({"aa": received})) == []
    assert judge(Side({"aa": sent}), Side({"aa": Stream(received=1)})) != []
    assert judge(Side({"aa": sent}), Side({"aa": Stream(received=2, wrong=1)})) != []
    assert judge(Side({"aa": sent}), Side()) != []
    assert judge(Side({"aa": sent}), Side({"aa": received}, failures=["session_lost"])) != []
