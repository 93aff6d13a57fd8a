"""Endpoints in named groups: which belongs to which, and sending to all members of one.

A group exists as long as it has a member. Only members cost anything here: an endpoint in no group
takes no memory and next to no time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..foundation.payload import as_bytes
from .directory import NOT_GIVEN
from .endpoint import check_id, check_ids
from .sending import Sending

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .fanout import SendOutcome

__all__ = ["Groups"]


class Groups(Sending):
    """The groups of an `EndpointManager`, which sets the attributes.

    Both dicts keep the order of joining, and remove an entry without looking at the others.
    """

    _members: dict[str, dict[bytes, None]]  # by group
    _groups: dict[bytes, dict[str, None]]  # by endpoint

    def join(self, group: str, endpoint_id: bytes) -> None:
        """Make an endpoint a member of a group, which begins with its first member. Never waits.

        It remains a member until it leaves or is removed. A peer that the node added by itself is
        removed once it has gone and its messages have been received. If it comes back before that,
        it has left all its groups, just as it has lost its metadata. Joining again does nothing: a
        member keeps its place.

        Args:
            group: Any name.
            endpoint_id: The endpoint. It may be in any number of groups.

        Raises:
            STTEndpointError: The endpoint is unknown.
            TypeError: ``group`` is not a str.

        """
        self._check_caller()
        _check_group(group)
        endpoint_id = self._get(endpoint_id).endpoint_id  # one object in all places
        self._members.setdefault(group, {})[endpoint_id] = None
        self._groups.setdefault(endpoint_id, {})[group] = None

    def leave(self, group: str, endpoint_id: bytes) -> None:
        """End an endpoint's membership in a group, which ends with its last member. Never waits.

        Does nothing if it is not a member: an endpoint that was removed has left by that.

        Raises:
            TypeError: ``group`` is not a str.

        """
        self._check_caller()
        _check_group(group)
        check_id(endpoint_id)
        groups = self._groups.get(endpoint_id, {})
        if group in groups:
            self._drop(group, endpoint_id)
            del groups[group]
            if not groups:
                del self._groups[endpoint_id]

    def members(self, group: str) -> list[bytes]:
        """Return the ids of a group's members, in order of joining; none if there is no such group.

        Raises:
            TypeError: ``group`` is not a str.

        """
        _check_group(group)
        return list(self._members.get(group, ()))

    def groups(self, endpoint_id: bytes) -> list[str]:
        """Return the groups that an endpoint is in, in order of joining; none if it is unknown."""
        check_id(endpoint_id)
        return list(self._groups.get(endpoint_id, ()))

    async def send_to_group(
        self,
        group: str,
        data: bytes | bytearray | memoryview,
        *,
        exclude: Iterable[bytes] = (),
        timeout: float | None = NOT_GIVEN,
    ) -> dict[bytes, SendOutcome]:
        """Send data to all present members of a group, as `send_to_many` does.

        Args:
            group: The group. If there is no group of this name, nothing is sent.
            data: As for `send_to_endpoint`.
            exclude: Ids of members to leave out, such as ``{sender}``; others are ignored.
            timeout: As for `send_to_many`.

        Returns:
            One outcome for each member that is not excluded, in order of joining.

        Raises:
            TypeError: ``group`` is not a str, an excluded id is not one, or the data is not
                bytes-like. Nothing was sent.

        """
        exclude = check_ids(exclude, "exclude")
        return await self._send(self.members(group), as_bytes(data), timeout, exclude)

    def _forget(self, endpoint_id: bytes) -> None:
        super()._forget(endpoint_id)
        for group in self._groups.pop(endpoint_id, ()):
            self._drop(group, endpoint_id)

    def _drop(self, group: str, endpoint_id: bytes) -> None:
        members = self._members[group]
        del members[endpoint_id]
        if not members:
            del self._members[group]


def _check_group(group: Any) -> None:
    if not isinstance(group, str):
        raise TypeError(f"the name of a group must be a str, not {type(group).__name__}")
