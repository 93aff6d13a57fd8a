"""Dialling all addresses of a name, until one is the node that is wanted."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from .errors import reason_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from .handshaking import Dialed
    from .transports.base import Address

__all__ = ["race"]

_CONNECT_SECONDS = 0.25
"""How long an address may take to accept before the next one is tried as well (RFC 8305, 8)."""

_ANSWER_SECONDS = 2.0
"""How long one that has accepted may take to shake hands before the next one is tried as well."""


async def race(
    addresses: Sequence[Address],
    attempt: Callable[[Address, Callable[[], object]], Awaitable[Dialed | None]],
) -> Dialed | None:
    """Return the first success; None if whoever answered did so with silence.

    The next address is tried when an attempt has failed, or takes long. (``happy eyeballs``; with
    the handshake, because another node, or another program, may be at some of the addresses.)

    Args:
        addresses: In their order.
        attempt: Shakes hands with whoever is at an address; calls its second argument when it has
            a connection. Returns None for silence.

    Raises:
        Exception: What the attempts have raised, if all of them have failed: the first one of
            those that reached anybody, else an OSError.

    If it fails or is cancelled, no connection is left open.

    """
    if len(addresses) == 1:
        return await attempt(addresses[0], lambda: None)
    winner: Dialed | None = None
    over = silence = False
    errors: dict[Address, Exception] = {}

    def ended(address: Address, task: asyncio.Task[Dialed | None]) -> None:
        nonlocal winner, silence
        if task.cancelled():
            return
        error = task.exception()
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
