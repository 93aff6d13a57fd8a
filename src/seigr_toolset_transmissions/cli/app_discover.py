"""`stt discover`: lists the members of the group that are announced on the local network."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

import click

from ..discovery import Discovery
from .addresses import format_address
from .failures import OK, Failure, Misuse
from .notes import note
from .options import json_option, seconds, shared_option, verbosity_options
from .running import run_until_done
from .seeds import find_seeds

if TYPE_CHECKING:
    from pathlib import Path

    from ..discovery import Member

__all__ = ["discover"]

DEFAULT_WAIT = 3.0


def parse_interface(text: str) -> str:
    """Return the IP address of an interface.

    Raises:
        Misuse: It is not one.

    """
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise Misuse(
            f"{text!r} is not an IP address: write one of this machine's, such as 192.0.2.7"
        ) from None


@click.command(short_help="Find members of the group on the local network.")
@click.option(
    "--on",
    "interfaces",
    type=parse_interface,
    multiple=True,
    metavar="ADDRESS",
    help="Look only on the network where this machine has this address; you may repeat it.",
)
@click.option(
    "--wait",
    type=seconds,
    default=DEFAULT_WAIT,
    metavar="SECONDS",
    help=f"How long to look [default: {DEFAULT_WAIT:g} seconds].",
)
@json_option
@shared_option
@verbosity_options
def discover(interfaces: tuple[str, ...], wait: float, as_json: bool, shared: Path | None) -> int:
    """Print the node id and the address of each node of the group that is announced.

    A node is announced by `stt listen --announce`, `stt receive --announce`, or a program that has
    an `Announcement`. Each is printed as soon as it is found. Fails if there is none. Anyone
    outside the group learns from announcements only that something is there.

    A node that was killed stays announced for up to 20 minutes. With --expect, the other commands
    make sure who answers.

    With --json: an array, at the end, of objects with `node_id` and `addresses`, the most promising
    address first.

    \b
    Examples:
      stt listen :9000 --announce --shared shared.seed      # there
      stt discover --shared shared.seed                     # here
      stt connect HOST:9000 --expect NODE_ID --shared shared.seed
    """
    seed = find_seeds(None, shared).shared
    try:
        discovery = Discovery(seed, interfaces=interfaces or None)
    except ModuleNotFoundError as error:
        raise Misuse(str(error)) from error
    run_until_done(_list(discovery, wait, as_json=as_json), undone="the search was not finished")
    return OK


async def _list(discovery: Discovery, wait: float, *, as_json: bool) -> None:
    """Print the members that are found in time.

    Raises:
        Failure: There are none, or multicast DNS cannot be used.

    """
    found: dict[Member, None] = {}
    async with AsyncExitStack() as block:
        try:
            await block.enter_async_context(discovery)
        except OSError as error:
            raise Failure(f"cannot look for members: {error.strerror or error}") from error
        note(f"looking for members for {wait:g} s")
        with suppress(TimeoutError):
            async with asyncio.timeout(wait):
                async for member in discovery:
                    if not as_json and member not in found:  # else another worker of one node
                        click.echo(f"{member.node_id.hex()}  {format_address(member.addresses[0])}")
                    found[member] = None
    if not found:
        raise Failure(
            f"no member of the group was found within {wait:g} s: check that one is announced "
            "(`stt listen --announce`) on this network, that it has the same shared seed, and that "
            "no firewall blocks UDP port 5353"
        )
    if as_json:
        click.echo(
            json.dumps(
                [
                    {"node_id": node_id.hex(), "addresses": list(map(format_address, addresses))}
                    for node_id, addresses in found
                ]
            )
        )
