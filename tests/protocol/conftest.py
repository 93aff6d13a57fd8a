"""What several tests of the protocol use."""

from __future__ import annotations

import pytest

from helpers.session_machine import PART
from seigr_toolset_transmissions.protocol import frames, outbox
from seigr_toolset_transmissions.protocol import machine as session


@pytest.fixture
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let frames carry no more than `PART` bytes."""
    monkeypatch.setattr(frames, "MAX_DATA_BYTES", PART)
    monkeypatch.setattr(session, "MAX_DATA_BYTES", PART)
    monkeypatch.setattr(outbox, "MAX_DATA_BYTES", PART)
