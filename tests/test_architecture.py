"""Which file may import which: the layers of the package, read from its sources."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import seigr_toolset_transmissions

pytestmark = pytest.mark.once

PACKAGE = "seigr_toolset_transmissions"
ROOT = Path(seigr_toolset_transmissions.__file__).parent

ROOMS = {
    "errors": set[str](),
    "config": {"errors"},
    "seeds": {"errors"},
    "identity": {"errors", "seeds", "foundation"},
    "stats": set[str](),
    "foundation": {"errors"},
    "protocol": {"errors", "config", "foundation"},
    "transports": {"errors", "foundation"},
    "events": {"errors", "foundation"},
    "endpoints": {"errors", "stats", "foundation"},
    "sessions": {
        "errors",
        "config",
        "identity",
        "stats",
        "foundation",
        "protocol",
        "transports",
        "events",
        "endpoints",
    },
    "node": {
        "errors",
        "config",
        "identity",
        "seeds",
        "stats",
        "foundation",
        "protocol",
        "transports",
        "events",
        "endpoints",
        "sessions",
    },
    "cluster": {
        "errors",
        "config",
        "identity",
        "stats",
        "foundation",
        "protocol",
        "transports",
        "endpoints",
        "sessions",
        "node",
    },
    "seeing": {"errors", "stats", "foundation", "transports", "events", "node"},
    "discovery": {"seeds", "transports", "node"},
    "cli": set[str](),  # only public names: see below
}
"""For each room of the package, a folder or a file at its root: the other rooms it may import."""

LAYERS = {
    "protocol": [
        ["frames", "hello", "controls", "phase"],
        ["noise", "outbox"],
        ["records", "budget", "exchanges"],
        ["window"],
        ["machine"],
    ],
    "transports": [
        ["base", "lookup", "bus"],
        ["sockets", "memory", "memory_bus", "pipes"],
        ["tcp", "unix", "nats"],
        ["passing"],
    ],
    "endpoints": [
        ["fanout", "waiting"],
        ["endpoint", "room"],
        ["inbox"],
        ["directory"],
        ["sending", "requests", "receiving"],
        ["groups"],
        ["manager"],
        ["transport_side"],
    ],
    "sessions": [
        ["loop_time", "flushers", "handshaking", "holding", "public"],
        ["worker"],
        ["connection", "pump", "requesting", "answering"],
        ["liveness", "owner"],
        ["session"],
        ["checked"],
    ],
    "node": [
        [
            "arrivals",
            "backoff",
            "access",
            "admission",
            "unheard",
            "dial_slots",
            "racing",
            "ledger",
            "unread",
            "event_types",
        ],
        ["runtime", "keys", "node_emitter"],
        ["dialing", "clones", "duty"],
        ["reconnect"],
        ["registry"],
        ["accepting", "connecting"],
        ["keeper", "stopping", "cluster_base"],
        ["life"],
        ["figures"],
        ["node"],
        ["health"],
    ],
    "cluster": [
        ["messages", "meeting", "link", "door"],
        ["routes", "landings", "seeking", "direct", "places"],
        ["lanes", "deliveries", "membership"],
        ["other"],
        ["inquiries", "presence"],
        ["hub"],
        ["cluster"],
    ],
    "seeing": [
        ["metrics", "view", "guard"],
        ["monitor", "lines", "rows"],
        ["monitor_socket", "remote", "feed"],
        ["console"],
    ],
    "discovery": [["sealing"], ["interfaces"], ["multicast"], ["announcement", "finding"]],
}
"""Inside a room, from the bottom up: a file imports only files of lower layers."""

IMPURE = {
    "asyncio",
    "concurrent",
    "datetime",
    "os",
    "random",
    "secrets",
    "select",
    "selectors",
    "socket",
    "ssl",
    "subprocess",
    "threading",
    "time",
    "uuid",
}
PUBLIC_MODULES = {
    "cluster",
    "config",
    "discovery",
    "endpoints",
    "errors",
    "events",
    "identity",
    "seeds",
    "seeing",
    "transports",
}


def name_of(source: Path) -> tuple[str, ...]:
    return source.relative_to(ROOT).with_suffix("").parts


SOURCES = {".".join(name_of(source)): source for source in sorted(ROOT.rglob("*.py"))}


def imports(source: Path, *, at_run_time: bool = False) -> set[str]:
    """All modules that a file imports, for type checking too unless `at_run_time`, by their
    absolute names."""
    here = (PACKAGE, *name_of(source)[:-1])
    tree = ast.parse(source.read_text())
    if at_run_time:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else ()
            module = ".".join((*base, *filter(None, [node.module])))
            # `from package import name` may import a module or an attribute.
            is_package = module == PACKAGE or (ROOT / module.partition(".")[2]).is_dir()
            found |= {f"{module}.{alias.name}" for alias in node.names} if is_package else {module}
    return found


def own_imports(source: Path) -> set[str]:
    """The modules of this package that a file imports, by their names below it."""
    prefix = f"{PACKAGE}."
    return {name.removeprefix(prefix) for name in imports(source) if name.startswith(prefix)}


def room_of(name: str) -> str:
    return name.partition(".")[0]


def rooms_used_by(source: Path) -> set[str]:
    return {room_of(name) for name in own_imports(source)}


def roots(source: Path, *, at_run_time: bool = False) -> set[str]:
    return {name.partition(".")[0] for name in imports(source, at_run_time=at_run_time)}


def test_every_file_is_in_a_room_that_the_table_names() -> None:
    assert {room_of(name) for name in SOURCES} - set(ROOMS) == {"__init__"}
    assert set(ROOMS) - {room_of(name) for name in SOURCES} == set()


@pytest.mark.parametrize("room", LAYERS)
def test_the_layers_of_a_room_name_each_of_its_files_once(room: str) -> None:
    listed = [name for layer in LAYERS[room] for name in layer]
    files = {name.split(".")[1] for name in SOURCES if room_of(name) == room}
    assert sorted(listed) == sorted(files - {"__init__"})


def test_every_form_of_import_is_read() -> None:
    node = SOURCES["node.node"]
    assert {"errors", "transports", "sessions", "node"} <= rooms_used_by(node)
    assert {"node.life", "transports.tcp"} <= own_imports(node)
    assert {"logging", "types"} <= roots(node)
    assert "types" not in roots(node, at_run_time=True)
    assert rooms_used_by(SOURCES["__init__"]) >= {"node", "errors", "events"}


@pytest.mark.parametrize("name", [n for n in SOURCES if room_of(n) not in {"__init__", "cli"}])
def test_a_file_imports_only_from_rooms_below(name: str) -> None:
    room = room_of(name)
    assert rooms_used_by(SOURCES[name]) - ROOMS[room] - {room} == set()


@pytest.mark.parametrize(
    ("room", "depth", "name"),
    [
        (room, depth, name)
        for room, layers in LAYERS.items()
        for depth, layer in enumerate(layers)
        for name in layer
    ],
)
def test_a_file_imports_only_from_lower_layers_of_its_room(
    room: str, depth: int, name: str
) -> None:
    below = {f"{room}.{lower}" for layer in LAYERS[room][:depth] for lower in layer}
    used = {used for used in own_imports(SOURCES[f"{room}.{name}"]) if room_of(used) == room}
    assert {".".join(used.split(".")[:2]) for used in used} - below == set()


@pytest.mark.parametrize("name", [n for n in SOURCES if room_of(n) == "protocol"])
def test_protocol_logic_does_no_io_and_knows_no_clock_or_chance(name: str) -> None:
    assert roots(SOURCES[name]) & IMPURE == set()


@pytest.mark.parametrize("name", [n for n in SOURCES if not n.startswith("cli")])
def test_cryptography_is_the_only_dependency(name: str) -> None:
    allowed = sys.stdlib_module_names | {PACKAGE, "cryptography"}
    assert roots(SOURCES[name]) - allowed <= {"typing_extensions"}  # type checkers bring it
    assert roots(SOURCES[name], at_run_time=True) - allowed == set()


@pytest.mark.parametrize("name", [n for n in SOURCES if not n.startswith("cli")])
def test_nothing_else_imports_the_command_line(name: str) -> None:
    assert "cli" not in rooms_used_by(SOURCES[name])


@pytest.mark.parametrize("name", [n for n in SOURCES if n.startswith("cli")])
def test_the_command_line_uses_only_public_names(name: str) -> None:
    public = set(seigr_toolset_transmissions.__all__) | PUBLIC_MODULES | {"cli", "__main__"}
    assert rooms_used_by(SOURCES[name]) - public == set()


def test_all_public_names_are_there_and_documented() -> None:
    for name in seigr_toolset_transmissions.__all__:
        value = getattr(seigr_toolset_transmissions, name)
        assert name == "__version__" or value.__doc__, name


@pytest.mark.parametrize("name", [n for n in SOURCES if not n.startswith("cli")])
def test_each_file_says_what_it_is_for(name: str) -> None:
    assert ast.get_docstring(ast.parse(SOURCES[name].read_text()))
