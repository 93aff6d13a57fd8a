"""The `stt` command and its subcommands: what they are called, take and document."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import click
from rich.console import Console

from .. import NodeConfig, STTNode, __version__, generate_seed
from .addresses import parse_address, parse_listen_address
from .app_cluster import cluster
from .app_completion import completion
from .app_discover import discover
from .app_seeing import status, top
from .bench import run_bench
from .boundary import guarded
from .chat import connect_lines, listen_lines
from .demo.cluster import run_cluster_demo
from .demo.single import run_demo
from .failures import OK, Misuse, need_python
from .files.receive import receive_files
from .files.transfer import send_files
from .notes import set_verbosity
from .options import (
    DIRECTORY,
    FILE,
    InOrder,
    announce_option,
    console_option,
    expect_option,
    help_unless_invoked,
    json_option,
    monitor_option,
    network_options,
    node_option,
    number,
    raw_option,
    receive_option,
    seconds,
    verbosity_options,
)
from .ping import ping_peer
from .pipe import connect_raw, listen_raw
from .request import request_reply
from .running import run_until_done
from .seeds import find_seeds, node_seed, write_seed_file
from .serving import Answer, CommandAnswer, echo, parse_command
from .workers import Target, parse_target
from .workers import serve as serve_workers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["app", "main"]

DEFAULT_TIMEOUT = 30.0
MOST_WAITING = 8
"""Each waiting peer may take up a receive window of memory."""
SEED_NAME = "stt.seed"


def main(arguments: Sequence[str]) -> int:
    """Run the command with these arguments; return its exit code."""
    set_verbosity(0)
    return guarded(app, arguments)


@click.group(
    cls=InOrder,
    invoke_without_command=True,
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 96},
)
@click.version_option(
    __version__, "--version", "-V", prog_name="stt", message="%(prog)s %(version)s"
)
@verbosity_options
@click.pass_context
def app(context: click.Context) -> int:
    """Encrypted, lossless messages between peers that share one secret seed.

    \b
    See it work:     stt demo
    Make a seed:     stt keygen shared.seed        # and copy it to both machines
    Listen:          stt listen :9000 --shared shared.seed
    Talk:            stt connect HOST:9000 --shared shared.seed

    Seeds. Anyone with the shared seed may connect. A node's own seed is its identity; without one
    it gets a new identity for each run. The command looks for each seed in this order:

    \b
    --seed FILE    then STT_NODE_SEED_FILE (a file), STT_NODE_SEED (a value)
    --shared FILE  then STT_SHARED_SEED_FILE (a file), STT_SHARED_SEED (a value)

    A file or value holds hex digits, at least 32 (16 bytes), with any white space around them; or
    any other 16 to 4096 bytes, taken exactly as they are, except for the line end after a phrase. A
    file that other users can access is refused.

    Exit codes. 0: done. 1: failed (not reached, refused, lost, not written). 2: wrong usage.
    3 and 4: see `stt request`. 130: ended by Ctrl-C. 143: ended by SIGTERM.
    """
    return help_unless_invoked(context)


@app.command(short_help="Show a hub and four peers at work, here and now.")
@click.option("--cluster", "as_cluster", is_flag=True, help="Show three hubs that act as one.")
@click.option("--fast", is_flag=True, help="Leave out the pauses for reading.")
@verbosity_options
def demo(as_cluster: bool, fast: bool) -> int:
    """Show a hub and four peers at work on this machine, for about 15 seconds.

    Needs no seeds and no network. Everything it shows is checked; the exit code is 0 if every check
    passed.

    With --cluster, three hubs act as one while one of them is restarted and one is killed. They
    meet over a NATS server, if there is a program nats-server and the extra `nats`, and otherwise
    over Unix sockets.

    \b
    Examples:
      stt demo
      stt demo --cluster
    """
    need_python("demo")
    run = run_cluster_demo if as_cluster else run_demo
    return run_until_done(run(Console(), fast=fast), undone="the demo was not finished")


@app.command(short_help="Write a new seed to a file.")
@click.argument("file", type=FILE, default=SEED_NAME)
@click.option("--force", is_flag=True, help="Replace the file if there is one.")
@verbosity_options
def keygen(file: Path, force: bool) -> int:
    """Write a new seed to FILE (default: stt.seed), readable by you alone, and print its path.

    The seed itself is never shown, unless FILE is `-`: then it goes to standard output, for a
    secret manager to read.

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
@click.argument("file", required=False, type=FILE)
@json_option
@node_option
@verbosity_options
def show_id(file: Path | None, as_json: bool, seed: Path | None) -> int:
    """Print the node id of a node seed: 64 hex digits, for others to pin with --expect.

    With --json: an object with the `node_id`.

    \b
    Example:
      stt id node.seed
    """
    if file is not None and seed is not None:
        raise Misuse("name the seed file once: as FILE, or with --seed")
    own = node_seed(file or seed)
    if own is None:
        raise Misuse(
            "no node seed: make one with `stt keygen node.seed`, and name it: `stt id node.seed`"
        )
    node = STTNode(own, shared_seed=generate_seed())  # the id depends on its own seed alone
    click.echo(json.dumps({"node_id": node.node_id.hex()}) if as_json else node.node_id.hex())
    return OK


@app.command(short_help="Wait for peers, and talk with them.")
@click.argument("address", type=parse_listen_address, metavar="[HOST:]PORT")
@raw_option
@click.option("--keep", is_flag=True, help="With --raw: serve one peer after another.")
@click.option(
    "--exec",
    "command",
    type=parse_command,
    metavar="COMMAND",
    help="Answer each request with the output of this command.",
)
@click.option("--echo", "echoes", is_flag=True, help="Answer each request with the request itself.")
@receive_option
@announce_option
@monitor_option
@console_option
@network_options
def listen(
    address: tuple[str, int],
    raw: bool,
    announce: bool,
    keep: bool,
    command: list[str] | None,
    echoes: bool,
    recv_only: bool,
    monitor: Path | None,
    console: int | None,
    seed: Path | None,
    shared: Path | None,
    wait: float,
) -> int:
    """Wait for peers, and talk with them.

    PORT alone can be reached from this machine only; :PORT listens on all addresses, HOST:PORT on
    one of them. Port 0 is any free port.

    Any number of peers may talk at once. Each line that you type goes to all of them. Their lines
    are printed after the first digits of their node ids, with control characters made visible.
    Ctrl-D ends the command. Lines from a file or pipe wait for the first peer, and then for the
    slowest; when they end, the command keeps running.

    With --raw there is one peer: its bytes go to standard output unchanged, and the command ends
    when the peer closes its session. A visitor that sends nothing, such as `stt ping`, does not
    count. Standard input goes to the peer; when it ends, the session is closed, unless it was
    empty. Other peers are refused in the meantime. With --keep, peers take turns: each is served to
    its end, even if one is lost, while the others wait. Standard input is not read.

    With --exec, COMMAND runs once for each request, as from `stt request`: the request is its
    standard input, and its standard output is the reply. If its exit status is not 0, the request
    fails, and its output is the reason that the peer gets. What it writes to standard
    error is shown here. No shell is involved. STT_PEER_NODE_ID in its environment is the node id of
    the peer that asks. Up to 64 run at a time. If the peer no longer waits, or this command ends,
    it gets SIGTERM, and SIGKILL a second later. If this command itself is killed with SIGKILL, it
    cannot end what runs: the commands then run to their own end.

    With --monitor, `stt top PATH` and `stt status PATH` show this node while it runs, to you alone.
    With --console, a web page does, on this machine, to anyone who has its address; write it after
    [HOST:]PORT.

    \b
    Examples:
      stt listen :9000 --shared shared.seed
      stt listen :9000 --shared shared.seed --raw > received.bin
      stt listen :9000 --shared shared.seed --exec "df -h /data"
    """
    if keep and not raw:
        raise Misuse("--keep needs --raw: without --raw, any number of peers come and go")
    if command is not None and echoes:
        raise Misuse("--exec and --echo are two ways to answer a request: choose one")
    if raw and (command is not None or echoes):
        raise Misuse("--raw carries the bytes of one peer: run another `stt listen` for requests")
    seeds = find_seeds(seed, shared)
    read_input = not recv_only
    if raw:
        config = NodeConfig(resume_window=wait, max_sessions=MOST_WAITING if keep else 1)
        talk = listen_raw(
            seeds,
            config,
            address,
            announce=announce,
            keep=keep,
            read_input=read_input,
            monitor=monitor,
            console=console,
        )
    else:
        config = NodeConfig(resume_window=wait)
        answer: Answer | None = echo if echoes else None
        if command is not None:
            answer = CommandAnswer(command, config)
        talk = listen_lines(
            seeds,
            config,
            address,
            announce=announce,
            read_input=read_input,
            answer=answer,
            monitor=monitor,
            console=console,
        )
    run_until_done(talk)
    return OK


@app.command(short_help="Talk with a node that listens.")
@click.argument("address", type=parse_address, metavar="HOST:PORT")
@raw_option
@expect_option
@receive_option
@click.option("--retry", is_flag=True, help="Keep trying until a node listens there.")
@network_options
def connect(
    address: tuple[str, int],
    raw: bool,
    retry: bool,
    expect: bytes | None,
    recv_only: bool,
    seed: Path | None,
    shared: Path | None,
    wait: float,
) -> int:
    """Talk to the node that listens at HOST:PORT.

    Each line that you type is a message. Each message that arrives is printed, with control
    characters made visible. When the input ends (Ctrl-D), everything is delivered and the session
    is closed.

    With --raw, standard input is sent, and what arrives goes to standard output, byte for byte.

    With --retry, the command waits until a node listens there. It still fails at once if the node
    that answers has another shared seed or is not the expected one.

    \b
    Examples:
      stt connect localhost:9000 --shared shared.seed
      tar c photos | stt connect [2001:db8::7]:9000 --raw --shared shared.seed
    """
    seeds, config = find_seeds(seed, shared), NodeConfig(resume_window=wait)
    talk = connect_raw if raw else connect_lines
    run_until_done(
        talk(seeds, config, address, expect=expect, read_input=not recv_only, retry=retry)
    )
    return OK


@app.command(short_help="Send a request, and print the reply.")
@click.argument("address", type=parse_address, metavar="HOST:PORT")
@click.argument("data", default="-", metavar="[DATA]")
@click.option(
    "--timeout",
    "-t",
    type=seconds,
    default=DEFAULT_TIMEOUT,
    metavar="SECONDS",
    help="How long it may take, from the first attempt to connect to the reply "
    f"[default: {DEFAULT_TIMEOUT:g} seconds].",
)
@expect_option
@network_options
def request(
    address: tuple[str, int],
    data: str,
    timeout: float,
    expect: bytes | None,
    seed: Path | None,
    shared: Path | None,
    wait: float,
) -> int:
    """Send DATA as a request to the node that listens at HOST:PORT, and print its reply.

    Without DATA, or with `-`, the request is read from standard input. The reply goes to standard
    output unchanged; on a terminal, control characters are made visible and the last line is ended.

    A request is handled once or not at all. If there is no good reply, the exit code says what is
    known. 1: it was not handled (the node cannot be reached, or serves no requests). 3: the handler
    failed; standard error has its reason. 4: it may have been handled (no reply in time, or the
    session was lost). If you interrupt this command, the handler is cancelled.

    \b
    Examples:
      stt listen :9000 --shared shared.seed --exec "wc -c"            # there
      stt request HOST:9000 "how long is this?" --shared shared.seed  # here
    """
    seeds = find_seeds(seed, shared)
    config = NodeConfig(resume_window=wait)
    config = replace(config, connect_timeout=min(timeout, config.connect_timeout))
    request_data = None if data == "-" else os.fsencode(data)
    run_until_done(
        request_reply(seeds, config, address, request_data, timeout=timeout, expect=expect)
    )
    return OK


@app.command(short_help="Send files to a node that receives files.")
@click.argument("address", type=parse_address, metavar="HOST:PORT")
@click.argument("files", type=FILE, metavar="FILE...", nargs=-1, required=True)
@json_option
@expect_option
@network_options
def send(
    address: tuple[str, int],
    files: tuple[Path, ...],
    as_json: bool,
    expect: bytes | None,
    seed: Path | None,
    shared: Path | None,
    wait: float,
) -> int:
    """Send each FILE to the `stt receive` at HOST:PORT, and confirm that it has arrived.

    A file has arrived when the peer has verified its SHA-256 and has it on disk under its name. If
    a transfer breaks off, run the same command again: it continues where it stopped, and skips
    files that have already arrived.

    With --json: one object a line for each FILE, as soon as it is finished, with `file`, `outcome`
    (sent, present, refused, unreadable or incomplete), `peer_node_id`, `bytes` (sent now),
    `bytes_before` (there already), `seconds`, `sha256`, and `reason` (why it has not arrived). What
    does not apply is null.

    \b
    Example:
      stt receive :9000 inbox --shared shared.seed             # there
      stt send HOST:9000 disk.img *.jpg --shared shared.seed   # here
    """
    seeds, config = find_seeds(seed, shared), NodeConfig(resume_window=wait)
    run_until_done(send_files(seeds, config, address, files, expect=expect, as_json=as_json))
    return OK


@app.command(short_help="Receive files into a directory.")
@click.argument("address", type=parse_listen_address, metavar="[HOST:]PORT")
@click.argument("directory", type=DIRECTORY, metavar="DIR")
@click.option("--force", is_flag=True, help="Replace files that have the same name.")
@click.option("--once", is_flag=True, help="Exit when the first sender has left.")
@announce_option
@json_option
@network_options
def receive(
    address: tuple[str, int],
    directory: Path,
    announce: bool,
    force: bool,
    once: bool,
    as_json: bool,
    seed: Path | None,
    shared: Path | None,
    wait: float,
) -> int:
    """Wait on PORT for `stt send`, and store the files in DIR under their names.

    PORT alone can be reached from this machine only; :PORT listens on all addresses.

    Nothing is written outside DIR. A file appears under its name once its SHA-256 is verified;
    until then NAME.stt-part holds what has arrived, and the next attempt continues from there. If
    DIR has a file of that name with different content, the new one is refused unless you add
    --force.

    With --json: one object a line for each file, as soon as it is finished, with `file`, `outcome`
    (received, present, refused or incomplete), `peer_node_id`, `bytes` (received now),
    `bytes_before` (there already), `seconds`, `sha256`, and `reason` (why it has not arrived). What
    does not apply is null.

    \b
    Example:
      stt receive :9000 inbox --shared shared.seed
    """
    seeds, config = find_seeds(seed, shared), NodeConfig(resume_window=wait)
    run_until_done(
        receive_files(
            seeds,
            config,
            address,
            directory,
            announce=announce,
            force=force,
            once=once,
            as_json=as_json,
        )
    )
    return OK


@app.command(short_help="Run your node in worker processes.")
@click.argument("target", type=parse_target, metavar="MODULE:FACTORY")
@click.option(
    "--workers",
    "-n",
    type=number(int, "number of workers", 1),
    default=1,
    metavar="N",
    help="How many processes [default: 1].",
)
@monitor_option
@verbosity_options
def serve(target: Target, workers: int, monitor: Path | None) -> int:
    """Run the node that FACTORY makes in N processes, and restart those that die.

    FACTORY is a function without arguments in the Python module MODULE, which may be in the current
    folder. It returns an STTNode that is not started; it may also be async, or an async context
    manager that yields the node. Each process calls it.

    Several workers share the port, and are hubs of one cluster: to peers they are one node. If
    FACTORY gives the node no cluster, they get one of their own. This needs Linux, the same node
    seed in all workers, and a fixed port.

    If a worker fails at the start, the command fails. Later, a worker that dies is restarted after
    0.5 seconds; if it keeps dying, the pause grows to 5 seconds.

    SIGTERM or Ctrl-C: all workers deliver what is left, and end; a second signal ends them at once.
    SIGHUP: the workers restart one after another, with new code and settings.

    With --monitor, `stt top PATH` shows the node. Of several workers, each has its own path:
    PATH.1, PATH.2 and so on.

    \b
    Example:
      stt serve app:make_node --workers 4     # app.py has a function make_node
    """
    need_python("serve")
    run_until_done(serve_workers(target, workers, monitor))
    return OK


app.add_command(cluster)
app.add_command(status)
app.add_command(top)
app.add_command(discover)


@app.command(short_help="Measure round trips to a node.")
@click.argument("address", type=parse_address, metavar="HOST:PORT")
@click.option(
    "--count",
    "-c",
    type=number(int, "number of pings", 0),
    default=4,
    metavar="N",
    help="How many pings to send; 0 means until Ctrl-C [default: 4].",
)
@click.option(
    "--interval",
    "-i",
    type=number(float, "number of seconds", 0.01),
    default=1.0,
    metavar="SECONDS",
    help="Time from one ping to the next [default: 1 second].",
)
@json_option
@expect_option
@network_options
def ping(
    address: tuple[str, int],
    count: int,
    interval: float,
    as_json: bool,
    expect: bytes | None,
    seed: Path | None,
    shared: Path | None,
    wait: float,
) -> int:
    """Measure round trips to the node that listens at HOST:PORT, through its encrypted session.

    The peer's program sees a session that brings no messages. Fails unless every ping is answered,
    within 5 seconds and over the connection that carried it. A ping that is under way at Ctrl-C is
    not counted.

    With --json, nothing is printed but one object at the end, after Ctrl-C too: `peer_node_id`,
    `address`, `transmitted`, `received`, `loss` (from 0 to 1), `min_ms`, `avg_ms`, `max_ms` and
    `mdev_ms` (null if nothing was received), and `times_ms`, each round trip, with null where no
    answer came.

    \b
    Examples:
      stt ping localhost:9000 -c 10 -i 0.2 --shared shared.seed
      stt ping localhost:9000 --json --shared shared.seed | jq .avg_ms
    """
    seeds, config = find_seeds(seed, shared), NodeConfig(resume_window=wait)
    run_until_done(
        ping_peer(
            seeds,
            config,
            address,
            count=count,
            interval=interval,
            expect=expect,
            as_json=as_json,
        )
    )
    return OK


@app.command(short_help="Measure how fast this machine is.")
@click.option("--requests", is_flag=True, help="Measure only requests and their replies.")
@json_option
@verbosity_options
def bench(requests: bool, as_json: bool) -> int:
    """Measure in a few seconds how fast two nodes on this machine exchange messages over loopback.

    Needs no seeds and no network. Every message is compared on arrival; the command fails if one
    differs from what was sent. Other running programs make all figures worse.

    With --json, nothing is printed but one object at the end: `stt`, `python` and `system` say what
    was measured; `one_way`, `round_trips`, `requests`, `new_sessions` and `broadcasts` are arrays
    of objects. Each name in them says what is counted, and in which unit.

    \b
    Examples:
      stt bench
      stt bench --requests --json | jq ".requests[].requests_per_s"
    """
    need_python("bench")
    run_until_done(
        run_bench(as_json=as_json, requests=requests), undone="not everything was measured"
    )
    return OK


app.add_command(completion)
