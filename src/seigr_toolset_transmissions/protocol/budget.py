"""The interface through which a session asks its node for memory; `node.ledger` implements it."""

from __future__ import annotations

from typing import Protocol

from .outbox import Lender

__all__ = ["Budget", "Waiter"]


class Waiter(Protocol):
    """The owner of a session's machine."""

    def room_came(self) -> None:
        """Try again to receive and send what the node had no room for."""


class Budget(Lender, Protocol):
    """What a session's machine may ask of its node; a node's `Share` implements it."""

    owner: Waiter | None
    """Called when there may be room; the owner sets this itself."""

    @property
    def first_window(self) -> int:
        """How much credit the peer may always have, in bytes."""

    @property
    def in_inbox(self) -> int:
        """Bytes handed to the application and not yet received by it."""

    def grant(self, promised: int, wanted: int, needed: int) -> int:
        """Return how much of the wanted credit the peer gets."""

    def finished(self) -> None:
        """Note that the message under way is complete, or never will be."""

    def release(self, cost: int) -> None:
        """Note that this much of what was granted is consumed, or will never be used."""

    def wait(self) -> None:
        """Have the owner called before long, to try again."""

    def leave(self) -> None:
        """Return everything: the session has ended, and all its messages were handed over."""
