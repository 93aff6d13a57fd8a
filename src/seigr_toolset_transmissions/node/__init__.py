"""`STTNode` and its parts: accepting, dialing, reconnecting, keeping the books, stopping."""

from __future__ import annotations

from .node import STTNode

__all__ = ["STTNode"]
