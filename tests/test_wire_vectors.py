"""The test vectors of ``docs/wire-vectors.json``: of the library, and of another implementation."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from helpers.independent import (
    Channel,
    Keys,
    Stream,
    derive,
    start_noise,
)
from helpers.nodes import in_virtual_time
from helpers.wire_vectors import FILE, render, vectors

SIDES = ("dialer", "listener")


def read() -> Any:
    return json.loads(FILE.read_text(encoding="utf-8"))


def test_the_file_is_what_the_library_computes() -> None:
    assert FILE.read_text(encoding="utf-8") == render(vectors())


def test_every_frame_is_among_the_vectors() -> None:
    records = [record for one in read()["connections"] for record in one["records"]]
    names = {name for record in records for name in record["frames"]}
    assert names == {
        *("WELCOME", "ACK", "DATA", "DATA_PART", "PING", "PONG"),
        *("REQUEST", "REPLY", "CANCEL", "CLOSE", "CLOSE_ACK"),
    }


def keys_of(values: Any, side: str) -> Keys:
    node = values["nodes"][side]
    own = Keys(bytes.fromhex(values["shared_seed"]), bytes.fromhex(node["seed"]))
    assert own.psk.hex() == values["pre_shared_key"]
    assert own.static.hex() == node["static_private_key"]
    assert own.public.hex() == node["static_public_key"]
    assert own.node_id.hex() == node["node_id"]
    return own


@pytest.mark.filterwarnings("ignore:One of ephemeral keypairs")
@pytest.mark.parametrize("number", [0, 1], ids=["NEW", "RESUME"])
@in_virtual_time
async def test_another_implementation_computes_the_same(number: int) -> None:
    values = read()
    connection = values["connections"][number]
    keys = {side: keys_of(values, side) for side in SIDES}
    noises = {
        side: start_noise(
            keys[side],
            initiator=side == "dialer",
            ephemeral=bytes.fromhex(connection["ephemeral_private_keys"][side]),
        )
        for side in SIDES
    }
    for message in connection["handshake"]:
        [reader] = {*SIDES} - {message["from"]}
        writer, sent = noises[message["from"]], bytes.fromhex(message["message"])
        symmetric = writer.noise_protocol.symmetric_state
        assert writer.write_message(bytes.fromhex(message["payload"])) == sent
        assert noises[reader].read_message(sent).hex() == message["payload"]
        assert symmetric.ck.hex() == message["after"][-1]["ck"]
        assert symmetric.h.hex() == message["after"][-1]["h"]
    channels = {
        side: Channel(Stream(), noises[side], keys[other].public)
        for side, other in (SIDES, SIDES[::-1])
    }
    for side, channel in channels.items():
        cipher = channel._noise.noise_protocol.cipher_state_encrypt
        assert cipher.k.hex() == connection["transport_keys"][side]
        assert channel._noise.get_handshake_hash().hex() == connection["handshake_hash"]
    for record in connection["records"]:
        channel = channels[record["from"]]
        assert channel.records_sent == record["counter"]
        assert channel.seal(bytes.fromhex(record["plaintext"])).hex() == record["record"]


def test_the_last_record_of_the_change_of_a_key_is_under_the_new_key() -> None:
    rekey = read()["rekey"]
    keys = [rekey["key"], rekey["key"], rekey["next_key"]]
    for key, record in zip(keys, rekey["records"], strict=True):
        nonce = bytes(4) + record["counter"].to_bytes(8)
        assert (
            record["record"] == "0010" + AESGCM(bytes.fromhex(key)).encrypt(nonce, b"", None).hex()
        )


def test_another_implementation_reads_the_announcement() -> None:
    values = read()
    announced = values["announcement"]
    seed = bytes.fromhex(values["shared_seed"])
    key = derive(seed, "seigr-stt/1 shared-seed", "seigr-stt/1 announcement")
    assert announced["key"] == key.hex()
    label, _, service = announced["instance"].partition(".")
    txt = bytes.fromhex(announced["txt"])
    assert (service, txt[:2], len(txt)) == ("_seigr-stt._tcp.local.", b"a=", 180)
    plain = ChaCha20Poly1305(key).decrypt(bytes.fromhex(label), txt[2:], None)
    assert plain[:32].hex() == announced["node_id"] == values["nodes"]["listener"]["node_id"]
    assert int.from_bytes(plain[32:34]) == announced["port"]
    packed = [plain[at : at + 16] for at in range(34, 162, 16)]
    four, six = announced["addresses"]
    assert packed == [
        bytes(10) + b"\xff\xff" + IPv4Address(four).packed,
        IPv6Address(six).packed,
        *[bytes(16)] * 6,
    ]
