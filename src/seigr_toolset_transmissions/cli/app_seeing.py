"""The commands that show a node of another process: what they are called, take and document."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .failures import OK
from .options import FILE, json_option, verbosity_options
from .running import run_until_done
from .status import show_status

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["status"]


@click.command(short_help="Show what a running node does and holds.")
@click.argument("path", type=FILE, metavar="PATH")
@json_option
@verbosity_options
def status(path: Path, as_json: bool) -> int:
    """Print one page about the node that shows itself at PATH.

    `stt listen --monitor PATH` does, and so does `stt serve --monitor PATH`; a program of your own
    does it with `serve_monitor` (docs/monitoring.md). The command watches the node for a second, to
    see what it sends and receives. The ten busiest endpoints are listed.

    With --json, one object is printed: `node_id`, `time`, `uptime`, `address`, `stats`, `hub`,
    `hubs`, `endpoints`, all of them, each with its rates; `rates`, which are per second; and `rtt`
    and `rtt_high`, the median round trip in seconds and the one that an endpoint in twenty exceeds.

    \b
    Examples:
      stt status /run/user/1000/app.monitor
      stt status /run/user/1000/app.monitor --json | jq .stats.sessions
    """
    run_until_done(show_status(path, as_json=as_json))
    return OK
