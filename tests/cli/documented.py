"""What the help of a command says that its JSON has."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from seigr_toolset_transmissions.cli.app import app

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["all_commands", "documented_keys"]


def all_commands(
    group: click.Group = app, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, click.Command]]:
    """Find all commands of `stt`, and groups of them, by their names with spaces."""
    for name, command in group.commands.items():
        yield " ".join((*path, name)), command
        if isinstance(command, click.Group):
            yield from all_commands(command, (*path, name))


def documented_keys(command: str) -> set[str]:
    """Return the names that the help of a command has where it explains ``--json``."""
    text = dict(all_commands())[command].help or ""
    [paragraph] = [part for part in text.split("\n\n") if "With --json" in part]
    return set(re.findall(r"`(\w+)`", paragraph.partition("With --json")[2]))
