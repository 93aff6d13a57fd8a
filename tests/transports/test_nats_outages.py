"""The soak program about outages of a NATS server, for seconds; the full run takes a minute."""

from __future__ import annotations

import pytest

from helpers.nats_server import needs_nats
from soak.nats_outages import soak

pytestmark = [needs_nats, pytest.mark.once]


async def test_a_server_that_is_killed_or_stands_still_costs_no_message(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = await soak(kills=2, seconds=2, standstill=2, most_wait=30)
    assert code == 0, capsys.readouterr().out
