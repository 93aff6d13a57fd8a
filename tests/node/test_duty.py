"""What becomes of a node's own work when others end its tasks, or when a dial fails oddly."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from helpers.fault_network import FaultNetwork, Kind
from helpers.nodes import (
    Nodes,
    address_of,
    cancel_all_others,
    in_virtual_time,
    memory_nodes,
    until,
)
from seigr_toolset_transmissions.errors import STTConnectError
from seigr_toolset_transmissions.node.duty import Duty
from seigr_toolset_transmissions.transports.memory import MemoryNetwork

if TYPE_CHECKING:
    from collections.abc import Callable

    from helpers.nodes import Pair
    from seigr_toolset_transmissions.transports.base import Address


class Network(FaultNetwork):
    """Fails to look a name up, as long as there is something to fail with."""

    def __init__(self) -> None:
        super().__init__(MemoryNetwork())
        self.failure: BaseException | None = None
        self.looked_up = 0

    async def resolve(self, host: str, port: int, *, urgent: bool = True) -> list[Address]:
        self.looked_up += 1
        if self.failure is not None:
            raise self.failure
        return [(host, port)]


async def assert_it_works(pair: Pair) -> None:
    """Messages get across in both directions."""
    for session, node in ((pair.near, pair.listener), (pair.far, pair.dialer)):
        await session.send(b"still there")
        assert (await node.endpoints.receive_any(timeout=1))[0] == b"still there"


@pytest.mark.parametrize("turns", range(0, 40, 3))
@in_virtual_time
async def test_a_session_is_resumed_though_all_tasks_are_cancelled_at_any_time(turns: int) -> None:
    network = Network()
    async with Nodes(network) as nodes:
        pair = await nodes.pair()
        network.cables[-1].cut(Kind.RST)
        await asyncio.sleep(0.001 if turns % 2 else 0.25)
        for _ in range(turns):
            await asyncio.sleep(0)
        cancel_all_others()
        await until(lambda: pair.near.state == "open" == pair.far.state, 5)
        await assert_it_works(pair)


@in_virtual_time
async def test_a_session_that_cannot_be_resumed_is_lost_in_time_despite_cancelled_tasks() -> None:
    network = Network()
    async with Nodes(network, resume_window=10) as nodes:
        pair = await nodes.pair()
        network.cables[-1].cut(Kind.RST)
        network.failure = OSError("nobody is there")
        for _ in range(9):
            cancel_all_others()
            await asyncio.sleep(1)
        assert pair.near.state == "suspended"
        await asyncio.sleep(1.5)
        assert pair.near.state == pair.far.state == "closed"


@in_virtual_time
async def test_a_wanted_peer_is_dialed_though_all_tasks_are_cancelled_again_and_again() -> None:
    async with memory_nodes() as nodes:
        bob = await nodes.listen("bob")
        address, _ = address_of(bob), await bob.stop()
        alice = await nodes.start("alice")
        await alice.endpoints.add_endpoint(bob.node_id, address, connect=True)
        for pause in (0, 0.001, 0.1, 0.3, 1):
            await asyncio.sleep(pause)
            cancel_all_others()
        bob = await nodes.listen("bob", host=address[0], port=address[1])
        await alice.events.wait_for("peer_connected", timeout=60)
        await alice.endpoints.remove_endpoint(bob.node_id)


@in_virtual_time
async def test_nobody_is_dialed_any_more_once_the_node_is_stopped() -> None:
    network = Network()
    async with Nodes(network) as nodes:
        alice = await nodes.start("alice")
        await alice.endpoints.add_endpoint(b"b" * 32, ("nobody", 1), connect=True)
        await asyncio.sleep(0.001)
        cancel_all_others()
        await alice.stop()
        looked_up = network.looked_up
        await asyncio.sleep(100)
        assert network.looked_up == looked_up


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 13])
@in_virtual_time
async def test_a_dial_whose_task_others_cancel_fails_for_those_who_wait(turns: int) -> None:
    async with memory_nodes() as nodes:
        bob, alice = await nodes.listen("bob"), await nodes.start("alice")
        await alice.endpoints.add_endpoint(bob.node_id, address_of(bob))
        waiting = [
            asyncio.create_task(alice.connect(*address_of(bob))),
            asyncio.create_task(alice.endpoints.send_to_endpoint(bob.node_id, b"hello")),
        ]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in alice._runtime.tasks():
            task.cancel()
        for outcome in await asyncio.gather(*waiting, return_exceptions=True):
            assert not isinstance(outcome, BaseException) or isinstance(outcome, STTConnectError)


@pytest.mark.parametrize(
    "failure",
    [MemoryError(), RuntimeError("can't start new thread"), ValueError(), asyncio.CancelledError()],
    ids=repr,
)
@in_virtual_time
async def test_a_dial_that_fails_oddly_is_an_error_and_followed_by_another(
    failure: BaseException,
) -> None:
    network = Network()
    async with Nodes(network) as nodes:
        pair = await nodes.pair()
        network.cables[-1].cut(Kind.RST)
        network.failure = failure
        with pytest.raises(STTConnectError):
            await pair.dialer.connect(*address_of(pair.listener))
        await asyncio.sleep(5)
        assert pair.near.state == "suspended"
        network.failure = None
        await until(lambda: pair.near.state == "open", 30)
        await assert_it_works(pair)


@pytest.mark.parametrize("again", [False, True], ids=["who waits", "who calls next"])
@in_virtual_time
async def test_a_stop_goes_on_though_its_task_is_cancelled(again: bool) -> None:
    async with memory_nodes(close_timeout=3) as nodes:
        pair = await nodes.pair()
        handled = list[bytes]()

        @pair.listener.events.on("data_received")
        async def handle(session_id: bytes, data: bytes) -> None:
            await asyncio.sleep(1)
            handled.append(data)

        for number in b"123":
            await pair.near.send(bytes([number]))
        await pair.near.flush()
        stop = asyncio.create_task(pair.listener.stop())
        await asyncio.sleep(0.5)
        task = pair.listener._life._stopping
        assert task is not None
        task.cancel()
        if again:
            stop.cancel()
            await asyncio.sleep(0)
            await pair.listener.stop()
        else:
            await stop
        assert handled == [b"1", b"2", b"3"]
        await pair.listener.start(server_mode=True)


@in_virtual_time
async def test_work_that_fails_is_begun_again_and_the_failure_is_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with memory_nodes() as nodes:
        alice = await nodes.start("alice")
        outcomes: list[Callable[[], None]] = [lambda: 1 / 0, lambda: None]  # type: ignore[list-item]
        times = list[float]()

        async def work() -> None:
            times.append(asyncio.get_running_loop().time())
            outcomes.pop(0)()

        Duty(alice._runtime, work)
        await asyncio.sleep(10)
        assert len(times) == 2
        assert "ZeroDivisionError" in caplog.text


@in_virtual_time
async def test_a_session_is_resumed_though_a_logging_handler_fails() -> None:
    class Failing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError(record.getMessage())

    network = Network()
    handler = Failing()
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # it hears of the failures
    async with Nodes(network) as nodes:
        pair = await nodes.pair()
        network.cables[-1].cut(Kind.RST)
        network.failure = OSError("nobody is there")
        logging.getLogger("seigr_toolset_transmissions").addHandler(handler)
        try:
            await asyncio.sleep(5)
            network.failure = None
            await until(lambda: pair.near.state == "open", 30)
        finally:
            logging.getLogger("seigr_toolset_transmissions").removeHandler(handler)
        await assert_it_works(pair)
