"""`stt bench`, as its user sees it, and what it does when something is wrong."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from pathlib import Path

import pytest

from cli.documented import documented_keys
from cli.processes import Stt, descendants, run_stt
from helpers.nodes import SHARED_SEED, seed_of
from seigr_toolset_transmissions import STTNode
from seigr_toolset_transmissions.cli import bench
from seigr_toolset_transmissions.cli.failures import Failure

LONGEST = 600.0
"""Seconds. It only ends a hang: with the processor to itself, the command takes a few."""
FIRST = r"every message is compared"
ROWS = (
    r"one way, 64 B +[\d,]+ messages/s +[\d,.]+ MB/s",
    r"one way, 1 KiB +[\d,]+ messages/s +[\d,.]+ MB/s",
    r"one way, 64 KiB +[\d,]+ messages/s +[\d,.]+ MB/s",
    r"one way, 1 MiB +[\d,]+ messages/s +[\d,.]+ MB/s",
    r"round trip, 64 B +[\d,]+ us median, [\d,]+ us p99",
    r"requests, 1 in flight +[\d,]+ requests/s +[\d,]+ us median, [\d,]+ us p99",
    r"requests, 16 in flight +[\d,]+ requests/s +[\d,]+ us median, [\d,]+ us p99",
    r"requests, 256 in flight +[\d,]+ requests/s +[\d,]+ us median, [\d,]+ us p99",
    r"new sessions +[\d,]+ in a second",
    r"broadcast, 64 B +[\d,.]+ ms until all of 200 sessions have it",
)


def other_process(command: Stt) -> int:
    """The process that the command started, its other side."""
    [other] = [
        pid
        for pid in descendants(command.process.pid)
        if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    return other


def begun() -> Stt:
    """A command that measures."""
    command = Stt("bench")
    assert re.search(FIRST, command.stdout.readline().decode())
    return command


@pytest.mark.timeout(LONGEST)
def test_it_prints_a_line_for_each_measure() -> None:
    result = run_stt("bench", patience=LONGEST)
    assert (result.returncode, result.stderr) == (0, b"")
    assert re.search(r"\n".join((FIRST, "", *ROWS, "", "stt .*")), result.stdout.decode())


@pytest.mark.timeout(LONGEST)
def test_it_prints_one_json_object_with_all_figures() -> None:
    result = run_stt("bench", "--json", patience=LONGEST)
    assert (result.returncode, result.stderr) == (0, b"")
    facts = json.loads(result.stdout)
    assert [way["bytes"] for way in facts["one_way"]] == [64, 1024, 64 * 1024, 1024 * 1024]
    assert [each["in_flight"] for each in facts["requests"]] == [1, 16, 256]
    assert all(each["requests_per_s"] > 0 for each in facts["requests"])
    assert all(each["median_us"] <= each["p99_us"] for each in facts["requests"])
    assert facts.keys() == documented_keys("bench")


@pytest.mark.timeout(LONGEST)
def test_it_measures_only_requests_if_asked() -> None:
    result = run_stt("bench", "--requests", "--json", patience=LONGEST)
    assert (result.returncode, result.stderr) == (0, b"")
    assert json.loads(result.stdout).keys() == {"stt", "python", "system", "requests"}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_both_processes(number: signal.Signals, code: int) -> None:
    with begun() as command:
        other = other_process(command)
        command.signal(number)
        assert command.end() == code
        assert command.stderr == "stt: interrupted: not everything was measured\n"
        assert not Path(f"/proc/{other}").exists()


def test_the_end_of_the_other_process_is_one_line() -> None:
    with begun() as command:
        os.kill(other_process(command), signal.SIGKILL)
        assert command.end() == 1
        assert command.stderr == "stt: the other process ended too early\n"


async def test_an_echo_that_differs_from_what_was_sent_fails() -> None:
    sending = STTNode(seed_of("alice"), SHARED_SEED)
    receiving = STTNode(seed_of("bob"), SHARED_SEED)
    address = await receiving.start(server_mode=True)
    assert address is not None
    async with receiving, sending:
        serving = asyncio.create_task(bench._answer(receiving))
        session = await sending.connect(*address)
        await bench._order(session, "compare", 64, 1)
        for data in reversed(bench._messages(64)):
            await session.send(data)
        with pytest.raises(Failure, match="wrong data after 0 messages"):
            await bench._all_well(sending)
        serving.cancel()
        await asyncio.wait((serving,))
