"""Seeds from files and the environment, and new seed files.

What a file or a variable may hold, `seeds` says. A seed is never an argument of a command: every
user of the machine can see those.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .. import generate_seed, load_seed, save_seed
from ..errors import STTSeedError
from ..seeds import decode_seed
from .failures import Failure, Misuse

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Seeds", "find_seeds", "node_seed", "write_seed_file"]


@dataclass(frozen=True, slots=True)
class Seeds:
    """What a node is made of."""

    node: bytes = field(repr=False)
    shared: bytes = field(repr=False)
    ephemeral: bool
    """Whether the node seed was made for this run, as none was given."""


def write_seed_file(path: Path, *, force: bool = False) -> None:
    """Write a new random seed to a file that nobody but its owner can ever read.

    Args:
        path: The file.
        force: Replace the file if there is one. It is replaced at once or not at all.

    Raises:
        Failure: It exists already, or cannot be written. No file is left half written.

    """
    if path.is_dir():
        raise Failure(f"{path} is a directory: name a file in it")
    try:
        save_seed(path, generate_seed(), overwrite=force)
    except FileExistsError as error:
        raise Failure(
            f"{path} exists already: choose another name, or replace it with --force "
            "(the old seed is lost then)"
        ) from error
    except OSError as error:
        if path.parent.is_dir():
            remedy = "choose a folder where you may write"
        else:
            remedy = f"make the folder {path.parent} first"
        raise Failure(f"cannot write {path}: {error.strerror}; {remedy}") from error


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
    shared = _find(shared_file, "STT_SHARED_SEED", environment, ", or copy the group's")
    if shared is None:
        raise Misuse(
            "no shared seed: make one with `stt keygen shared.seed`, give each member of the group "
            "a copy, and name it with --shared FILE or STT_SHARED_SEED_FILE"
        )
    node = node_seed(node_file, environment)
    if node == shared:
        raise Misuse(
            "the node seed is the same as the shared seed, so any member of the group could pose "
            "as this node: make another one with `stt keygen node.seed`"
        )
    return Seeds(
        node=generate_seed() if node is None else node, shared=shared, ephemeral=node is None
    )


def _find(
    file: Path | None, variable: str, environment: Mapping[str, str], remedy: str = ""
) -> bytes | None:
    """Look at the option, the variable that names a file, and the one that holds a value.

    ``remedy`` is what else to do about a file that is not there than to make a seed.
    """
    try:
        if file is not None:
            return load_seed(file)
        if name := environment.get(f"{variable}_FILE"):
            file = Path(name)
            return load_seed(file)
        if value := environment.get(variable):
            return decode_seed(os.fsencode(value), variable)
    except STTSeedError as error:
        raise Misuse(str(error)) from error
    except FileNotFoundError as error:
        raise Misuse(
            f"{file}: no such seed file; make one with "
            f"`stt keygen {shlex.quote(str(file))}`{remedy}"
        ) from error
    except OSError as error:
        raise Misuse(f"cannot read seed file {file}: {error.strerror}") from error
    return None
