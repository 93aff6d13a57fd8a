"""Threads for blocking calls: how many, in which order, and that none waits for a hanging one."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from functools import partial

import pytest

from helpers.nodes import until
from seigr_toolset_transmissions.foundation import workers
from seigr_toolset_transmissions.foundation.workers import Workers


class Blocked:
    """Calls that block until they are released."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.gate = threading.Event()

    def call(self, number: int) -> int:
        self.begun.append(number)
        self.gate.wait(20)
        return number


async def test_a_limited_number_of_calls_run_at_once_and_in_order() -> None:
    blocked, own = Blocked(), Workers("test", 2)
    tasks = [asyncio.ensure_future(own.run(partial(blocked.call, k))) for k in range(6)]
    await until(lambda: len(blocked.begun) == 2)
    blocked.gate.set()
    assert await asyncio.gather(*tasks) == list(range(6))
    assert sorted(blocked.begun) == list(range(6))
    await until(lambda: not own._busy_since)


async def test_calls_that_are_late_do_not_make_others_wait_up_to_a_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workers, "LATE_SECONDS", 0.01)
    blocked, own = Blocked(), Workers("test", 1, most=3)
    late: list[int] = []
    tasks = [
        asyncio.ensure_future(own.run(partial(blocked.call, k), partial(late.append, k)))
        for k in range(5)
    ]
    await until(lambda: len(blocked.begun) == 3)
    await until(lambda: {0, 1, 2} <= set(late))
    assert blocked.begun == [0, 1, 2]
    assert not {3, 4} & set(late)  # they have not begun
    blocked.gate.set()
    assert await asyncio.gather(*tasks) == list(range(5))


async def test_an_exception_of_a_call_is_raised() -> None:
    def fail() -> None:
        raise OSError("no such name")

    own = Workers("test", 1)
    for _ in range(2):
        with pytest.raises(OSError, match="no such name"):
            await own.run(fail)


def test_a_call_whose_loop_was_closed_is_given_up_without_an_error() -> None:
    blocked, own = Blocked(), Workers("test", 1)
    call = own.run(partial(blocked.call, 0))

    async def begin() -> None:
        call.send(None)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    loop.close()
    call.close()
    blocked.gate.set()


async def test_a_cancelled_call_that_waits_is_not_begun_and_one_that_runs_is_left_alone() -> None:
    blocked, own = Blocked(), Workers("test", 1)
    tasks = [asyncio.ensure_future(own.run(partial(blocked.call, k))) for k in range(3)]
    await until(lambda: blocked.begun)
    for task in tasks[:2]:
        task.cancel()
    await asyncio.wait(tasks[:2])
    blocked.gate.set()
    assert await tasks[2] == 2
    assert blocked.begun == [0, 2]


def test_the_interpreter_does_not_wait_for_a_call_that_hangs() -> None:
    program = """
import asyncio, time
from seigr_toolset_transmissions.foundation.workers import Workers
async def main():
    task = asyncio.ensure_future(Workers("test", 1).run(lambda: time.sleep(60)))
    await asyncio.sleep(0.1)
asyncio.run(main())
"""
    ended = subprocess.run([sys.executable, "-c", program], timeout=20, check=False)
    assert ended.returncode == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_has_threads_of_its_own() -> None:
    program = """
import asyncio, os, threading, time
from seigr_toolset_transmissions.transports import lookup
gate = threading.Event()
async def main():
    for _ in range(16):
        asyncio.ensure_future(lookup._urgent.run(gate.wait))
    await asyncio.sleep(0.1)
asyncio.run(main())
if os.fork() == 0:
    assert asyncio.run(lookup._urgent.run(lambda: 5)) == 5
    os._exit(0)
_, status = os.wait()
os._exit(os.waitstatus_to_exitcode(status))
"""
    ended = subprocess.run([sys.executable, "-c", program], timeout=20, check=False)
    assert ended.returncode == 0
