"""`stt completion`: makes a shell complete the command's arguments, as click has it."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from .failures import OK
from .options import verbosity_options

__all__ = ["completion"]

_SHELLS = ("bash", "zsh", "fish")


@click.command(short_help="Print a script that makes a shell complete arguments of stt.")
@click.argument("shell", type=click.Choice(_SHELLS), metavar="SHELL")
@verbosity_options
@click.pass_context
def completion(context: click.Context, shell: str) -> int:
    """Print a script that makes SHELL (bash, zsh or fish) complete the arguments of stt.

    Put it where your shell looks for completions, and open a new shell. If that folder does not
    exist, make it first.

    \b
    bash with its package bash-completion, version 4.4 or later:
      stt completion bash > ~/.local/share/bash-completion/completions/stt
    bash without that package, in ~/.bashrc:
      source <(stt completion bash)
    zsh, in a folder that $fpath names before ~/.zshrc calls compinit:
      stt completion zsh > ~/.zsh/completions/_stt
    fish:
      stt completion fish > ~/.config/fish/completions/stt.fish

    \b
    Example, for the current shell alone:
      stt completion bash > stt.sh && source stt.sh
    """
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - click has all of them
    click.echo(kind(context.find_root().command, {}, "stt", "_STT_COMPLETE").source())
    return OK
