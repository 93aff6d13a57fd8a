"""What the secure channel keeps to itself: its keys, in texts, copies and forked processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.noise import (
    INITIATOR_STATIC,
    PAYLOADS,
    PSK,
    RESPONDER_EPHEMERAL,
    RESPONDER_STATIC,
    SIZES,
    channels,
    initiator,
    public,
    responder,
    up_to,
)
from seigr_toolset_transmissions.errors import STTAuthenticationError, STTIdentityError
from seigr_toolset_transmissions.protocol import noise
from seigr_toolset_transmissions.protocol.noise import (
    KEY_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_PLAINTEXT_BYTES,
    REKEY_INTERVAL,
    TAG_BYTES,
    XX,
    XXPSK0,
    Channel,
    CipherState,
    Pattern,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


# Transport messages


@given(st.lists(st.binary(max_size=2000), max_size=20))
def test_every_message_comes_out_as_it_went_in(messages: list[bytes]) -> None:
    sender, receiver = CipherState(PSK), CipherState(PSK)
    for message in messages:
        ciphertext = sender.encrypt(message)
        assert len(ciphertext) == len(message) + TAG_BYTES
        assert receiver.decrypt(ciphertext) == message


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_cipher_takes_any_kind_of_bytes(kind: Callable[[bytes], bytes | memoryview]) -> None:
    sender, receiver = CipherState(PSK), CipherState(PSK)
    plaintext = receiver.decrypt(kind(sender.encrypt(kind(b"payload"))))
    assert type(plaintext) is bytes
    assert plaintext == b"payload"


def test_every_changed_bit_of_a_message_is_refused_and_changes_nothing() -> None:
    sender, receiver = CipherState(PSK), CipherState(PSK)
    receiver.decrypt(sender.encrypt(b"first"))
    message = sender.encrypt(b"second")
    for wrong in single_bit_flips(message):
        with pytest.raises(STTAuthenticationError):
            receiver.decrypt(wrong)
    assert receiver.n == 1
    assert receiver.decrypt(message) == b"second"


@pytest.mark.parametrize("size", [0, 1, TAG_BYTES - 1, TAG_BYTES, MAX_MESSAGE_BYTES, 10**6])
def test_bytes_of_any_length_that_are_not_a_message_are_refused(size: int) -> None:
    receiver = CipherState(PSK)
    with pytest.raises(STTAuthenticationError):
        receiver.decrypt(bytes(size))
    assert receiver.n == 0


def test_a_message_repeated_left_out_or_sent_back_is_refused() -> None:
    first, second = channels()
    messages = [first.send_cipher.encrypt(b"%d" % number) for number in range(3)]
    second.receive_cipher.decrypt(messages[0])
    for wrong in (messages[0], messages[2]):
        with pytest.raises(STTAuthenticationError):
            second.receive_cipher.decrypt(wrong)
    with pytest.raises(STTAuthenticationError):
        first.receive_cipher.decrypt(messages[0])


def test_a_plaintext_that_fits_no_message_is_refused_and_changes_nothing() -> None:
    sender = CipherState(PSK)
    with pytest.raises(ValueError, match="do not fit"):
        sender.encrypt(bytes(MAX_PLAINTEXT_BYTES + 1))
    assert sender.n == 0
    assert len(sender.encrypt(bytes(MAX_PLAINTEXT_BYTES))) == MAX_MESSAGE_BYTES


def test_encrypting_into_a_buffer_writes_the_same_messages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(noise, "_REKEY_MASK", 3)  # a new key every four messages
    returned, written = CipherState(PSK), CipherState(PSK)
    for number in range(10):
        plaintext = b"%d" % number * number * 1000
        message = returned.encrypt(plaintext)
        buffer = bytearray(b"\xff" * len(message))
        if number % 2:
            written.encrypt_into(plaintext, buffer)
        else:
            written.encrypt_into(memoryview(plaintext), memoryview(buffer))
        assert buffer == message
        assert written.n == returned.n


def test_the_key_changes_by_itself_after_each_interval_when_encrypting_into_a_buffer() -> None:
    sender, receiver = CipherState(PSK), CipherState(PSK)
    sender._n = receiver._n = REKEY_INTERVAL - 1
    for plaintext in (b"last of the interval", b"first of the next"):
        buffer = bytearray(len(plaintext) + TAG_BYTES)
        sender.encrypt_into(plaintext, buffer)
        assert receiver.decrypt(buffer) == plaintext


@pytest.mark.parametrize("off", [-TAG_BYTES, -1, 1])
def test_a_buffer_that_the_message_does_not_fill_is_refused_and_changes_nothing(off: int) -> None:
    sender = CipherState(PSK)
    buffer = bytearray(10 + TAG_BYTES + off)
    with pytest.raises(ValueError, match="buffer"):
        sender.encrypt_into(bytes(10), buffer)
    assert sender.n == 0
    assert buffer == bytes(len(buffer))


def test_a_plaintext_that_fits_no_message_is_not_encrypted_into_a_buffer_either() -> None:
    sender = CipherState(PSK)
    with pytest.raises(ValueError, match="do not fit"):
        sender.encrypt_into(bytes(MAX_PLAINTEXT_BYTES + 1), bytearray(MAX_MESSAGE_BYTES + 1))
    assert sender.n == 0
    sender.encrypt_into(bytes(MAX_PLAINTEXT_BYTES), bytearray(MAX_MESSAGE_BYTES))
    assert sender.n == 1


def test_the_last_nonce_is_not_used_to_encrypt_into_a_buffer_either() -> None:
    sender = CipherState(PSK)
    sender._n = 2**64 - 2
    buffer = bytearray(8 + TAG_BYTES)
    sender.encrypt_into(b"the last", buffer)
    with pytest.raises(OverflowError):
        sender.encrypt_into(b"one more", buffer)
    assert sender.n == 2**64 - 1


def test_a_cipher_key_has_32_bytes() -> None:
    with pytest.raises(ValueError, match="32"):
        CipherState(bytes(16))  # which AES would take


# The handshake


def test_message_sizes_are_fixed_by_the_payloads() -> None:
    assert XXPSK0.overheads == (48, 96, 64)
    assert XX.overheads == (32, 96, 64)
    for step, size in enumerate(SIZES):
        _, _, message = up_to(step)
        assert len(message) == XXPSK0.message_size(step, len(PAYLOADS[step])) == size


def test_a_pattern_says_how_much_longer_its_messages_are_than_their_payloads() -> None:
    """A message has a tag for each encrypted part, once there is a key."""
    messages: tuple[tuple[Any, ...], ...] = (("e", "s"), ("e", "ee", "s", "es"), ("s", "se"), ())
    plain = Pattern("plain", messages)
    assert plain.overheads == (32 + 32, 32 + 48 + 16, 48 + 16, 16)
    assert plain.message_size(0, 5) == 69
    with_psk = Pattern("with psk", messages, psk0=True)
    assert with_psk.overheads == (32 + 48 + 16, 32 + 48 + 16, 48 + 16, 16)


def test_each_error_says_what_is_wrong() -> None:
    cipher = CipherState(bytes(32))
    for ciphertext in (bytes(15), bytes(MAX_MESSAGE_BYTES + 1)):
        with pytest.raises(STTAuthenticationError, match=r"^a transport message of a length that"):
            cipher.decrypt(ciphertext)
    with pytest.raises(STTAuthenticationError, match=r"^not the peer's next message$"):
        cipher.decrypt(bytes(16))
    cipher._n = 2**64 - 1
    buffer = bytearray(16)
    for use in (
        lambda: cipher.encrypt(b""),
        lambda: cipher.encrypt_into(b"", buffer),
        lambda: cipher.encrypt(bytes(MAX_PLAINTEXT_BYTES)),
        lambda: cipher.decrypt(bytes(16)),
    ):
        with pytest.raises(OverflowError, match=r"^no nonce is left under this key$"):
            use()
    begun = initiator()
    begun.write_message(b"")
    with pytest.raises(RuntimeError, match=r"^a handshake that has begun cannot be copied$"):
        begun.copy()
    with pytest.raises(
        RuntimeError, match=r"^only a finished handshake yields a channel, and only"
    ):
        begun.finish()


def test_each_side_learns_the_others_key_once_it_is_proven() -> None:
    initiators, responders = public(INITIATOR_STATIC), public(RESPONDER_STATIC)
    known: list[tuple[bytes | None, bytes | None]] = []
    first, second = initiator(), responder()
    writer, reader = first, second
    for payload in PAYLOADS:
        known.append((first.remote_static, second.remote_static))
        message = writer.write_message(payload)
        known.append((first.remote_static, second.remote_static))
        reader.read_message(message)
        writer, reader = reader, writer
    assert known == [(None, None)] * 4 + [(responders, None)] * 2
    for side, others in ((first, responders), (second, initiators)):
        assert side.remote_static == others
        assert side.finish().remote_static == others
        assert side.remote_static == others


def test_a_channel_comes_from_a_finished_handshake_only_and_once() -> None:
    first, second = initiator(), responder()
    writer, reader = first, second
    for payload in PAYLOADS:
        for side in (first, second):
            assert not side.finished
            with pytest.raises(RuntimeError, match="finished"):
                side.finish()
        reader.read_message(writer.write_message(payload))
        writer, reader = reader, writer
    for side in (first, second):
        assert side.finished
        assert isinstance(side.finish(), Channel)
        assert side.finished
        with pytest.raises(RuntimeError, match="only once"):
            side.finish()


def test_a_call_out_of_turn_is_refused_and_changes_nothing() -> None:
    first, second = initiator(), responder()
    writer, reader = first, second
    for payload in PAYLOADS:
        with pytest.raises(RuntimeError, match="out of turn"):
            reader.write_message(b"")
        with pytest.raises(RuntimeError, match="out of turn"):
            writer.read_message(bytes(160))
        assert reader.read_message(writer.write_message(payload)) == payload
        writer, reader = reader, writer
    for side in (first, second):
        with pytest.raises(RuntimeError, match="out of turn"):
            side.write_message(b"")
        with pytest.raises(RuntimeError, match="out of turn"):
            side.read_message(bytes(160))
    assert first.finish().handshake_hash == second.finish().handshake_hash


def test_copies_have_nothing_to_do_with_each_other() -> None:
    dial = initiator(ephemeral=X25519PrivateKey.generate)
    listen = responder(ephemeral=X25519PrivateKey.generate)
    pairs = [channels(dial.copy(), listen.copy()) for _ in range(3)]
    assert len({first.handshake_hash for first, _ in pairs}) == 3
    assert not dial.finished
    messages = [first.send_cipher.encrypt(b"m") for first, _ in pairs]
    for (_, second), message in zip(pairs, messages, strict=True):
        assert second.receive_cipher.decrypt(message) == b"m"


def test_a_handshake_that_has_begun_is_not_copied() -> None:
    writer, reader, message = up_to(0)
    with pytest.raises(RuntimeError, match="begun"):
        writer.copy()
    reader.read_message(message)
    with pytest.raises(RuntimeError, match="begun"):
        reader.copy()


def test_a_strangers_first_message_costs_no_key_and_no_diffie_hellman(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: object, **__: object) -> Any:
        raise AssertionError("this is what a stranger must not cause")

    keys = []

    def ephemeral() -> X25519PrivateKey:
        keys.append(RESPONDER_EPHEMERAL)
        return RESPONDER_EPHEMERAL

    listen = responder(ephemeral=ephemeral)
    with monkeypatch.context() as patch:
        patch.setattr(noise, "_exchange", never)
        patch.setattr(noise, "X25519PublicKey", never)
        with pytest.raises(STTAuthenticationError):
            listen.copy().read_message(bytes(64))
        reader = listen.copy()
        assert reader.read_message(initiator().write_message(PAYLOADS[0])) == PAYLOADS[0]
        assert not keys
    reader.write_message(PAYLOADS[1])
    assert len(keys) == 1


def single_bit_flips(message: bytes) -> Iterator[bytes]:
    for bit in range(len(message) * 8):
        flipped = bytearray(message)
        flipped[bit // 8] ^= 1 << bit % 8
        yield bytes(flipped)


STEPS = pytest.mark.parametrize("step", [0, 1, 2])


@STEPS
def test_every_changed_bit_of_a_handshake_message_is_refused_and_changes_nothing(step: int) -> None:
    _, reader, message = up_to(step)
    for wrong in single_bit_flips(message):
        with pytest.raises(STTAuthenticationError):
            reader.read_message(wrong)
    assert reader.remote_static is None
    assert reader.read_message(message) == PAYLOADS[step]


@STEPS
def test_a_truncated_or_extended_handshake_message_is_refused_and_changes_nothing(
    step: int,
) -> None:
    _, reader, message = up_to(step)
    wrong = [message[:size] for size in range(len(message))]
    wrong += [message + b"\0", b"\0" + message, message * 2, message.ljust(MAX_MESSAGE_BYTES)]
    wrong += [message.ljust(MAX_MESSAGE_BYTES + 1)]
    for each in wrong:
        with pytest.raises(STTAuthenticationError):
            reader.read_message(each)
    assert reader.read_message(message) == PAYLOADS[step]


@STEPS
@settings(deadline=None)
@given(data=st.data())
def test_hostile_bytes_raise_only_documented_errors(step: int, data: st.DataObject) -> None:
    _, reader, message = up_to(step)
    hostile = data.draw(st.binary(max_size=200) | st.binary(min_size=SIZES[step], max_size=200))
    for wrong in (hostile, message[:KEY_BYTES] + hostile):
        with pytest.raises(STTAuthenticationError):
            reader.read_message(wrong)
    assert reader.read_message(message) == PAYLOADS[step]


@STEPS
@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_a_handshake_takes_any_kind_of_bytes(
    step: int, kind: Callable[[bytes], bytearray | memoryview]
) -> None:
    _, reader, message = up_to(step)
    payload = reader.read_message(kind(message))
    assert type(payload) is bytes
    assert payload == PAYLOADS[step]
    if step < 2:
        reader.write_message(kind(PAYLOADS[step + 1]))


@pytest.mark.parametrize("pattern", [XX, XXPSK0], ids=lambda pattern: pattern.name)
def test_a_payload_that_fits_no_message_is_refused_and_changes_nothing(pattern: Pattern) -> None:
    psk = PSK if pattern.psk0 else None
    writer, reader = initiator(psk=psk, pattern=pattern), responder(psk=psk, pattern=pattern)
    largest = bytes(MAX_MESSAGE_BYTES - pattern.overheads[0])
    with pytest.raises(ValueError, match="do not fit"):
        writer.write_message(largest + b"\0")
    message = writer.write_message(largest)
    assert len(message) == MAX_MESSAGE_BYTES
    assert reader.read_message(message) == largest


def test_another_pre_shared_key_is_refused_at_the_first_message() -> None:
    message = initiator(psk=bytes(32)).write_message(PAYLOADS[0])
    with pytest.raises(STTAuthenticationError):
        responder().read_message(message)


def test_another_prologue_is_refused_at_the_first_message() -> None:
    message = initiator(prologue=b"seigr-stt/2").write_message(PAYLOADS[0])
    with pytest.raises(STTAuthenticationError):
        responder().read_message(message)


def test_another_pattern_is_refused_at_the_first_message() -> None:
    message = initiator(psk=None, pattern=XX).write_message(bytes(32))
    with pytest.raises(STTAuthenticationError):
        responder().read_message(message)


@pytest.mark.parametrize("step", [1, 2])
def test_a_message_of_another_handshake_is_refused(step: int) -> None:
    """A recorded answer does not answer this handshake's messages, whose keys are fresh."""
    writer, reader, recorded = up_to(step)
    dial = initiator(ephemeral=X25519PrivateKey.generate)
    listen = responder(ephemeral=X25519PrivateKey.generate)
    writer, reader = dial, listen
    for payload in PAYLOADS[:step]:
        reader.read_message(writer.write_message(payload))
        writer, reader = reader, writer
    with pytest.raises(STTAuthenticationError):
        reader.read_message(recorded)


@pytest.mark.parametrize("psk", [None, b"", bytes(31), bytes(33)])
def test_a_pattern_with_psk_takes_32_bytes_only(psk: bytes | None) -> None:
    with pytest.raises(ValueError, match="32"):
        initiator(psk=psk)


def test_a_pattern_without_psk_takes_none() -> None:
    with pytest.raises(ValueError, match="no pre-shared key"):
        initiator(pattern=XX)


def test_a_node_that_meets_itself_notices_on_both_sides() -> None:
    first = initiator(static=RESPONDER_STATIC)
    second = responder(static=RESPONDER_STATIC)
    second.read_message(first.write_message(b""))
    message = second.write_message(b"")
    with pytest.raises(STTIdentityError, match="own key"):
        first.read_message(message)
    assert first.remote_static is None

    # An initiator that does not mind, as another implementation might not.
    first._setup = initiator()._setup
    first.read_message(message)
    first._setup = initiator(static=RESPONDER_STATIC)._setup
    with pytest.raises(STTIdentityError, match="own key"):
        second.read_message(first.write_message(b""))
    assert not second.finished


# Public keys of low order: the points of order 1, 2, 4 and 8, of the curve and of its twist, and
# what is the same modulo the prime


LOW_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    *((2**255 - 19 + offset).to_bytes(32, "little") for offset in (-1, 0, 1)),
]


class LowOrderKey:
    """Points that an attacker within the group may use: multiplied with anything, they give 0."""

    def __init__(self, point: bytes) -> None:
        self.point = point

    def public_key(self) -> LowOrderKey:
        return self

    def public_bytes_raw(self) -> bytes:
        return self.point

    def exchange(self, _: X25519PublicKey) -> bytes:
        return bytes(32)


@pytest.fixture(params=LOW_ORDER, ids=lambda point: point[:4].hex())
def low_order(request: pytest.FixtureRequest) -> X25519PrivateKey:
    return cast("X25519PrivateKey", LowOrderKey(request.param))


def test_an_initiators_ephemeral_key_of_low_order_is_refused(low_order: X25519PrivateKey) -> None:
    reader = responder()
    reader.read_message(initiator(ephemeral=lambda: low_order).write_message(PAYLOADS[0]))
    with pytest.raises(STTAuthenticationError, match="low order"):
        reader.write_message(PAYLOADS[1])


def test_an_initiators_static_key_of_low_order_is_refused(low_order: X25519PrivateKey) -> None:
    writer, reader = initiator(static=low_order), responder()
    reader.read_message(writer.write_message(PAYLOADS[0]))
    writer.read_message(reader.write_message(PAYLOADS[1]))
    message = writer.write_message(PAYLOADS[2])
    with pytest.raises(STTAuthenticationError, match="low order"):
        reader.read_message(message)
    assert reader.remote_static is None


@pytest.mark.parametrize("which", ["ephemeral", "static"])
def test_a_responders_key_of_low_order_is_refused(low_order: X25519PrivateKey, which: str) -> None:
    reader = initiator()
    writer = (
        responder(static=low_order) if which == "static" else responder(ephemeral=lambda: low_order)
    )
    writer.read_message(reader.write_message(PAYLOADS[0]))
    message = writer.write_message(PAYLOADS[1])
    with pytest.raises(STTAuthenticationError, match="low order"):
        reader.read_message(message)
    assert reader.remote_static is None
