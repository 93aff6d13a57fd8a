"""Two nodes that ask each other at random, and a model of what each request may come to.

Handlers do what handlers should not do, callers give up at any moment, cables are cut, sessions end
and nodes are restarted. The model knows of each request how often its handler was called, and holds
its outcome against that. All randomness comes from one generator: the same seed, the same run.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from helpers.fault_network import Direction, Kind
from helpers.nodes import Nodes, address_of, live, until
from seigr_toolset_transmissions.errors import (
    STTConnectError,
    STTRequestError,
    STTRequestFailedError,
    STTRequestRefusedError,
    STTRequestUnreachableError,
)
from seigr_toolset_transmissions.sessions.public import SessionState

if TYPE_CHECKING:
    from random import Random

    from helpers.fault_network import FaultNetwork
    from seigr_toolset_transmissions import Session, STTNode

_NOBODY = b"no endpoint"
_seen: ContextVar[int | None] = ContextVar("_seen", default=None)

PLANS = {
    "return": 30,
    "sleep": 20,
    "return a bytearray": 3,
    "hang": 3,
    "return the wrong type": 2,
    "return too much": 1,
    "raise": 3,
    "raise what is no exception": 1,
    "say why": 3,
    "say why wrongly": 2,
    "be cancelled by others": 2,
    "be cancelled and return": 2,
    "cancel itself": 1,
    "resist": 2,
    "clean up": 2,
    "raise in the clean-up": 2,
    "set a variable": 3,
    "ask back": 6,
    "send a message": 4,
    "replace the handler": 2,
}
"""What handlers do, and how often."""

UNREST = {"cut": 20, "close": 2, "abort": 2, "restart": 2}
"""What happens beside the requests, and how often."""

_WELL = {
    "return",
    "sleep",
    "return a bytearray",
    "hang",
    "resist",
    "clean up",
    "be cancelled and return",
    "set a variable",
    "ask back",
    "send a message",
    "replace the handler",
}
"""Plans whose requests have a good reply if nobody interferes."""


class Odd(BaseException):
    """What a handler may raise, too."""


@dataclass
class Asked:
    """One request.

    Attributes:
        way: Over the ``session``, to the ``endpoint`` that it leads to, or to that among ``many``.
        in_order: Whether those called later are handled later: not if it may begin in a task of
            its own, or go over another session.

    """

    number: int
    by: str
    plan: str
    way: str
    in_order: bool
    handled: int = 0
    outcome: bytes | BaseException | None = None


def nodes_that_ask(chance: Random, network: FaultNetwork) -> Nodes:
    """Nodes of random limits that notice a broken connection soon."""
    return Nodes(
        network,
        max_message_bytes=20_000,
        max_requests=chance.choice([1, 3, 64]),
        send_window_bytes=chance.choice([60_000, 1 << 20]),
        receive_window_bytes=chance.choice([60_000, 1 << 20]),
        ping_interval=0.5,
        ping_timeout=0.5,
        reconnect_delay=0.01,
        reconnect_delay_max=0.1,
    )


@dataclass
class World:
    """Two nodes and all that was asked.

    Attributes:
        chance: Decides everything.
        network: Of both nodes.
        calm: Whether nothing happens but requests, none of which is given up.
        wrong: What contradicts the model; to be empty.

    """

    nodes: Nodes
    chance: Random
    network: FaultNetwork
    calm: bool = False
    wrong: list[str] = field(default_factory=list)
    asked: dict[int, Asked] = field(default_factory=dict)
    ended: Counter[str] = field(default_factory=Counter)
    numbers: itertools.count[int] = field(default_factory=itertools.count)
    last: dict[tuple[bytes, str], int] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)
    callers: set[asyncio.Task[None]] = field(default_factory=set)

    async def begin(self) -> None:
        self.both: dict[str, STTNode] = {
            "listener": await self.nodes.listen("bob"),
            "dialer": await self.nodes.start("alice"),
        }
        for node in self.both.values():
            node.events.register("data_received", self.take)
        self.serve()
        await self.connect()

    async def take(self, session_id: bytes, data: bytes) -> None:
        """Take what messages there are between the requests."""

    def serve(self) -> None:
        for name, node in self.both.items():

            async def handle(peer_node_id: bytes, data: bytes, name: str = name) -> bytes:
                return await self.handle(name, data)

            node.on_request(handle)

    async def connect(self) -> None:
        """Have a session on both sides."""
        dialer, listener = self.both["dialer"], self.both["listener"]
        while True:
            try:
                near = await dialer.connect(*address_of(listener))
                await until(partial(listener.get_session, near.session_id), 5)
            except (STTConnectError, TimeoutError):
                continue
            break
        far = listener.get_session(near.session_id)
        assert far is not None
        self.sessions = {"dialer": near, "listener": far}

    # ------------------------------------------------------------------- handlers

    async def handle(self, name: str, data: bytes) -> bytes:
        asked = self.asked.get(int.from_bytes(data[:8]))
        if asked is None or asked.by == name:
            self.wrong.append(f"{name} was asked what nobody asks")
            return b""
        asked.handled += 1
        if asked.handled > 1:
            self.wrong.append(f"{asked} is handled again")
        key = data[8:24], name
        if asked.in_order and self.last.get(key, -1) >= asked.number:
            self.wrong.append(f"{asked} is handled behind {self.last[key]}")
        if asked.in_order:
            self.last[key] = asked.number
        if _seen.get() is not None:
            self.wrong.append(f"{asked} sees a variable of {_seen.get()}")
        await self.act(name, asked)
        reply: Any = b"re: " + data
        if asked.plan == "return the wrong type":
            reply = "text"
        elif asked.plan == "return too much":
            reply = bytes(self.nodes.config.max_message_bytes)
        elif asked.plan == "return a bytearray":
            reply = bytearray(reply)
        return reply  # type: ignore[no-any-return]

    async def act(self, name: str, asked: Asked) -> None:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        match asked.plan:
            case "sleep" | "return too much":
                await asyncio.sleep(self.chance.choice([0, 0.001, 0.1, 1]))
            case "hang":
                await asyncio.sleep(20)
            case "raise":
                raise ValueError("an internal matter")
            case "raise what is no exception":
                raise Odd
            case "say why":
                raise STTRequestFailedError(b"%d" % asked.number)
            case "say why wrongly":
                raise STTRequestFailedError(
                    self.chance.choice(["text", bytes(self.nodes.config.max_message_bytes)])  # type: ignore[arg-type]
                )
            case "be cancelled by others" | "cancel itself":
                if asked.plan == "cancel itself":
                    task.cancel()
                else:
                    loop.call_later(self.chance.choice([0, 0.1]), task.cancel)
                await asyncio.sleep(1)
            case "be cancelled and return":
                task.cancel()
                try:
                    await asyncio.sleep(0)
                except asyncio.CancelledError:
                    task.uncancel()
            case "resist":
                try:
                    await asyncio.sleep(0.5)
                except asyncio.CancelledError:
                    await asyncio.sleep(0.5)
            case "clean up" | "raise in the clean-up":
                try:
                    await asyncio.sleep(0.5)
                finally:
                    await asyncio.sleep(0.1)
                    if asked.plan == "raise in the clean-up":
                        raise ValueError
            case "set a variable":
                _seen.set(asked.number)
            case "ask back":
                await self.ask(name, "sleep", self.chance.choice([0.5, 5]))
            case "send a message":
                if live(self.sessions[name]).accepts:
                    live(self.sessions[name]).try_send(b"in between")
            case "replace the handler":
                self.both[name].on_request(None)
                self.serve()

    # -------------------------------------------------------------------- callers

    async def ask(self, name: str, plan: str, timeout: float | None) -> None:
        """Ask over the present session of this node, and note the outcome."""
        session = self.sessions[name]
        way = self.chance.choice(["session", "endpoint", "many"])
        route = self.both[name].get_session_for_endpoint(session.peer_node_id)
        in_order = way == "session" or (way == "endpoint" and route is session)
        asked = Asked(next(self.numbers), name, plan, way, in_order)
        self.asked[asked.number] = asked
        size = self.chance.choice([0, 10, 1000, 1000, 5000])
        data = asked.number.to_bytes(8) + session.session_id + bytes(size)
        try:
            asked.outcome = await self.send(asked, session, data, timeout)
        except STTRequestError as error:
            asked.outcome = error
        except asyncio.CancelledError as error:
            asked.outcome = error
            raise
        except BaseException as error:
            self.wrong.append(f"{asked} ended with {error!r}")
            raise
        else:
            if asked.outcome != b"re: " + data:
                self.wrong.append(f"{asked.number} got the reply to something else")
        finally:
            self.note(asked)

    async def send(
        self, asked: Asked, session: Session, data: bytes, timeout: float | None
    ) -> bytes:
        endpoints, peer = self.both[asked.by].endpoints, session.peer_node_id
        match asked.way:
            case "session":
                return await session.request(data, timeout=timeout)
            case "endpoint":
                return await endpoints.request(peer, data, timeout=timeout)
        outcomes = await endpoints.request_many([_NOBODY, peer], data, timeout=timeout)
        nobody, outcome = outcomes.values()
        if not isinstance(nobody, STTRequestUnreachableError):
            self.wrong.append(f"nobody replies {nobody!r}")
        if isinstance(outcome, STTRequestError):
            raise outcome
        return outcome

    def note(self, asked: Asked) -> None:
        """Compare an outcome with the model, as far as it can be known by now."""
        outcome = asked.outcome
        self.ended[type(outcome).__name__] += 1
        if self.calm and not isinstance(outcome, TimeoutError):  # as one that asks back may have
            well = not isinstance(outcome, BaseException)
            if well is not (asked.plan in _WELL):
                self.wrong.append(f"{asked} cannot be")
        if isinstance(outcome, STTRequestFailedError):
            said = (b"%d" % asked.number) if asked.plan == "say why" else b""
            if outcome.data not in (b"", said) or (self.calm and outcome.data != said):
                self.wrong.append(f"{asked} says {outcome.data!r}")
        if isinstance(outcome, STTRequestRefusedError) and self.calm:
            self.wrong.append(f"{asked} was refused")
        if isinstance(outcome, bytes) and asked.handled != 1:
            self.wrong.append(f"{asked} has a reply, and was never handled")

    def start_caller(self) -> None:
        """Ask something in a task; perhaps give it up after some turns of the loop, or later."""
        chance = self.chance
        plan = chance.choices(list(PLANS), weights=list(PLANS.values()))[0]
        timeout = None if self.calm else chance.choice([None, None, 0, 0.05, 1, 5, 100])
        name = chance.choice(["dialer", "listener"])
        caller = asyncio.create_task(self.ask(name, plan, timeout))
        self.callers.add(caller)
        caller.add_done_callback(self.callers.discard)
        if not self.calm and chance.random() < 0.3:
            asyncio.get_running_loop().call_soon(self.give_up, caller, chance.randrange(30))
        elif not self.calm and chance.random() < 0.1:
            asyncio.get_running_loop().call_later(chance.random(), caller.cancel)

    def give_up(self, caller: asyncio.Task[None], turns: int) -> None:
        if turns:
            asyncio.get_running_loop().call_soon(self.give_up, caller, turns - 1)
        else:
            caller.cancel()

    # --------------------------------------------------------------------- unrest

    async def disturb(self) -> None:
        """Cut, close, abort and restart; have a session again after each."""
        chance = self.chance
        while self.restless:
            await asyncio.sleep(chance.choice([0, 0.01, 0.1, 0.5, 2]))
            what = chance.choices(list(UNREST), weights=list(UNREST.values()))[0]
            session = self.sessions[chance.choice(["dialer", "listener"])]
            if what == "cut":
                for cable in self.network.cables[-1:]:
                    if cable.broken is None and cable.passed[Direction.IN]:
                        cable.cut(chance.choice(list(Kind)))
                del self.network.cables[:-1]
            elif what == "close":
                await asyncio.wait([asyncio.create_task(self.end(session))])
            elif what == "abort":
                session.abort()
            else:
                name = chance.choice(["dialer", "listener"])
                await self.both[name].stop(drain=chance.choice([0, 1]))
                await self.both[name].start(server_mode=name == "listener")
            if self.ended_sessions():
                await self.connect()

    def ended_sessions(self) -> list[Session]:
        return [one for one in self.sessions.values() if one.state is SessionState.CLOSED]

    async def end(self, session: Session) -> None:
        try:
            await session.close()
        except Exception as error:  # noqa: BLE001  messages may be lost
            self.ended[f"close: {type(error).__name__}"] += 1

    # ------------------------------------------------------------------------ all

    async def run(self, count: int, at_once: int) -> None:
        """Ask this often, with this many callers at a time; then compare everything."""
        self.restless = not self.calm
        disturbing = asyncio.create_task(self.disturb())
        for number in range(count):
            if self.ended_sessions() and self.chance.random() < 0.9:
                await asyncio.sleep(1)
            self.start_caller()
            if number % self.chance.randrange(1, 50) == 0:
                await asyncio.sleep(self.chance.choice([0, 0, 0.01]))
            while len(self.callers) >= at_once:
                await asyncio.wait(self.callers, return_when=asyncio.FIRST_COMPLETED)
        self.restless = False
        await disturbing
        async with asyncio.timeout(1000):
            while self.callers:
                await asyncio.wait(self.callers)
        await asyncio.sleep(200)  # every timeout is over
        self.compare()

    def compare(self) -> None:
        """Compare what is left with the model; forget what is over."""
        for asked in self.asked.values():
            outcome = asked.outcome
            if outcome is None:
                self.wrong.append(f"{asked} has no outcome")
            if isinstance(outcome, STTRequestError):
                if outcome.handled is False and asked.handled:
                    self.wrong.append(f"{asked} was handled, and denies it")
                if outcome.handled is True and not asked.handled:
                    self.wrong.append(f"{asked} was not handled, and says so")
        self.asked.clear()
        self.last.clear()
        for name, session in self.sessions.items():
            one: Any = live(session)
            books, asking, answering = one.machine.exchanges, one._requesting, one._answering
            left: dict[str, Any] = {}
            if books is not None:
                for attribute in ("_open", "_given_up", "_untold", "_unanswered"):
                    left[attribute] = getattr(books, attribute)
                left |= {"arrived": books.arrived, "outcomes": books.outcomes}
            if asking is not None:
                left |= {"asking": asking._waiting, "timer": asking._timer}
            if answering is not None:
                for attribute in ("_waiting", "_lanes", "_running", "_cancelled", "_reporting"):
                    left[attribute] = getattr(answering, attribute)
            left["senders"] = one._senders
            self.wrong += [f"{session} at {name}: {what}: {it}" for what, it in left.items() if it]
