"""The system's clocks, the only place where the broker asks for the time."""

from __future__ import annotations

import threading
import time


class SystemClock:
    """Plug of `broker.ports.Clock`. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0.0

    def now(self) -> float:
        """Seconds since the epoch, UTC. When the system's clock is set back, it stands still until caught up."""
        with self._lock:
            self._last = max(self._last, time.time())
            return self._last

    def monotonic(self) -> float:
        """Seconds of CLOCK_BOOTTIME: goes on while the machine sleeps, so that no age is ever too small."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)
