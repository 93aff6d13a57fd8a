"""The endpoints an application talks to: their names and metadata, sending, receiving."""

from __future__ import annotations

from .endpoint import EndpointInfo
from .fanout import SendOutcome
from .manager import EndpointManager

__all__ = ["EndpointInfo", "EndpointManager", "SendOutcome"]
