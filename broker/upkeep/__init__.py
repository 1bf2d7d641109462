"""Upkeep: expire, expand, clean, confirm, prune. One supervised loop that survives restarts.

Everything it does is driven by rows, so that a crash between two steps costs
time and nothing else: the next round finds the same rows due.
"""

from broker.upkeep.limits import BATCH, STUCK_AFTER, UpkeepLimits
from broker.upkeep.loop import Upkeep

__all__ = ["BATCH", "STUCK_AFTER", "Upkeep", "UpkeepLimits"]
