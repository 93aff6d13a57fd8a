"""A live session: where the protocol meets the transports and the application.

`handshaking` turns a transport into a secure channel, `connection` joins one session to one
transport, `public` is what the application sees of a session, `session` what stands behind it, and
`pump` hands over what arrives.
"""

from __future__ import annotations

from .public import Session, SessionState

__all__ = ["Session", "SessionState"]
