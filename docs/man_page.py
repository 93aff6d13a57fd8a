"""Write the manual page `docs/stt.1` from what `stt --help` says: `python docs/man_page.py`.

The wheel has the page, and installs it where `man stt` looks.
"""

from __future__ import annotations

import re
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING

import click

from seigr_toolset_transmissions import __version__
from seigr_toolset_transmissions.cli.app import app

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "stt.1"

_SPECIAL = {"\\": r"\e", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti", "-": r"\-"}
"""What roff would take for something else, or draw as another character."""

_RELEASED = re.compile(rf"^## \[{re.escape(__version__)}\] - (\d{{4}}-\d\d-\d\d)$", re.MULTILINE)


def page() -> str:
    """Return the manual page in roff, with the macros of man(7)."""
    released = _RELEASED.search((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    date = released[1] if released else ""
    summary, _, text = cleandoc(app.help or "").partition("\n\n")
    lines = [
        f'.TH STT 1 "{date}" "stt {__version__}" "User Commands"',
        ".SH NAME",
        rf"stt \- {_text(summary[0].lower() + summary[1:].rstrip('.'))}",
        ".SH SYNOPSIS",
        _usage(app, "stt"),
        ".SH DESCRIPTION",
        *_paragraphs(text),
        ".SH OPTIONS",
        "Every command takes these, except for the version:",
        *_options(_options_of(app)),
        ".SH COMMANDS",
        *_commands(app, "stt"),
    ]
    return "\n".join(lines) + "\n"


def _commands(group: click.Group, path: str) -> Iterator[str]:
    of_all = _options_of(app)
    for name, command in group.commands.items():
        yield f".SS {_usage(command, f'{path} {name}')}"
        yield from _paragraphs(cleandoc(command.help or ""))
        yield from _options([one for one in _options_of(command) if one not in of_all])
        if isinstance(command, click.Group):
            yield from _commands(command, f"{path} {name}")


def _context(command: click.Command) -> click.Context:
    return click.Context(command, help_option_names=app.context_settings["help_option_names"])


def _usage(command: click.Command, name: str) -> str:
    return _literal(" ".join([name, *command.collect_usage_pieces(_context(command))]))


def _options_of(command: click.Command) -> list[tuple[str, str]]:
    """Return how each option is written, and what it does."""
    context = _context(command)
    records = (
        parameter.get_help_record(context)
        for parameter in command.get_params(context)
        if isinstance(parameter, click.Option)
    )
    return [record for record in records if record is not None]


def _options(options: list[tuple[str, str]]) -> Iterator[str]:
    for written, meaning in options:
        yield from (".TP", f".B {_literal(written)}", _text(meaning))


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(text.split("\n\n")):
        if number:
            yield ".PP"
        if paragraph.startswith("\b\n"):  # as click has it: keep the lines
            yield ".nf"
            yield from map(_line, map(_literal, paragraph.splitlines()[1:]))
            yield ".fi"
        else:
            yield _text(" ".join(paragraph.split()))


def _text(text: str) -> str:
    """Return running text: what is in backquotes is bold, and a hyphen in a word is a hyphen."""
    parts = text.split("`")
    parts[::2] = (re.sub(r"(?<=\w)\\-(?=\w)", "-", _literal(part)) for part in parts[::2])
    parts[1::2] = (rf"\fB{_literal(part)}\fR" for part in parts[1::2])
    return _line("".join(parts))


def _literal(text: str) -> str:
    """Return text as it stands, with every `-` a minus, for options and examples."""
    return "".join(_SPECIAL.get(character, character) for character in text)


def _line(escaped: str) -> str:
    """Return a line of which roff takes no dot at the beginning for a request."""
    return rf"\&{escaped}" if escaped.startswith(".") else escaped


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
