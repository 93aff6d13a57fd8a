"""One worker of `stt serve`: a process of its own that runs the node of the user's program.

It tells the supervisor, over a socket that both have, whether its node listens. It ends at SIGTERM,
or when that socket does; so it does not outlive the supervisor, however that ends.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import signal
import socket
import sys
import traceback
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from inspect import isawaitable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import STTError, STTNode
from ..cluster import Cluster
from ..seeing import serve_monitor
from ..transports.tcp import TcpNetwork
from .addresses import short_id
from .failures import FAILED, OK, Failure, Misuse
from .notes import complain

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["load_factory", "make_node", "share"]


def load_factory(target: str) -> Callable[[], Any]:
    """Return the callable that MODULE:FACTORY names.

    Raises:
        Misuse: There is none; the text says what to do.

    Also raises whatever the module does.

    """
    module_name, _, name = target.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise Misuse(
            f"there is no module {error.name!r} in {Path.cwd()} or among the installed packages: "
            "start `stt serve` in the folder that has it, or install it"
        ) from None
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise Misuse(f"module {module_name!r} has no {name!r}: check its name") from None
    if not callable(found):
        raise Misuse(
            f"{target} is {_kind_of(found)}, not a function: name one that returns an STTNode"
        )
    return found  # type: ignore[no-any-return]


def _kind_of(value: object) -> str:
    if value is None:
        return "None"
    name = type(value).__name__
    return f"an {name}" if name[0] in "AEIOaeio" else f"a {name}"


async def make_node(target: str, factory: Callable[[], Any], stack: AsyncExitStack) -> STTNode:
    """Return the node that the factory makes; what it opens for that, the stack closes.

    Raises:
        Misuse: It makes no node.

    Also raises whatever the factory does.

    """
    made = factory()
    if isawaitable(made):
        made = await made
    if isinstance(made, AbstractAsyncContextManager) and not isinstance(made, STTNode):
        made = await stack.enter_async_context(made)
    if not isinstance(made, STTNode):
        raise Misuse(f"{target} returned {_kind_of(made)}, not an STTNode")
    return made


def share(node: STTNode, folder: str, number: int) -> None:
    """Let the node share its port and its peers with those of the other workers.

    Raises:
        Misuse: Its network cannot, or the path of the folder is too long.

    """
    network = node.network
    if not isinstance(network, TcpNetwork):
        raise Misuse(
            f"workers cannot share an address of {type(network).__name__}: use --workers 1"
        )
    network.reuse_port = True
    cluster = getattr(node, "cluster", None)
    if cluster is None:
        try:
            node.cluster = Cluster(f"unix://{folder}", name=f"worker-{number}")
        except ValueError as error:
            raise Misuse(f"{error}: set TMPDIR to a folder with a shorter path") from error
    elif isinstance(cluster, Cluster) and cluster.folder is None:
        cluster.folder = folder


async def _serve(
    target: str,
    factory: Callable[[], Any],
    control: socket.socket,
    folder: str,
    number: int,
    monitor: str,
) -> None:
    told_to_end = _end_at_signal()
    async with AsyncExitStack() as stack:
        node = await make_node(target, factory, stack)
        try:
            if folder:
                share(node, folder, number)
            if monitor:
                await stack.enter_async_context(serve_monitor(node, monitor))
            await node.start(server_mode=True)
        except RuntimeError as error:
            raise Misuse(f"the node that {target} returned cannot be started: {error}") from error
        stack.push_async_callback(_stop, node)
        _say(control, node_id=node.node_id.hex(), address=node.address)
        control.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_recv(control, 1)  # until the supervisor ends
        except asyncio.CancelledError:
            if not told_to_end.is_set():
                raise
            # So that what the program has opened is closed as usual.
            _this_task().uncancel()


def _end_at_signal() -> asyncio.Event:
    """Cancel this task at the first SIGTERM or SIGINT; return what is set then.

    Further ones change nothing: a service manager sends one to all processes at once, and then the
    supervisor sends its own. It has SIGKILL for users in a hurry.
    """
    told, loop, task = asyncio.Event(), asyncio.get_running_loop(), _this_task()

    def end() -> None:
        if not told.is_set():
            told.set()
            task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    return told


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  only coroutines ask
    return task


async def _stop(node: STTNode) -> None:
    for lost in await node.stop():
        complain(f"not everything was delivered to {short_id(lost.peer_node_id)}: {lost}")


def _say(control: socket.socket, **report: Any) -> None:
    control.sendall(json.dumps(report).encode() + b"\n")


def _main(descriptor: int, number: int, level: str, folder: str, monitor: str, target: str) -> int:
    os.set_inheritable(descriptor, False)  # the user's own processes do not hold it
    control = socket.socket(fileno=descriptor)
    # What the program has set up for logging stays; this is for programs that have not.
    form = f"%(asctime)s %(levelname)-7s worker {number}: %(name)s: %(message)s"
    try:
        factory = load_factory(target)
        logging.basicConfig(format=form, datefmt="%H:%M:%S", level=level)
        asyncio.run(_serve(target, factory, control, folder, number, monitor))
    except asyncio.CancelledError:  # told to end before it listened
        return OK
    except BaseException as error:  # noqa: BLE001 - it goes to the user, and the process ends
        failure, exit_code = str(error), getattr(error, "exit_code", FAILED)
        if not isinstance(error, Failure | STTError):
            traceback.print_exc()
            failure = f"{target} raised {_name(error)}"
        with suppress(OSError):  # the supervisor has ended, too
            _say(control, failure=failure, exit_code=exit_code)
        return FAILED
    return OK


def _name(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")


if __name__ == "__main__":
    _descriptor, _number, *_rest = sys.argv[1:]
    sys.exit(_main(int(_descriptor), int(_number), *_rest))
