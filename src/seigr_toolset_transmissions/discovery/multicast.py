"""Being present in multicast DNS: begun anew whenever what it depends on has changed."""

from __future__ import annotations

import asyncio
import errno
import importlib
import logging
from abc import ABC, abstractmethod
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Self, TypeVar

if TYPE_CHECKING:
    from types import TracebackType

    from .interfaces import MulticastInterface

__all__ = ["Multicast", "Scene"]

logger: logging.Logger = logging.getLogger(__name__)

_LOOK_SECONDS = 5.0
"""How often to look whether something has changed."""

W = TypeVar("W")


class Scene(NamedTuple, Generic[W]):
    """What being there depends on."""

    interfaces: tuple[MulticastInterface, ...]
    """Where it speaks multicast DNS: at least one."""
    what: W
    """What it says or does there."""


class Multicast(ABC, Generic[W]):
    """Something that is said or heard by multicast DNS while a block lasts.

    The event loop in which the block is entered runs it. One task looks for changes; the block owns
    it.

    Raises:
        ModuleNotFoundError: zeroconf is not installed.

    """

    def __init__(self) -> None:
        try:
            self._zeroconf: Any = importlib.import_module("zeroconf")
            self._asyncio: Any = importlib.import_module("zeroconf.asyncio")
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "discovery needs the package zeroconf: "
                "pip install 'seigr-toolset-transmissions[discovery]'",
                name=error.name,
            ) from error
        self._block: AsyncExitStack | None = None
        self._opened = AsyncExitStack()
        self._scene: Scene[W] | None = None

    @abstractmethod
    def _look(self) -> Scene[W] | None:
        """Return what there is to say or hear now; None: nothing.

        Raises:
            OSError: It cannot be found out.

        """

    @abstractmethod
    async def _begin(self, service: Any, what: W, opened: AsyncExitStack) -> None:
        """Begin to say or hear it, with this `AsyncZeroconf`; ``opened`` gets what ends it."""

    async def __aenter__(self) -> Self:
        """Begin.

        Raises:
            OSError: The network cannot be used. After that, and if cancelled, nothing is left.
            RuntimeError: It is in use already.

        """
        if self._block is not None:
            raise RuntimeError(f"this {type(self).__name__} is already in use: make another one")
        async with AsyncExitStack() as block:
            self._block = block
            block.callback(self._leave)
            block.push_async_callback(self._close)
            await self._open(self._look())
            keeper = asyncio.get_running_loop().create_task(self._keep())
            block.push_async_callback(_end, keeper)
            self._block = block.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End; if something was announced, say goodbye, which takes some 250 ms.

        If cancelled, nothing is left open, and the goodbye may not be heard.
        """
        assert self._block is not None  # noqa: S101  the block was entered
        await self._block.aclose()

    def _leave(self) -> None:
        self._block = None

    async def _open(self, scene: Scene[W] | None) -> None:
        if scene is None:
            return
        async with AsyncExitStack() as opened:
            try:
                service = self._asyncio.AsyncZeroconf(interfaces=list(scene.interfaces))
                opened.push_async_callback(service.async_close)
                await service.zeroconf.async_wait_for_start()
                await self._begin(service, scene.what, opened)
            except (OSError, RuntimeError, self._zeroconf.Error) as error:
                number = getattr(error, "errno", errno.ENETDOWN)  # else an interface has gone
                raise OSError(
                    number, f"multicast DNS (UDP port 5353) cannot be used: {error}"
                ) from error
            self._opened = opened.pop_all()
        self._scene = scene

    async def _close(self) -> None:
        self._scene = None
        opened, self._opened = self._opened, AsyncExitStack()
        await opened.aclose()

    async def _keep(self) -> None:
        """Begin anew whenever something has changed, and until that succeeds."""
        said = False
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                scene = self._look()
                if scene != self._scene:
                    await self._close()
                    await self._open(scene)
                said = False
            except OSError as error:
                await self._close()
                if not said:
                    said = True
                    text = error.strerror or error
                    logger.warning("%s; trying again every %g s", text, _LOOK_SECONDS)


async def _end(keeper: asyncio.Task[None]) -> None:
    keeper.cancel()
    await asyncio.wait((keeper,))
    if not keeper.cancelled():
        keeper.result()
