"""What peers say, made safe to print."""

from __future__ import annotations

import re

__all__ = ["printable", "printable_line"]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Characters with which a peer could move the cursor, or worse. Tabs and line ends are fine."""


def printable(message: bytes, prefix: str = "") -> bytes:
    """Return a message as whole lines that are safe to print, each with the prefix."""
    text = _CONTROL.sub(_escape, message.decode(errors="backslashreplace"))
    return "".join(f"{prefix}{line}\n" for line in text.split("\n")).encode()


def printable_line(text: str) -> str:
    """Return a text as one line that is safe to print."""
    whole = text.encode(errors="backslashreplace").decode()  # JSON may hold half a character
    return _CONTROL.sub(_escape, whole).replace("\n", "\\n").replace("\t", "\\t")


def _escape(match: re.Match[str]) -> str:
    return f"\\x{ord(match[0]):02x}"
