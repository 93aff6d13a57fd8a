"""`stt cluster`: looks at a cluster from within, as one more hub that nothing is connected to."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import STTNode, generate_seed
from ..cluster import Cluster
from ..transports.nats import NatsBus, without_password
from .failures import Failure, Misuse
from .notes import note, note_warnings
from .printable import printable_line
from .seeds import node_seed
from .tables import hub_table

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

__all__ = [
    "Meeting",
    "find_endpoints",
    "find_meeting",
    "list_hubs",
    "locate_endpoint",
    "parse_metadata",
]

_UNIX = "unix://"
_TCP = "tcp://"
_LOOK_SECONDS = 0.05
"""How often to look whether an endpoint is known by now; hubs tell each other no more often."""


@dataclass(frozen=True, slots=True)
class Meeting:
    """Where the hubs of a cluster meet, and what it takes to be one of them."""

    shown: str
    """The URL, without a password."""
    cluster: Cluster
    seed: bytes
    wait: float


def find_meeting(
    url: str, seed_file: Path | None, credentials: Path | None, wait: float, *, direct: bool
) -> Meeting:
    """Return where to meet the hubs.

    Raises:
        Misuse: There is no node seed, no hubs can meet there, or there is no nats-py.

    """
    seed = node_seed(seed_file)
    if seed is None:
        raise Misuse("name the node seed that the hubs share, with --seed or STT_NODE_SEED_FILE")
    if url.startswith(_UNIX) and not Path(url.removeprefix(_UNIX)).is_dir():
        raise Misuse(f"no hubs meet at {url}: there is no such folder")
    if credentials is not None and url.startswith((_UNIX, _TCP)):
        raise Misuse("--creds is for a NATS server; other hubs need none")
    if credentials is not None and not credentials.is_file():
        raise Misuse(f"there is no credentials file {credentials}")
    name = f"stt-{socket.gethostname()}-{os.getpid()}"
    try:
        if url.startswith(_TCP):
            # An address that is not in the list, so that this command dials all that are.
            cluster = Cluster(url.split(","), name=name, address="tcp://127.0.0.1")
        else:
            where = NatsBus(url, user_credentials=str(credentials)) if credentials else url
            cluster = Cluster(where, name=name, direct=direct)
        return Meeting(without_password(url), cluster, seed, wait)
    except (ModuleNotFoundError, ValueError) as error:
        raise Misuse(str(error)) from error


def parse_metadata(texts: Iterable[str]) -> dict[str, Any]:
    """Read KEY=VALUE (text) and KEY:=VALUE (JSON).

    Raises:
        Misuse: One has another form.

    """
    metadata: dict[str, Any] = {}
    for text in texts:
        key, is_there, value = text.partition("=")
        name = key.removesuffix(":")
        if not is_there or not name:
            raise Misuse(f"{text!r} is not KEY=VALUE: write type=sensor, or floor:=7 for a number")
        metadata[name] = value if name == key else _parse_json(text, name, value)
    return metadata


def _parse_json(text: str, name: str, value: str) -> Any:
    try:
        parsed = json.loads(value)
    except ValueError:
        raise Misuse(f"{text!r}: {value!r} is not JSON; write {name}={value} for text") from None
    if isinstance(parsed, list | dict):
        raise Misuse(f"{text!r}: a search takes text, numbers, true, false and null only")
    return parsed


@asynccontextmanager
async def _joined(meeting: Meeting) -> AsyncIterator[STTNode]:
    """Join the cluster."""
    # Links depend on the node seed alone: no device connects here.
    note_warnings()
    async with STTNode(meeting.seed, generate_seed(), cluster=meeting.cluster) as node:
        note(f"looking for hubs for {meeting.wait:g} s")
        yield node


def _check_found(meeting: Meeting, node: STTNode) -> None:
    if not node.cluster.hubs:
        raise Failure(
            f"no hub was found at {meeting.shown} within {meeting.wait:g} s: check the address, "
            "and that --seed is the node seed of the hubs, or look for longer with --wait"
        )


async def list_hubs(meeting: Meeting, *, as_json: bool) -> None:
    """Print the hubs.

    Raises:
        Failure: There are none.

    """
    async with _joined(meeting) as node:
        await asyncio.sleep(meeting.wait)
        _check_found(meeting, node)
        hubs = sorted(node.cluster.hubs, key=lambda hub: hub.name)
    if as_json:
        _print_json(
            {
                "name": hub.name,
                "connected": hub.connected,
                "rtt": hub.rtt,
                "endpoints": hub.endpoints,
            }
            for hub in hubs
        )
        return
    for line in hub_table(hubs):
        click.echo(line)


async def find_endpoints(meeting: Meeting, metadata: dict[str, Any], *, as_json: bool) -> None:
    """Print the endpoints whose metadata hold these values.

    Raises:
        Failure: There is no hub.

    """
    async with _joined(meeting) as node:
        await asyncio.sleep(meeting.wait)
        _check_found(meeting, node)
        ids = await node.cluster.find(**metadata)
        found = [(endpoint_id.hex(), node.cluster.locate(endpoint_id)) for endpoint_id in ids]
    if as_json:
        _print_json({"endpoint_id": endpoint_id, "hub": hub} for endpoint_id, hub in found)
        return
    if not found:
        note("no endpoint has this metadata")
    for endpoint_id, hub in found:
        click.echo(f"{endpoint_id}  {printable_line(hub or '')}".rstrip())


async def locate_endpoint(meeting: Meeting, endpoint_id: bytes, *, as_json: bool) -> None:
    """Print which hub has an endpoint, as soon as that is known.

    Raises:
        Failure: None has it, or there is none.

    """
    loop = asyncio.get_running_loop()
    end = loop.time() + meeting.wait
    async with _joined(meeting) as node:
        while (hub := node.cluster.locate(endpoint_id)) is None:
            if loop.time() >= end:
                _check_found(meeting, node)
                count = len(node.cluster.hubs)
                raise Failure(f"the endpoint is not connected to any hub ({count} found)")
            await asyncio.sleep(_LOOK_SECONDS)
    if as_json:
        click.echo(json.dumps({"endpoint_id": endpoint_id.hex(), "hub": hub}))
    else:
        click.echo(printable_line(hub))


def _print_json(objects: Iterable[dict[str, Any]]) -> None:
    click.echo(json.dumps(list(objects)))
