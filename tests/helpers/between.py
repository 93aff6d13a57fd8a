"""What stands between a dialer and its real transport, to do to the bytes what a network may do."""

from __future__ import annotations

from seigr_toolset_transmissions.transports.base import NOBODY, Address, Receiver, Transport


class Between(Transport, Receiver):
    """The dialer's transport, and the real transport's receiver."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._transport: Transport
        self._rest = b""

    @property
    def peer_address(self) -> Address:
        return self._transport.peer_address

    def hand_over(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def connection_made(self, transport: Transport) -> None:
        self._transport = transport
        self._receiver.connection_made(self)

    def _give(self, data: bytes) -> None:
        """Hand the dialer what it has left, and this behind it."""
        whole = self._rest + data
        if whole and self._receiver is not NOBODY:
            with memoryview(whole) as view:
                done = self._receiver.bytes_received(view)
            self._rest = whole[done:]

    def _lose(self, cause: Exception | None) -> None:
        receiver, self._receiver = self._receiver, NOBODY
        receiver.connection_lost(cause)
