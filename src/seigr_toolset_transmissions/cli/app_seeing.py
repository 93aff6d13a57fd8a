"""The commands that show a node of another process: what they are called, take and document."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import click

from .failures import OK, Misuse
from .options import FILE, json_option, verbosity_options
from .running import run_until_done
from .status import show_status
from .top.live import watch_live

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["status", "top"]


@click.command(short_help="Show what a running node does and holds.")
@click.argument("path", type=FILE, metavar="PATH")
@json_option
@verbosity_options
def status(path: Path, as_json: bool) -> int:
    """Print one page about the node that shows itself at PATH.

    `stt listen --monitor PATH` and `stt serve --monitor PATH` show their nodes; a program of your
    own calls `serve_monitor` (docs/monitoring.md). The command watches the node for a second, to
    see what it sends and receives. The ten busiest endpoints are listed.

    With --json, one object is printed: `node_id`, `time`, `uptime`, `address`, `stats`, `hub`,
    `hubs`, `endpoints` (all of them, each with its rates), `rates` (per second), and `rtt` and
    `rtt_high`, the median and the 95th percentile of the round trips, in seconds.

    \b
    Examples:
      stt status /run/user/1000/app.monitor
      stt status /run/user/1000/app.monitor --json | jq .stats.sessions
    """
    run_until_done(show_status(path, as_json=as_json))
    return OK


@click.command(short_help="Watch a running node.")
@click.argument("path", type=FILE, metavar="PATH")
@click.option("--once", is_flag=True, help="Print what there is after a second, and end.")
@json_option
@verbosity_options
def top(path: Path, once: bool, as_json: bool) -> int:
    """Watch the node that shows itself at PATH: its traffic, its endpoints and its events.

    The keys are shown at the bottom. While the node is away, the last picture stays, and the view
    goes on when the node comes back. `stt status --help` says which nodes show themselves.

    Names and other texts of peers are shown with control characters made visible. If NO_COLOR is
    set in the environment, there are no colours.

    With --once, the page of `stt status` is printed, with all endpoints.

    With --json, which needs --once, one object is printed: `node_id`, `time`, `uptime`, `address`,
    `stats`, `hub`, `hubs`, `endpoints`, `rates`, `rtt` and `rtt_high`, as from `stt status`.

    \b
    Examples:
      stt top /run/user/1000/app.monitor
      stt top /run/user/1000/app.monitor --once --json | jq ".endpoints[].state"
    """
    if once:
        width = shutil.get_terminal_size().columns
        run_until_done(show_status(path, as_json=as_json, width=width, most=None))
        return OK
    if as_json:
        raise Misuse("--json needs --once: a live view is for people")
    return run_until_done(watch_live(path))
