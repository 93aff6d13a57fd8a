"""The prompt of a chat, at a terminal of its own."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import struct
import termios
import time
from typing import Self

import pytest

from cli.processes import CTRL_D, PATIENCE
from seigr_toolset_transmissions.cli import prompting


class Terminal:
    """A terminal whose one end is standard input and output; a person types at the other."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.keyboard, self._device = os.openpty()
        os.set_blocking(self.keyboard, False)
        for name, mode in (("sys.stdin", "r"), ("sys.stdout", "w")):
            stream = open(self._device, mode, closefd=False)  # noqa: SIM115 - the test's
            monkeypatch.setattr(name, stream)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.keyboard)
        os.close(self._device)

    def type(self, text: bytes) -> None:
        """Type, and wait until the terminal has taken most of it."""
        os.write(self.keyboard, text)
        end = time.monotonic() + PATIENCE
        while self._typed() < len(text) - 1 and time.monotonic() < end:
            pass

    async def until(self, shown: bytes) -> None:
        """Wait until it shows this."""
        screen = b""
        while shown not in screen:
            try:
                screen += os.read(self.keyboard, 65_536)
            except BlockingIOError:
                await asyncio.sleep(0.01)

    def _typed(self) -> int:
        """How many bytes wait to be read; in its usual mode, Ctrl-D is none."""
        [count] = struct.unpack("i", fcntl.ioctl(self._device, termios.FIONREAD, bytes(4)))
        return int(count)


async def test_keys_pressed_while_something_is_printed_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def print_and_type(_descriptor: int, data: bytes) -> None:
        if data:
            terminal.type(b"goodbye\r" + CTRL_D)

    monkeypatch.setattr(prompting, "write_all", print_and_type)
    async with asyncio.timeout(PATIENCE):
        with Terminal(monkeypatch) as terminal, prompting.prompting() as prompt:
            lines = prompt.lines()
            first = asyncio.ensure_future(anext(lines))
            await terminal.until(b">")
            await prompt.print_soon(b"news\n")
            assert await first == b"goodbye"
            assert [line async for line in lines] == []


async def test_a_print_that_fails_is_an_error_of_the_next_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_descriptor: int, _data: bytes) -> None:
        raise OSError(errno.EIO, "the terminal is gone")

    monkeypatch.setattr(prompting, "write_all", fail)
    with prompting.prompting() as prompt:
        await prompt.write(b"it does not wait for this\n")
        with pytest.raises(OSError, match="is gone"):
            await prompt.print_soon(b"")
        with pytest.raises(OSError, match="is gone"):
            await prompt.write(b"from now on, it fails\n")
