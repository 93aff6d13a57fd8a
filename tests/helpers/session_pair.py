"""Two `SessionMachine`s and the connections between them, driven step by step.

A `Side` is a machine and its owner's books: what it accepted, what arrived, what waits to be
consumed. A `Wire` is one connection: the bytes under way in each direction, which a cut loses. As
in real life, each side lets go of a wire on its own: the other may still read what was under way,
or may keep writing into the void until it notices.

`SessionPair` does what the documentation asks of the owner (the fence before a resume, letting go
of ended sessions, tombstones) and nothing more. Records and ciphers are left out.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from seigr_toolset_transmissions.errors import STTProtocolError
from seigr_toolset_transmissions.protocol.frames import FrameDecoder, Welcome, WelcomeStatus
from seigr_toolset_transmissions.protocol.machine import SessionMachine
from seigr_toolset_transmissions.protocol.phase import Link, Phase

if TYPE_CHECKING:
    from seigr_toolset_transmissions.config import NodeConfig
    from seigr_toolset_transmissions.protocol.budget import Waiter
    from seigr_toolset_transmissions.protocol.outbox import Undelivered

__all__ = ["NoBudget", "SessionPair", "Side", "Wire"]

SESSION_ID = bytes(range(16))
ALL = 1 << 40


class NoBudget:
    """The budget of a session that is alone in its node: there is always room, from the start."""

    first_window = first_send = ALL
    in_inbox = 0

    def __init__(self) -> None:
        self.owner: Waiter | None = None

    def grant(self, promised: int, wanted: int, needed: int) -> int:
        assert promised >= 0
        assert wanted > 0
        assert needed <= wanted
        return wanted

    def finished(self) -> None:
        pass

    def release(self, cost: int) -> None:
        raise AssertionError("nothing was granted beyond the first window")

    def lend(self, over: int, wanted: int, *, alone: bool) -> bool:
        raise AssertionError("no more than the send window is held")

    def give_back(self, size: int) -> None:
        assert size == 0

    def wait(self) -> None:
        raise AssertionError("there is always room")

    def leave(self) -> None:
        pass


@dataclass(eq=False)
class Wire:
    """One connection between the dialer and the listener."""

    opening: tuple[int, int, int] | None
    """What the dialer's opening carries; None once the listener has it."""
    to_dialer: bytearray = field(default_factory=bytearray)
    to_listener: bytearray = field(default_factory=bytearray)


@dataclass(eq=False)
class Side:
    """A machine and its owner's books."""

    name: str
    machine: SessionMachine
    wire: Wire | None
    decoder: FrameDecoder = field(default_factory=FrameDecoder)
    accepted: list[bytes] = field(default_factory=list)
    """Messages that `send` accepted."""
    delivered: list[bytes] = field(default_factory=list)
    """Messages that arrived."""
    waiting: deque[bytes] = field(default_factory=deque)
    """The arrived messages that the application has not consumed."""
    undelivered: Undelivered | None = None
    """What `abandon` returned; None until the owner ends the session."""
    acknowledged_end: bool = False
    """Whether the session ended by agreement of both sides."""

    @property
    def ended(self) -> bool:
        return self.undelivered is not None

    @property
    def inward(self) -> bytearray:
        """The bytes under way to this side on its wire."""
        assert self.wire is not None
        return self.wire.to_dialer if self.name == "dialer" else self.wire.to_listener

    @property
    def outward(self) -> bytearray:
        assert self.wire is not None
        return self.wire.to_listener if self.name == "dialer" else self.wire.to_dialer


class SessionPair:
    """A dialer and a listener on a wire, with the listener's WELCOME under way."""

    def __init__(self, dialer_config: NodeConfig, listener_config: NodeConfig) -> None:
        self.now = 0.0
        wire = Wire(None)
        dialer = SessionMachine(
            SESSION_ID,
            dialer_config,
            link=Link.OPENING,
            peer_max_message=listener_config.max_message_bytes,
            budget=NoBudget(),
            now=self.now,
        )
        listener = SessionMachine(
            SESSION_ID,
            listener_config,
            link=Link.UP,
            peer_max_message=dialer_config.max_message_bytes,
            peer_credit=dialer_config.receive_window_bytes,
            budget=NoBudget(),
            now=self.now,
        )
        listener.welcome()
        self.dialer = Side("dialer", dialer, wire)
        self.listener = Side("listener", listener, wire)
        self.sides = (self.dialer, self.listener)

    @classmethod
    def connected(cls, config: NodeConfig) -> SessionPair:
        """Return a pair whose session is established."""
        pair = cls(config, config)
        pair.pump()
        return pair

    def peer(self, side: Side) -> Side:
        return self.listener if side is self.dialer else self.dialer

    # What the application does

    def send(self, side: Side, *messages: bytes) -> bool:
        """Send until one is not accepted; return whether all were."""
        for message in messages:
            if not side.machine.outbox.send(message):
                return False
            side.accepted.append(message)
        return True

    def consume(self, side: Side, count: int = ALL) -> int:
        """Let the application take up to ``count`` of the waiting messages."""
        count = min(count, len(side.waiting))
        size = sum(len(side.waiting.popleft()) for _ in range(count))
        side.machine.consumed(size, count)
        return count

    def end(self, side: Side) -> Undelivered:
        """Give the session up, or record that it has ended."""
        side.wire = None
        side.undelivered = side.machine.abandon()
        return side.undelivered

    # What the connection does

    def flush(self, side: Side, budget: int = ALL) -> int:
        """Put the pending output on the side's wire, once; return how many bytes it was."""
        due = side.machine.output_due
        written = b"".join(side.machine.data_to_send(budget))
        assert written or not due, "output is due, and there is none"
        if written:
            side.outward.extend(written)
        return len(written)

    def arrive(self, side: Side, count: int = ALL) -> list[bytes]:
        """Let up to ``count`` of the bytes under way arrive; return the messages they complete."""
        data = bytes(side.inward[:count])
        del side.inward[:count]
        messages = side.machine.receive(side.decoder.feed(data), self.now)
        side.delivered += messages
        side.waiting += messages
        if side.machine.refusal is not None:
            side.wire = None
            side.machine.detach()
            if side.machine.refusal is not WelcomeStatus.REFUSED:
                side.acknowledged_end = side.machine.phase is Phase.CLOSED
                self.end(side)
        elif side.machine.phase is Phase.CLOSED:
            while side.machine.output_due:
                self.flush(side)
            side.acknowledged_end = True
            self.end(side)
        return messages

    def cut(self, side: Side) -> None:
        """Let this side notice that its wire is cut; bytes under way to it are lost."""
        side.wire = None
        side.machine.detach()
        if side.machine.phase is Phase.CLOSED:
            side.acknowledged_end = True
            self.end(side)

    def cut_both(self) -> None:
        for side in self.sides:
            if side.wire is not None:
                self.cut(side)

    def dial(self) -> Wire:
        """Let the dialer open another wire; its opening is under way."""
        assert self.dialer.wire is None
        self.dialer.wire = Wire(self.dialer.machine.reopening())
        self.dialer.decoder = FrameDecoder()
        return self.dialer.wire

    def opening_arrives(self, wire: Wire) -> WelcomeStatus:
        """Let the listener answer a wire's opening; return the answer."""
        assert wire.opening is not None
        opening, wire.opening = wire.opening, None
        listener = self.listener
        if listener.ended:
            answer = Welcome(WelcomeStatus.ENDED, listener.machine.position, 0)
        else:
            try:
                listener.machine.resume(*opening)
            except STTProtocolError:
                answer = Welcome(WelcomeStatus.UNKNOWN, 0, 0)
            else:
                listener.wire = wire
                listener.decoder = FrameDecoder()
                return WelcomeStatus.ACCEPTED
        wire.to_dialer.extend(answer.encode())
        return answer.status

    def reconnect(self) -> None:
        """Cut any wire and resume, up to the listener's answer, which has yet to go out."""
        self.cut_both()
        self.opening_arrives(self.dial())

    def resume(self) -> None:
        """Cut any wire and resume; the dialer has the listener's answer."""
        self.reconnect()
        self.flush(self.listener)
        self.arrive(self.dialer)

    # Until nothing more happens

    def pump(self, *, consume: bool = True, budget: int = ALL, only_due: bool = False) -> None:
        """Let everything arrive until nothing is under way, without any cut.

        With ``only_due`` a side writes only when its machine says so, as if no time passed.
        """
        for _ in range(10_000):
            moved = 0
            for side in self.sides:
                if consume:
                    moved += self.consume(side)
                if side.wire is not None and (side.machine.output_due or not only_due):
                    moved += self.flush(side, budget)
            for side in self.sides:
                if side.wire is not None and side.inward:
                    moved += len(side.inward)
                    self.arrive(side)
            if not moved:
                return
        raise AssertionError("the sides never come to rest")

    def heal(self) -> None:
        """Pump, and let the dialer reconnect, until nothing more can happen."""
        dialer = self.dialer
        for _ in range(10):
            self.pump()
            if dialer.ended or (dialer.wire is not None and dialer.wire is self.listener.wire):
                return
            if dialer.wire is not None:
                self.cut(dialer)  # its wire leads nowhere
            if not dialer.ended:
                self.opening_arrives(self.dial())
        raise AssertionError("the dialer cannot reconnect")
