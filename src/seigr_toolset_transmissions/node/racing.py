"""Dials the addresses of a name until the wanted node answers at one."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from ..errors import STTConnectError, reason_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ..sessions.handshaking import Dialed
    from ..transports.base import Address

__all__ = ["dial_cancelled", "race"]

_CONNECT_SECONDS = 0.25
"""How long an address may take to accept before the next one is tried as well (RFC 8305, 8)."""

_ANSWER_SECONDS = 2.0
"""How long one that has accepted may take to shake hands before the next one is tried as well."""


def dial_cancelled() -> STTConnectError:
    """Return the error for a call whose dial was cancelled by other code."""
    return STTConnectError("another task of this program has cancelled the dial")


async def race(
    addresses: Sequence[Address],
    attempt: Callable[[Address, Callable[[], object]], Awaitable[Dialed | None]],
) -> Dialed | None:
    """Return the first success; None if connections were accepted, but none was answered.

    The next address is tried when an attempt has failed or takes long ("happy eyeballs"). An
    attempt includes the handshake, because another node, or another program, may listen at some of
    the addresses.

    Args:
        addresses: In the order in which to try them.
        attempt: Shakes hands at an address, and calls its second argument once it has a
            connection. Returns None if the other end does not answer.

    Raises:
        Exception: All attempts have failed. It is the first error of an attempt that got a
            connection, else an OSError.

    If it fails or is cancelled, no connection is left open.

    """
    if len(addresses) == 1:
        return await attempt(addresses[0], lambda: None)
    winner: Dialed | None = None
    over = silence = False
    errors: dict[Address, Exception] = {}

    def ended(address: Address, task: asyncio.Task[Dialed | None]) -> None:
        nonlocal winner, silence
        # If it was cancelled, then by other code, or because the race is over.
        error = dial_cancelled() if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            errors[address] = error
        elif error is None:
            dialed = task.result()
            if dialed is None:
                silence = True
            elif winner is None and not over:
                winner = dialed
            else:
                dialed.transport.abort()

    running: set[asyncio.Task[Dialed | None]] = set()
    waiting = list(addresses)
    try:
        while winner is None and (waiting or running):
            patience = None
            connected = asyncio.Event()
            if waiting:
                address = waiting.pop(0)
                task = asyncio.ensure_future(attempt(address, connected.set))
                task.add_done_callback(partial(ended, address))
                running.add(task)
                patience = _CONNECT_SECONDS if waiting else None
            done, running = await _first_of(running, patience)
            if waiting and not done and connected.is_set():
                done, running = await _first_of(running, _ANSWER_SECONDS - _CONNECT_SECONDS)
        await _cancel(running)
    except BaseException:
        over = True
        if winner is not None:
            winner.transport.abort()
        await _cancel(running)
        raise
    if winner is not None or silence:
        return winner
    raise _worst(errors)


_Attempts = set["asyncio.Task[Dialed | None]"]


async def _first_of(running: _Attempts, seconds: float | None) -> tuple[_Attempts, _Attempts]:
    return await asyncio.wait(running, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)


async def _cancel(running: _Attempts) -> None:
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running)


def _worst(errors: dict[Address, Exception]) -> Exception:
    unreachable = {a: error for a, error in errors.items() if isinstance(error, OSError)}
    if len(unreachable) < len(errors):
        return next(error for error in errors.values() if not isinstance(error, OSError))
    if len({error.errno for error in unreachable.values()}) == 1:
        return next(iter(unreachable.values()))
    return OSError("; ".join(f"{host}: {reason_of(e)}" for (host, _), e in unreachable.items()))
