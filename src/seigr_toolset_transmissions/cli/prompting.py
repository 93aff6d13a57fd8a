"""Lines typed at a terminal, kept apart from what is printed in the meantime.

`prompt_toolkit` draws the line being typed at the bottom; everything else goes above it.
"""

from __future__ import annotations

import asyncio
import io
import os
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from .streams import STDERR, STDIN, STDOUT, retrieve, split_lines, write_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

__all__ = ["Prompt", "can_prompt", "prompting"]

_FRAME_SECONDS = 0.02
"""From one print to the next: each one draws the line being typed again, which takes longer than
printing a hundred lines above it."""

_MOST_PENDING_BYTES = 64 * 1024
"""What may wait for the next print before writers have to wait, too."""


def can_prompt() -> bool:
    """Whether input, output and notes share a terminal on which a line can be redrawn."""
    capable = os.environ.get("TERM") not in ("dumb", "unknown")
    return capable and all(map(os.isatty, (STDIN, STDOUT, STDERR)))


@contextmanager
def prompting() -> Iterator[Prompt]:
    """Yield a prompt; until the end, standard error appears above the line being typed."""
    prompt, stderr = Prompt(), sys.stderr
    sys.stderr = _Notes(prompt)
    try:
        yield prompt
    finally:
        sys.stderr = stderr
        prompt.finish()


class Prompt:
    """The terminal as a chat uses it: lines are typed below, text is printed above."""

    def __init__(self) -> None:
        from prompt_toolkit.application import run_in_terminal  # noqa: PLC0415 - slow to import

        self._run_in_terminal = run_in_terminal
        self._pending = bytearray()
        self._printing: asyncio.Task[None] | None = None
        self._next_frame = float("-inf")
        self._failure: OSError | None = None

    async def lines(self) -> AsyncIterator[bytes]:
        """Iterate over the lines that are typed, until Ctrl-D or until the terminal is gone.

        Ctrl-C raises SIGINT, as without a prompt. However this ends, the terminal's modes are
        restored.
        """
        # Slow to import, and only needed here.
        from prompt_toolkit import PromptSession  # noqa: PLC0415
        from prompt_toolkit.output import create_output  # noqa: PLC0415
        from prompt_toolkit.output.vt100 import Vt100_Output  # noqa: PLC0415

        from .keys import keyboard_and_bindings  # noqa: PLC0415

        output = create_output()
        if isinstance(output, Vt100_Output):
            # A one-line prompt need not know where it is, and not every terminal answers.
            output.enable_cpr = False
        keyboard, bindings = keyboard_and_bindings()
        session: PromptSession[str] = PromptSession(
            "> ", input=keyboard, key_bindings=bindings, output=output, reserve_space_for_menu=0
        )
        # Between two prompts, too: in its usual mode a terminal would swallow a Ctrl-D typed then.
        with session.input.raw_mode():
            while True:
                try:
                    # Errors in the event loop are for the log, not for a screen of their own.
                    text = await session.prompt_async(
                        handle_sigint=False, set_exception_handler=False
                    )
                except (EOFError, OSError):
                    return
                # Several lines may have been pasted, perhaps with a final line end.
                typed = text.removesuffix("\n").encode(errors="surrogateescape")
                for line in split_lines(typed + b"\n")[0]:
                    yield line

    async def write(self, data: bytes, observe: Callable[[bytes], object] | None = None) -> None:
        """Print the data above the line being typed, together with what else comes soon.

        Returns before that, unless a lot waits to be printed.

        Raises:
            OSError: Something that was to be printed could not be.

        """
        printing = self.print_soon(data)
        if len(self._pending) > _MOST_PENDING_BYTES:
            await asyncio.shield(printing)
        if self._failure is not None:
            raise self._failure
        if observe is not None:
            observe(data)

    def print_soon(self, data: bytes) -> asyncio.Future[None]:
        """Have whole lines printed above the line being typed, in the order of the calls.

        Returns:
            A future that is done when they are printed; it gets the OSError of a failure, which
            need not be retrieved.

        """
        self._pending += data
        if self._printing is None or self._printing.done():
            self._printing = asyncio.create_task(self._print_in_time())
            self._printing.add_done_callback(retrieve)
        return self._printing

    def finish(self) -> None:
        """Print what is still to be printed, now that nobody types any more."""
        with suppress(OSError):  # the terminal is gone
            self._print()

    async def _print_in_time(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._next_frame - loop.time())
        self._next_frame = loop.time() + _FRAME_SECONDS
        await self._run_in_terminal(self._print)

    def _print(self) -> None:
        self._printing = None
        data, self._pending = bytes(self._pending), bytearray()
        try:
            write_all(STDOUT, data)
        except OSError as error:
            self._failure = error
            raise


class _Notes(io.TextIOBase):
    """Standard error above a prompt."""

    encoding = "utf-8"

    def __init__(self, prompt: Prompt) -> None:
        self._prompt = prompt
        self._unfinished = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        lines, end, self._unfinished = (self._unfinished + text).rpartition("\n")
        if end:
            self._prompt.print_soon(f"{lines}\n".encode(errors="backslashreplace"))
        return len(text)
