"""Handshakes with known keys, and channels made by them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from seigr_toolset_transmissions.protocol.noise import (
    PROLOGUE,
    XXPSK0,
    Channel,
    Handshake,
    Pattern,
)

if TYPE_CHECKING:
    from collections.abc import Callable


__all__ = [
    "INITIATOR_EPHEMERAL",
    "INITIATOR_STATIC",
    "PAYLOADS",
    "PSK",
    "RESPONDER_EPHEMERAL",
    "RESPONDER_STATIC",
    "SIZES",
    "channels",
    "initiator",
    "key",
    "public",
    "responder",
    "up_to",
]

PSK = bytes(range(100, 132))
PAYLOADS = (b"\xa1" * 16, b"\xa2" * 64, b"\xa3" * 96)
SIZES = (64, 160, 160)


def key(fill: int) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(bytes([fill]) * 32)


def public(private: X25519PrivateKey) -> bytes:
    return private.public_key().public_bytes_raw()


INITIATOR_STATIC, RESPONDER_STATIC = key(1), key(2)
INITIATOR_EPHEMERAL, RESPONDER_EPHEMERAL = key(3), key(4)


def initiator(
    *,
    static: X25519PrivateKey = INITIATOR_STATIC,
    ephemeral: Callable[[], X25519PrivateKey] = lambda: INITIATOR_EPHEMERAL,
    psk: bytes | None = PSK,
    prologue: bytes = PROLOGUE,
    pattern: Pattern = XXPSK0,
) -> Handshake:
    return Handshake(
        initiator=True,
        static=static,
        ephemeral=ephemeral,
        psk=psk,
        prologue=prologue,
        pattern=pattern,
    )


def responder(
    *,
    static: X25519PrivateKey = RESPONDER_STATIC,
    ephemeral: Callable[[], X25519PrivateKey] = lambda: RESPONDER_EPHEMERAL,
    psk: bytes | None = PSK,
    prologue: bytes = PROLOGUE,
    pattern: Pattern = XXPSK0,
) -> Handshake:
    return Handshake(
        initiator=False,
        static=static,
        ephemeral=ephemeral,
        psk=psk,
        prologue=prologue,
        pattern=pattern,
    )


def up_to(step: int) -> tuple[Handshake, Handshake, bytes]:
    """Return the writer and the reader of message `step`, and the message, written but not read."""
    writer, reader = initiator(), responder()
    for payload in PAYLOADS[:step]:
        reader.read_message(writer.write_message(payload))
        writer, reader = reader, writer
    return writer, reader, writer.write_message(PAYLOADS[step])


def channels(
    dial: Handshake | None = None, listen: Handshake | None = None
) -> tuple[Channel, Channel]:
    """Return the channels of an initiator and a responder."""
    first = initiator() if dial is None else dial
    second = responder() if listen is None else listen
    writer, reader = first, second
    for payload in PAYLOADS:
        assert reader.read_message(writer.write_message(payload)) == payload
        writer, reader = reader, writer
    return first.finish(), second.finish()
