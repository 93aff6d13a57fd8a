"""Seeds from files and the environment, and new seed files.

A seed, wherever it comes from, is written as hex digits (at least 32 of them, which is 16 bytes;
white space around them does not count), or it is any other 16 to 4096 bytes, taken exactly as they
are, a line end included. A seed is never an argument of a command: those are visible to every user
of the machine.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING

from .. import generate_seed
from .failures import Failure, Misuse

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Seeds", "decode_seed", "find_seeds", "node_seed", "read_seed_file", "write_seed_file"]

MIN_BYTES = 16
MAX_BYTES = 4096
"""A longer file is no seed, but one that was named by mistake."""

_HEX = re.compile(rb"[0-9a-fA-F]+")
_WHITE = b" \t\r\n\f\v"
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True, slots=True)
class Seeds:
    """What a node is made of."""

    node: bytes = field(repr=False)
    shared: bytes = field(repr=False)
    ephemeral: bool
    """Whether the node seed was made for this run, as none was given."""


def decode_seed(content: bytes, source: str) -> bytes:
    """Return the seed that a file or variable holds; ``source`` names it in errors.

    Raises:
        Misuse: It holds none. The text contains nothing of it.

    """
    if len(content) > MAX_BYTES:
        raise Misuse(f"{source} holds more than {MAX_BYTES} bytes: that is no seed")
    stripped = content.strip(_WHITE)
    if not stripped:
        raise Misuse(f"{source} is empty: make a seed with `stt keygen`")
    if not _HEX.fullmatch(stripped):
        seed = content
    elif len(stripped) % 2:
        raise Misuse(
            f"{source} holds an odd number of hex digits ({len(stripped)}): "
            "part of the seed seems to be missing"
        )
    else:
        seed = bytes.fromhex(stripped.decode("ascii"))
    if len(seed) < MIN_BYTES:
        raise Misuse(
            f"{source} holds a seed of {len(seed)} bytes, which is too short "
            f"(at least {MIN_BYTES}): make a seed with `stt keygen`"
        )
    return seed


def read_seed_file(path: Path) -> bytes:
    """Return the seed in a file that only its owner can read.

    Raises:
        Misuse: It cannot be read, others can read it, or it holds no seed.

    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_ISREG(mode) and mode & _OTHERS:
                raise Misuse(
                    f"seed file {path} is open to other users (mode {mode & 0o777:04o}): "
                    f"run `chmod 600 {shlex.quote(str(path))}`"
                )
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise Misuse(f"cannot read seed file {path}: {error.strerror}") from error
    return decode_seed(content, f"seed file {path}")


def write_seed_file(path: Path, *, force: bool = False) -> None:
    """Write a new random seed to a file that nobody but its owner could ever read.

    Args:
        path: The file.
        force: Replace the file if there is one. It is replaced at once or not at all.

    Raises:
        Failure: It exists already, or cannot be written. No file is left half written.

    """
    line = generate_seed().hex().encode("ascii") + b"\n"
    if path.is_dir():
        raise Failure(f"{path} is a directory: name a file in it")
    new = path.with_name(f".{path.name}.{token_hex(4)}") if force else path
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
                file.write(line)
                file.flush()
                os.fsync(descriptor)
            if force:
                new.replace(path)
        except BaseException:
            new.unlink()
            raise
    except FileExistsError as error:
        raise Failure(
            f"{path} exists already: choose another name, or replace it with --force "
            "(the old seed is lost then)"
        ) from error
    except OSError as error:
        raise Failure(f"cannot write {path}: {error.strerror}") from error


def node_seed(file: Path | None, environment: Mapping[str, str] = os.environ) -> bytes | None:
    """Return the node's own seed; None if there is none."""
    return _find(file, "STT_NODE_SEED", environment)


def find_seeds(
    node_file: Path | None, shared_file: Path | None, environment: Mapping[str, str] = os.environ
) -> Seeds:
    """Return the seeds from the files given, or else from the environment.

    Raises:
        Misuse: There is no shared seed, or one of the two cannot be used.

    """
    shared = _find(shared_file, "STT_SHARED_SEED", environment)
    if shared is None:
        raise Misuse(
            "no shared seed: make one with `stt keygen shared.seed`, give each member of the group "
            "a copy, and name it with --shared FILE or STT_SHARED_SEED_FILE"
        )
    node = node_seed(node_file, environment)
    return Seeds(
        node=generate_seed() if node is None else node, shared=shared, ephemeral=node is None
    )


def _find(file: Path | None, variable: str, environment: Mapping[str, str]) -> bytes | None:
    """Look at the option, the variable that names a file, and the one that holds a value."""
    if file is not None:
        return read_seed_file(file)
    if name := environment.get(f"{variable}_FILE"):
        return read_seed_file(Path(name))
    if value := environment.get(variable):
        return decode_seed(os.fsencode(value), variable)
    return None
