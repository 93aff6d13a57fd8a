"""`stt top`: its keys, what it shows of a node that comes and goes, and how it ends."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cli.processes import CTRL_C, Stt
from helpers.nodes import memory_nodes, until
from seigr_toolset_transmissions.cli.columns import fitted
from seigr_toolset_transmissions.cli.failures import Failure
from seigr_toolset_transmissions.cli.main import run
from seigr_toolset_transmissions.cli.printable import printable_line
from seigr_toolset_transmissions.cli.top import app as top_app
from seigr_toolset_transmissions.cli.top import table as top_table
from seigr_toolset_transmissions.cli.top.app import TopApp
from seigr_toolset_transmissions.cli.top.events import EventList, event_text
from seigr_toolset_transmissions.cli.top.live import watch_live
from seigr_toolset_transmissions.cli.top.table import EndpointTable
from seigr_toolset_transmissions.cli.top.texts import hub_lines
from seigr_toolset_transmissions.seeing import SeenEvent, monitor, monitor_socket, serve_monitor
from seigr_toolset_transmissions.stats import HubInfo
from seigr_toolset_transmissions.transports.sockets import UNIX

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from textual.pilot import Pilot

    from seigr_toolset_transmissions import STTNode
    from seigr_toolset_transmissions.cli.columns import Column

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(UNIX is None, reason="this system has no Unix sockets"),
]


NAMES = ["kitchen", "[red]hall[/]", "cellar\x1b[31m", "attic"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # the event loop of the command


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(monitor, "_INTERVAL", 0.05)
    monkeypatch.setattr(monitor_socket, "_PAUSE", 0.01)
    monkeypatch.setattr(top_app, "_PAUSE", 0.01)
    monkeypatch.setattr(top_app, "_RETRY_SECONDS", 0.05)
    with tempfile.TemporaryDirectory() as name:  # pytest's own paths may be too long for a socket
        yield Path(name, "monitor")


def id_of(number: int) -> bytes:
    return number.to_bytes(32, "big")


@asynccontextmanager
async def a_house(path: Path) -> AsyncIterator[STTNode]:
    """Run a node with an endpoint for each name, which are all away."""
    async with memory_nodes() as nodes:
        node = await nodes.start()
        for number, name in enumerate(NAMES, 1):
            address = ("192.0.2.1", 9000 + number)
            await node.endpoints.add_endpoint(id_of(number), address, metadata={"name": name})
        async with serve_monitor(node, path):
            yield node


@asynccontextmanager
async def watching(path: Path, rows: int) -> AsyncIterator[tuple[TopApp, Pilot[int]]]:
    """Run the view in a terminal of 80 columns and 24 lines, and wait until it has its rows."""
    app = TopApp(path)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(lambda: len(app.query_one(EndpointTable).rows) == rows)
        yield app, pilot


def names_in(app: TopApp) -> list[str]:
    return [row.name for row in app.query_one(EndpointTable).rows]


def text_of(app: TopApp, selector: str) -> str:
    """Return all that is seen of a part of the view."""
    part = app.query_one(selector)
    return "\n".join(part.render_line(line).text for line in range(part.size.height))


async def test_keys_sort_the_endpoints_by_each_column_and_the_other_way_round(path: Path) -> None:
    async with a_house(path), watching(path, 4) as (app, pilot):
        table = app.query_one(EndpointTable)
        by_name = ["[red]hall[/]", "attic", "cellar\\x1b[31m", "kitchen"]
        assert table.summary == "4, by traffic"
        await pilot.press("s")
        assert names_in(app) == by_name
        await pilot.press("r")
        assert names_in(app) == by_name[::-1]
        assert table.summary == "4, by endpoint, reversed"
        assert "endpoint▲" in text_of(app, "EndpointTable")
        await pilot.press("S", "S", "S")
        assert table.summary == "4, by id"
        assert names_in(app) == [name.replace("\x1b", "\\x1b") for name in NAMES]
        await pilot.click(EndpointTable, offset=(3, 1))
        assert names_in(app) == by_name
        await pilot.click(EndpointTable, offset=(3, 4))
        assert table.current is table.rows[2]


async def test_a_filter_finds_names_ids_addresses_and_states(path: Path) -> None:
    async with a_house(path), watching(path, 4) as (app, pilot):
        table = app.query_one(EndpointTable)
        await pilot.press("slash", *"KITch", "enter")
        assert names_in(app) == ["kitchen"]
        assert table.has_focus
        await pilot.press("s")  # a key, not a letter, again
        assert table.summary == "1 of 4, by endpoint"
        await pilot.press("escape")
        assert len(names_in(app)) == 4
        for text, count in (
            ("9002", 1),
            (id_of(3).hex(), 1),
            ("discon", 4),
            ("[red]", 1),
            ("q", 0),
        ):
            table.filter_by(text)
            assert len(names_in(app)) == count


async def test_the_cursor_and_the_details_stay_with_their_endpoint(path: Path) -> None:
    async with a_house(path) as node, watching(path, 4) as (app, pilot):
        table = app.query_one(EndpointTable)
        await pilot.press("s", "down", "down", "enter")
        assert table.current is not None
        assert table.current.name == "cellar\\x1b[31m"
        assert id_of(3).hex() in text_of(app, "#details")
        assert not app.query_one(EventList).display  # there is no room for both
        await node.endpoints.add_endpoint(id_of(9), ("192.0.2.1", 1), metadata={"name": "aaa"})
        await until(lambda: len(names_in(app)) == 5)
        assert table.current.name == "cellar\\x1b[31m"
        await pilot.press("enter", "home", "down")
        assert app.query_one(EventList).display
        assert table.current.endpoint.endpoint_id == id_of(9)


async def test_names_are_shown_as_text(path: Path) -> None:
    async with a_house(path), watching(path, 4) as (app, _):
        seen = text_of(app, "EndpointTable")
        assert "[red]hall[/]" in seen
        assert "cellar\\x1b[31m" in seen
        assert "\x1b" not in seen
    assert printable_line("half a \ud800 pair\t") == "half a \\ud800 pair\\t"  # JSON may hold it
    shown = event_text(
        SeenEvent(7, 0.0, "error", {"error_type": "x", "peer_node_id": "ab", "reason": "a\nb\x07"}),
        {"ab": "attic"},
    )
    assert shown.endswith("error  x  attic  (a\\nb\\x07)")


async def test_a_narrow_terminal_loses_the_ends_of_lines_and_not_whole_lines(path: Path) -> None:
    async with a_house(path), watching(path, 4) as (app, pilot):
        await pilot.resize_terminal(40, 24)
        await until(lambda: "…" in text_of(app, "#node"))
        assert text_of(app, "#node").splitlines()[3].startswith("out ")


async def test_events_appear_and_a_gap_is_mentioned(path: Path) -> None:
    async with a_house(path) as node, watching(path, 4) as (app, pilot):
        await node.events.emit("hub_lost", hub="one")
        await until(lambda: "hub_lost  hub one" in text_of(app, "EventList"))
        app.query_one(EventList).add([SeenEvent(5, 0.0, "hub_joined", {"hub": "two"})], {})
        await pilot.pause()
        assert "3 events were missed" in text_of(app, "EventList")
        await pilot.press("e")
        assert not app.query_one(EventList).display


async def test_the_last_picture_stays_while_the_node_is_away(path: Path) -> None:
    async with a_house(path) as node, watching(path, 4) as (app, _):
        await node.stop()
        await until(lambda: "the node has stopped; waiting for it" in text_of(app, "#gone"))
        assert len(names_in(app)) == 4
        await node.endpoints.remove_endpoint(id_of(4))
        await node.start()
        await until(lambda: len(names_in(app)) == 3)
        assert not app.query_one("#gone").display


async def test_of_thousands_of_endpoints_only_those_that_are_seen_are_drawn(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[object] = []

    def note(texts: list[str], widths: list[tuple[Column, int]]) -> Iterator[str]:
        drawn.append(texts)
        return fitted(texts, widths)

    async with a_house(path) as node, watching(path, 4) as (app, pilot):
        for number in range(5, 2001):
            await node.endpoints.add_endpoint(id_of(number), ("192.0.2.1", 9000))
        await until(lambda: len(names_in(app)) == 2000)
        monkeypatch.setattr(top_table, "fitted", note)
        await pilot.press("end", "s")
        assert "2,000, by endpoint" in app.query_one(EndpointTable).summary
        assert 0 < len(drawn) < 200


@pytest.mark.parametrize(("key", "code"), [("q", 0), ("ctrl+c", 130)])
async def test_it_ends_at_a_key(path: Path, key: str, code: int) -> None:
    async with a_house(path), watching(path, 4) as (app, pilot):
        await pilot.press("slash")
        await pilot.press("escape", key)
    assert (app.return_value, app.return_code) == (code, 0)


def test_hubs_are_listed_those_without_a_link_first_and_not_too_many() -> None:
    assert hub_lines([]) == []
    hubs = [HubInfo(f"hub-{number}", number != 7, 0.001, number) for number in range(9)]
    _, first, *_, last = hub_lines(hubs)
    assert first.startswith("hub-7  suspended")
    assert last == "and 5 more, with a link"


def test_other_commands_do_not_wait_for_textual() -> None:
    code = "import sys, seigr_toolset_transmissions.cli.app; sys.exit('textual' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_at_a_terminal_it_ends_cleanly_and_elsewhere_it_says_what_to_use(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Stt("listen", "0", "--monitor", str(path)) as listening:
        listening.address()
        with Stt("top", str(path), columns=80) as top:
            top.until("endpoints: 0")
            top.type(CTRL_C)
            assert top.end() == 130
            assert "\x1b[?1049l\x1b[?25h" in top.stderr  # the screen is as before, with a cursor
        assert run(["top", str(path)]) == 1
        assert "use `stt status`, or `stt top --once`" in capsys.readouterr().err


async def test_a_terminal_that_cannot_move_its_cursor_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    with pytest.raises(Failure, match="needs a terminal that can move its cursor"):
        await watch_live(path)
