"""What the package shows: verbs for programs only, defaults that can be read, and every type."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import seigr_toolset_transmissions
from seigr_toolset_transmissions import EndpointManager, HealthMonitor, NodeConfig, Session, STTNode
from seigr_toolset_transmissions.discovery import Announcement, Discovery
from seigr_toolset_transmissions.seeing import Console, Monitor, NodeCollector, RemoteMonitor
from seigr_toolset_transmissions.transports.memory import MemoryNetwork
from seigr_toolset_transmissions.transports.memory_bus import MemoryBus
from seigr_toolset_transmissions.transports.nats import NatsNetwork
from seigr_toolset_transmissions.transports.pipes import PipeNetwork

pytestmark = pytest.mark.once

PACKAGE = "seigr_toolset_transmissions"
VERBS = {
    Session: "abort close flush min_rtt ping request rtt send send_nowait session_id state stats "
    "wait_closed",
    STTNode: "address ban banned cluster config connect endpoints events get_session "
    "get_session_for_endpoint kick listening network node_id on_request retry_now send_to_all "
    "send_to_sessions sessions set_shared_seed snapshot start stats stop unban",
    EndpointManager: "add_endpoint broadcast close deliver deliver_threadsafe find get_endpoint "
    "groups join leave list_endpoints members messages receive_any receive_from receive_many "
    "remove_endpoint request request_many send_to_endpoint send_to_group send_to_many "
    "update_endpoint wait_connected",
    HealthMonitor: "health status",
    Monitor: "endpoint_rates events history news samples snapshot watching",
    RemoteMonitor: "ended endpoint_rates events history news samples snapshot watching",
    NodeCollector: "collect describe",
    Announcement: "",
    Discovery: "members",
    Console: "url",
    MemoryNetwork: "dial listen resolve",
    PipeNetwork: "dial listen resolve",
    NatsNetwork: "dial listen resolve",
    MemoryBus: "bring_up is_up publish server subscribe take_down watch",
}


@pytest.mark.parametrize("cls", VERBS, ids=lambda cls: cls.__name__)
def test_help_lists_only_what_a_program_uses(cls: type) -> None:
    assert {name for name in dir(cls) if not name.startswith("_")} == set(VERBS[cls].split())


def test_help_of_a_nodes_endpoints_lists_only_what_a_program_uses() -> None:
    node = STTNode(b"the node's own seed, a secret one", b"the seed that the whole group knows")
    assert type(node.endpoints) is EndpointManager


@pytest.mark.parametrize("cls", [*VERBS, NodeConfig], ids=lambda cls: cls.__name__)
def test_defaults_can_be_read_in_help(cls: type) -> None:
    members: list[tuple[str, Any]] = inspect.getmembers(cls, inspect.isfunction)
    for name, member in [*members, (cls.__name__, cls)]:
        assert "<object" not in str(inspect.signature(member)), name


@pytest.fixture(scope="module")
def types() -> Any:
    """What pyright finds out about the types of the package."""
    pytest.importorskip("basedpyright")
    where = Path(seigr_toolset_transmissions.__file__).parents[1]
    # It takes packages from the first Python there, whatever --pythonpath says.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["-m", "basedpyright", "--ignoreexternal", "--outputjson", "--verifytypes"]
    done = subprocess.run(
        [sys.executable, *command, PACKAGE],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(where), "PATH": path},
        timeout=50,
        check=False,
    )
    return json.loads(done.stdout)["typeCompleteness"]


def test_a_type_checker_knows_every_type(types: Any) -> None:
    wrong = [
        (symbol["name"], found["message"])
        for symbol in types["symbols"]
        for found in symbol["diagnostics"]
        if found["severity"] == "error"
    ]
    assert wrong == []
    assert types["exportedSymbolCounts"]["withKnownType"] > 1000
    assert types["completenessScore"] == 1
