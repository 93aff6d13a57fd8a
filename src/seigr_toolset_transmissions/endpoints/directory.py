"""Which endpoints there are: adding, changing, removing, looking up and finding them.

Everything else that an `EndpointManager` does builds on this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

from ..errors import STTEndpointError
from ..foundation.callables import is_async
from .endpoint import Endpoint, EndpointInfo, check_id, check_metadata
from .fanout import nowhere
from .waiting import printable_id

if TYPE_CHECKING:
    from collections import OrderedDict
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from ..stats import Traffic
    from .fanout import Remote
    from .inbox import Inboxes
    from .waiting import Inbox

__all__ = ["NOT_GIVEN", "Directory", "ReadAddress", "as_given"]


class _NotGiven:
    def __repr__(self) -> str:
        return "<not given>"


#: Stands for "not given" where None is a value.
NOT_GIVEN: Any = _NotGiven()

_DEPARTED = 1024
"""How many departed peers' endpoints are remembered, with the reason."""


class ReadAddress(Protocol):
    """Turns the address that was given for an endpoint into the one that is kept."""

    def __call__(self, endpoint_id: bytes, address: Any, /, *, connect: bool) -> Any:
        """Return the address to keep; raise TypeError or ValueError if it cannot be one."""


def as_given(_: bytes, address: Any, *, connect: bool) -> Any:
    """Return the address."""
    return address


class Directory:
    """The endpoints of a manager, which sets the attributes."""

    # What a transport adds to a manager that stands alone: see `transport_side`.
    _traffic: Callable[[bytes], Iterable[Traffic]] | None = None
    _status: Callable[[bytes], Mapping[str, Any]] = staticmethod(lambda _: {})
    _on_wanted: Callable[[bytes], None] = staticmethod(lambda _: None)
    _on_removed: Callable[[bytes], None] = staticmethod(lambda _: None)
    _read_address: ReadAddress = staticmethod(as_given)
    _mistaken_for: Callable[[bytes], str] = staticmethod(lambda _: "")
    _check_caller: Callable[[], None] = staticmethod(lambda: None)
    _elsewhere: Callable[[bytes], Remote | None] = staticmethod(nowhere)

    _endpoints: dict[bytes, Endpoint]
    _inboxes: Inboxes
    _retiring: int  # how many endpoints are retiring
    _departed: OrderedDict[bytes, str]  # why, newest last

    async def add_endpoint(
        self,
        endpoint_id: bytes,
        address: Any,
        metadata: dict[str, Any] | None = None,
        *,
        connect: bool = False,
        exist_ok: bool = False,
    ) -> None:
        """Add an endpoint. Never waits.

        Args:
            endpoint_id: Any non-empty bytes. On a node, an endpoint with an address is dialed, and
                its id is the peer's node id.
            address: On a node: ``(host, port)``, the text ``"host:port"``, or None for a peer that
                connects by itself. A manager on its own accepts anything, and keeps it as given.
            metadata: Kept as given: the very object, which the caller may change at any time.
            connect: Whether the node connects to it at once and stays connected until it is
                removed. A manager on its own ignores this.
            exist_ok: Whether the endpoint may already be present, for instance because the peer
                connected first. It then gets this address, and this metadata unless that is None,
                and stays connected or not as this call says. It is yours from then on: the node
                does not remove it when the peer leaves.

        Raises:
            STTEndpointError: The endpoint is already present; it stays as it was.
            TypeError: A node cannot read the address.
            ValueError: Likewise, or the id cannot be that of the peer there; or ``connect`` is True
                and there is no address, or the id is the node's own.

        """
        self._add(
            endpoint_id, address, metadata, connect=connect, temporary=False, exist_ok=exist_ok
        )

    def _add(
        self,
        endpoint_id: bytes,
        address: Any,
        metadata: dict[str, Any] | None,
        *,
        connect: bool,
        temporary: bool,
        exist_ok: bool = False,
    ) -> None:
        self._check_caller()
        check_id(endpoint_id)
        check_metadata(metadata)
        endpoint = self._endpoints.get(endpoint_id)
        there = endpoint is not None and not endpoint.retiring
        if there and not exist_ok:
            raise STTEndpointError(
                f"endpoint {printable_id(endpoint_id)} already exists; "
                "change it with update_endpoint, or remove it first"
            )
        # Before anything changes:
        address = self._read_address(endpoint_id, address, connect=connect)
        if endpoint is not None and there:
            endpoint.address = address
            if metadata is not None:
                endpoint.metadata = metadata
            endpoint.temporary = temporary
            endpoint.wanted = connect
        else:
            if endpoint is None:
                endpoint = Endpoint(endpoint_id)
                self._departed.pop(endpoint_id, None)
            else:
                del self._endpoints[endpoint_id]  # it becomes the youngest
                self._retiring -= 1
                self._forget(endpoint_id)
            endpoint.begin(address, metadata, connect=connect, temporary=temporary)
            self._endpoints[endpoint_id] = endpoint
        if connect:
            self._on_wanted(endpoint_id)
        elif there:
            self._on_removed(endpoint_id)

    def update_endpoint(
        self,
        endpoint_id: bytes,
        *,
        address: Any = NOT_GIVEN,
        metadata: dict[str, Any] | None = NOT_GIVEN,
    ) -> None:
        """Replace the address, the metadata, or both; what is not given stays.

        Not async, because nothing here waits. (`add_endpoint` and `remove_endpoint` never wait
        either: they are async because programs await them.)

        Args:
            endpoint_id: The endpoint.
            address: As for `add_endpoint`.
            metadata: The new metadata, which replaces all of the old; None for no metadata. To
                change one value and keep the others, change the dict that `get_endpoint` returns
                as metadata.

        Raises:
            STTEndpointError: The endpoint is unknown.
            TypeError: As for `add_endpoint`.
            ValueError: As for `add_endpoint`.

        """
        self._check_caller()
        endpoint = self._get(endpoint_id)
        if metadata is not NOT_GIVEN:
            check_metadata(metadata)
        if address is not NOT_GIVEN:
            endpoint.address = self._read_address(endpoint_id, address, connect=endpoint.wanted)
        if metadata is not NOT_GIVEN:
            endpoint.metadata = {} if metadata is None else metadata

    async def remove_endpoint(self, endpoint_id: bytes) -> None:
        """Remove an endpoint and drop its messages that were not received. Never waits.

        Calls of `receive_from` that wait for it raise STTTimeoutError, and calls of `deliver`
        STTEndpointError; sends under way go on.

        Raises:
            STTEndpointError: The endpoint is unknown.

        """
        self._check_caller()
        self._remove(self._get(endpoint_id))

    def _on_drained(self, inbox: Inbox) -> None:
        self._remove(self._endpoints[inbox.endpoint_id])

    def _remove(self, endpoint: Endpoint) -> None:
        del self._endpoints[endpoint.endpoint_id]
        if endpoint.retiring:
            self._retiring -= 1
            if endpoint.ended is not None:
                self._departed[endpoint.endpoint_id] = endpoint.ended
                if len(self._departed) > _DEPARTED:
                    self._departed.popitem(last=False)
        self._inboxes.discard(endpoint)
        self._forget(endpoint.endpoint_id)
        self._on_removed(endpoint.endpoint_id)

    def _forget(self, endpoint_id: bytes) -> None:
        """Drop what else is known of an endpoint: it was removed, or is being added again."""

    # -- looking up --------------------------------------------------------------------------

    def get_endpoint(self, endpoint_id: bytes) -> EndpointInfo | None:
        """Return what is known of the endpoint, or None if it is unknown."""
        check_id(endpoint_id)
        endpoint = self._endpoints.get(endpoint_id)
        if endpoint is None:
            return None
        total = endpoint.total(() if self._traffic is None else self._traffic(endpoint_id))
        info = {
            "address": endpoint.address,
            "metadata": endpoint.metadata,
            "connected_at": endpoint.connected_at,
            "state": "retiring" if endpoint.retiring else "known",
            "bytes_sent": total.bytes_sent,
            "bytes_received": total.bytes_received,
            "last_activity": total.last_activity,
            "rtt": None,
        }
        info.update(self._status(endpoint.endpoint_id))
        return cast("EndpointInfo", info)

    def list_endpoints(self) -> list[bytes]:
        """Return the ids of all endpoints, in order of addition."""
        return list(self._endpoints)

    def find(
        self, predicate: Callable[[dict[str, Any]], object] | None = None, /, **metadata: Any
    ) -> list[bytes]:
        """Return the ids of the endpoints whose metadata match, in order of addition.

        Args:
            predicate: Called with each metadata dict; true means a match. A KeyError that it
                raises means that there is no such metadata, and no match. Any other exception
                propagates.
            **metadata: Values that the metadata must hold under these keys. Without any
                argument every endpoint matches.

        """
        if predicate is not None and not callable(predicate):
            raise TypeError(
                f"the predicate must be callable, not {type(predicate).__name__}; "
                'to compare values, use keywords: find(type="relay")'
            )
        if is_async(predicate):
            raise TypeError("the predicate must not be async: write it with `def`")
        return self._select(predicate, metadata)

    def _select(
        self, predicate: Callable[[dict[str, Any]], object] | None, wanted: Mapping[str, Any]
    ) -> list[bytes]:
        # A snapshot: the predicate may add or remove endpoints.
        return [
            endpoint.endpoint_id
            for endpoint in list(self._endpoints.values())
            if _matches(endpoint.metadata, predicate, wanted)
        ]

    def __len__(self) -> int:
        return len(self._endpoints)

    def __contains__(self, endpoint_id: object) -> bool:
        return isinstance(endpoint_id, bytes) and endpoint_id in self._endpoints

    def __iter__(self) -> Iterator[bytes]:
        """Iterate over the ids as they are now; endpoints may come and go meanwhile."""
        return iter(list(self._endpoints))

    def _get(self, endpoint_id: Any) -> Endpoint:
        # An object that is not an id may equal one: a memoryview, for instance.
        endpoint = self._endpoints.get(endpoint_id) if isinstance(endpoint_id, bytes) else None
        if endpoint is None:
            check_id(endpoint_id)
            how = self._departed.get(endpoint_id)
            if how is not None:
                raise STTEndpointError(
                    f"{how}, and the peer has left; it is an endpoint again when it connects, or "
                    "when you add it with add_endpoint"
                )
            name = printable_id(endpoint_id)
            remedy = self._mistaken_for(endpoint_id) or "add it first with add_endpoint"
            raise STTEndpointError(f"endpoint {name} is unknown; {remedy}")
        return endpoint


def _matches(
    metadata: dict[str, Any],
    predicate: Callable[[dict[str, Any]], object] | None,
    wanted: Mapping[str, Any],
) -> bool:
    if any(key not in metadata or metadata[key] != value for key, value in wanted.items()):
        return False
    try:
        return predicate is None or bool(predicate(metadata))
    except KeyError:
        return False
