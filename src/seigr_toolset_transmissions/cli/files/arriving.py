"""Files on their way into a directory: names that are safe, and the part that has arrived."""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from ..streams import CHUNK_BYTES

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["SUFFIX", "PartialFile", "digest_of", "fault_in"]

SUFFIX = ".stt-part"
"""The suffix of a file's name until the file is complete."""

_MOST_NAME_BYTES = 255 - len(SUFFIX)


def fault_in(name: str) -> str:
    """Return why a name cannot be that of a file in the directory; empty: it can.

    A peer chooses the name: it must not lead out of the directory, or hide anything on a terminal.
    """
    if name in ("", ".", "..") or "/" in name or "\\" in name or not name.isprintable():
        # Bytes that are not UTF-8 are surrogates here, and not printable.
        return "that is not a plain file name"
    if name.endswith(SUFFIX):
        return f"names that end in {SUFFIX} are kept for incomplete files"
    if len(name.encode()) > _MOST_NAME_BYTES:
        return f"the name is longer than {_MOST_NAME_BYTES} bytes"
    return ""


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class PartialFile:
    """The beginning of a file. All methods block.

    Args:
        target: What the file is to be called once it is complete. Until then its name has `SUFFIX`;
            a part that is already there is kept for `digest`.

    Attributes:
        size: How many bytes are there.

    Raises:
        OSError: It cannot be opened, or something other than a file has its name.

    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._path = target.with_name(target.name + SUFFIX)
        # No link is followed: it could lead out of the directory.
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        self._descriptor = os.open(self._path, flags, 0o666)
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(self._descriptor)
            raise FileExistsError(f"{self._path} is not a file")
        self.size: int = status.st_size
        self._digest = hashlib.sha256()

    def digest(self) -> str:
        """Return the SHA-256 of what is there, in hex."""
        self._digest = hashlib.sha256()
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        while chunk := os.read(self._descriptor, CHUNK_BYTES):
            self._digest.update(chunk)
        return self._digest.hexdigest()

    def begin_again(self) -> None:
        """Drop what has arrived."""
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        self.size = 0
        self._digest = hashlib.sha256()

    def append(self, content: bytes) -> None:
        """Add bytes behind those for which `digest` was called, or to nothing."""
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        self._digest.update(content)
        self.size += len(content)

    def complete(self, size: int, digest: str, *, force: bool) -> str:
        """Check that everything has arrived and is on disk, and give the file its name.

        Args:
            size: How many bytes it must have.
            digest: Their SHA-256.
            force: Replace a file of that name.

        Returns:
            What is wrong; empty: nothing.

        """
        if (self.size, self._digest.hexdigest()) != (size, digest):
            self.begin_again()
            return "what arrived differs from what was sent"
        os.fsync(self._descriptor)
        if not force and os.path.lexists(self._target):
            return "a file of that name has appeared meanwhile"
        self._path.replace(self._target)
        return ""

    def close(self) -> None:
        """Close the file; a part without a single byte is removed."""
        with suppress(OSError):
            if not self.size and self._path.lstat().st_size == 0:
                self._path.unlink()
        os.close(self._descriptor)
