"""Stands between a dialer and its real transport, and treats the bytes as a network might."""

from __future__ import annotations

from seigr_toolset_transmissions.transports.base import NOBODY, Address, Receiver, Transport


class Between(Transport, Receiver):
    """The dialer's transport, and the receiver of the real transport."""

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
        """Hand the dialer the bytes it has not taken yet, followed by these."""
        whole = self._rest + data
        if whole and self._receiver is not NOBODY:
            with memoryview(whole) as view:
                done = self._receiver.bytes_received(view)
            self._rest = whole[done:]

    def _lose(self, cause: Exception | None) -> None:
        receiver, self._receiver = self._receiver, NOBODY
        receiver.connection_lost(cause)
