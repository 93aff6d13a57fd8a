"""`stt request`: one request to a peer, and its reply."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ..errors import (
    STTRequestError,
    STTRequestFailedError,
    STTRequestRefusedError,
    STTRequestTimeoutError,
)
from .addresses import format_address
from .converse import is_terminal
from .failures import FAILED, HANDLER_FAILED, UNCERTAIN, Failure, Misuse
from .nodes import connect_to, running
from .notes import complain, note
from .printable import printable, printable_line
from .streams import STDIN, STDOUT, InputStream, OutputStream

if TYPE_CHECKING:
    from .. import NodeConfig
    from .seeds import Seeds

__all__ = ["request_reply"]

_REQUEST_BYTES = 8
"""How much shorter than the longest message a request is."""

_EXIT_CODES = {False: FAILED, True: HANDLER_FAILED, None: UNCERTAIN}
_WHETHER_HANDLED = {
    False: "; the request was not handled",
    True: "",
    None: "; the request may or may not have been handled",
}


class NoReply(Failure):
    """There is no good reply; the exit code says whether the request was handled."""

    def __init__(self, text: str, *, handled: bool | None) -> None:
        super().__init__(text + _WHETHER_HANDLED[handled])
        self.exit_code: int = _EXIT_CODES[handled]


async def request_reply(
    seeds: Seeds,
    config: NodeConfig,
    address: tuple[str, int],
    data: bytes | None,
    *,
    timeout: float,
    expect: bytes | None,
) -> None:
    """Send a request and write the reply to standard output.

    Args:
        seeds: What the node is made of.
        config: Its settings.
        address: Where the peer listens.
        data: The request; None: what standard input holds.
        timeout: How many seconds it may take from the first attempt to connect to the reply.
        expect: The peer's node id; None: any.

    Raises:
        NoReply: There is no good reply.
        Misuse: The request is too long for a message.
        STTError: The peer could not be reached.
        OSError: The reply could not be written.

    """
    if data is None:
        try:
            data = await _read_request(config.max_message_bytes - _REQUEST_BYTES)
        except asyncio.CancelledError:
            note("interrupted: the request was not sent")
            raise
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout
    async with running(seeds, config) as node:
        session = await connect_to(node, address, expect=expect, seeds=seeds)
        try:
            reply = await session.request(data, timeout=end - loop.time())
        except STTRequestError as error:
            text = _explain(error, format_address(address), timeout)
            raise NoReply(text, handled=error.handled) from error
        except asyncio.CancelledError:
            complain(f"interrupted: no reply came{_WHETHER_HANDLED[None]}")
            raise
        await OutputStream(STDOUT).write(_for_terminal(reply) if is_terminal(STDOUT) else reply)
        await session.close()


async def _read_request(longest: int) -> bytes:
    if is_terminal():
        note("type the request; Ctrl-D ends it")
    data = b""
    async for chunk in InputStream(STDIN).chunks():
        data += chunk
        if len(data) > longest:
            raise Misuse(f"a request has at most {longest:,} bytes: standard input has more")
    return data


def _for_terminal(reply: bytes) -> bytes:
    """Return the reply as lines that are safe to print."""
    return printable(reply.removesuffix(b"\n"))


def _explain(error: STTRequestError, where: str, timeout: float) -> str:
    match error:
        case STTRequestRefusedError():
            return (
                f"nobody serves requests at {where}: start `stt listen` there with --exec or "
                "--echo, or give the node that listens a handler, `@node.on_request`"
            )
        case STTRequestFailedError(handled=None):
            return f"the node at {where} no longer works on requests"
        case STTRequestFailedError(data=b""):
            return "the request failed there, without a reason given: look at the other side's log"
        case STTRequestFailedError(data=reason):
            return f"the request failed there: {printable_line(_one_line(reason))}"
        case STTRequestTimeoutError():
            return f"no reply within {timeout:g} s (--timeout allows more)"
        case _:
            return f"no reply came: {error}"


def _one_line(reason: bytes) -> str:
    return reason.decode(errors="backslashreplace").rstrip("\n")
