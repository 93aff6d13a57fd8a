"""Hubs in processes of their own that are restarted one by one under load: nothing is lost.

The same with 300 peers is ``python -m tests.soak.rolling_restart``.
"""

from __future__ import annotations

import socket

import pytest

from soak.rolling_restart import soak

pytestmark = pytest.mark.once


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="hubs meet in a folder")
async def test_what_was_accepted_for_peers_of_hubs_that_are_restarted_arrives_once_and_in_order(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = await soak(hub_count=2, peer_count=5, rounds=1, seed=1, at="folder")
    assert code == 0, capsys.readouterr().out
