"""The peers, by name."""

from __future__ import annotations

from .base import Peer
from .message_queue import ZmqAsyncio, ZmqBlocking, ZmqReqAsyncio, ZmqReqBlocking
from .nats_broker import Nats
from .remote_calls import Grpc
from .socket_io import SocketIO
from .stt import Stt
from .tcp import AsyncioProtocol, AsyncioStreams, MutualTls, RawSockets
from .websocket import Websockets

__all__ = ["OWN", "PEERS", "Peer"]

PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Stt(),
        ZmqBlocking(),
        ZmqAsyncio(),
        ZmqReqBlocking(),
        ZmqReqAsyncio(),
        Websockets(),
        SocketIO(),
        Nats(),
        Grpc(),
        MutualTls(),
        AsyncioStreams(),
        AsyncioProtocol(),
        RawSockets(),
    )
}

OWN = Stt.name
