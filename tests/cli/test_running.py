"""A command's coroutine, and real signals."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

import pytest

from seigr_toolset_transmissions.cli.failures import Failure, Interrupted
from seigr_toolset_transmissions.cli.running import run_until_done

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def test_the_result_is_the_coroutines_and_so_is_its_error() -> None:
    async def succeed() -> str:
        return "done"

    async def fail() -> None:
        raise Failure("because")

    assert run_until_done(succeed()) == "done"
    with pytest.raises(Failure, match="because"):
        run_until_done(fail())


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_cancels_it_and_waits_for_its_cleanup(number: signal.Signals, code: int) -> None:
    cleaned_up = []

    async def work() -> None:
        send(number)
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned_up.append(True)

    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught:
        run_until_done(work())
    assert caught.value.exit_code == code
    assert cleaned_up == [True]
    assert signal.getsignal(number) is before


def test_a_signal_that_another_thread_gets_wakes_the_loop() -> None:
    """So it does when it arrives just before the loop goes to sleep, which cannot be timed."""
    asleep = threading.Event()

    def wait_and_send() -> None:
        asleep.wait()
        send(signal.SIGINT)

    async def work() -> None:
        asyncio.get_running_loop().call_later(0.05, asleep.set)
        await asyncio.Event().wait()

    thread = threading.Thread(target=wait_and_send)
    thread.start()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with pytest.raises(Interrupted):
            run_until_done(work())
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        thread.join()


def test_a_cleanup_that_takes_too_long_can_be_interrupted_too() -> None:
    steps = []

    async def work() -> None:
        send(signal.SIGTERM)
        try:
            await asyncio.Event().wait()
        finally:
            steps.append("cleaning up")
            send(signal.SIGINT)
            try:
                await asyncio.Event().wait()
            finally:
                steps.append("given up")

    with pytest.raises(Interrupted) as caught:
        run_until_done(work())
    assert caught.value.exit_code == 143  # of the signal that came first
    assert steps == ["cleaning up", "given up"]


@pytest.mark.parametrize("error", [None, OSError("while cleaning up")])
def test_the_signal_is_the_reason_for_the_end_however_the_cleanup_ends(
    error: OSError | None,
) -> None:
    async def work() -> None:
        send(signal.SIGINT)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if error is not None:
                raise error from None

    with pytest.raises(Interrupted) as caught:
        run_until_done(work())
    assert caught.value.exit_code == 130


@pytest.mark.parametrize("undone", ["", "half was measured"])
def test_the_user_reads_what_an_interrupt_has_left_undone(
    undone: str, capfd: pytest.CaptureFixture[str]
) -> None:
    async def work() -> None:
        send(signal.SIGINT)
        await asyncio.Event().wait()

    with pytest.raises(Interrupted):
        run_until_done(work(), undone=undone)
    assert capfd.readouterr().err == (f"stt: interrupted: {undone}\n" if undone else "")


def test_what_ends_by_itself_leaves_nothing_undone(capfd: pytest.CaptureFixture[str]) -> None:
    async def work() -> None:
        pass

    run_until_done(work(), undone="half was measured")
    assert capfd.readouterr().err == ""
