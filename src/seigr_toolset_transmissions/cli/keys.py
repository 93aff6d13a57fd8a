"""The keys of a prompt: none is lost, whatever is printed while it is pressed.

To print above a prompt, `prompt_toolkit` puts the terminal into its usual mode. A Ctrl-D that is
typed at that moment is taken by the terminal itself: the prompt never sees it.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from prompt_toolkit.application import run_in_terminal
from prompt_toolkit.key_binding import KeyBindings

if TYPE_CHECKING:
    from prompt_toolkit.input import Input
    from prompt_toolkit.key_binding import KeyPressEvent

__all__ = ["keyboard_and_bindings"]


def keyboard_and_bindings() -> tuple[Input | None, KeyBindings]:
    """Return what reads the keys, None for the usual way, and what some of them do.

    Ctrl-C raises SIGINT, and Ctrl-Z stops the process where a system has that, as without a prompt.
    """
    bindings = KeyBindings()

    @bindings.add("c-c")
    def interrupt(_event: KeyPressEvent) -> None:
        signal.raise_signal(signal.SIGINT)

    if sys.platform == "win32":
        return None, bindings

    from prompt_toolkit.input.vt100 import Vt100Input, cooked_mode  # noqa: PLC0415 - not on Windows

    class Keyboard(Vt100Input):
        def cooked_mode(self) -> AbstractContextManager[None]:
            """Leave the mode as it is: what is printed looks the same."""
            return nullcontext()

    keyboard = Keyboard(sys.stdin)

    @bindings.add("c-z")
    def stop(_event: KeyPressEvent) -> None:
        run_in_terminal(leave)

    def leave() -> None:
        with cooked_mode(keyboard.fileno()):  # for the shell
            os.kill(0, signal.SIGTSTP)

    return keyboard, bindings
