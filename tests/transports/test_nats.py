"""What is specific to NATS, with a real server; see test_contract.py and test_pipes.py too."""

from __future__ import annotations

import asyncio
import errno
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.material import Material
from helpers.nats_server import NatsServer, needs_nats
from helpers.nodes import SHARED_SEED, seed_of, until
from helpers.recorder import Recorder, turns
from seigr_toolset_transmissions import STTNode
from seigr_toolset_transmissions.cluster import Cluster
from seigr_toolset_transmissions.transports.nats import NatsBus, NatsNetwork

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = needs_nats


@pytest.fixture
def server() -> Iterator[NatsServer]:
    with NatsServer() as running:
        yield running


def test_nothing_of_nats_is_imported_until_it_is_used() -> None:
    program = """
import sys
import seigr_toolset_transmissions
assert not [name for name in sys.modules if "nats" in name]
from seigr_toolset_transmissions import STTNode
from seigr_toolset_transmissions.cluster import Cluster
from seigr_toolset_transmissions.transports.nats import NatsNetwork
assert not [name for name in sys.modules if name.partition(".")[0] == "nats"]
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=50)


# Opening and closing.


@pytest.mark.parametrize("make", [NatsNetwork, NatsBus, Cluster])
def test_a_missing_package_is_named_at_once(
    make: Callable[[str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nats.aio.client", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install .*\[nats\]"):
        make("nats://127.0.0.1:4222")


@pytest.mark.parametrize(
    "servers",
    [
        "",
        "nats://",
        "nats://:4222",
        "nats://ada:secret@broker:port",
        "nats://broker:99999",
        "nats://broker:0",
        "http://broker",
        ["nats://broker:4222", "nats://one:4222,nats://two:4222"],
    ],
)
def test_a_url_that_leads_nowhere_is_refused_at_once(servers: str | list[str]) -> None:
    with pytest.raises(ValueError, match="is not the URL of a NATS server, such as") as refusal:
        NatsBus(servers)
    assert "secret" not in str(refusal.value)


async def test_a_server_that_is_not_there_is_named() -> None:
    network = NatsNetwork("nats://127.0.0.1:9")
    for _ in range(2):
        with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:9: .*Errno.* server runs"):
            await network.__aenter__()


async def test_one_server_of_several_is_enough(server: NatsServer) -> None:
    for servers in ([server.url, "nats://127.0.0.1:9"], ["nats://127.0.0.1:9", server.url]):
        async with NatsNetwork(servers, dont_randomize=True) as network:
            with pytest.raises(ConnectionRefusedError):
                await network.dial(Recorder(), "hub", 7)


async def test_credentials_are_passed_on_and_wrong_ones_are_named() -> None:
    with NatsServer('authorization { user: "ada", password: "right" }') as server:
        async with NatsNetwork(server.url, user="ada", password="right") as network:
            with pytest.raises(ConnectionRefusedError):
                await network.dial(Recorder(), "hub", 7)
        # The server closes at once, so that its reason may be lost in a reset.
        with pytest.raises(ConnectionError, match="accepts these credentials"):
            async with NatsNetwork(server.url, user="ada", password="wrong"):
                pass


async def test_tls_is_passed_on(tmp_path: Path) -> None:
    material = Material(str(tmp_path))
    material.make()
    files = f'cert_file: "{material.certificate("server")}", key_file: "{material.key("server")}"'
    with NatsServer(f"tls {{ {files} }}") as server:
        one, other = Recorder(), Recorder()
        async with NatsNetwork(server.url, tls=material.client_tls()) as network:
            listener = await network.listen(lambda: other, "hub", 7)
            await network.dial(one, "hub", 7)
            one.transport.write(b"hello")
            await other.until_received(5)
            one.transport.close()
            await other.until_lost()
            await one.until_lost()
            await listener.close()
        with pytest.raises(ConnectionError, match=r"(?i)certificate"):
            async with NatsNetwork(server.url):
                pass


async def test_an_option_that_the_library_sets_is_refused() -> None:
    with pytest.raises(TypeError, match="error_cb is set by this library"):
        NatsNetwork("nats://127.0.0.1:4222", error_cb=print)
    with pytest.raises(TypeError, match=r"nats\.connect has no option 'pasword'"):
        NatsNetwork("nats://127.0.0.1:4222", pasword="secret")


async def test_outside_of_its_block_a_network_says_what_to_do(server: NatsServer) -> None:
    network = NatsNetwork(server.url)
    for _ in range(2):
        with pytest.raises(OSError, match="use `async with`"):
            await network.dial(Recorder(), "hub", 7)
        with pytest.raises(OSError, match="use `async with`"):
            await network.listen(Recorder, "hub", 7)
        async with network:
            with pytest.raises(ConnectionRefusedError):
                await network.dial(Recorder(), "hub", 7)
            with pytest.raises(RuntimeError, match="open already"):
                await network.__aenter__()


async def test_leaving_the_block_cuts_what_is_left(server: NatsServer) -> None:
    before = asyncio.all_tasks()
    one, other = Recorder(), Recorder()
    async with NatsNetwork(server.url) as listening:
        listener = await listening.listen(lambda: other, "hub", 7)
        async with NatsNetwork(server.url) as dialling:
            await dialling.dial(one, "hub", 7)
            one.transport.write(b"hello")
            await other.until_received(5)
        await one.until_lost()
        assert isinstance(one.cause, ConnectionResetError)
        other.transport.write(b"anybody there?")
        await other.until_lost()
        assert isinstance(other.cause, ConnectionResetError)
        await listener.close()
    await listener.close()
    await turns(5)
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("after", [0, 1, 2, 5, 10, 20])
async def test_a_cancelled_opening_leaves_nothing_open(server: NatsServer, after: int) -> None:
    before = asyncio.all_tasks()
    bus = NatsBus(server.url)
    opening = asyncio.create_task(bus.__aenter__())
    await turns(after)
    if opening.cancel():
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert not bus.is_up
    else:
        await bus.__aexit__(None, None, None)
    async with bus:
        assert bus.is_up
    await turns(5)
    assert asyncio.all_tasks() == before


async def test_a_connection_that_the_server_ends_for_good_says_why(
    server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with NatsNetwork(server.url) as network:
        client = network._nats.connected()
        await client._process_err("'User Authentication Expired'")
        await until(lambda: client.is_closed and "stays closed" in caplog.text)
        with pytest.raises(OSError, match="Authentication Expired"):
            await network.dial(Recorder(), "hub", 7)


# Two networks and a server between them.


async def test_an_address_is_taken_on_the_whole_server_and_free_again(server: NatsServer) -> None:
    async with NatsNetwork(server.url) as one, NatsNetwork(server.url) as other:
        listener = await one.listen(Recorder, "hub", 7)
        with pytest.raises(OSError, match="somebody on the bus listens") as raised:
            await other.listen(Recorder, "hub", 7)
        assert raised.value.errno == errno.EADDRINUSE
        await listener.close()
        await (await other.listen(Recorder, "hub", 7)).close()


async def test_forbidden_subjects_are_reported_with_the_remedy(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rules = 'permissions: { publish: "orders.>", subscribe: "orders.>" }'
    user = f'authorization {{ users: [ {{ user: "ada", password: "my-password", {rules} }} ] }}'
    with NatsServer(user) as server:
        async with NatsNetwork(server.url.replace("//", "//ada:my-password@")) as network:
            dialling = asyncio.create_task(network.dial(Recorder(), "hub", 7))
            await until(lambda: "subscribe to 'stt.>'" in caplog.text)
            assert "my-password" not in caplog.text
            dialling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await dialling


@pytest.mark.parametrize("how", ["kill", "terminate"])
async def test_a_listener_outlives_its_server(server: NatsServer, how: str) -> None:
    async with NatsNetwork(server.url) as listening, NatsNetwork(server.url) as dialling:
        listener = await listening.listen(accept := Recorders(), "hub", 7)
        first, second = Recorder(), Recorder()
        await dialling.dial(first, "hub", 7)
        getattr(server, how)()
        await first.until_lost()
        assert isinstance(first.cause, ConnectionResetError)
        dial = asyncio.create_task(dialling.dial(second, "hub", 7))
        server.start()
        await accept.made[0].until_lost()
        # The dialer may be back before the listener is; then there is nobody yet.
        try:
            await dial
        except ConnectionRefusedError:
            await until(lambda: listening._nats.is_up)
            await dialling.dial(second, "hub", 7)
        second.transport.write(b"hello again")
        await accept.made[-1].until_received(11)
        second.transport.abort()
        await accept.made[-1].until_lost()
        await listener.close()


class Recorders:
    """Accepts connections."""

    def __init__(self) -> None:
        self.made: list[Recorder] = []

    def __call__(self) -> Recorder:
        self.made.append(Recorder())
        return self.made[-1]


async def test_nodes_lose_nothing_when_the_server_is_killed_in_mid_stream(
    server: NatsServer,
) -> None:
    count = 3000
    received: dict[str, list[bytes]] = {"alice": [], "bob": []}
    suspended: list[bytes] = []
    async with (
        NatsNetwork(server.url) as one,
        NatsNetwork(server.url) as other,
        STTNode(seed_of("bob"), SHARED_SEED, "hub", 1, network=one).listening() as bob,
        STTNode(seed_of("alice"), SHARED_SEED, network=other) as alice,
    ):
        near = await alice.connect("hub", 1)
        await until(lambda: bob.get_session(near.session_id))
        far = bob.get_session(near.session_id)
        assert far is not None

        async def note(session_id: bytes) -> None:
            suspended.append(session_id)

        alice.events.register("session_suspended", note)

        async def send(session: Any) -> None:
            for number in range(count):
                await session.send(b"%d" % number)
                if number % 10 == 0:
                    await asyncio.sleep(0.005)

        async def receive(node: Any, name: str) -> None:
            while len(received[name]) < count:
                data, _ = await node.endpoints.receive_any()
                received[name].append(data)

        async def kill() -> None:
            for part in range(1, 4):
                await until(lambda part=part: len(received["bob"]) >= count * part // 5)  # type: ignore[misc]
                server.kill()
                await asyncio.sleep(0.05)
                server.start()

        async with asyncio.timeout(50):
            await asyncio.gather(
                send(near),
                send(far),
                receive(alice, "alice"),
                receive(bob, "bob"),
                kill(),
            )
    expected = [b"%d" % number for number in range(count)]
    assert received == {"alice": expected, "bob": expected}
    assert suspended
