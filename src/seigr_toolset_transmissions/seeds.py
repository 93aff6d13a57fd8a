"""Seeds: making, saving, loading and checking them.

A seed file holds either hex digits, at least 32 of them (16 bytes), as `save_seed` and `stt keygen`
write them, or any other 16 to 4,096 bytes. White space around hex digits does not count, nor does
the line end after a phrase, which editors add by themselves. Other bytes count exactly as they are.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import stat
from hmac import compare_digest
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .errors import STTSeedError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "MIN_SEED_BYTES",
    "check_distinct",
    "check_seed",
    "check_shared_seeds",
    "decode_seed",
    "generate_seed",
    "load_seed",
    "save_seed",
]

MIN_SEED_BYTES: Final = 16
"""A random seed of this length cannot be guessed. Length alone does not make a phrase strong."""

_SEED_BYTES: Final = 32
_MAX_FILE_BYTES: Final = 4096
"""A longer file is not a seed: the user named the wrong file."""

_HEX = re.compile(rb"[0-9a-fA-F]+")
_WHITE = b" \t\r\n\f\v"
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_MAKE_ONE = "make a seed with `stt keygen` or generate_seed()"


def generate_seed() -> bytes:
    """Return a new seed: 32 bytes from the operating system's source of randomness."""
    return secrets.token_bytes(_SEED_BYTES)


def load_seed(path: str | os.PathLike[str]) -> bytes:
    """Return the seed in a file that only its owner can access.

    The command ``stt`` reads its seed files with this, so the same file always makes the same node.

    Raises:
        STTSeedError: Other users can access the file, or it holds no seed. The text names the file
            and the remedy, and contains nothing of the seed.
        FileNotFoundError: There is no such file; the text says how to make one.
        OSError: The file cannot be read.

    """
    try:
        file = Path(path).open("rb")  # noqa: SIM115 - closed below
    except FileNotFoundError as error:
        raise FileNotFoundError(
            error.errno,
            "no such seed file (make one with `stt keygen` or save_seed(), or copy the one that "
            "your group shares)",
            str(path),
        ) from None
    with file:
        mode = os.fstat(file.fileno()).st_mode
        if os.name == "posix" and stat.S_ISREG(mode) and mode & _OTHERS:
            raise STTSeedError(
                f"seed file {path} is open to other users (mode {mode & 0o777:04o}): "
                f"run `chmod 600 {shlex.quote(str(path))}`"
            )
        content = file.read(_MAX_FILE_BYTES + 1)
    return decode_seed(content, f"seed file {path}")


def save_seed(path: str | os.PathLike[str], seed: bytes, *, overwrite: bool = False) -> None:
    """Write a seed, as hex digits, to a file that only its owner can read, from the start.

    Args:
        path: The file. Its folder must exist.
        seed: The seed, as from `generate_seed`.
        overwrite: Replace the file if it exists. It is replaced as a whole or not at all, and the
            old seed is gone.

    Raises:
        STTSeedError: ``seed`` cannot be used as a seed; see `STTNode`.
        FileExistsError: The file exists, and ``overwrite`` is false.
        OSError: The file cannot be written. No half-written file is left.

    """
    target = Path(path)
    line = check_seed(seed, "seed").hex().encode("ascii") + b"\n"
    new = target.with_name(f".{target.name}.{secrets.token_hex(4)}") if overwrite else target
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(line)
            file.flush()
            os.fsync(descriptor)
        if overwrite:
            new.replace(target)
    except BaseException:
        new.unlink()
        raise


def decode_seed(content: bytes, source: str) -> bytes:
    """Return the seed in the content of a file or an environment variable.

    Args:
        content: The content.
        source: What errors call the file or variable.

    Raises:
        STTSeedError: There is no seed in it. The text contains nothing of the content.

    """
    if len(content) > _MAX_FILE_BYTES:
        raise STTSeedError(f"{source} holds more than {_MAX_FILE_BYTES} bytes: that is not a seed")
    stripped = content.strip(_WHITE)
    if not stripped:
        raise STTSeedError(f"{source} is empty: make a seed with `stt keygen`")
    if not _HEX.fullmatch(stripped):
        seed = content.rstrip(b"\r\n") if _is_text(content) else content
    elif len(stripped) % 2:
        raise STTSeedError(
            f"{source} holds an odd number of hex digits ({len(stripped)}): "
            "part of the seed seems to be missing"
        )
    else:
        seed = bytes.fromhex(stripped.decode("ascii"))
    if len(seed) < MIN_SEED_BYTES:
        raise STTSeedError(
            f"{source} holds a seed of {len(seed)} bytes, which is too short "
            f"(at least {MIN_SEED_BYTES}): make a seed with `stt keygen`"
        )
    return seed


def _is_text(content: bytes) -> bool:
    """Return whether the content looks typed. Random bytes of a seed's length never do."""
    try:
        return content.decode("utf-8").rstrip("\r\n").isprintable()
    except UnicodeDecodeError:
        return False


def check_seed(seed: object, name: str) -> bytes:
    """Return ``seed`` if it can be used.

    Args:
        seed: The seed as the user gave it.
        name: What errors call it: ``"node_seed"`` or ``"shared_seed"``.

    Raises:
        STTSeedError: It is not ``bytes`` (a ``bytearray`` could change later, and a ``str`` can be
            encoded in more than one way), or is shorter than `MIN_SEED_BYTES`, or is the text of a
            seed file instead of the seed in it, which would be a different seed. The error says
            what to do and contains nothing of the seed.

    """
    if not isinstance(seed, bytes):
        raise STTSeedError(f"{name} must be bytes, not {type(seed).__name__}: {_MAKE_ONE}")
    if len(seed) < MIN_SEED_BYTES:
        raise STTSeedError(
            f"{name} must have at least {MIN_SEED_BYTES} bytes, not {len(seed)}: {_MAKE_ONE}"
        )
    digits = seed.strip(_WHITE)
    # Fewer digits without a line end may be a seed written in a program.
    shortest = 2 * (MIN_SEED_BYTES if len(digits) < len(seed) else _SEED_BYTES)
    if len(digits) >= shortest and _HEX.fullmatch(digits):
        raise STTSeedError(
            f"{name} is {len(digits)} hex digits: the text of a seed file, not the seed in it; "
            "read the file with load_seed(path), or decode the digits with bytes.fromhex()"
        )
    return seed


def check_shared_seeds(shared_seed: bytes | Sequence[bytes]) -> tuple[bytes, ...]:
    """Return the shared seeds, the one to dial with first.

    Raises:
        STTSeedError: There is none, or one cannot be used.

    """
    if isinstance(shared_seed, list | tuple):
        if not shared_seed:
            raise STTSeedError(
                "shared_seed is empty: give one seed, or several while the group changes it"
            )
        return tuple(check_seed(seed, "shared_seed") for seed in shared_seed)
    return (check_seed(shared_seed, "shared_seed"),)


def check_distinct(node_seed: bytes, shared_seeds: Sequence[bytes]) -> None:
    """Check that a node's own seed is not one that the whole group knows.

    Raises:
        STTSeedError: It is, so every member could pose as this node.

    """
    if any(compare_digest(node_seed, seed) for seed in shared_seeds):
        raise STTSeedError(
            "node_seed is the same as the shared seed, so every member of the group could pose as "
            "this node: give the node a seed of its own (`stt keygen`, generate_seed())"
        )
