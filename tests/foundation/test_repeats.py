"""The log has the first of each kind, and then one count for each period."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from helpers.clock import run_virtual
from helpers.nodes import in_virtual_time
from seigr_toolset_transmissions.foundation.repeats import Repeats

if TYPE_CHECKING:
    import pytest

logger = logging.getLogger(__name__)


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in caplog.records]


@in_virtual_time
async def test_the_first_has_its_traceback_and_the_others_are_counted_until_there_are_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    repeats = Repeats(logger)
    for _ in range(150):
        repeats.error("it failed", ValueError("why"))
        await asyncio.sleep(0.1)
    await asyncio.sleep(60)
    repeats.error("it failed", ValueError("why"))
    assert lines(caplog) == [
        ("ERROR", "it failed"),
        ("ERROR", "it failed (ValueError): 99 more since the last log line"),
        ("ERROR", "it failed (ValueError): 50 more since the last log line"),
        ("ERROR", "it failed"),
    ]
    assert [bool(record.exc_info) for record in caplog.records] == [True, False, False, True]


@in_virtual_time
async def test_kinds_do_not_hide_each_other(caplog: pytest.LogCaptureFixture) -> None:
    repeats = Repeats(logger)
    for exc in (ValueError("a"), KeyError("b"), None):
        repeats.error("it failed", exc)
    repeats.error("100% failed")
    assert [text for _, text in lines(caplog)] == ["it failed"] * 3 + ["100% failed"]
    assert "ValueError: a" in caplog.text
    assert "KeyError: 'b'" in caplog.text


def test_a_closed_loop_keeps_no_later_one_from_its_line(caplog: pytest.LogCaptureFixture) -> None:
    repeats = Repeats(logger)

    async def fail_twice() -> None:
        repeats.error("it failed")
        repeats.error("it failed")

    run_virtual(fail_twice())
    run_virtual(fail_twice())
    assert [text for _, text in lines(caplog)] == [
        "it failed",
        "it failed: 1 more since the last log line",
        "it failed",
    ]


@in_virtual_time
async def test_counts_can_be_written_at_once(caplog: pytest.LogCaptureFixture) -> None:
    repeats = Repeats(logger, more=lambda kind: f" ({kind.upper()})")
    assert repeats.is_first("x", logging.WARNING)
    assert not repeats.is_first("x", logging.WARNING)
    repeats.flush()
    await asyncio.sleep(60)
    assert lines(caplog) == [("WARNING", "x: 1 more since the last log line (X)")]
    assert repeats.is_first("x", logging.WARNING)
