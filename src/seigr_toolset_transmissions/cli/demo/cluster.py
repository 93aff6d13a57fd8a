"""`stt demo --cluster`: three hubs that act as one; one is restarted, and one is killed.

The hubs are processes of their own, and so is the NATS server where they meet, if there is one.
Their peers are nodes of this process, which therefore sees what each of them gets.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import sys
import tempfile
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ... import NodeConfig, Session, STTNode, generate_seed
from .cable import Balancer
from .cast import Actor, Role, python_module
from .numbers import Tally, number_of
from .show import HOST, Show, make_table, perform

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from rich.console import Console

    from .cast import Cast
    from .stage import Stage

__all__ = ["run_cluster_demo"]

HUBS = ("hub-1", "hub-2", "hub-3")
PEERS = ("ada", "ben", "cleo", "dana", "emil", "fay")
SENSORS = ("ada", "dana")
NUMBERS = 200
"""Numbered messages to each peer while a hub is away."""

_SETTLE_SECONDS = 15.0
"""How long messages may be on their way after the last was accepted."""

_SERVER = "nats-server"
_UNTIL_INPUT_ENDS = '"$@" & cat; kill $!; wait $!'
"""For a program that does not end with its input by itself."""


async def run_cluster_demo(console: Console, *, fast: bool) -> int:
    """Play the demo; return its exit code."""
    server = find_server()
    where = "a NATS server" if server else "Unix sockets"
    return await perform(
        console,
        lambda stage, cast: _ClusterShow(stage, cast, server, fast=fast),
        introduction=f"three hubs, each a process of its own, meet over {where} and act as one "
        "node. Their seeds are made for this run only.",
        outlook="The same with a node of your own",
        commands=(
            ("stt serve app:make_node --workers 4", "several processes"),
            ("stt cluster hubs WHERE --seed hub.seed", "who is there"),
        ),
        fast=fast,
    )


def find_server() -> str | None:
    """Return the path of a NATS server, if there is one and this program can use it."""
    here = Path(sys.executable).parent
    path = os.pathsep.join((str(here), os.environ.get("PATH", os.defpath), "/usr/sbin"))
    return shutil.which(_SERVER, path=path) if find_spec("nats") else None


class _Peer:
    """One peer: a node that stays connected to the cluster, whichever hub it reaches."""

    def __init__(self, name: str, shared_seed: bytes) -> None:
        self.name = name
        self.texts: list[str] = []
        self.tally = Tally()
        self.node = STTNode(
            generate_seed(), shared_seed, config=NodeConfig(reconnect_delay_max=0.2)
        )
        self.node.events.register("data_received", self._on_message)
        self.node.events.register("session_created", self._on_session)

    @property
    def id(self) -> str:
        """Its node id, as the hubs write it."""
        return self.node.node_id.hex()

    async def _on_session(self, session_id: bytes) -> None:
        session = self.node.get_session(session_id)
        if session is not None:
            kind = "sensor" if self.name in SENSORS else "display"
            await session.send(json.dumps({"name": self.name, "type": kind}).encode())

    async def _on_message(self, session_id: bytes, data: bytes) -> None:
        number = number_of(data)
        if number is None:
            self.texts.append(data.decode())
        else:
            self.tally.add(number)


class _ClusterShow(Show):
    """The hubs, their peers, and the steps in which they appear."""

    def __init__(self, stage: Stage, cast: Cast, server: str | None, *, fast: bool) -> None:
        super().__init__(stage, cast, fast=fast)
        self._server = server
        self._node_seed, self._shared_seed = generate_seed(), generate_seed()
        self._folder = tempfile.TemporaryDirectory(prefix="stt-")
        self._where = f"unix://{self._folder.name}"
        self._balancer = Balancer()
        self._port = 0
        self._hubs: dict[str, Actor] = {}
        self._ports: dict[str, int] = {}
        self._peers = {name: _Peer(name, self._shared_seed) for name in PEERS}
        self._telling: set[asyncio.Task[None]] = set()

    @property
    def steps(self) -> Sequence[Callable[[], Awaitable[None]]]:
        """See `Show`."""
        return self._meet, self._join, self._send, self._restart, self._kill, self._part

    async def end(self) -> None:
        """Stop the peers and the balancer; the hubs have ended."""
        for task in self._telling:
            task.cancel()
        await asyncio.gather(*(peer.node.stop(drain=0) for peer in self._peers.values()))
        await self._balancer.close()
        self._folder.cleanup()

    # ----------------------------------------------------------------- the steps

    async def _meet(self) -> None:
        self._begin(
            "Three hubs meet",
            "Each has the same node seed, and so the same identity. They find each other where "
            "they meet, and link up. The events are those of hub-1's handlers.",
        )
        stage = self._stage
        if self._server is not None:
            await self._start_server(self._server)
        stage.line(f"they meet at [bold]{'NATS' if self._server else 'Unix sockets'}[/]")
        self._port = await self._balancer.start(HOST, 0)
        stage.gauge(self._hubs_table)
        for name in HUBS:
            await self._start_hub(name)
        self._tell_events(self._hubs["hub-1"])
        await self._linked()
        stage.redraw()
        stage.ungauge()
        stage.check("each has a link with both others", ok=True)
        await stage.pause(1.2)

    async def _join(self) -> None:
        self._begin(
            "Six peers join",
            "They dial a balancer, which leads each connection to the next hub. To them, there is "
            "one node behind it, with one identity.",
        )
        stage = self._stage
        stage.gauge(self._places_table)
        hub_id = STTNode(self._node_seed, self._shared_seed).node_id
        for peer in self._peers.values():
            await peer.node.start()
            await peer.node.endpoints.add_endpoint(hub_id, (HOST, self._port), connect=True)
            await peer.node.endpoints.wait_connected(hub_id)
            stage.redraw()
        await self._until(lambda: None not in self._places().values())
        stage.ungauge()
        identities = {
            session.peer_node_id for peer in self._peers.values() for session in peer.node.sessions
        }
        stage.check("all see one node", ok=identities == {hub_id})
        counts = [list(self._places().values()).count(name) for name in HUBS]
        stage.check("two at each hub", ok=counts == [2, 2, 2], why=str(counts))
        await stage.pause(1.2)

    async def _send(self) -> None:
        self._begin(
            "hub-1 sends to any peer",
            "It sends by id, and need not know which hub has the endpoint. Asking all hubs finds "
            "endpoints by their metadata.",
        )
        stage, hub = self._stage, self._hubs["hub-1"]
        places = self._places()
        far = next(name for name, place in places.items() if place == "hub-3")
        hub.order(do="say", to=self._peers[far].id, text="just for you")
        await self._until(lambda: "just for you" in self._peers[far].texts)
        stage.check(f"to {far}, who is at hub-3", ok=self._heard("just for you") == {far})

        await self._until(lambda: self._known() == {peer.id for peer in self._peers.values()})
        hub.order(do="find", metadata={"type": "sensor"})
        found = (await hub.report("found"))["ids"]
        sensors = sorted(self._peers[name].id for name in SENSORS)
        stage.check("find(type=sensor): ada and dana", ok=found == sensors)

        hub.order(do="broadcast", text="good morning")
        tally = await hub.report("tally")
        await self._until(lambda: self._heard("good morning") == set(PEERS))
        stage.check("broadcast: six have it", ok=tally["accepted"] == len(PEERS), why=str(tally))
        await stage.pause(1.2)

    async def _restart(self) -> None:
        self._begin(
            "A hub is restarted",
            f"hub-1 sends each peer {NUMBERS} numbered messages. Midway, hub-2 is stopped: it "
            "delivers what it has, and its peers land elsewhere. Then it starts again.",
        )
        stage = self._stage
        async with self._sending():
            stage.line("[magenta]hub-2 stops[/]")
            self._hubs["hub-2"].order(do="leave")
            self._balancer.targets.remove((HOST, self._ports["hub-2"]))
            await self._hubs["hub-2"].end()
            await stage.pause(0.7)
            await self._start_hub("hub-2")
            await self._linked()
            stage.line("hub-2 is back")
        flaws = {name: peer.tally.flaws(NUMBERS) for name, peer in self._peers.items()}
        stage.check(
            f"{NUMBERS} of {NUMBERS} to each, once, in order",
            ok=not any(flaws.values()),
            why=str(flaws),
        )
        await stage.pause(1.5)

    async def _kill(self) -> None:
        self._begin(
            "A hub is killed",
            f"Again {NUMBERS} messages to each, but hub-3 gets no time for goodbyes. hub-1 keeps "
            "what is not acknowledged: what has certainly not arrived is sent again, and what may "
            "have arrived is reported.",
        )
        stage = self._stage
        async with self._sending():
            stage.line("[magenta]hub-3 is killed[/]")
            self._hubs.pop("hub-3").kill()
            self._balancer.targets.remove((HOST, self._ports["hub-3"]))
            await self._until(lambda: "hub-3" not in self._links("hub-1"))
            await self._until(lambda: None not in self._places().values())
            stage.check("its peers are at other hubs", ok=True)
        peers = self._peers.values()
        arrived = sum(peer.tally.received for peer in peers)
        reported = sum(len(self._reported(peer)) for peer in peers)
        stage.line(f"{arrived} of {NUMBERS * len(peers)} arrived; {reported} reported")
        unaccounted = {peer.name: self._unaccounted(peer) for peer in peers}
        stage.check(
            "nothing is lost without a word", ok=not any(unaccounted.values()), why=str(unaccounted)
        )
        doubled = sum(peer.tally.doubled for peer in peers)
        stage.check("nothing came twice", ok=not doubled, why=f"{doubled} did")
        await stage.pause(1.5)

    async def _part(self) -> None:
        self._begin("Goodbye", "The two hubs that are left stop. This is where the peers were:")
        stage = self._stage
        stage.wide(self._places_table())
        for name in ("hub-1", "hub-2"):
            await self._until(self._all_connected)  # some reached hub-2 by way of hub-1
            self._hubs[name].order(do="leave")
            await self._hubs[name].end()
        left = self._sessions()
        stage.check("every session was closed", ok=not left, why=str(left))

    def _sessions(self) -> list[Session]:
        return [session for peer in self._peers.values() for session in peer.node.sessions]

    def _all_connected(self) -> bool:
        return all(session.state == "open" for session in self._sessions())

    # --------------------------------------------------------------- their parts

    async def _start_server(self, program: str) -> None:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port = probe.getsockname()[1]
        command = ("sh", "-c", _UNTIL_INPUT_ENDS, "sh", program, "-a", HOST, "-p", str(port))
        await self._cast.run(Role(_SERVER, "broker", ""), *command)
        self._where = f"nats://{HOST}:{port}"
        while True:
            try:
                _, writer = await asyncio.open_connection(HOST, port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return

    async def _start_hub(self, name: str) -> None:
        actor = await self._cast.run(Role(name, "hub", ""), *python_module("hub"))
        actor.order(
            name=name,
            seed=self._node_seed.hex(),
            shared=self._shared_seed.hex(),
            where=self._where,
        )
        self._hubs[name] = actor
        self._stage.redraw()
        self._ports[name] = (await actor.report("listens"))["port"]
        self._balancer.targets.append((HOST, self._ports[name]))

    def _tell_events(self, hub: Actor) -> None:
        async def tell() -> None:
            shown: list[str] = []
            while True:
                await hub.until(lambda: len(hub.heard) > len(shown))
                shown.append(hub.heard[len(shown)])
                name, _, subject = shown[-1].partition(" ")
                self._stage.event(name, subject)

        self._telling.add(asyncio.create_task(tell()))

    def _links(self, name: str) -> list[str]:
        names: list[str] = self._hubs[name].latest.get("hubs", {"names": []})["names"]
        return names

    async def _linked(self) -> None:
        """Wait until each hub has a link with all others."""
        await self._until(
            lambda: all(set(self._links(name)) == set(HUBS) - {name} for name in HUBS)
        )

    def _places(self) -> dict[str, str | None]:
        """Return for each peer the hub that it is connected to."""
        ids = {
            peer_id: name
            for name, hub in self._hubs.items()
            for peer_id in hub.latest.get("peers", {"ids": []})["ids"]
        }
        return {name: ids.get(peer.id) for name, peer in self._peers.items()}

    def _known(self) -> set[str]:
        """Return the ids of the peers whose metadata their hub has."""
        reports = [hub.latest.get("known", {"ids": []}) for hub in self._hubs.values()]
        return {each for report in reports for each in report["ids"]}

    def _heard(self, text: str) -> set[str]:
        return {name for name, peer in self._peers.items() if text in peer.texts}

    @asynccontextmanager
    async def _sending(self) -> AsyncIterator[None]:
        """Have hub-1 send numbers to all peers; the block is entered when some have arrived."""
        hub, peers = self._hubs["hub-1"], self._peers.values()
        for peer in peers:
            peer.tally = Tally()
        hub.latest.pop("sent", None)
        self._stage.gauge(self._progress_table)
        drawing = asyncio.create_task(self._stage.run_gauge())
        try:
            gap = 0.002 if self._fast else 0.01
            ids = [peer.id for peer in peers]
            hub.order(do="send", to=ids, total=NUMBERS, gap=gap)
            await self._until(lambda: all(peer.tally.received >= NUMBERS // 4 for peer in peers))
            yield
            await hub.report("sent")
            with suppress(TimeoutError):
                async with asyncio.timeout(_SETTLE_SECONDS):
                    await self._until(lambda: not any(map(self._unaccounted, peers)))
        finally:
            drawing.cancel()
        self._stage.ungauge()

    def _reported(self, peer: _Peer) -> set[int]:
        """Return the numbers of which hub-1 has said that they may be lost."""
        report = self._hubs["hub-1"].latest.get("lost", {"numbers": {}})
        return set(report["numbers"].get(peer.id, ()))

    def _unaccounted(self, peer: _Peer) -> set[int]:
        return peer.tally.missing(NUMBERS) - self._reported(peer)

    # -------------------------------------------------------------------- tables

    def _hubs_table(self) -> Table:
        table = make_table("name", "process", "links")
        for name, actor in self._hubs.items():
            links = ", ".join(self._links(name)) or "none yet"
            table.add_row(Text(name, style="bold"), str(actor.pid), links)
        return table

    def _places_table(self) -> Table:
        places = self._places()
        table = make_table("hub", "its peers")
        for name in HUBS:
            there = ", ".join(peer for peer, place in places.items() if place == name)
            style = "bold" if name in self._hubs else "bold magenta"
            gone = "" if name in self._hubs else "killed"
            table.add_row(Text(name, style=style), there or gone)
        return table

    def _progress_table(self) -> Table:
        table = Table.grid(padding=(0, 2, 0, 0))
        places = self._places()
        for name, peer in self._peers.items():
            count, width = peer.tally.received, 10 if self._stage.narrow else 30
            bar = ProgressBar(
                NUMBERS, count, width=width, complete_style="cyan", finished_style="green"
            )
            place = places[name]
            where = Text("away", style="magenta") if place is None else Text(place)
            table.add_row(Text(name, style="bold"), bar, f"{count:>3}/{NUMBERS}", where)
        return table
