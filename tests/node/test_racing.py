"""Dialling all addresses of a name: which is tried when, which wins, how the others end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import pytest

from helpers.nodes import in_virtual_time
from seigr_toolset_transmissions.errors import STTHandshakeError, STTIdentityError
from seigr_toolset_transmissions.node.racing import race

if TYPE_CHECKING:
    from collections.abc import Callable

    from seigr_toolset_transmissions.sessions.handshaking import Dialed
    from seigr_toolset_transmissions.transports.base import Address

SILENCE = "silence"
NEVER = 1e6


class Played:
    """A connection that was made."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.aborted = False
        self.transport = self

    def abort(self) -> None:
        self.aborted = True


class Attempts:
    """What is at each address: seconds to connect, seconds to answer, and what the answer is."""

    def __init__(self, **answers: tuple[float, float, Any]) -> None:
        self.answers = answers
        self.started: dict[str, float] = {}
        self.cancelled: list[str] = []
        self.made: list[Played] = []

    async def attempt(self, address: Address, connected: Callable[[], object]) -> Dialed | None:
        name = address[0]
        self.started[name] = round(asyncio.get_running_loop().time(), 3)
        connect, answer, outcome = self.answers[name]
        try:
            await asyncio.sleep(connect)
            if isinstance(outcome, OSError):
                raise outcome
            connected()
            await asyncio.sleep(answer)
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise
        if isinstance(outcome, Exception):
            raise outcome
        if outcome is SILENCE:
            return None
        self.made.append(Played(name))
        return cast("Dialed", self.made[-1])

    async def run(self) -> Any:
        return await race([(name, 1) for name in self.answers], self.attempt)


@in_virtual_time
async def test_the_next_address_is_tried_when_one_does_not_accept_in_a_quarter_of_a_second() -> (
    None
):
    attempts = Attempts(a=(NEVER, 0, None), b=(0.1, 0.1, None), c=(0, 0, None))
    assert (await attempts.run()).name == "b"
    assert attempts.started == {"a": 0.0, "b": 0.25}
    assert attempts.cancelled == ["a"]


@in_virtual_time
async def test_one_that_has_accepted_gets_longer_to_answer() -> None:
    attempts = Attempts(a=(0.1, 1.5, None), b=(0, 0, None))
    assert (await attempts.run()).name == "a"
    assert attempts.started == {"a": 0.0}
    attempts = Attempts(a=(0.1, NEVER, None), b=(0, 0, None))
    began = asyncio.get_running_loop().time()
    assert (await attempts.run()).name == "b"
    assert attempts.started["b"] - began == pytest.approx(2)
    assert attempts.cancelled == ["a"]


@pytest.mark.parametrize(
    "failure",
    [
        ConnectionRefusedError(111, "refused"),
        STTIdentityError("somebody else"),
        STTHandshakeError("another version"),
        SILENCE,
    ],
)
@in_virtual_time
async def test_the_next_address_is_tried_at_once_when_one_fails(failure: Any) -> None:
    attempts = Attempts(a=(0.01, 0, failure), b=(0, 0.02, failure), c=(0, 0, None))
    assert (await attempts.run()).name == "c"
    assert attempts.started == pytest.approx(
        {"a": 0.0, "b": 0.01, "c": 0.03 - 0.01 * (isinstance(failure, OSError)) * 2}
    )


@in_virtual_time
async def test_of_two_that_answer_at_once_one_wins_and_the_other_is_ended() -> None:
    attempts = Attempts(a=(0.25, 0.25, None), b=(0.25, 0, None))
    winner = await attempts.run()
    await asyncio.sleep(0)
    assert [made.aborted for made in attempts.made if made is not winner] == [True]
    assert not winner.aborted


@in_virtual_time
async def test_if_all_fail_the_error_says_what_the_reached_ones_answered() -> None:
    refused, other = ConnectionRefusedError(111, "refused"), OSError(113, "no route")
    with pytest.raises(ConnectionRefusedError):
        await Attempts(a=(0, 0, refused), b=(0, 0, refused)).run()
    with pytest.raises(OSError, match="a: Connection refused; b: No route to host"):
        await Attempts(a=(0, 0, refused), b=(0, 0, other)).run()
    with pytest.raises(STTIdentityError):
        await Attempts(a=(0, 0, refused), b=(0, 0, STTIdentityError("another"))).run()
    assert await Attempts(a=(0, 0, refused), b=(0, 0, SILENCE)).run() is None


@pytest.mark.parametrize("seconds", [0.1, 0.3, 0.5, 1])
@in_virtual_time
async def test_a_cancel_ends_each_attempt_and_each_connection(seconds: float) -> None:
    attempts = Attempts(a=(NEVER, 0, None), b=(NEVER, 0, None), c=(0, NEVER, None))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(attempts.run(), seconds)
    ended = len(attempts.cancelled) + len(attempts.made)
    assert ended == len(attempts.started)


@pytest.mark.parametrize("turns", range(6))
@in_virtual_time
async def test_a_winner_is_returned_or_ended_when_the_race_is_cancelled_at_that_moment(
    turns: int,
) -> None:
    attempts = Attempts(a=(0, 1, None), b=(NEVER, 0, None))
    task = asyncio.ensure_future(attempts.run())
    asyncio.get_running_loop().call_later(1, task.cancel)
    await asyncio.sleep(1)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    try:
        winner = await task
    except asyncio.CancelledError:
        await asyncio.sleep(0)
        assert all(made.aborted for made in attempts.made)
    else:
        assert winner is attempts.made[0]
