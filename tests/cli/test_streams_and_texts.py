from __future__ import annotations

import asyncio
import os
import threading
from threading import Event

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seigr_toolset_transmissions.cli.demo.numbers import Tally, number_of, numbered
from seigr_toolset_transmissions.cli.failures import Failure
from seigr_toolset_transmissions.cli.ping import figures_of, summary
from seigr_toolset_transmissions.cli.printable import printable
from seigr_toolset_transmissions.cli.rates import describe
from seigr_toolset_transmissions.cli.streams import (
    InputStream,
    OutputStream,
    Worker,
    split_lines,
)


@given(st.lists(st.binary(max_size=30).filter(lambda line: b"\n" not in line)))
def test_lines_come_whole_and_without_their_ends(lines: list[bytes]) -> None:
    data = b"".join(line + b"\n" for line in lines)
    assert split_lines(data, longest=30) == (lines, b"")
    assert split_lines(data + b"rest", longest=30) == (lines, b"rest")


@given(st.lists(st.binary(max_size=50)), st.integers(1, 20))
def test_no_byte_is_lost_however_the_input_is_cut(chunks: list[bytes], longest: int) -> None:
    lines: list[bytes] = []
    rest = b""
    for chunk in chunks:
        more, rest = split_lines(rest + chunk, longest)
        lines += more
        assert len(rest) <= longest
    assert all(len(line) <= longest for line in lines)
    assert b"".join(lines) + rest == b"".join(chunks).replace(b"\n", b"")


async def test_a_pipe_is_read_as_it_comes_until_its_end() -> None:
    reading, writing = os.pipe()
    stream = InputStream(reading)
    first = asyncio.ensure_future(stream.read())
    await asyncio.sleep(0)
    assert not first.done()
    os.write(writing, b"abc")
    assert await first == b"abc"
    os.close(writing)
    assert await stream.read() == b""
    os.close(reading)


async def test_a_full_pipe_makes_the_writer_wait_and_not_the_loop() -> None:
    reading, writing = os.pipe()
    seen: list[bytes] = []
    data = bytes(300_000)  # more than any pipe holds
    task = asyncio.ensure_future(OutputStream(writing).write(data, seen.append))
    done, _ = await asyncio.wait((task,), timeout=0.1)
    assert not done
    assert seen == []
    got = 0
    while got < len(data):
        got += len(await asyncio.to_thread(os.read, reading, 65_536))
    await task
    assert seen == [data]
    os.close(reading)
    with pytest.raises(BrokenPipeError):
        await OutputStream(writing).write(b"x")
    os.close(writing)


async def test_a_cancelled_call_is_dropped_and_the_next_one_made() -> None:
    worker = Worker("test")
    release = Event()
    made: list[int] = []
    first = asyncio.ensure_future(worker.call(release.wait))
    second = asyncio.ensure_future(worker.call(made.append, 2))
    third = asyncio.ensure_future(worker.call(made.append, 3))
    await asyncio.sleep(0.01)
    first.cancel()
    second.cancel()
    release.set()
    await third
    assert made == [3]


def test_a_call_that_outlives_its_event_loop_ends_its_thread() -> None:
    begun, release = Event(), Event()

    def outlive() -> None:
        begun.set()
        release.wait()

    async def begin() -> None:
        call = asyncio.ensure_future(Worker("outlives").call(outlive))
        await asyncio.to_thread(begun.wait)
        call.cancel()

    asyncio.run(begin())
    thread = next(thread for thread in threading.enumerate() if thread.name == "outlives")
    release.set()
    thread.join(timeout=30)
    assert not thread.is_alive()


async def test_an_unreadable_file_is_named() -> None:
    reading, writing = os.pipe()
    with pytest.raises(Failure, match=r"^cannot read standard input: Bad file descriptor$"):
        await InputStream(writing).read()
    with pytest.raises(Failure, match=r"^cannot read file\.bin: "):
        await InputStream(writing, "file.bin").read()
    os.close(reading)
    os.close(writing)


@given(st.binary(max_size=60), st.sampled_from(["", "peer: "]))
def test_printed_text_cannot_control_the_terminal(message: bytes, prefix: str) -> None:
    text = printable(message, prefix).decode()
    assert text.endswith("\n")
    assert all(line.startswith(prefix) for line in text.split("\n")[:-1])
    assert not any((ord(c) < 32 and c not in "\t\n") or 127 <= ord(c) < 160 for c in text)


def test_text_is_printed_as_it_is() -> None:
    assert printable("grüße\t☕".encode()) == "grüße\t☕\n".encode()
    assert printable(b"two\nlines", "p: ") == b"p: two\np: lines\n"
    assert printable(b"\x1b[2J\r\xff") == b"\\x1b[2J\\x0d\\xff\n"
    assert printable(b"") == b"\n"


@given(st.integers(0, 999_999))
def test_a_numbered_message_carries_its_number(number: int) -> None:
    assert number_of(numbered(number)) == number


@pytest.mark.parametrize("message", [b"", b"#", b"1", b"#-1", b"#1 ", b"#1\n", b"# 1"])
def test_other_messages_carry_none(message: bytes) -> None:
    assert number_of(message) is None


@given(st.integers(0, 30), st.data())
def test_the_tally_finds_every_flaw(total: int, data: st.DataObject) -> None:
    arrived = data.draw(st.lists(st.integers(0, total - 1)) if total else st.just([]))
    tally = Tally()
    for number in arrived:
        tally.add(number)
    assert (tally.flaws(total) == "") == (arrived == list(range(total)))


def test_the_tally_says_what_is_wrong() -> None:
    tally = Tally()
    for number in (0, 2, 1, 1, 5):
        tally.add(number)
    assert tally.flaws(6) == "2 lost, 1 doubled, 1 out of order"


def test_a_summary_has_the_counts_and_the_figures_that_ping_has() -> None:
    assert summary(figures_of([0.001, None, 0.003])) == (
        "3 transmitted, 2 received, 33.3333% loss\nmin/avg/max/mdev = 1.000/2.000/3.000/1.000 ms"
    )
    assert summary(figures_of([None])) == "1 transmitted, 0 received, 100% loss"
    assert summary(figures_of([])) == "0 transmitted, 0 received, 0% loss"


def test_a_transfer_is_described_for_people() -> None:
    assert describe(2_000_000, 0.5) == "2,000,000 bytes in 0.5 s (4.0 MB/s)"
    assert describe(0, 0.0) == "0 bytes in 0.0 s"
