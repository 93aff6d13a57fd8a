"""Whatever breaks, each message to an endpoint of another hub is delivered or reported, once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from helpers.clock import run_virtual
from helpers.cluster import Broken, Hubs, cluster, hub_of, lanes_of
from helpers.nodes import EventLog, address_of, cancel_all_others, in_virtual_time, live, until
from seigr_toolset_transmissions import NodeConfig, STTNode

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZES = st.sampled_from([8, 1000, 100_000, 200_000])
"""Of messages, in bytes. The third takes two frames; the last is too long for the endpoint."""
STEPS = st.lists(
    st.tuples(st.just("send"), SIZES)
    | st.tuples(
        st.sampled_from(
            [
                "cut session",
                "cut link",
                "lose link",
                "kill hub",
                "kick",
                "restart hub",
                "restart alice",
                "second session",
                "move",
                "slow",
                "mend",
                "cancel",
                "pause",
            ]
        ),
        st.just(0),
    )
    | st.tuples(st.just("sleep"), st.sampled_from([0, 1, 20, 300])),
    min_size=5,
    max_size=30,
)


class Account:
    """What hub-0 has sent to one peer, and what became of it."""

    def __init__(self, it: Hubs, alice: STTNode) -> None:
        self.it = it
        self.alice = alice
        self.at = 1
        self.broken: list[Broken] = []
        self.log = EventLog(it.hubs[0], "error")
        self.accepted: list[int] = []
        self.delivered: list[int] = []
        alice.events.register("data_received", self._arrived)

    async def _arrived(self, *, session_id: bytes, data: bytes) -> None:
        assert session_id
        self.delivered.append(int.from_bytes(data[:8]))

    def send(self, size: int) -> None:
        lane = self.it.hubs[0].cluster.route_to(self.alice.node_id)
        number = len(self.accepted)
        if lane is not None and lane.try_send(number.to_bytes(8) + bytes(size)):
            self.accepted.append(number)

    async def move(self) -> None:
        """Leave for the other hub without a word to the present one."""
        for session in self.alice.sessions:
            live(session).abort()
        self.at = 3 - self.at
        await self.alice.connect(*address_of(self.it.hubs[self.at]))

    async def kill_hub(self) -> None:
        """Kill Alice's hub, and let her move to the other one."""
        self.broken.clear()
        await self.it.kill(self.at)
        await self.move()

    async def kick(self) -> None:
        """End Alice's sessions, at all hubs, and let her come back."""
        await self.it.hubs[0].kick(self.alice.node_id)
        await asyncio.sleep(0.5)
        await self.alice.connect(*address_of(self.it.hubs[self.at]))

    async def restart_hub(self) -> None:
        """Stop Alice's hub, which delivers what it can; she goes to the other one."""
        self.mend()
        hub = self.it.hubs[self.at]
        await hub.stop(drain=2)
        await self.alice.connect(*address_of(self.it.hubs[3 - self.at]))
        await hub.start(server_mode=True)
        self.at = 3 - self.at

    async def restart_alice(self) -> None:
        self.broken.clear()
        await self.alice.stop(drain=1)
        await self.alice.start()
        await self.alice.connect(*address_of(self.it.hubs[self.at]))

    async def begin_second_session(self) -> None:
        await self.alice.connect(*address_of(self.it.hubs[self.at]))

    def cut_session(self) -> None:
        for session in self.it.hubs[self.at].sessions:
            live(session).cut("test")

    def make_slow(self) -> None:
        """Leave Alice without a connection until `mend`."""
        if self.alice.sessions and self.it.hubs[self.at].sessions:
            self.broken.append(Broken(self.alice, self.it.hubs[self.at]))

    def mend(self) -> None:
        while self.broken:
            self.broken.pop().mend()

    def lose_link(self) -> None:
        """Let hub-0 give up the link to Alice's hub, which does not know it yet."""
        for link, _ in list(hub_of(self.it.hubs[0]).others.values()):
            if link.name == f"hub-{self.at}":
                link.session.lose("test")

    def cut_links(self) -> None:
        self.it.bus.take_down()
        self.it.bus.bring_up()

    async def settle(self) -> None:
        """Wait until nothing is under way; check that everything adds up."""
        self.mend()
        await until(lambda: all(lane.is_empty for lane in lanes_of(self.it.hubs[0])), 120)
        await asyncio.sleep(5)
        unsent = self._reported("unsent")
        unknown = self._reported("unknown")
        assert self.delivered == sorted(set(self.delivered)), "doubled or reordered"
        assert not set(unsent) & set(self.delivered), "reported as unsent, and delivered"
        assert len(unsent + unknown) == len({*unsent, *unknown}), "reported twice"
        assert {*self.delivered, *unsent, *unknown} == set(self.accepted)

    def _reported(self, key: str) -> list[int]:
        return [int.from_bytes(data[:8]) for _, details in self.log.errors for data in details[key]]


async def play(steps: Sequence[tuple[str, int]]) -> None:
    config = NodeConfig(send_window_bytes=512 * 1024, max_message_bytes=256 * 1024)
    async with cluster(3, grace=3, config=config) as it:
        short = NodeConfig(send_window_bytes=512 * 1024, max_message_bytes=150_000)
        account = Account(it, await it.peer("alice", it.hubs[1], config=short))
        for step, number in steps:
            match step:
                case "send":
                    account.send(number)
                case "cut session":
                    account.cut_session()
                case "cut link":
                    account.cut_links()
                case "lose link":
                    account.lose_link()
                case "slow":
                    account.make_slow()
                case "mend":
                    account.mend()
                case "kill hub":
                    await account.kill_hub()
                case "kick":
                    await account.kick()
                case "restart hub":
                    await account.restart_hub()
                case "restart alice":
                    await account.restart_alice()
                case "second session":
                    await account.begin_second_session()
                case "move":
                    await account.move()
                case "cancel":
                    cancel_all_others()
                case "pause":
                    await asyncio.sleep(0)
                case _:
                    await asyncio.sleep(number / 1000)
        await account.settle()


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS)
@example(
    [
        ("send", 100_000),
        ("sleep", 300),
        ("slow", 0),
        ("send", 8),
        ("sleep", 300),
        ("lose link", 0),
        ("sleep", 300),
        ("mend", 0),
    ]
)
@example(
    [
        ("send", 100_000),
        ("sleep", 300),
        ("slow", 0),
        ("send", 100_000),
        ("sleep", 300),
        ("kill hub", 0),
    ]
)
def test_each_message_is_delivered_or_reported_once_and_in_order(
    steps: list[tuple[str, int]],
) -> None:
    run_virtual(play(steps))


@pytest.mark.parametrize("lost", ["session", "link"])
@in_virtual_time
async def test_what_was_never_sent_is_known_though_earlier_messages_took_several_frames(
    lost: str,
) -> None:
    async with cluster(grace=3) as it:
        account = Account(it, await it.peer("alice", it.hubs[1]))
        account.send(100_000)
        await asyncio.sleep(1)
        if lost == "session":
            account.make_slow()
            account.send(8)
            await asyncio.sleep(1)
            await it.hubs[1].kick(account.alice.node_id)
        else:
            it.bus.take_down()
            await asyncio.sleep(0.1)
            account.send(8)
        await until(lambda: account.log.errors, seconds=60)
        ((_, details),) = account.log.errors
        assert (len(details["unsent"]), len(details["unknown"])) == (1, 0)


@in_virtual_time
async def test_work_that_other_code_cancels_goes_on() -> None:
    config = NodeConfig(send_window_bytes=256 * 1024, max_message_bytes=64 * 1024)
    async with cluster(config=config) as it:
        account = Account(it, await it.peer("alice", it.hubs[1], config=config))
        account.cut_session()
        for _ in range(15):
            account.send(60_000)
        await until(lambda: it.hubs[1].get_session_for_endpoint(account.alice.node_id))
        await asyncio.sleep(0.01)
        cancel_all_others()
        await account.settle()
        assert account.delivered == account.accepted == list(range(15))


@in_virtual_time
async def test_what_a_given_up_link_has_brought_does_not_mix_with_what_the_next_one_brings() -> (
    None
):
    config = NodeConfig(send_window_messages=5)
    async with cluster(config=config) as it:
        account = Account(it, await it.peer("alice", it.hubs[1], config=config))
        account.make_slow()
        for _ in range(10):
            account.send(8)
        await asyncio.sleep(1)  # five of them wait at her hub
        account.lose_link()
        await asyncio.sleep(3)
        await until(lambda: it.hubs[0].cluster.locate(account.alice.node_id))
        for _ in range(3):
            account.send(8)
        await account.settle()
        assert account.accepted == list(range(13))
        assert account.delivered == [0, 1, 2, 3, 4, 10, 11, 12]
