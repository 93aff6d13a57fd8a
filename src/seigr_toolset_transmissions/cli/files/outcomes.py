"""What became of each file that `stt send` and `stt receive` handled, on standard output."""

from __future__ import annotations

import json

import click

__all__ = ["Outcomes"]


class Outcomes:
    """Prints a line for each file, as soon as there is something to say of it.

    Args:
        as_json: Print JSON objects instead of text.

    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def add(
        self,
        file: str,
        outcome: str,
        peer_node_id: bytes,
        *,
        size: int | None = None,
        size_before: int | None = None,
        seconds: float | None = None,
        sha256: str | None = None,
        reason: str | None = None,
        text: str = "",
    ) -> None:
        """Print what became of a file; blocks as standard output does.

        Args:
            file: Its name, as the user knows it.
            outcome: What became of it, in a word.
            peer_node_id: The node at the other end.
            size: How many bytes went over; None: it was not completed.
            size_before: How many were there before.
            seconds: How long it took.
            sha256: The digest of all of it, in hex.
            reason: Why it was not completed.
            text: What is printed without JSON; empty: nothing.

        Raises:
            OSError: It could not be printed.

        """
        if not self._as_json:
            if text:
                click.echo(text)
            return
        facts = {
            "file": file,
            "outcome": outcome,
            "peer_node_id": peer_node_id.hex(),
            "bytes": size,
            "bytes_before": size_before,
            "seconds": None if seconds is None else round(seconds, 3),
            "sha256": sha256,
            "reason": reason,
        }
        click.echo(json.dumps(facts))
