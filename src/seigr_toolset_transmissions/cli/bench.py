"""`stt bench`: what the library does on this machine, in some seconds.

Two processes over loopback, a node in each. The other one, started here, listens; it is told what
will come, compares all of it, and answers. Whatever is measured ends with that answer.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import platform
import random
import signal
import statistics
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from .. import NodeConfig, Session, STTError, STTNode, __version__, generate_seed
from .failures import Failure

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

__all__ = ["run_bench"]

_HOST = "127.0.0.1"
_STREAMS = ((64, 300), (1024, 150), (64 * 1024, 400), (1024 * 1024, 25))
"""Bytes of a message, and how often all of `_messages` are sent one way."""
_ROUND_TRIPS = 3_000
_SMALL = 64
_SESSIONS = 200
_DIALS = 16
"""Sessions that are opened at a time."""
_BROADCASTS = 20
_MOST_BYTES = 1024 * 1024
_FEWEST_MESSAGES, _MOST_MESSAGES = 16, 1024
_GOODBYE_SECONDS = 5.0
_DONE = b"as it should be"


async def run_bench() -> None:
    """Measure and print what was found.

    Raises:
        Failure: The other process ended, or something else arrived there than was sent.

    """
    shared_seed = generate_seed()
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    other = context.Process(target=_other_process, args=(theirs, shared_seed), daemon=True)
    other.start()
    theirs.close()
    try:
        async with STTNode(generate_seed(), shared_seed, config=_config()) as node:
            await _measure_with(node, pipe)
    finally:
        other.kill()
        other.join()
    click.echo(
        f"\nstt {__version__}, {platform.python_implementation()} {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}"
    )


async def _measure_with(node: STTNode, pipe: Connection) -> None:
    """Measure as long as the other process lives."""
    try:
        port = await asyncio.to_thread(pipe.recv)
    except EOFError:
        raise Failure("the other process ended before it listened") from None
    click.echo("two nodes in two processes, over loopback; every message is compared\n")
    measuring = asyncio.create_task(_measure(node, port))
    ended = asyncio.create_task(asyncio.to_thread(_wait_for_end, pipe))
    try:
        await asyncio.wait((measuring, ended), return_when=asyncio.FIRST_COMPLETED)
        if not measuring.done() or isinstance(measuring.exception(), STTError):
            # A process that has ended may show it by its connections first.
            await asyncio.wait((ended,), timeout=_GOODBYE_SECONDS)
            if ended.done():
                raise Failure("the other process ended too early")
        measuring.result()
    finally:
        measuring.cancel()
        await asyncio.wait((measuring,))
        await node.stop(drain=_GOODBYE_SECONDS)


def _wait_for_end(pipe: Connection) -> None:
    """Return when the process at the other end of the pipe has ended, in whatever way."""
    with suppress(EOFError, OSError):
        pipe.recv()  # nothing comes


async def _measure(node: STTNode, port: int) -> None:
    session = await node.connect(_HOST, port)
    for size, rounds in _STREAMS:
        rate = await _stream(node, session, size, rounds)
        _print(
            f"one way, {_size(size)}",
            f"{rate:>11,.0f} messages/s {rate * size / 1e6:>9,.1f} MB/s",
        )
    times = sorted(await _round_trips(node, session))
    median, late = times[len(times) // 2], times[len(times) * 99 // 100]
    _print(
        f"round trip, {_size(_SMALL)}",
        f"{median * 1e6:>11,.0f} us median, {late * 1e6:,.0f} us p99",
    )
    began = time.perf_counter()
    sessions = await _open_sessions(node, port)
    seconds = time.perf_counter() - began
    _print("new sessions", f"{len(sessions) / seconds:>11,.0f} in a second")
    seconds = await _broadcast(node, session, sessions)
    _print(
        f"broadcast, {_size(_SMALL)}",
        f"{seconds * 1e3:>11,.1f} ms until all of {len(sessions)} sessions have it",
    )


async def _stream(node: STTNode, session: Session, size: int, rounds: int) -> float:
    """Send messages one way; return how many a second, until the other side has compared all."""
    messages = _messages(size)
    await _order(session, "compare", size, rounds)
    send, peer_id = node.endpoints.send_to_endpoint, session.peer_node_id
    began = time.perf_counter()
    for _ in range(rounds):
        for data in messages:
            await send(peer_id, data)
    await _all_well(node)
    return rounds * len(messages) / (time.perf_counter() - began)


async def _round_trips(node: STTNode, session: Session) -> list[float]:
    """Return the seconds of each round trip."""
    times = []
    await _order(session, "echo", _SMALL, _ROUND_TRIPS)
    send, receive = node.endpoints.send_to_endpoint, node.endpoints.receive_any
    for number in range(_ROUND_TRIPS):
        message = number.to_bytes(_SMALL)
        began = time.perf_counter()
        await send(session.peer_node_id, message)
        answer, _ = await receive()
        times.append(time.perf_counter() - began)
        if answer != message:
            raise Failure("an answer is not the one to its question")
    return times


async def _open_sessions(node: STTNode, port: int) -> list[Session]:
    places = iter(range(_SESSIONS))

    async def dial() -> list[Session]:
        return [await node.connect(_HOST, port) for _ in places]

    opened = await asyncio.gather(*(dial() for _ in range(_DIALS)))
    return [session for sessions in opened for session in sessions]


async def _broadcast(node: STTNode, session: Session, sessions: list[Session]) -> float:
    """Return the seconds, as the median of several times, until all sessions have a message."""
    ids = [one.session_id for one in sessions]
    times = []
    for _ in range(_BROADCASTS):
        await _order(session, "copies", _SMALL, len(ids))
        began = time.perf_counter()
        await node.send_to_sessions(ids, _messages(_SMALL)[0])
        await _all_well(node)
        times.append(time.perf_counter() - began)
    for one in sessions:
        await one.flush()  # the peer has acknowledged: each session has carried its copies
    return statistics.median(times)


async def _order(session: Session, what: str, size: int, count: int) -> None:
    """Tell the other side what will come; return when it has heard."""
    await session.send(json.dumps((what, size, count)).encode())
    await session.flush()


async def _all_well(node: STTNode) -> None:
    answer, _ = await node.endpoints.receive_any()
    if answer != _DONE:
        raise Failure(f"the other process says: {answer.decode()}")


def _config() -> NodeConfig:
    return NodeConfig(max_sessions_per_peer=_SESSIONS + 1)


def _messages(size: int) -> list[bytes]:
    """Return different messages of this size, the same in both processes; they are sent in turn."""
    count = max(_FEWEST_MESSAGES, min(_MOST_MESSAGES, _MOST_BYTES // size))
    body = random.Random(size).randbytes(size - 8)  # noqa: S311 - no secret
    return [number.to_bytes(8) + body for number in range(count)]


def _size(size: int) -> str:
    for unit, factor in (("MiB", 1024 * 1024), ("KiB", 1024)):
        if size >= factor:
            return f"{size // factor} {unit}"
    return f"{size} B"


def _print(what: str, found: str) -> None:
    click.echo(f"{what:<18}{found}")


# ------------------------------------------------------------------------- the other process


def _other_process(pipe: Connection, shared_seed: bytes) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command, which ends this
    threading.Thread(target=_end_with, args=(pipe,), daemon=True).start()
    asyncio.run(_listen(pipe, shared_seed))


def _end_with(pipe: Connection) -> None:
    """End this process with the command's."""
    _wait_for_end(pipe)
    os._exit(0)


async def _listen(pipe: Connection, shared_seed: bytes) -> None:
    node = STTNode(generate_seed(), shared_seed, _HOST, config=_config())
    address = await node.start(server_mode=True)
    assert address is not None  # noqa: S101  it listens
    pipe.send(address[1])
    await _answer(node)


async def _answer(node: STTNode) -> None:
    """Do as told: compare what comes and say how it is, or send it back."""
    receive, send = node.endpoints.receive_any, node.endpoints.send_to_endpoint
    while True:
        order, peer_id = await receive()
        what, size, count = json.loads(order)
        if what == "echo":
            for _ in range(count):
                data, _ = await receive()
                await send(peer_id, data)
            continue
        if what == "copies":
            expected, rounds = _messages(size)[:1] * count, 1
        else:
            expected, rounds = _messages(size), count
        for number in range(rounds):
            if [(await receive())[0] for _ in expected] != expected:
                await send(peer_id, f"wrong data after {number * len(expected)} messages".encode())
                break
        else:
            await send(peer_id, _DONE)
