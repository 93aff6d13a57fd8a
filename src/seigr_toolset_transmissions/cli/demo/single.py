"""`stt demo`: a hub and its peers, each a process of its own, show what the library does.

Everything that is shown is checked. `stage` draws, `cast` runs the processes, `peer` is what they
run, and `cable` is the cable that is pulled.
"""

from __future__ import annotations

import asyncio
import json
import socket
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ... import NodeConfig, SendOutcome, STTNode, generate_seed
from .cable import Cable
from .cast import Actor, Role
from .numbers import Tally, number_of, numbered
from .show import HOST, Show, make_table, perform

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from rich.console import Console

    from .cast import Cast
    from .stage import Stage

__all__ = ["run_demo"]

ADA = Role("ada", "sensor", "north")
BEN = Role("ben", "sensor", "south")
CLEO = Role("cleo", "storage", "north")
DANA = Role("dana", "display", "south")
MALLORY = Role("mallory", "stranger", "elsewhere")
EVE = "eve"
"""The endpoint that is never there."""

NUMBERS = 400
"""Numbered messages in each direction while the cable is pulled."""


async def run_demo(console: Console, *, fast: bool) -> int:
    """Play the demo; return its exit code."""
    return await perform(
        console,
        lambda stage, cast: _Show(stage, cast, fast=fast),
        introduction="a hub and four peers, each a process of its own, talk over encrypted "
        "sessions on this machine. Their seeds are made for this run only.",
        outlook="The same between two machines of your own",
        commands=(
            ("stt keygen shared.seed", "copy it to both"),
            ("stt listen :9000 --shared shared.seed", "on one"),
            ("stt connect HOST:9000 --shared shared.seed", "on the other"),
        ),
        fast=fast,
    )


class _Show(Show):
    """The hub, its peers, and the steps in which they appear."""

    def __init__(self, stage: Stage, cast: Cast, *, fast: bool) -> None:
        super().__init__(stage, cast, fast=fast)
        self._shared_seed = generate_seed()
        self._hub = STTNode(generate_seed(), self._shared_seed, HOST, config=NodeConfig())
        self._hub.events.on_any(self._on_event)
        self._cable = Cable()
        self._actors: dict[str, Actor] = {}
        self._ids: dict[str, bytes] = {}  # by name
        self._names: dict[bytes, str] = {}  # by node id
        self._session_peers: dict[bytes, bytes] = {}
        self._errors: list[dict[str, Any]] = []
        self._port = 0
        self._nowhere = socket.socket()  # bound, but nobody listens
        self._resumes = 0

    @property
    def steps(self) -> Sequence[Callable[[], Awaitable[None]]]:
        """See `Show`."""
        return (
            self._meet,
            self._list,
            self._send,
            self._receive,
            self._refuse,
            self._pull_the_cable,
            self._part,
        )

    async def end(self) -> None:
        """Stop the hub and the cable."""
        self._nowhere.close()
        await self._cable.close()
        await self._hub.stop(drain=1.0)

    # ----------------------------------------------------------------- the steps

    async def _meet(self) -> None:
        self._begin(
            "Four peers join",
            "The hub listens; four processes that know the shared seed dial it. Each has its own "
            "identity, which the hub verifies and knows it by from then on. The events are those "
            "that the hub's handlers get.",
        )
        hub, endpoints, stage = self._hub, self._hub.endpoints, self._stage
        address = await hub.start(server_mode=True)
        assert address is not None  # noqa: S101  it listens
        self._port = address[1]
        stage.line(f"the hub listens on [bold]{HOST}:{self._port}[/]")
        stage.gauge(self._peers_table)
        cable_port = await self._cable.start(HOST, self._port)
        for role in (ADA, BEN, CLEO, DANA):
            actor = await self._start(role, port=cable_port if role is CLEO else self._port)
            self._actors[role.name] = actor
            stage.redraw()
        for actor in self._actors.values():
            report = await actor.report("connected")
            node_id = bytes.fromhex(report["node_id"])
            self._ids[actor.name], self._names[node_id] = node_id, actor.name
            stage.redraw()
            actor.order(do="say", text=json.dumps(_metadata(actor.role)))
        for _ in self._actors:
            data, node_id = await endpoints.receive_any()
            endpoints.update_endpoint(node_id, metadata=json.loads(data))
        stage.ungauge()
        stage.check(
            "four peers, four identities", ok=sorted(endpoints) == sorted(self._ids.values())
        )
        stage.check(
            "each has said what it is",
            ok=all(
                self._info(name)["metadata"] == _metadata(actor.role)
                for name, actor in self._actors.items()
            ),
        )
        await stage.pause(1.2)

    async def _list(self) -> None:
        self._begin(
            "Who is there",
            "Every peer is an endpoint, with your own metadata. eve was added by hand, with an "
            "address where nothing answers.",
        )
        hub, stage = self._hub, self._stage
        self._nowhere.bind((HOST, 0))
        self._ids[EVE] = bytes(range(32))
        self._names[self._ids[EVE]] = EVE
        await hub.endpoints.add_endpoint(
            self._ids[EVE],
            (HOST, self._nowhere.getsockname()[1]),
            {"name": EVE, "type": "display", "region": "north"},
        )
        for session in hub.sessions:
            session.ping()
        await self._until(lambda: all(session.rtt is not None for session in hub.sessions))
        stage.wide(self._endpoints_table())
        states = {name: self._info(name)["state"] for name in self._ids}
        stage.check(
            "four connected, eve is not",
            ok=states == {**dict.fromkeys(self._actors, "connected"), EVE: "disconnected"},
            why=str(states),
        )
        stage.check(
            "each round trip was measured",
            ok=all(session.rtt is not None for session in hub.sessions),
        )
        await stage.pause(1.2)

    async def _send(self) -> None:
        self._begin(
            "The hub sends",
            "To one, to those whose metadata match, and to all. Each recipient gets its own "
            "outcome, and one that is away delays no other.",
        )
        stage, endpoints = self._stage, self._hub.endpoints

        await endpoints.send_to_endpoint(self._ids["ben"], b"just for you")
        await self._actors["ben"].until(lambda: "just for you" in self._actors["ben"].heard)
        self._check_heard("just for you", {"ben"}, "to one: ben has it")
        await stage.pause(0.4)

        sensors = endpoints.find(type="sensor")
        outcomes = await endpoints.send_to_many(sensors, b"sensors, report")
        await self._all_heard("sensors, report", {"ada", "ben"})
        self._check_heard("sensors, report", {"ada", "ben"}, "to type=sensor: ada and ben have it")
        stage.check("both accepted", ok=all(outcomes.values()), why=str(outcomes))
        await stage.pause(0.4)

        outcomes = await endpoints.broadcast(b"good morning")
        await self._all_heard("good morning", set(self._actors))
        self._check_heard("good morning", set(self._actors), "to all: four have it")
        for node_id, outcome in outcomes.items():
            style = "green" if outcome else "magenta"
            stage.line(f"    {self._names[node_id]:<6}[{style}]{outcome.value}[/]")
        expected = {
            node_id: SendOutcome.UNREACHABLE if name == EVE else SendOutcome.ACCEPTED
            for name, node_id in self._ids.items()
        }
        stage.check("eve was unreachable, and we know it", ok=outcomes == expected)
        await stage.pause(1.2)

    async def _receive(self) -> None:
        self._begin(
            "The hub receives",
            "All four speak. The hub asks for dana's message first, then takes the others as they "
            "come. Each message is received once.",
        )
        stage, endpoints = self._stage, self._hub.endpoints
        for name, actor in self._actors.items():
            actor.order(do="say", text=f"{name} here")
        data, node_id = await endpoints.receive_from(self._ids["dana"])
        stage.check(
            f'receive_from(dana): "{data.decode()}"',
            ok=(data, node_id) == (b"dana here", self._ids["dana"]),
        )
        others = set()
        for _ in range(len(self._actors) - 1):
            data, node_id = await endpoints.receive_any()
            name = self._names[node_id]
            others.add(name)
            stage.check(f'receive_any(): "{data.decode()}"', ok=data.decode() == f"{name} here")
            await stage.pause(0.1)
        stage.check("each was heard once", ok=others == set(self._actors) - {"dana"})
        await stage.pause(0.7)

    async def _refuse(self) -> None:
        self._begin(
            "A stranger knocks",
            "mallory dials with another shared seed. The hub does not answer, not even to say no: "
            "to a stranger it looks like no service at all.",
        )
        stage, hub = self._stage, self._hub
        sessions = hub.stats().sessions_opened
        mallory = await self._start(MALLORY, port=self._port, shared_seed=generate_seed())
        report = await mallory.report("failed")
        stage.check("mallory gets no session", ok=report["error"] == "STTSilenceError")
        stage.line(f"[dim]mallory's error:[/] {report['reason']}")
        await self._until(lambda: self._errors)
        error = self._errors[-1]
        stage.check(
            "the hub's program is informed",
            ok=error["error_type"] == "handshake_failed",
            why=error["error_type"],
        )
        stage.check("nothing else has changed", ok=hub.stats().sessions_opened == sessions)
        await stage.pause(1.2)

    async def _pull_the_cable(self) -> None:
        self._begin(
            "The cable is pulled",
            f"cleo and the hub send each other {NUMBERS} numbered messages. Midway, their "
            "connection is cut, and what is in the cable is lost. Both keep sending: the session "
            "keeps what is not acknowledged, finds a new connection, and sends it again.",
        )
        stage, cleo, cable = self._stage, self._actors["cleo"], self._cable
        gap = 0.0005 if self._fast else 0.0045
        tally = Tally()
        cleo.latest["tally"] = {"received": 0, "doubled": 0, "reordered": 0}
        session = self._hub.get_session_for_endpoint(self._ids["cleo"])
        assert session is not None  # noqa: S101  she is connected

        def gauge() -> Table:
            return _streams_table(
                tally, cleo.latest["tally"]["received"], cable, narrow=stage.narrow
            )

        stage.gauge(gauge)
        drawing = asyncio.create_task(stage.run_gauge())
        counting = asyncio.create_task(self._count(self._ids["cleo"], gap))
        receiving = asyncio.create_task(self._take_numbers(self._ids["cleo"], tally))
        try:
            cleo.order(do="count", total=NUMBERS, gap=gap)
            await self._until(lambda: tally.received >= NUMBERS // 4)
            cable.cut()
            stage.line("[magenta]the cable is pulled[/]")
            await asyncio.sleep(0.1)
            cable.drop()
            await cleo.report("suspended")
            await stage.pause(0.7)
            cable.mend()
            stage.line("the cable is back")
            await cleo.report("resumed")
            await asyncio.gather(counting, receiving)
            await cleo.until(lambda: cleo.latest["tally"]["received"] >= NUMBERS)
            await cleo.report("counted")
            await session.flush()
        finally:
            for task in (drawing, counting, receiving):
                task.cancel()
        stage.ungauge()
        self._resumes = session.stats.resumes
        stage.check(f"{cable.swallowed} bytes went into the cut cable", ok=cable.swallowed > 0)
        report = cleo.latest["tally"]
        arrived = (report["received"], report["doubled"], report["reordered"])
        for direction, flaws in (
            ("cleo to hub", tally.flaws(NUMBERS)),
            ("hub to cleo", "" if arrived == (NUMBERS, 0, 0) else str(report)),
        ):
            stage.check(
                f"{direction}: {NUMBERS} of {NUMBERS}, once, in order",
                ok=not flaws,
                why=flaws,
            )
        stage.check("it is the same session, resumed", ok=self._resumes >= 1)
        await stage.pause(1.5)

    async def _part(self) -> None:
        self._begin(
            "Goodbye",
            "Each peer closes its session: everything sent is delivered first, and both sides know "
            "that nothing is missing.",
        )
        stage, hub = self._stage, self._hub
        summary = self._summary_table()
        for actor in self._actors.values():
            actor.order(do="leave")
            await actor.report("left")
            await stage.pause(0.1)
        await self._until(lambda: not hub.sessions and list(hub.endpoints) == [self._ids[EVE]])
        stage.wide(summary)
        stats = hub.stats()
        stage.line(
            f"{stats.sessions_opened} sessions, {stats.resumes} resumed, "
            f"{stats.sessions_lost} lost; {stats.handshakes_failed} attempts failed"
        )
        stage.check("no session was lost", ok=stats.sessions_lost == 0)
        stage.check("only eve is left, who was added by hand", ok=len(hub.endpoints) == 1)

    # --------------------------------------------------------------- their parts

    async def _start(self, role: Role, *, port: int, shared_seed: bytes | None = None) -> Actor:
        return await self._cast.start(
            role,
            shared_seed=shared_seed or self._shared_seed,
            host=HOST,
            port=port,
            expect=self._hub.node_id,
        )

    async def _count(self, node_id: bytes, gap: float) -> None:
        for number in range(NUMBERS):
            await self._hub.endpoints.send_to_endpoint(node_id, numbered(number))
            await asyncio.sleep(gap)

    async def _take_numbers(self, node_id: bytes, tally: Tally) -> None:
        while tally.received < NUMBERS:
            data, _ = await self._hub.endpoints.receive_from(node_id)
            number = number_of(data)
            if number is not None:
                tally.add(number)

    async def _all_heard(self, text: str, names: set[str]) -> None:
        for name in names:
            actor = self._actors[name]
            await actor.until(partial(_heard, actor, text))

    def _check_heard(self, text: str, names: set[str], what: str) -> None:
        heard = {name for name, actor in self._actors.items() if _heard(actor, text)}
        self._stage.check(what, ok=heard == names, why=f"heard by {sorted(heard)}")

    def _info(self, name: str) -> dict[str, Any]:
        info = self._hub.endpoints.get_endpoint(self._ids[name])
        gone = {"state": "gone", "rtt": None, "metadata": {"type": "", "region": ""}}
        return gone if info is None else dict(info)

    def _peers_table(self) -> Table:
        table = make_table("name", "process", "node id")
        for name, actor in self._actors.items():
            node_id = Text("starting", style="dim")
            if name in self._ids:
                digits = self._ids[name].hex()
                node_id = Text.assemble(
                    digits[:8], ("" if self._stage.narrow else f"{digits[8:32]}...", "dim")
                )
            table.add_row(Text(name, style="bold"), str(actor.pid), node_id)
        return table

    def _endpoints_table(self) -> Table:
        headers = ("name", "type", "region", "node id", "state", "round trip")
        rows = []
        for name, node_id in self._ids.items():
            info = self._info(name)
            state, rtt = info["state"], info["rtt"]
            rows.append(
                (
                    Text(name, style="bold"),
                    info["metadata"]["type"],
                    info["metadata"]["region"],
                    node_id.hex()[:8],
                    Text(state, style="green" if state == "connected" else "magenta"),
                    "" if rtt is None else f"{rtt * 1000:.2f} ms",
                )
            )
        return self._fitting_table(headers, rows, if_narrow=(0, 4, 5))

    def _summary_table(self) -> Table:
        headers = ("hub with", "sent", "bytes", "received", "bytes", "resumed")
        rows = []
        for session in self._hub.sessions:
            stats = session.stats
            rows.append(
                (
                    Text(self._name(session.peer_node_id), style="bold"),
                    f"{stats.messages_sent}",
                    f"{stats.bytes_sent:,}",
                    f"{stats.messages_received}",
                    f"{stats.bytes_received:,}",
                    f"{stats.resumes}",
                )
            )
        return self._fitting_table(headers, rows, if_narrow=(0, 1, 3, 5), right=True)

    # ----------------------------------------------------------------- its events

    async def _on_event(self, name: str, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if name == "data_received":
            return  # the steps show what they receive
        if name == "error":
            self._errors.append(kwargs["details"] | {"error_type": kwargs["error_type"]})
            self._stage.event(name, kwargs["error_type"])
        elif "peer_node_id" in kwargs:
            node_id = kwargs["peer_node_id"]
            self._stage.event(name, self._name(node_id))
        else:
            session_id = kwargs["session_id"]
            session = self._hub.get_session(session_id)
            if session is not None:
                self._session_peers[session_id] = session.peer_node_id
            self._stage.event(name, self._name(self._session_peers.get(session_id, b"")))

    def _name(self, node_id: bytes) -> str:
        return self._names.get(node_id, node_id.hex()[:8])


def _heard(actor: Actor, text: str) -> bool:
    return text in actor.heard


def _metadata(role: Role) -> dict[str, str]:
    return {"name": role.name, "type": role.kind, "region": role.region}


def _streams_table(tally: Tally, received: int, cable: Cable, *, narrow: bool) -> Table:
    """Show how far the numbered messages have come, and how the cable is."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    cable_state = ("whole", "green") if cable.whole else ("cut", "bold magenta")
    for direction, count in (("cleo to hub", tally.received), ("hub to cleo", received)):
        table.add_row(
            direction,
            ProgressBar(NUMBERS, count, width=36, complete_style="cyan", finished_style="green"),
            f"{count:>3}/{NUMBERS}",
            Text.assemble("" if narrow else "cable: ", cable_state),
        )
    return table
