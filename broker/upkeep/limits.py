"""Times and bounds of upkeep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

BATCH: Final = 200
"""Rows that one transaction touches."""
STUCK_AFTER: Final = 5
"""Tries in vain after which there is an alarm; it is tried on."""


@dataclass(frozen=True, slots=True)
class UpkeepLimits:
    """All in seconds: `interval` between rounds when nothing wakes it, `settle` how long a receipt waits for
    watchers to acknowledge (a verifier that has not by then has failed closed), `backoff` between tries to
    clean, up to `backoff_most`, `longest_life` of any credential, after which a cut can hit nothing, `instance` how
    long a pod, container or process lives at most, after which a ban on a revoked one can hit nothing, `pending`
    how long a backend's answer may still be on its way (as in `IssueLimits`), `look_again` between two looks at
    a target, `freeze_first` how long a target waits for its backend, `sweep` between two looks for what no row
    knows, `skew` how far the clocks of a backend and of this process may differ. `keep_leases`,
    `keep_detections`, `keep_decisions` how long the state keeps rows of what is over. Not in seconds but bytes:
    `judged` for code sets that got nothing, which are kept to explain why, and `names` for what people call units."""

    interval: float = 0.5
    settle: float = 8.0
    backoff: float = 0.5
    backoff_most: float = 60.0
    longest_life: float = 86_400.0
    instance: float = 400 * 86_400.0
    pending: float = 60.0
    look_again: float = 0.05
    freeze_first: float = 0.0
    sweep: float = 600.0
    skew: float = 5.0
    keep_leases: float = 30 * 86_400.0
    keep_detections: float = 400 * 86_400.0
    keep_decisions: float = 90 * 86_400.0
    judged: int = 256 * 1024 * 1024
    names: int = 64 * 1024 * 1024
