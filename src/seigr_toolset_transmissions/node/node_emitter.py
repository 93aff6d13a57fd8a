"""`NodeEvents`: an emitter that knows a node's events, and so finds mistakes in their use."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeVar, overload

from ..events import EventEmitter, Handler
from ..events.handlers import check_parameters
from .event_types import (
    ARGUMENTS,
    DataArguments,
    DataEvent,
    DataHandler,
    ErrorArguments,
    ErrorEvent,
    ErrorHandler,
    HealthArguments,
    HealthEvent,
    HealthHandler,
    HubArguments,
    HubEvent,
    HubHandler,
    NodeEvent,
    PeerArguments,
    PeerEvent,
    PeerHandler,
    SessionArguments,
    SessionEvent,
    SessionHandler,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from typing_extensions import deprecated

    from ..events import EventStream, Expected, Occurrence
    from ..events.watching import Overflow, Predicate

__all__ = ["NodeEvents"]

logger: logging.Logger = logging.getLogger(__name__)

_H = TypeVar("_H", bound=Handler)
_SessionH = TypeVar("_SessionH", bound=SessionHandler)
_PeerH = TypeVar("_PeerH", bound=PeerHandler)
_DataH = TypeVar("_DataH", bound=DataHandler)
_ErrorH = TypeVar("_ErrorH", bound=ErrorHandler)
_HealthH = TypeVar("_HealthH", bound=HealthHandler)
_HubH = TypeVar("_HubH", bound=HubHandler)


class NodeEvents(EventEmitter):
    """The emitter of a node, for the node's events and for your own, under other names.

    Editors complete the names of a node's events, and type checkers refuse handlers with other
    parameters than ``docs/events.md`` lists (mypy does so for `register` if its error code
    ``deprecated`` is enabled). An `EventEmitter` of your own, which knows nothing of nodes, checks
    none of this, even if you pass it to a node.

    Whatever registers a handler for an event of the node raises `STTEventError` if that handler
    certainly cannot be called with the event's arguments. A name that looks like a misspelt event
    of the node is taken as it is, with one warning in the log.
    """

    def __init__(self) -> None:
        super().__init__()
        self._doubted: set[str] = set()

    def _check_name(self, name: str) -> None:
        super()._check_name(name)
        if name in ARGUMENTS or name in self._doubted or (meant := _nearest(name)) is None:
            return
        self._doubted.add(name)
        logger.warning("a node emits no event %r: did you mean %r?", name, meant)

    def _check_handler(self, name: str, handler: Handler) -> None:
        super()._check_handler(name, handler)
        if name in ARGUMENTS:
            check_parameters(handler, name, ARGUMENTS[name])

    if TYPE_CHECKING:  # what `EventEmitter` does, as it is typed for the events of a node

        @overload
        def on(self, name: SessionEvent) -> Callable[[_SessionH], _SessionH]: ...
        @overload
        def on(self, name: PeerEvent) -> Callable[[_PeerH], _PeerH]: ...
        @overload
        def on(self, name: DataEvent) -> Callable[[_DataH], _DataH]: ...
        @overload
        def on(self, name: ErrorEvent) -> Callable[[_ErrorH], _ErrorH]: ...
        @overload
        def on(self, name: HealthEvent) -> Callable[[_HealthH], _HealthH]: ...
        @overload
        def on(self, name: HubEvent) -> Callable[[_HubH], _HubH]: ...
        @overload
        def on(self, name: str) -> Callable[[_H], _H]: ...
        def on(self, name: str) -> Any:
            """See `EventEmitter.on`."""

        @overload
        def once(self, name: SessionEvent) -> Callable[[_SessionH], _SessionH]: ...
        @overload
        def once(self, name: PeerEvent) -> Callable[[_PeerH], _PeerH]: ...
        @overload
        def once(self, name: DataEvent) -> Callable[[_DataH], _DataH]: ...
        @overload
        def once(self, name: ErrorEvent) -> Callable[[_ErrorH], _ErrorH]: ...
        @overload
        def once(self, name: HealthEvent) -> Callable[[_HealthH], _HealthH]: ...
        @overload
        def once(self, name: HubEvent) -> Callable[[_HubH], _HubH]: ...
        @overload
        def once(self, name: str) -> Callable[[_H], _H]: ...
        def once(self, name: str) -> Any:
            """See `EventEmitter.once`."""

        @overload
        def register(self, name: SessionEvent, handler: SessionHandler) -> None: ...
        @overload
        def register(self, name: PeerEvent, handler: PeerHandler) -> None: ...
        @overload
        def register(self, name: DataEvent, handler: DataHandler) -> None: ...
        @overload
        def register(self, name: ErrorEvent, handler: ErrorHandler) -> None: ...
        @overload
        def register(self, name: HealthEvent, handler: HealthHandler) -> None: ...
        @overload
        def register(self, name: HubEvent, handler: HubHandler) -> None: ...
        @overload
        @deprecated("a handler of this event of the node is called with other arguments")
        def register(self, name: NodeEvent, handler: Handler) -> None: ...
        @overload
        def register(self, name: str, handler: Handler) -> None: ...
        def register(self, name: str, handler: Handler) -> None:
            """See `EventEmitter.register`."""

        @overload
        def registered(
            self, name: SessionEvent, handler: SessionHandler
        ) -> AbstractContextManager[None]: ...
        @overload
        def registered(
            self, name: PeerEvent, handler: PeerHandler
        ) -> AbstractContextManager[None]: ...
        @overload
        def registered(
            self, name: DataEvent, handler: DataHandler
        ) -> AbstractContextManager[None]: ...
        @overload
        def registered(
            self, name: ErrorEvent, handler: ErrorHandler
        ) -> AbstractContextManager[None]: ...
        @overload
        def registered(
            self, name: HealthEvent, handler: HealthHandler
        ) -> AbstractContextManager[None]: ...
        @overload
        def registered(
            self, name: HubEvent, handler: HubHandler
        ) -> AbstractContextManager[None]: ...
        @overload
        @deprecated("a handler of this event of the node is called with other arguments")
        def registered(self, name: NodeEvent, handler: Handler) -> None: ...
        @overload
        def registered(self, name: str, handler: Handler) -> AbstractContextManager[None]: ...
        def registered(self, name: str, handler: Handler) -> Any:
            """See `EventEmitter.registered`."""

        @overload
        async def wait_for(
            self,
            name: SessionEvent,
            predicate: Predicate | None = None,
            timeout: float | None = None,
        ) -> Occurrence[SessionArguments]: ...
        @overload
        async def wait_for(
            self,
            name: PeerEvent,
            predicate: Predicate | None = None,
            timeout: float | None = None,
        ) -> Occurrence[PeerArguments]: ...
        @overload
        async def wait_for(
            self,
            name: DataEvent,
            predicate: Predicate | None = None,
            timeout: float | None = None,
        ) -> Occurrence[DataArguments]: ...
        @overload
        async def wait_for(
            self,
            name: ErrorEvent,
            predicate: Predicate | None = None,
            timeout: float | None = None,
        ) -> Occurrence[ErrorArguments]: ...
        @overload
        async def wait_for(
            self,
            name: HealthEvent,
            predicate: Predicate | None = None,
            timeout: float | None = None,
        ) -> Occurrence[HealthArguments]: ...
        @overload
        async def wait_for(
            self,
            name: HubEvent,
            predicate: Callable[[Occurrence], object] | None = None,
            timeout: float | None = None,
        ) -> Occurrence[HubArguments]: ...
        @overload
        async def wait_for(
            self,
            name: str | tuple[str, ...],
            predicate: Predicate | None = None,
            timeout: float | None = None,
        ) -> Occurrence[dict[str, Any]]: ...
        async def wait_for(
            self,
            name: str | tuple[str, ...],
            predicate: Any = None,
            timeout: float | None = None,
        ) -> Any:
            """See `EventEmitter.wait_for`."""

        @overload
        def expect(
            self,
            name: SessionEvent,
            predicate: Predicate | None = None,
            timeout: float | None = None,
        ) -> AbstractAsyncContextManager[Expected[SessionArguments]]: ...
        @overload
        def expect(
            self,
            name: PeerEvent,
            predicate: Predicate | None = None,
            timeout: float | None = None,
        ) -> AbstractAsyncContextManager[Expected[PeerArguments]]: ...
        @overload
        def expect(
            self,
            name: DataEvent,
            predicate: Predicate | None = None,
            timeout: float | None = None,
        ) -> AbstractAsyncContextManager[Expected[DataArguments]]: ...
        @overload
        def expect(
            self,
            name: ErrorEvent,
            predicate: Predicate | None = None,
            timeout: float | None = None,
        ) -> AbstractAsyncContextManager[Expected[ErrorArguments]]: ...
        @overload
        def expect(
            self,
            name: HealthEvent,
            predicate: Predicate | None = None,
            timeout: float | None = None,
        ) -> AbstractAsyncContextManager[Expected[HealthArguments]]: ...
        @overload
        def expect(
            self,
            name: HubEvent,
            predicate: Callable[[Occurrence], object] | None = None,
            timeout: float | None = None,
        ) -> AbstractAsyncContextManager[Expected[HubArguments]]: ...
        @overload
        def expect(
            self,
            name: str | tuple[str, ...],
            predicate: Predicate | None = None,
            timeout: float | None = None,
        ) -> AbstractAsyncContextManager[Expected[dict[str, Any]]]: ...
        def expect(
            self,
            name: str | tuple[str, ...],
            predicate: Any = None,
            timeout: float | None = None,
        ) -> Any:
            """See `EventEmitter.expect`."""

        @overload
        def stream(
            self, name: SessionEvent, *, maxsize: int = 64, overflow: Overflow = "wait"
        ) -> AbstractAsyncContextManager[EventStream[SessionArguments]]: ...
        @overload
        def stream(
            self, name: PeerEvent, *, maxsize: int = 64, overflow: Overflow = "wait"
        ) -> AbstractAsyncContextManager[EventStream[PeerArguments]]: ...
        @overload
        def stream(
            self, name: DataEvent, *, maxsize: int = 64, overflow: Overflow = "wait"
        ) -> AbstractAsyncContextManager[EventStream[DataArguments]]: ...
        @overload
        def stream(
            self, name: ErrorEvent, *, maxsize: int = 64, overflow: Overflow = "wait"
        ) -> AbstractAsyncContextManager[EventStream[ErrorArguments]]: ...
        @overload
        def stream(
            self, name: HealthEvent, *, maxsize: int = 64, overflow: Overflow = "wait"
        ) -> AbstractAsyncContextManager[EventStream[HealthArguments]]: ...
        @overload
        def stream(
            self, name: HubEvent, *, maxsize: int = 64, overflow: Overflow = "wait"
        ) -> AbstractAsyncContextManager[EventStream[HubArguments]]: ...
        @overload
        def stream(
            self, name: str, *, maxsize: int = 64, overflow: Overflow = "wait"
        ) -> AbstractAsyncContextManager[EventStream[dict[str, Any]]]: ...
        def stream(self, name: str, *, maxsize: int = 64, overflow: Overflow = "wait") -> Any:
            """See `EventEmitter.stream`."""


def _nearest(name: str) -> str | None:
    """Return the event of a node that `name` probably means, or None."""
    plain = name.lower().replace("-", "_")
    return next((meant for meant in ARGUMENTS if _is_slip(plain, meant)), None)


def _is_slip(name: str, meant: str) -> bool:
    """Return whether two names differ in one place, and by no more than a typing slip.

    That is one letter too many, a wrong one, up to two missing ("peer_connect"), or two swapped.
    Allowing more would flag sensible names of a program's own, such as "peer_reconnected".
    """
    if abs(len(name) - len(meant)) > 2:
        return False
    while name and meant and name[0] == meant[0]:
        name, meant = name[1:], meant[1:]
    while name and meant and name[-1] == meant[-1]:
        name, meant = name[:-1], meant[:-1]
    if not name:
        return len(meant) <= 2
    return (len(name) == 1 and len(meant) <= 1) or (len(name) == 2 and name == meant[::-1])
