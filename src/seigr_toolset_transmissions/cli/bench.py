"""`stt bench`: how fast the library is on this machine, measured in a few seconds.

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
from typing import TYPE_CHECKING, Any

import click

from .. import NodeConfig, Session, STTError, STTNode, __version__, generate_seed
from .failures import Failure
from .serving import echo

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from multiprocessing.connection import Connection

    _Measure = Callable[[STTNode, Session, int, "_Report"], Awaitable[None]]

__all__ = ["run_bench"]

_HOST = "127.0.0.1"
_STREAMS = ((64, 300), (1024, 150), (64 * 1024, 400), (1024 * 1024, 25))
"""Bytes of a message, and how often all of `_messages` are sent one way."""
_ROUND_TRIPS = 3_000
_REQUESTS = ((1, 3_000), (16, 6_000), (256, 9_000))
"""How many are in flight, and how many are made."""
_SMALL = 64
_SESSIONS = 200
_DIALS = 16
"""Sessions that are opened at a time."""
_BROADCASTS = 20
_MOST_BYTES = 1024 * 1024
_FEWEST_MESSAGES, _MOST_MESSAGES = 16, 1024
_GOODBYE_SECONDS = 5.0
_DONE = b"as it should be"


class _Report:
    """Prints each figure as soon as there is one, or all of them as one JSON object at the end."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._facts: dict[str, Any] = {
            "stt": __version__,
            "python": f"{platform.python_implementation()} {platform.python_version()}",
            "system": f"{platform.system()} {platform.machine()}",
        }

    def begin(self) -> None:
        if not self._as_json:
            click.echo("two nodes in two processes, over loopback; every message is compared\n")

    def add(self, kind: str, what: str, found: str, **facts: float) -> None:
        """Add a measure: to the JSON object as ``facts`` under its kind, to the text as a line."""
        self._facts.setdefault(kind, []).append(facts)
        if not self._as_json:
            click.echo(f"{what:<22}{found}")

    def end(self) -> None:
        if self._as_json:
            click.echo(json.dumps(self._facts))
        else:
            click.echo("\nstt {stt}, {python}, {system}".format(**self._facts))


async def run_bench(*, as_json: bool, requests: bool) -> None:
    """Measure everything, or only ``requests``, and print the figures.

    Raises:
        Failure: The other process ended, or something else arrived there than was sent.

    """
    report = _Report(as_json=as_json)
    shared_seed = generate_seed()
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    other = context.Process(target=_other_process, args=(theirs, shared_seed), daemon=True)
    other.start()
    theirs.close()
    try:
        async with STTNode(generate_seed(), shared_seed, config=_config()) as node:
            await _measure_with(node, pipe, report, [_measure_requests] if requests else _MEASURES)
    finally:
        other.kill()
        other.join()
    report.end()


async def _measure_with(
    node: STTNode, pipe: Connection, report: _Report, measures: Iterable[_Measure]
) -> None:
    """Measure while the other process lives."""
    try:
        port = await asyncio.to_thread(pipe.recv)
    except EOFError:
        raise Failure("the other process ended before it listened") from None
    report.begin()
    measuring = asyncio.create_task(_measure(node, port, report, measures))
    ended = asyncio.create_task(asyncio.to_thread(_wait_for_end, pipe))
    try:
        await asyncio.wait((measuring, ended), return_when=asyncio.FIRST_COMPLETED)
        if not measuring.done() or isinstance(measuring.exception(), STTError):
            # When a process ends, its connections may show it first.
            await asyncio.wait((ended,), timeout=_GOODBYE_SECONDS)
            if ended.done():
                raise Failure("the other process ended too early")
        measuring.result()
    finally:
        measuring.cancel()
        await asyncio.wait((measuring,))
        await node.stop(drain=_GOODBYE_SECONDS)


def _wait_for_end(pipe: Connection) -> None:
    """Return when the process at the other end of the pipe has ended, however that happened."""
    with suppress(EOFError, OSError):
        pipe.recv()  # nothing comes


async def _measure(node: STTNode, port: int, report: _Report, measures: Iterable[_Measure]) -> None:
    session = await node.connect(_HOST, port)
    for measure in measures:
        await measure(node, session, port, report)


async def _measure_messages(node: STTNode, session: Session, _port: int, report: _Report) -> None:
    for size, rounds in _STREAMS:
        rate = await _stream(node, session, size, rounds)
        report.add(
            "one_way",
            f"one way, {_size(size)}",
            f"{rate:>11,.0f} messages/s {rate * size / 1e6:>9,.1f} MB/s",
            bytes=size,
            messages_per_s=round(rate, 1),
        )
    median, late = _quantiles(await _round_trips(node, session))
    report.add(
        "round_trips",
        f"round trip, {_size(_SMALL)}",
        f"{median:>11,.0f} us median, {late:,.0f} us p99",
        bytes=_SMALL,
        median_us=median,
        p99_us=late,
    )


async def _measure_requests(_: STTNode, session: Session, _port: int, report: _Report) -> None:
    for in_flight, count in _REQUESTS:
        began = time.perf_counter()
        times = await _request(session, in_flight, count)
        rate = count / (time.perf_counter() - began)
        median, late = _quantiles(times)
        report.add(
            "requests",
            f"requests, {in_flight} in flight",
            f"{rate:>11,.0f} requests/s {median:>9,.0f} us median, {late:,.0f} us p99",
            bytes=_SMALL,
            in_flight=in_flight,
            requests_per_s=round(rate, 1),
            median_us=median,
            p99_us=late,
        )


async def _measure_sessions(node: STTNode, session: Session, port: int, report: _Report) -> None:
    began = time.perf_counter()
    sessions = await _open_sessions(node, port)
    rate = len(sessions) / (time.perf_counter() - began)
    report.add(
        "new_sessions",
        "new sessions",
        f"{rate:>11,.0f} in a second",
        sessions=len(sessions),
        sessions_per_s=round(rate, 1),
    )
    milliseconds = 1e3 * await _broadcast(node, session, sessions)
    report.add(
        "broadcasts",
        f"broadcast, {_size(_SMALL)}",
        f"{milliseconds:>11,.1f} ms until all of {len(sessions)} sessions have it",
        bytes=_SMALL,
        sessions=len(sessions),
        median_ms=round(milliseconds, 3),
    )


_MEASURES: list[_Measure] = [_measure_messages, _measure_requests, _measure_sessions]


def _quantiles(times: list[float]) -> tuple[float, float]:
    """Return the median and the 99th percentile, in microseconds."""
    times = sorted(times)
    median, late = (round(1e6 * times[len(times) * part // 100], 1) for part in (50, 99))
    return median, late


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
            raise Failure("an answer does not match its question")
    return times


async def _request(session: Session, in_flight: int, count: int) -> list[float]:
    """Make requests, a fixed number at a time; return the seconds of each until its reply."""
    times = []
    numbers = iter(range(count))

    async def ask_on() -> None:
        for number in numbers:  # the tasks share them
            request = number.to_bytes(_SMALL)
            began = time.perf_counter()
            reply = await session.request(request)
            times.append(time.perf_counter() - began)
            if reply != request:
                raise Failure("a reply does not match its request")

    await asyncio.gather(*(ask_on() for _ in range(in_flight)))
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
    """Announce to the other side what comes next; return when it knows."""
    await session.send(json.dumps((what, size, count)).encode())
    await session.flush()


async def _all_well(node: STTNode) -> None:
    answer, _ = await node.endpoints.receive_any()
    if answer != _DONE:
        raise Failure(f"the other process says: {answer.decode()}")


def _config() -> NodeConfig:
    most_requests = max(in_flight for in_flight, _ in _REQUESTS)
    return NodeConfig(max_sessions_per_peer=_SESSIONS + 1, max_requests=most_requests)


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
    node.on_request(echo)
    address = await node.start(server_mode=True)
    assert address is not None  # noqa: S101  it listens
    pipe.send(address[1])
    await _answer(node)


async def _answer(node: STTNode) -> None:
    """Follow orders: compare what arrives and report the result, or send it back."""
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
