"""The `stt` command and its subcommands: what they are called, take and document."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from .. import NodeConfig, STTNode, __version__, generate_seed
from .addresses import parse_address, parse_listen_address, parse_node_id
from .bench import run_bench
from .boundary import guarded
from .chat import connect_lines, listen_lines
from .demo import run_demo
from .failures import OK, USAGE, Misuse, need_python
from .notes import log_everything, log_nothing
from .ping import ping_peer
from .pipe import connect_raw, listen_raw
from .running import run_until_done
from .seeds import find_seeds, node_seed, write_seed_file
from .transfer import send_file

__all__ = ["app", "main"]

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_WAIT = 120.0
MOST_WAITING = 8
"""Of those who wait for their turn each may take a receive window of memory."""
SEED_NAME = "stt.seed"

FILE = click.Path(path_type=Path)


def main(arguments: Sequence[str]) -> int:
    """Run the command with these arguments; return its exit code."""
    return guarded(app, arguments)


class _Seconds(click.FloatRange):
    """A time that ends: a float can also be nan or infinite."""

    name = "number of seconds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        seconds: float = super().convert(value, param, ctx)
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is not a valid {self.name}.", param, ctx)
        return seconds


def _set_up_log(_context: click.Context, _option: click.Parameter, verbose: bool) -> None:
    if verbose:
        log_everything()


verbose_option = click.option(
    "--verbose",
    "-v",
    is_flag=True,
    expose_value=False,
    callback=_set_up_log,
    help="Write the log to standard error.",
)
node_option = click.option(
    "--seed", type=FILE, metavar="FILE", help="This node's own seed [env: STT_NODE_SEED_FILE]."
)
shared_option = click.option(
    "--shared", type=FILE, metavar="FILE", help="The group's seed [env: STT_SHARED_SEED_FILE]."
)
expect_option = click.option(
    "--expect", metavar="NODE_ID", help="Talk to no peer but this one; `stt id` prints a node's id."
)
wait_option = click.option(
    "--wait",
    type=_Seconds(min=0, min_open=True),
    default=DEFAULT_WAIT,
    show_default=True,
    metavar="SECONDS",
    help="How long a broken connection may take to come back.",
)
raw_option = click.option(
    "--raw", is_flag=True, help="Exact bytes for pipes, instead of lines of text for people."
)
receive_option = click.option(
    "--recv-only", is_flag=True, help="Only receive: do not read standard input."
)


def network_options(function: F) -> F:
    """Add the options that all commands have that talk to peers."""
    for option in (verbose_option, wait_option, shared_option, node_option):
        function = option(function)
    return function


class _InOrder(click.Group):
    """Lists the commands in the order of their definition, which is that of their use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(self.commands)


@click.group(
    cls=_InOrder,
    invoke_without_command=True,
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 96},
)
@click.version_option(__version__, prog_name="stt", message="%(prog)s %(version)s")
@verbose_option
@click.pass_context
def app(context: click.Context) -> int:
    """Encrypted, lossless messages between peers that share one secret seed.

    \b
    See it work:     stt demo
    Make a seed:     stt keygen shared.seed        # and copy it to both machines
    Listen:          stt listen 9000 --shared shared.seed
    Talk:            stt connect HOST:9000 --shared shared.seed

    Seeds. Who knows the shared seed may connect; a node's own seed is its identity, and without one
    a command makes up an identity for its run (all but `id`). Each is looked for in this order:

    \b
    --seed FILE    then STT_NODE_SEED_FILE (a file), STT_NODE_SEED (a value)
    --shared FILE  then STT_SHARED_SEED_FILE (a file), STT_SHARED_SEED (a value)

    A file or value is hex digits, at least 32 (16 bytes), white space around them ignored; or it is
    any other 16 to 4096 bytes, taken exactly as they are, a line end included. A file that other
    users can read is refused.

    Exit codes. 0: done. 1: failed (not reached, refused, lost, not written). 2: wrong usage.
    130: ended by Ctrl-C. 143: ended by SIGTERM.
    """
    log_nothing()
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
        return USAGE
    return OK


@app.command(short_help="Show a hub and four peers at work, here and now.")
@click.option("--fast", is_flag=True, help="Leave out the pauses for reading.")
@verbose_option
def demo(fast: bool) -> int:
    """Show a hub and four peers at work on this machine, for some 15 seconds.

    Needs no seeds and no network. Everything that is shown is checked; the exit code is 0 if all of
    it was as it should be.

    \b
    Example:
      stt demo
    """
    need_python("demo")
    return run_until_done(run_demo(Console(), fast=fast))


@app.command(short_help="Write a new seed to a file.")
@click.argument("file", type=FILE, default=SEED_NAME)
@click.option("--force", is_flag=True, help="Replace the file if there is one.")
def keygen(file: Path, force: bool) -> int:
    """Write a new seed to FILE (default: stt.seed), readable by you alone, and print its path.

    The seed itself is never shown, unless FILE is `-`: then it goes to standard output, for a
    secret manager to take.

    \b
    Examples:
      stt keygen shared.seed
      stt keygen - | pass insert -m stt/shared
    """
    if str(file) == "-":
        click.echo(generate_seed().hex())
    else:
        write_seed_file(file, force=force)
        click.echo(file)
    return OK


@app.command(name="id", short_help="Print the node id of a node seed.")
@node_option
def show_id(seed: Path | None) -> int:
    """Print the node id of a node seed: 64 hex digits, for others to pin with --expect.

    \b
    Example:
      stt id --seed node.seed
    """
    own = node_seed(seed)
    if own is None:
        raise Misuse(
            "no node seed: make one with `stt keygen node.seed`, and name it with --seed FILE "
            "or STT_NODE_SEED_FILE"
        )
    node = STTNode(own, shared_seed=generate_seed())  # the id depends on its own seed alone
    click.echo(node.node_id.hex())
    return OK


@app.command(short_help="Wait for peers, and talk with them.")
@click.argument("address", metavar="[HOST:]PORT")
@raw_option
@click.option("--keep", is_flag=True, help="With --raw: take one sender after the other.")
@receive_option
@network_options
def listen(
    address: str,
    raw: bool,
    keep: bool,
    recv_only: bool,
    seed: Path | None,
    shared: Path | None,
    wait: float,
) -> int:
    """Wait for peers on PORT, of all addresses or of HOST (port 0: any free port).

    Any number of peers may talk at once. A line that you type goes to all of them; what they say
    is printed with the first digits of their node ids, control characters made visible. Ctrl-D
    ends. Lines from a file or pipe wait for the first peer, and for the slowest; their end does not
    end the command.

    With --raw there is one peer: its bytes go to standard output as they are, and when it has
    closed its session the command ends. Standard input goes to the peer; if there was any, its end
    closes the session. Others are refused meanwhile. --keep takes one peer after the other, also
    when one was lost; those who come meanwhile wait. It does not read standard input.

    \b
    Examples:
      stt listen 9000 --shared shared.seed
      stt listen 127.0.0.1:9000 --shared shared.seed --raw > received.bin
    """
    where = parse_listen_address(address)
    if keep and not raw:
        raise Misuse("--keep goes with --raw: without it, peers come and go as they like")
    seeds = find_seeds(seed, shared)
    read_input = not recv_only
    if raw:
        config = NodeConfig(resume_window=wait, max_sessions=MOST_WAITING if keep else 1)
        run_until_done(listen_raw(seeds, config, where, keep=keep, read_input=read_input))
    else:
        run_until_done(
            listen_lines(seeds, NodeConfig(resume_window=wait), where, read_input=read_input)
        )
    return OK


@app.command(short_help="Talk with a node that listens.")
@click.argument("address", metavar="HOST:PORT")
@raw_option
@expect_option
@receive_option
@network_options
def connect(
    address: str,
    raw: bool,
    expect: str | None,
    recv_only: bool,
    seed: Path | None,
    shared: Path | None,
    wait: float,
) -> int:
    """Talk to the node that listens at HOST:PORT.

    Each line that you type is a message; each message that comes is printed, control characters
    made visible. At the end of the input (Ctrl-D) everything is delivered, and the session closed.

    With --raw, standard input goes out and what comes goes to standard output, byte by byte.

    \b
    Examples:
      stt connect localhost:9000 --shared shared.seed
      tar c photos | stt connect [2001:db8::7]:9000 --raw --shared shared.seed
    """
    where = parse_address(address)
    pinned = None if expect is None else parse_node_id(expect)
    seeds, config = find_seeds(seed, shared), NodeConfig(resume_window=wait)
    talk = connect_raw if raw else connect_lines
    run_until_done(talk(seeds, config, where, expect=pinned, read_input=not recv_only))
    return OK


@app.command(short_help="Send a file, and see that it has arrived.")
@click.argument("address", metavar="HOST:PORT")
@click.argument("file", type=FILE)
@expect_option
@network_options
def send(
    address: str,
    file: Path,
    expect: str | None,
    seed: Path | None,
    shared: Path | None,
    wait: float,
) -> int:
    """Send FILE to the node that listens at HOST:PORT, and see that it has arrived there.

    The command ends when the peer has acknowledged everything: its node has all bytes then, and
    its program is about to read the last of them. Size, time and SHA-256 are printed.

    \b
    Example:
      stt listen 9000 --raw --shared shared.seed > disk.img      # there
      stt send HOST:9000 disk.img --shared shared.seed           # here
    """
    where = parse_address(address)
    pinned = None if expect is None else parse_node_id(expect)
    seeds, config = find_seeds(seed, shared), NodeConfig(resume_window=wait)
    run_until_done(send_file(seeds, config, where, file, expect=pinned))
    return OK


@app.command(short_help="Measure round trips to a node.")
@click.argument("address", metavar="HOST:PORT")
@click.option(
    "--count",
    "-c",
    type=click.IntRange(min=0),
    default=4,
    show_default=True,
    metavar="N",
    help="How often to ask; 0: until Ctrl-C.",
)
@click.option(
    "--interval",
    "-i",
    type=_Seconds(min=0.01),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time from one to the next.",
)
@expect_option
@network_options
def ping(
    address: str,
    count: int,
    interval: float,
    expect: str | None,
    seed: Path | None,
    shared: Path | None,
    wait: float,
) -> int:
    """Measure round trips to the node that listens at HOST:PORT, through its encrypted session.

    The peer's program notices nothing but the session. Fails unless every one was answered.

    \b
    Example:
      stt ping localhost:9000 -c 10 -i 0.2 --shared shared.seed
    """
    where = parse_address(address)
    pinned = None if expect is None else parse_node_id(expect)
    seeds, config = find_seeds(seed, shared), NodeConfig(resume_window=wait)
    run_until_done(ping_peer(seeds, config, where, count=count, interval=interval, expect=pinned))
    return OK


@app.command(short_help="Measure what this machine does.")
@verbose_option
def bench() -> int:
    """Measure, in some seconds, what two nodes on this machine do over loopback.

    Needs no seeds and no network. Every message is compared on arrival; the command fails if one is
    not what was sent. Other programs that run meanwhile make all figures worse.

    \b
    Example:
      stt bench
    """
    need_python("bench")
    run_until_done(run_bench())
    return OK
