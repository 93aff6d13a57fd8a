"""Looking at a node from outside, without changing what it does. Nothing runs until you ask for it.

All that is shown comes from `STTNode.snapshot`, and none of it is a payload, a seed or a key.
"""

from .metrics import NodeCollector
from .monitor import Monitor, Rates, Sample, SeenEvent

__all__ = ["Monitor", "NodeCollector", "Rates", "Sample", "SeenEvent"]
