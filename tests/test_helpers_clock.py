"""The virtual clock that other tests rely on."""

from __future__ import annotations

import asyncio
import socket
import threading
import time

import pytest

from helpers.clock import DeadlockError, VirtualTimeLoop, run_virtual


def test_time_jumps_to_the_next_timer() -> None:
    async def main() -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        start = loop.time()
        await asyncio.sleep(0.25)
        first = loop.time() - start
        await asyncio.sleep(7 * 24 * 3600)
        return first, loop.time() - start

    real = time.monotonic()
    first, second = run_virtual(main())
    assert first == pytest.approx(0.25, abs=1e-6)
    assert second == pytest.approx(7 * 24 * 3600 + 0.25, abs=1e-6)
    assert time.monotonic() - real < 5


def test_timers_fire_in_the_order_of_their_times() -> None:
    async def main() -> list[tuple[str, float]]:
        loop = asyncio.get_running_loop()
        fired: list[tuple[str, float]] = []

        async def sleep(name: str, delay: float) -> None:
            await asyncio.sleep(delay)
            fired.append((name, round(loop.time(), 6)))

        await asyncio.gather(sleep("c", 30), sleep("a", 1), sleep("b", 15))
        return fired

    assert run_virtual(main()) == [("a", 1.0), ("b", 15.0), ("c", 30.0)]


def test_a_timeout_expires_at_its_virtual_time() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600):
                await loop.create_future()
        return loop.time()

    assert run_virtual(main()) == pytest.approx(3600, abs=1e-6)


def test_ready_callbacks_run_before_any_timer() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        loop.call_later(10, lambda: None)
        for _ in range(100):
            await asyncio.sleep(0)
        return loop.time()

    assert run_virtual(main()) == 0.0


def test_a_deadlock_is_an_error_that_names_the_waiting_tasks() -> None:
    async def wait_for_ever() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(DeadlockError) as raised:
        run_virtual(wait_for_ever())
    assert "supervised" in raised.value.__notes__[0]


def test_time_stands_still_while_a_thread_runs() -> None:
    proceed = threading.Event()

    async def main() -> tuple[str, float]:
        loop = asyncio.get_running_loop()
        timer = loop.call_later(10, proceed.clear)

        def work() -> str:
            assert proceed.wait(10)
            return "done"

        running = asyncio.create_task(asyncio.to_thread(work))
        await asyncio.sleep(0)
        proceed.set()
        result = await running
        elapsed = loop.time()
        timer.cancel()
        return result, elapsed

    assert run_virtual(main()) == ("done", 0.0)


def test_time_continues_after_a_thread() -> None:
    async def main() -> float:
        await asyncio.to_thread(lambda: None)
        await asyncio.sleep(5)
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 // 0)
        await asyncio.sleep(5)
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == pytest.approx(10, abs=1e-6)


def test_tasks_left_behind_fail_the_run_by_name() -> None:
    async def main() -> None:
        task = asyncio.create_task(asyncio.sleep(1), name="forgotten")
        task.add_done_callback(lambda _: None)

    with pytest.raises(AssertionError, match="left behind: forgotten"):
        run_virtual(main())


def test_an_error_reported_to_the_loop_fails_the_run() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 // 0)
        await asyncio.sleep(0)

    with pytest.raises(AssertionError, match="reported") as raised:
        run_virtual(main())
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


def test_the_result_and_the_error_of_main_come_out() -> None:
    async def give() -> int:
        return 7

    async def fail() -> None:
        raise LookupError("as expected")

    assert run_virtual(give()) == 7
    with pytest.raises(LookupError, match="as expected"):
        run_virtual(fail())


def test_real_sockets_are_refused() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            with pytest.raises(RuntimeError, match="virtual"):
                await asyncio.get_running_loop().sock_recv(ours, 1)

    run_virtual(main())


def test_the_loop_is_closed_at_the_end() -> None:
    async def main() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    loop = run_virtual(main())
    assert isinstance(loop, VirtualTimeLoop)
    assert loop.is_closed()
