"""The wire format is as documented: tables, numbers and the worked example are the source's."""

from __future__ import annotations

import hashlib
import hmac
import re

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from helpers.documents import names, read, rows, section
from helpers.session_pair import NoBudget
from seigr_toolset_transmissions import NodeConfig, config, identity
from seigr_toolset_transmissions.discovery import sealing
from seigr_toolset_transmissions.identity import Identity, derive_psk
from seigr_toolset_transmissions.node import accepting, registry
from seigr_toolset_transmissions.protocol import (
    controls,
    exchanges,
    frames,
    machine,
    noise,
    outbox,
)
from seigr_toolset_transmissions.protocol.frames import FrameDecoder, FrameType, WelcomeStatus
from seigr_toolset_transmissions.protocol.hello import Hello, Opening, OpeningKind, Reply
from seigr_toolset_transmissions.protocol.machine import SessionMachine
from seigr_toolset_transmissions.protocol.noise import CipherState, Handshake
from seigr_toolset_transmissions.protocol.phase import Link, Phase
from seigr_toolset_transmissions.protocol.records import seal, unseal

WIRE = read("docs/wire-format.md")


def test_the_table_of_frames_is_that_of_the_source() -> None:
    table = rows(section(WIRE, "Frames"))[: len(FrameType)]
    assert [(int(row[0]), row[1]) for row in table] == [(t.value, t.name) for t in FrameType]
    for kind, row in zip(FrameType, table, strict=True):
        length = frames._CONTROL_BYTES.get(kind)
        if length is not None:
            assert row[2] == f"{length} bytes"
        else:
            assert f"{frames.MAX_DATA_BYTES:,} bytes" in row[2]
        sequenced = kind is FrameType.DATA or kind in frames._MESSAGE_CLASSES
        assert row[3] == ("yes" if sequenced else "no")
    for statuses in (WelcomeStatus, exchanges.ReplyStatus):
        listed = ", ".join(f"{status.value} {status.name}" for status in statuses)
        assert f"status: {listed} |" in WIRE


def test_the_numbers_of_the_wire_format_are_those_of_the_source() -> None:
    limits = {row[0]: row[1] for row in rows(section(WIRE, "Limits"))}
    default = NodeConfig()
    mib = config.MIB
    assert limits == {
        "record, with its tag": f"{noise.MAX_MESSAGE_BYTES:,} bytes",
        "payload of a frame": f"{frames.MAX_DATA_BYTES:,} bytes",
        "cost of a sequenced frame beyond its payload": f"{outbox.FRAME_COST}",
        "open requests of a side": f"{exchanges.MAX_OPEN:,}",
        "records under one key": f"{noise.REKEY_INTERVAL:,}",
        "message*": f"{default.max_message_bytes // mib} MiB; at most {2**32 - 1:,} bytes, "
        "the most that fits in the handshake",
        "credit ahead of what is consumed*": f"{default.receive_window_bytes // mib} MiB",
        "accepted and not acknowledged*": f"{default.send_window_bytes // mib} MiB of cost, "
        f"or {default.send_window_messages:,} frames",
        "handshake*": f"{default.handshake_timeout:g} s",
        "suspended session*": f"{default.resume_window:g} s",
        "PING every*, dead after a silence of*": f"{default.ping_interval:g} s, "
        f"{default.ping_timeout:g} s",
        "connection that accepts no bytes*": f"{default.write_timeout:g} s",
        "delay of an ACK*": f"{default.ack_delay * 1000:g} ms",
        "sessions of a node*, with one peer*, suspended*": f"{default.max_sessions:,}, "
        f"{default.max_sessions_per_peer}, no limit of its own",
        "remembered first messages, ended sessions": (
            f"{accepting._FIRST_MESSAGES:,}, {registry._TOMBSTONES:,}"
        ),
    }
    assert machine.ACK_SHARE == 4
    assert "a quarter of the receive\n  window" in WIRE
    assert f"more than {machine.MAX_PONGS} PINGs" in WIRE
    assert controls.CONTROL_SECONDS == 1
    assert f"more than\n{controls.MAX_CONTROLS:,} control frames" in WIRE


def test_the_labels_of_the_wire_format_are_those_of_the_source() -> None:
    table = rows(section(WIRE, "Keys"))
    assert [(names(row[1]), names(row[2])) for row in table] == [
        ({identity.SHARED_SEED_LABEL.decode()}, {identity.PSK_PURPOSE.decode()}),
        ({identity.SHARED_SEED_LABEL.decode()}, {sealing.ANNOUNCEMENT_PURPOSE.decode()}),
        ({identity.NODE_SEED_LABEL.decode()}, {identity.STATIC_KEY_PURPOSE.decode()}),
    ]
    assert f'SHA-256("{identity.NODE_ID_LABEL.decode()}" ||' in WIRE
    assert f"`{noise.PROLOGUE.decode()}` (ASCII, {len(noise.PROLOGUE)} bytes)" in WIRE


def test_the_fields_of_the_wire_format_are_contiguous() -> None:
    """Each byte table begins at 0 and has no gap."""
    sizes = {"u8": 1, "u16": 2, "u32": 4, "u64": 8}
    tables = re.findall(r"^\| offset \| size \|.*\n\|[-|]+\n((?:\|.*\n)+)", WIRE, re.MULTILINE)
    ends = []
    for table in tables:
        end = 0
        for row in [line.strip("|").split("|") for line in table.splitlines()]:
            assert int(row[0]) == end
            size = row[1].strip()
            end += sizes.get(size) or int(size)
        ends.append(end)
    assert ends == [
        len(Hello(1, 1).encode()),
        len(Reply(1, 1, bytes(16)).encode()),
        len(Opening(OpeningKind.NEW, 1, bytes(16), bytes(16), 0, 0, 0).encode()),
        frames._CONTROL_BYTES[FrameType.WELCOME],
        exchanges.REQUEST_BYTES,
        exchanges.REPLY_BYTES,
        sealing._LAYOUT.size,
    ]


def root_of(seed: bytes, label: bytes) -> bytes:
    """As the document describes it, without our own code."""
    salt = hashlib.sha256(label).digest()
    return hashlib.scrypt(seed, salt=salt, n=2**15, r=8, p=1, maxmem=2**26, dklen=32)


def key_of(root: bytes, purpose: bytes) -> bytes:
    """HKDF-Expand for one block, from its definition."""
    return hmac.digest(root, purpose + b"\x01", "sha256")


def worked_example() -> dict[str, bytes]:
    """Compute the document's example with the library."""
    limits = NodeConfig()
    shared_seed = b"the shared seed of the example"
    dialer_seed, listener_seed = b"the dialer's node seed", b"the listener's node seed"
    ephemerals = [X25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2)]
    incarnations = [bytes([3]) * 16, bytes([4]) * 16]
    psk = derive_psk(shared_seed)
    dialer, listener = Identity.from_seed(dialer_seed), Identity.from_seed(listener_seed)
    values = {
        "shared seed": shared_seed,
        "dialer's node seed": dialer_seed,
        "listener's node seed": listener_seed,
        "dialer's ephemeral private key": ephemerals[0].private_bytes_raw(),
        "listener's ephemeral private key": ephemerals[1].private_bytes_raw(),
        "dialer's incarnation": incarnations[0],
        "listener's incarnation": incarnations[1],
        "root of the shared seed": root_of(shared_seed, b"seigr-stt/1 shared-seed"),
        "pre-shared key": psk,
        "root of the dialer's node seed": root_of(dialer_seed, b"seigr-stt/1 node-seed"),
        "dialer's static private key": dialer.private_key.private_bytes_raw(),
        "dialer's static public key": dialer.public_key,
        "dialer's node id": dialer.node_id,
        "root of the listener's node seed": root_of(listener_seed, b"seigr-stt/1 node-seed"),
        "listener's static private key": listener.private_key.private_bytes_raw(),
        "listener's static public key": listener.public_key,
        "listener's node id": listener.node_id,
    }

    def opening(kind: OpeningKind, session_id: bytes, epoch: int) -> bytes:
        length, credit = limits.max_message_bytes, limits.receive_window_bytes
        return Opening(kind, length, incarnations[0], session_id, epoch, 0, credit).encode()

    writer = Handshake(
        initiator=True, static=dialer.private_key, ephemeral=lambda: ephemerals[0], psk=psk
    )
    reader = Handshake(
        initiator=False, static=listener.private_key, ephemeral=lambda: ephemerals[1], psk=psk
    )
    payloads = [
        Hello(1, 1).encode(),
        Reply(1, limits.max_message_bytes, incarnations[1]).encode(),
        opening(OpeningKind.NEW, bytes(16), 0),
    ]
    for number, payload in enumerate(payloads, start=1):
        values[f"payload {number}"] = payload
        values[f"message {number}"] = message = writer.write_message(payload)
        assert reader.read_message(message) == payload
        writer, reader = reader, writer
    channels = [reader.finish(), writer.finish()]  # the dialer's, the listener's
    values["handshake hash"] = channels[0].handshake_hash
    values["session id"] = session_id = channels[0].handshake_hash[:16]

    sides = [
        SessionMachine(
            session_id,
            limits,
            link=link,
            peer_max_message=limits.max_message_bytes,
            peer_credit=credit,
            budget=NoBudget(),
            now=0.0,
        )
        for link, credit in ((Link.OPENING, 0), (Link.UP, limits.receive_window_bytes))
    ]
    decoders = [FrameDecoder(), FrameDecoder()]

    def carry(number: int, sender: int) -> list[bytes]:
        """Carry the pending output of one side to the other, in one record."""
        receiver = 1 - sender
        buffers = sides[sender].data_to_send(2**20)
        values[f"frames {number}"] = b"".join(map(bytes, buffers))
        record = bytes(seal(channels[sender].send_cipher, buffers))
        values[f"record {number}"] = record
        unsealed = unseal(channels[receiver].receive_cipher, memoryview(record), 0)
        assert unsealed is not None
        plaintext, end = unsealed
        assert end == len(record)
        return sides[receiver].receive(decoders[receiver].feed(plaintext), 0.0)

    sides[1].welcome()
    assert carry(1, 1) == []
    sides[0].outbox.send(b"hello")
    assert carry(2, 0) == [b"hello"]
    sides[1].consumed(5, 1)
    assert carry(3, 1) == []
    sides[0].close()
    for number, sender in ((4, 0), (5, 1), (6, 0)):
        assert carry(number, sender) == []
    assert [side.phase for side in sides] == [Phase.CLOSED, Phase.CLOSED]

    values["payload 3 to resume"] = opening(OpeningKind.RESUME, session_id, 1)
    values["key of a direction"] = key = bytes([5]) * 32
    cipher = CipherState(key)
    records = [bytes(seal(cipher, [b""])) for _ in range(noise.REKEY_INTERVAL + 1)]
    for number in (0, noise.REKEY_INTERVAL - 1, noise.REKEY_INTERVAL):
        values[f"empty record with counter {number}"] = records[number]
    return values


def render_example(values: dict[str, bytes]) -> str:
    lines = []
    for name, value in values.items():
        digits = value.hex()
        lines.append(f"{name}:")
        lines += [f"    {digits[start : start + 64]}" for start in range(0, len(digits), 64)]
    return "\n".join(lines) + "\n"


def test_the_keys_of_the_worked_example_come_from_its_roots() -> None:
    values = worked_example()
    purpose = b"seigr-stt/1 psk"
    assert values["pre-shared key"] == key_of(values["root of the shared seed"], purpose)
    for side in ("dialer's", "listener's"):
        private = key_of(values[f"root of the {side} node seed"], b"seigr-stt/1 static-key")
        assert values[f"{side} static private key"] == private


def test_the_worked_example_is_what_the_library_does() -> None:
    [block] = re.findall(
        r"^```text\n(.*?)^```", section(WIRE, "Worked example"), re.DOTALL | re.MULTILINE
    )
    assert block == render_example(worked_example())
