"""`stt cluster` and its subcommands: what they are called, take and document."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, cast

import click

from .addresses import parse_node_id
from .failures import OK
from .hubs import (
    Meeting,
    find_endpoints,
    find_meeting,
    list_hubs,
    locate_endpoint,
    parse_metadata,
)
from .options import (
    FILE,
    F,
    InOrder,
    help_unless_invoked,
    json_option,
    seconds,
    verbosity_options,
)
from .running import run_until_done

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["cluster"]

DEFAULT_SEARCH = 3.0
SEARCH_UNDONE = "the search was not finished"


def cluster_options(function: F) -> F:
    """Add WHERE and the options of all commands about a cluster, and make a `Meeting` of them."""

    @click.argument("where", metavar="WHERE")
    @click.option(
        "--seed",
        type=FILE,
        metavar="FILE",
        help="The node seed of all hubs [env: STT_NODE_SEED_FILE].",
    )
    @click.option("--creds", type=FILE, metavar="FILE", help="Credentials for the NATS server.")
    @click.option("--direct", is_flag=True, help="The hubs have direct=True.")
    @click.option(
        "--wait",
        type=seconds,
        default=DEFAULT_SEARCH,
        metavar="SECONDS",
        help=f"How long to look for the hubs [default: {DEFAULT_SEARCH:g} seconds].",
    )
    @json_option
    @verbosity_options
    @functools.wraps(function)
    def command(
        where: str,
        seed: Path | None,
        creds: Path | None,
        wait: float,
        direct: bool,
        **others: Any,
    ) -> Any:
        return function(find_meeting(where, seed, creds, wait, direct=direct), **others)

    return cast("F", command)


@click.group(cls=InOrder, invoke_without_command=True, short_help="Look at the hubs of a cluster.")
@verbosity_options
@click.pass_context
def cluster(context: click.Context) -> int:
    """Look at a cluster: its hubs, and what is connected to them.

    WHERE is where the hubs meet, as in Cluster(WHERE): unix:///FOLDER on this machine, or
    nats://BROKER:4222 or tls://BROKER:4222, or the addresses of all hubs, with commas between them:
    tcp://HOST:PORT,tcp://HOST:PORT. --seed is the node seed that they share. The command joins them
    for a moment as one more hub, with nothing connected to it. With --direct, all hubs must be able
    to reach the machine where it runs.

    \b
    Examples:
      stt cluster hubs unix:///run/app/hubs --seed hub.seed
      stt cluster find nats://broker:4222 type=sensor --seed hub.seed
    """
    return help_unless_invoked(context)


@cluster.command(name="hubs", short_help="List the hubs.")
@cluster_options
def cluster_hubs(meeting: Meeting, as_json: bool) -> int:
    """List the hubs that meet at WHERE, and how many endpoints each has.

    With --json: an array of objects with `name`, `connected`, `rtt` (in seconds) and `endpoints`.

    \b
    Example:
      stt cluster hubs unix:///run/app/hubs --seed hub.seed
    """
    run_until_done(list_hubs(meeting, as_json=as_json), undone=SEARCH_UNDONE)
    return OK


@cluster.command(name="find", short_help="Find endpoints by their metadata.")
@cluster_options
@click.argument("metadata", nargs=-1, metavar="[KEY=VALUE]...")
def cluster_find(meeting: Meeting, as_json: bool, metadata: tuple[str, ...]) -> int:
    """Print the id and the hub of each endpoint whose metadata has all these values.

    KEY=VALUE is text; KEY:=VALUE is JSON, such as floor:=7 or active:=true. Without any, all
    endpoints are printed. Finding none is not a failure.

    With --json: an array of objects with `endpoint_id` and `hub`.

    \b
    Example:
      stt cluster find unix:///run/app/hubs type=sensor floor:=7 --seed hub.seed
    """
    search = find_endpoints(meeting, parse_metadata(metadata), as_json=as_json)
    run_until_done(search, undone=SEARCH_UNDONE)
    return OK


@cluster.command(name="locate", short_help="Say which hub an endpoint is connected to.")
@cluster_options
@click.argument("endpoint_id", type=parse_node_id, metavar="ID")
def cluster_locate(meeting: Meeting, as_json: bool, endpoint_id: bytes) -> int:
    """Print the name of the hub that the endpoint with this id is connected to.

    Fails if no hub has it. With --json: an object with `endpoint_id` and `hub`.

    \b
    Example:
      stt cluster locate unix:///run/app/hubs $(stt id peer.seed) --seed hub.seed
    """
    search = locate_endpoint(meeting, endpoint_id, as_json=as_json)
    run_until_done(search, undone=SEARCH_UNDONE)
    return OK
