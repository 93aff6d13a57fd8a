"""Unix sockets: the transport that carries bytes between processes of one machine.

The host of an address is a folder, and the port is the number of a socket in it: ``("/run/app",
9400)`` is ``/run/app/9400.sock``. The permissions of the folder decide which users of the machine
can connect.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .base import FREE_PORTS
from .sockets import UNIX, ListeningSocket, SocketListener, SocketNetwork, SocketTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .base import Address, Listener, Receiver, Transport

__all__ = [
    "LONGEST_PATH",
    "UnixNetwork",
    "UnixTransport",
    "check_folder",
    "listen_privately",
]

LONGEST_PATH: int = 103
"""The longest path, in bytes, that every system accepts. (Linux accepts 107.)"""

_OWNER_ONLY = 0o600


class UnixTransport(SocketTransport):
    """One connection over a Unix socket."""

    __slots__ = ()

    @staticmethod
    def _read_name(name: Any) -> Address:
        path = Path(os.fsdecode(name))  # empty if the peer is the one that connected
        return (str(path.parent), int(path.stem)) if path.stem.isdecimal() else ("", 0)

    def eof_received(self) -> None:
        """Part of asyncio's protocol interface; called by the loop only."""
        # These sockets have no reset. But a peer that has closed keeps its socket until we have
        # closed ours, and a peer that has aborted does not.
        if not self._closing and _hung_up(self.descriptors()):
            self._cause = ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        super().eof_received()


def _hung_up(descriptors: list[int]) -> bool:
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, 0)  # a hang-up is always reported
    return any(events & select.POLLHUP for _, events in poll.poll(0))


class _UnixListener(SocketListener):
    """Removes its socket from the folder when it closes, unless another has taken its place."""

    def __init__(
        self, accept: Callable[[], Receiver], sock: socket.socket, address: Address, path: Path
    ) -> None:
        super().__init__(accept, [sock], address, UnixTransport)
        self._path = path
        self._file = _file_at(path)

    async def close(self) -> None:
        await super().close()
        if self._file is not None and _file_at(self._path) == self._file:
            _remove(self._path)
        self._file = None


class UnixNetwork(SocketNetwork):
    """Reaches peers on this machine, over Unix sockets in folders. See the module for addresses."""

    async def dial(self, receiver: Receiver, host: str, port: int) -> Transport:
        """Connect to a socket in a folder.

        Raises:
            OSError: Nothing listens there, too many connections wait there already, or this system
                has no Unix sockets. ``receiver`` was not called.

        If cancelled, no connection is left open: either ``receiver`` was not called, or its
        ``connection_lost`` follows.

        """
        path = _path_of((host, port))
        try:
            return await self.connect(
                receiver,
                UnixTransport,
                lambda make: asyncio.get_running_loop().create_unix_connection(make, str(path)),
            )
        except FileNotFoundError as error:
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"there is no {path}") from error

    async def listen(self, accept: Callable[[], Receiver], host: str, port: int) -> Listener:
        """Accept connections at a socket in a folder, which must exist; port 0 takes any free one.

        Closing removes the socket. A socket that a killed process has left behind is replaced.

        Raises:
            OSError: The socket is taken, a file of another kind is in its place, the folder is
                missing or not writable, or this system has no Unix sockets.

        If cancelled, nothing is left open.

        """
        path = _path_of((host, port))
        if port and _is_abandoned(path):
            _remove(path)
        sock, bound = _bind(host, [port] if port else FREE_PORTS)
        listener = _UnixListener(accept, sock, (host, bound), _path_of((host, bound)))
        await listener.start()
        return listener


async def listen_privately(accept: Callable[[], Receiver], path: Path) -> Listener:
    """Accept connections at a socket with this very path. No other user can ever connect to it.

    Closing removes the socket. A socket that a killed process has left behind is replaced.

    Raises:
        OSError: As `UnixNetwork.listen` does, or the path is too long.

    If cancelled, nothing is left open.

    """
    _check_length(path)
    if _is_abandoned(path):
        _remove(path)
    listener = _UnixListener(accept, _bind_privately(path), (str(path), 0), path)
    await listener.start()
    return listener


def check_folder(folder: str) -> None:
    """Check that sockets can be in a folder, which need not exist.

    Raises:
        OSError: Its path is too long for that, or this system has no Unix sockets.

    """
    _path_of((folder, FREE_PORTS[-1]))


def _path_of(address: Address) -> Path:
    """Return the path of a socket; raise OSError if it cannot be one."""
    folder, port = address
    path = Path(folder, f"{port}.sock")
    _check_length(path)
    return path


def _check_length(path: Path) -> None:
    if UNIX is None:
        raise OSError(errno.EAFNOSUPPORT, "this system has no Unix sockets")
    if len(os.fsencode(path)) > LONGEST_PATH:  # libuv would cut it short
        raise OSError(
            errno.ENAMETOOLONG,
            f"the path of a Unix socket is too long (at most {LONGEST_PATH} bytes): {path}",
        )


def _bind(folder: str, ports: Iterable[int]) -> tuple[ListeningSocket, int]:
    """Bind a socket to the first port that is free."""
    sock = ListeningSocket(UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        taken = OSError(errno.EADDRINUSE, f"all sockets in {folder} are taken")
        for port in ports:
            try:
                sock.bind(str(_path_of((folder, port))))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                taken = error
            else:
                return sock, port
        raise taken  # noqa: TRY301 - so that the socket is closed, too
    except BaseException:
        sock.close()
        raise


def _bind_privately(path: Path) -> ListeningSocket:
    sock = ListeningSocket(UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        with suppress(OSError):
            os.fchmod(sock.fileno(), _OWNER_ONLY)  # Linux binds it with these rights
        sock.bind(str(path))
        path.chmod(_OWNER_ONLY)  # other systems: before it listens, nobody can connect
    except BaseException:
        sock.close()
        raise
    return sock


def _is_abandoned(path: Path) -> bool:
    """Return whether there is a socket at this path that nothing listens on."""
    if not path.is_socket():
        return False
    with socket.socket(UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # so that it fails at once if too many wait to be accepted
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
        except BlockingIOError:
            pass
    return False


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _file_at(path: Path) -> tuple[int, int] | None:
    """Return what identifies the file at a path; None if there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
