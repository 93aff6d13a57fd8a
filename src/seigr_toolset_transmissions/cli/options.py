"""The types and options that several commands of `stt` have in common."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import click
from click.shell_completion import CompletionItem

from .addresses import parse_node_id
from .failures import OK, USAGE
from .notes import set_verbosity

__all__ = [
    "DIRECTORY",
    "FILE",
    "F",
    "InOrder",
    "announce_option",
    "console_option",
    "expect_option",
    "help_unless_invoked",
    "json_option",
    "monitor_option",
    "network_options",
    "node_option",
    "number",
    "raw_option",
    "receive_option",
    "seconds",
    "shared_option",
    "verbosity_options",
]

F = TypeVar("F", bound=Callable[..., Any])
N = TypeVar("N", int, float)

_DEFAULT_WAIT = 120.0


class Option(Protocol):
    """Adds an option to a command."""

    def __call__(self, function: F, /) -> F:
        """Return the function with the option."""


class _File(click.Path):
    """A path. An empty one, perhaps from an unset variable, does not mean the current directory."""

    def __init__(self, completed_as: str) -> None:
        super().__init__(path_type=Path)
        self._completed_as = completed_as

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("the name is empty.", param, ctx)
        return super().convert(value, param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """See `click.Path`, which would take a directory to be one only if it refused a file."""
        del ctx, param
        return [CompletionItem(incomplete, type=self._completed_as)]


FILE: click.Path = _File("file")
DIRECTORY: click.Path = _File("dir")


def number(kind: type[N], name: str, least: float) -> Callable[[Any], N]:
    """Return a type of option: a finite number that is large enough.

    `click.FloatRange` would allow `nan`, and add its limits to the help text as a formula.
    """

    def convert(value: Any) -> N:
        try:
            number = kind(value)
            valid = math.isfinite(number)
        except ValueError:
            valid = False
        if not valid:
            raise click.BadParameter(f"{value!r} is not a valid {name}.")
        if number < least:
            raise click.BadParameter(f"{value} is too small: the least is {least:g}.")
        return number

    return convert


seconds: Callable[[Any], float] = number(float, "number of seconds", 0.001)


def _be_verbose(_context: click.Context, _option: click.Parameter, count: int) -> None:
    if count:
        set_verbosity(count)


def _be_quiet(_context: click.Context, _option: click.Parameter, quiet: bool) -> None:
    if quiet:
        set_verbosity(-1)


_verbose_option = click.option(
    "--verbose",
    "-v",
    count=True,
    expose_value=False,
    callback=_be_verbose,
    help="Log what the library does to standard error; -vv logs more.",
)
_quiet_option = click.option(
    "--quiet",
    "-q",
    is_flag=True,
    expose_value=False,
    callback=_be_quiet,
    help="Print only errors to standard error.",
)
node_option: Option = click.option(
    "--seed", type=FILE, metavar="FILE", help="This node's own seed [env: STT_NODE_SEED_FILE]."
)
shared_option: Option = click.option(
    "--shared", type=FILE, metavar="FILE", help="The group's seed [env: STT_SHARED_SEED_FILE]."
)
announce_option: Option = click.option(
    "--announce",
    is_flag=True,
    help="Let members of the group on the local network find this node: see `stt discover`.",
)
expect_option: Option = click.option(
    "--expect",
    type=parse_node_id,
    metavar="NODE_ID",
    help="Talk to this peer only; `stt id` prints a node's id.",
)
_wait_option = click.option(
    "--wait",
    type=seconds,
    default=_DEFAULT_WAIT,
    metavar="SECONDS",
    help="How long to wait for a broken connection to come back "
    f"[default: {_DEFAULT_WAIT:g} seconds].",
)
raw_option: Option = click.option(
    "--raw", is_flag=True, help="Carry exact bytes, for pipes, instead of lines of text."
)
json_option: Option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
console_option: Option = click.option(
    "--console",
    type=click.IntRange(0, 65535),
    is_flag=False,
    flag_value=0,
    metavar="[PORT]",
    help="Show the node in a browser, at this port or any free one.",
)
monitor_option: Option = click.option(
    "--monitor",
    type=FILE,
    metavar="PATH",
    help="Show the node to `stt top`, at this socket.",
)
receive_option: Option = click.option(
    "--recv-only", is_flag=True, help="Only receive: do not read standard input."
)


def verbosity_options(function: F) -> F:
    """Add the options that set how much a command says."""
    return _verbose_option(_quiet_option(function))


def network_options(function: F) -> F:
    """Add the options of all commands that talk to peers."""
    for option in (verbosity_options, _wait_option, shared_option, node_option):
        function = option(function)
    return function


class InOrder(click.Group):
    """Lists the commands in the order of definition, which is the order of use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """See `click.Group`."""
        del ctx
        return list(self.commands)


def help_unless_invoked(context: click.Context) -> int:
    """Show the help of a group of commands that was called without one; return the exit code."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
        return USAGE
    return OK
