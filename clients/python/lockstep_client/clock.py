"""The SDK's one source of time."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Two readings, both in seconds."""

    def steady(self) -> float:
        """Never goes back and counts suspended time, where the system can."""

    def wall(self) -> float:
        """Since the epoch, UTC."""


class SystemClock:
    """CLOCK_BOOTTIME where there is one: a laptop that slept must find its leases old."""

    __slots__ = ("_boottime",)

    def __init__(self) -> None:
        self._boottime: int | None = getattr(time, "CLOCK_BOOTTIME", None)

    def steady(self) -> float:
        """Seconds since some fixed moment before this process."""
        return time.monotonic() if self._boottime is None else time.clock_gettime(self._boottime)

    def wall(self) -> float:
        """Seconds since the epoch, UTC."""
        return time.time()
