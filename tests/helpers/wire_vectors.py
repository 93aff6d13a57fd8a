"""The test vectors of the wire format, computed with the library from fixed keys.

``python -m helpers.wire_vectors`` in ``tests`` writes them to ``docs/wire-vectors.json``.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from helpers.session_pair import NoBudget
from seigr_toolset_transmissions.config import NodeConfig
from seigr_toolset_transmissions.discovery import sealing
from seigr_toolset_transmissions.identity import Identity, derive_group_secret, derive_psk
from seigr_toolset_transmissions.protocol import noise
from seigr_toolset_transmissions.protocol.exchanges import ReplyStatus
from seigr_toolset_transmissions.protocol.frames import FrameDecoder, FrameType
from seigr_toolset_transmissions.protocol.hello import Hello, Opening, OpeningKind, Reply
from seigr_toolset_transmissions.protocol.machine import SessionMachine
from seigr_toolset_transmissions.protocol.noise import CipherState, Handshake
from seigr_toolset_transmissions.protocol.phase import Link
from seigr_toolset_transmissions.protocol.records import seal, unseal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["FILE", "render", "vectors"]

FILE = Path(__file__).resolve().parents[2] / "docs" / "wire-vectors.json"
SHARED_SEED = b"the shared seed of the example"
SEEDS = {"dialer": b"the dialer's node seed", "listener": b"the listener's node seed"}
INCARNATIONS = {"dialer": bytes([3]) * 16, "listener": bytes([4]) * 16}
SIDES = ("dialer", "listener")
TOKENS = (("psk", "e", "payload"), ("e", "ee", "s", "es", "payload"), ("s", "se", "payload"))
WRITTEN_AT = 1_700_000_000_000


def vectors() -> dict[str, Any]:
    """Return the contents of the file."""
    return {
        "about": "Test vectors of docs/wire-format.md. Bytes are in hexadecimal.",
        "shared_seed": SHARED_SEED.hex(),
        "pre_shared_key": derive_psk(SHARED_SEED).hex(),
        "nodes": {side: _node(side) for side in SIDES},
        "connections": _Conversation().take_place(),
        "rekey": _rekey(),
        "announcement": _announcement(),
    }


def render(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=1) + "\n"


def _node(side: str) -> dict[str, str]:
    identity = Identity.from_seed(SEEDS[side])
    return {
        "seed": SEEDS[side].hex(),
        "incarnation": INCARNATIONS[side].hex(),
        "static_private_key": identity.private_key.private_bytes_raw().hex(),
        "static_public_key": identity.public_key.hex(),
        "node_id": identity.node_id.hex(),
    }


class _Conversation:
    """A session over two connections."""

    def __init__(self) -> None:
        self.identities = {side: Identity.from_seed(SEEDS[side]) for side in SIDES}
        config = NodeConfig()
        self.longest, self.credit = config.max_message_bytes, config.receive_window_bytes
        self.session_id = bytes(16)
        self.connections: list[dict[str, Any]] = []
        self.ciphers: dict[str, noise.Channel] = {}
        self.decoders: dict[str, FrameDecoder] = {}
        self.machines: dict[str, SessionMachine] = {}

    def take_place(self) -> list[dict[str, Any]]:
        hello = Hello(1, 1)
        self.shake_hands("NEW", (1, 2), hello, self.opening(OpeningKind.NEW, 0, 0, self.credit))
        self.session_id = self.ciphers["dialer"].handshake_hash[:16]
        for side, link, credit in (
            ("dialer", Link.OPENING, 0),
            ("listener", Link.UP, self.credit),
        ):
            self.machines[side] = SessionMachine(
                self.session_id,
                NodeConfig(),
                link=link,
                peer_max_message=self.longest,
                peer_credit=credit,
                budget=NoBudget(),
                now=0.0,
            )
        dialer, listener = self.machines["dialer"], self.machines["listener"]
        listener.welcome()
        self.carry("listener")
        dialer.outbox.send(b"hello")
        self.carry("dialer")
        listener.consumed(5, 1)
        dialer.ping(0.0)
        self.carry("dialer")
        self.carry("listener")
        dialer.exchange().ask(b"what is the answer?", None)
        self.carry("dialer")
        listener.consumed(len(b"what is the answer?") + 8, 1)
        listener.exchange().answer(0, ReplyStatus.OK, b"42")
        self.carry("listener")
        dialer.exchange().ask(b"and the question?", None)
        self.carry("dialer")
        self.carry("listener")
        dialer.exchange().cancel(1)
        dialer.tell_cancels()
        self.carry("dialer")

        dialer.outbox.send(bytes(range(256)) + b"and the rest, in a second frame")
        dialer.detach()
        listener.detach()
        hello = Hello(1, 1, WRITTEN_AT).meant_for(self.identities["listener"].node_id)
        opening = self.opening(OpeningKind.RESUME, *dialer.reopening())
        self.shake_hands("RESUME", (6, 7), hello, opening)
        listener.resume(opening.epoch, opening.recv_next, opening.credit)
        self.carry("listener")
        self.carry("dialer")
        listener.exchange().answer(1, ReplyStatus.CANCELLED, b"")
        self.carry("listener")
        dialer.close()
        self.carry("dialer")
        self.carry("listener")
        self.carry("dialer")
        return self.connections

    def opening(self, kind: OpeningKind, epoch: int, recv_next: int, credit: int) -> Opening:
        incarnation = INCARNATIONS["dialer"]
        return Opening(kind, self.longest, incarnation, self.session_id, epoch, recv_next, credit)

    def shake_hands(
        self, kind: str, ephemerals: tuple[int, int], hello: Hello, opening: Opening
    ) -> None:
        """Go through a handshake; note each state after each token, at the side that writes."""
        keys = {
            side: X25519PrivateKey.from_private_bytes(bytes([number]) * 32)
            for side, number in zip(SIDES, ephemerals, strict=True)
        }
        payloads = (
            hello.encode(),
            Reply(1, self.longest, INCARNATIONS["listener"]).encode(),
            opening.encode(),
        )
        with _states() as states:
            sides = {side: self.handshake(side, keys[side]) for side in SIDES}
            del states[1:]  # both begin alike
            messages: list[dict[str, Any]] = []
            for number, (payload, tokens) in enumerate(zip(payloads, TOKENS, strict=True)):
                writer, reader = SIDES[number % 2], SIDES[1 - number % 2]
                message = sides[writer].write_message(payload)
                steps = zip(tokens, states, strict=True)
                after = [{"token": token, **state} for token, state in steps]
                messages.append(
                    {
                        "from": writer,
                        "payload": payload.hex(),
                        "message": message.hex(),
                        "after": after,
                    }
                )
                assert sides[reader].read_message(message) == payload
                states.clear()
        last = bytes.fromhex(messages[-1]["after"][-1]["ck"])
        first, second, _ = noise._hkdf(last, b"")
        self.ciphers = {side: sides[side].finish() for side in SIDES}
        self.decoders = {side: FrameDecoder() for side in SIDES}
        self.connections.append(
            {
                "opening": kind,
                "ephemeral_private_keys": {
                    side: keys[side].private_bytes_raw().hex() for side in SIDES
                },
                "handshake": messages,
                "handshake_hash": self.ciphers["dialer"].handshake_hash.hex(),
                "transport_keys": {"dialer": first.hex(), "listener": second.hex()},
                "records": [],
            }
        )

    def handshake(self, side: str, ephemeral: X25519PrivateKey) -> Handshake:
        return Handshake(
            initiator=side == "dialer",
            static=self.identities[side].private_key,
            ephemeral=lambda: ephemeral,
            psk=derive_psk(SHARED_SEED),
        )

    def carry(self, sender: str) -> None:
        """Carry the pending output of one side to the other, in one record."""
        [receiver] = {*SIDES} - {sender}
        buffers = self.machines[sender].data_to_send(2**20)
        counter = self.ciphers[sender].send_cipher.n
        record = bytes(seal(self.ciphers[sender].send_cipher, buffers))
        unsealed = unseal(self.ciphers[receiver].receive_cipher, memoryview(record), 0)
        assert unsealed is not None
        plaintext, _ = unsealed
        for message in self.machines[receiver].receive(
            self.decoders[receiver].feed(plaintext), 0.0
        ):
            assert message.startswith((b"hello", bytes(range(256))))
        self.connections[-1]["records"].append(
            {
                "from": sender,
                "counter": counter,
                "frames": _names(plaintext),
                "plaintext": plaintext.hex(),
                "record": record.hex(),
            }
        )


@contextmanager
def _states() -> Iterator[list[dict[str, str]]]:
    """Note ck and h after each step of a handshake that is written."""
    states: list[dict[str, str]] = []

    def noted(method: Callable[..., Any]) -> Callable[..., Any]:
        def step(self: Any, *args: Any) -> Any:
            result = method(self, *args)
            states.append({"ck": self.ck.hex(), "h": self.h.hex()})
            return result

        return step

    kind = noise._State
    with (
        patch.object(kind, "mix_key", noted(kind.mix_key)),
        patch.object(kind, "mix_key_and_hash", noted(kind.mix_key_and_hash)),
        patch.object(kind, "encrypt_and_hash", noted(kind.encrypt_and_hash)),
    ):
        yield states


def _names(plaintext: bytes) -> list[str]:
    """The types of the frames of a record that begins and ends with whole frames."""
    names, at = [], 0
    while at < len(plaintext):
        header = int.from_bytes(plaintext[at : at + 4])
        names.append(FrameType(header >> 28).name)
        at += 4 + (header & 0xFFFFFFF)
    return names


def _rekey() -> dict[str, Any]:
    """Empty records of one direction before and after its first new key."""
    key = bytes([5]) * 32
    cipher = CipherState(key)
    records = [bytes(seal(cipher, [b""])) for _ in range(noise.REKEY_INTERVAL + 1)]
    counters = (0, noise.REKEY_INTERVAL - 1, noise.REKEY_INTERVAL)
    next_key = AESGCM(key).encrypt(bytes(4) + b"\xff" * 8, bytes(32), None)[:32]
    return {
        "key": key.hex(),
        "next_key": next_key.hex(),
        "records": [{"counter": n, "plaintext": "", "record": records[n].hex()} for n in counters],
    }


def _announcement() -> dict[str, Any]:
    """What a node says to its group on a local network."""
    key = derive_group_secret(SHARED_SEED, sealing.ANNOUNCEMENT_PURPOSE)
    name, addresses = bytes([6]) * sealing.NAME_BYTES, ("192.0.2.7", "2001:db8::7")
    place = sealing.Place(
        Identity.from_seed(SEEDS["listener"]).node_id, 9400, tuple(map(ip_address, addresses))
    )
    return {
        "key": key.hex(),
        "instance": f"{name.hex()}.{sealing.SERVICE}",
        "node_id": place.node_id.hex(),
        "port": place.port,
        "addresses": addresses,
        "txt": (sealing.TXT_KEY + b"=" + sealing.seal(key, name, place)).hex(),
    }


if __name__ == "__main__":
    FILE.write_text(render(vectors()), encoding="utf-8")
