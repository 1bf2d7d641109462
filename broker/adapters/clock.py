"""The system's clocks, the only place where the broker asks for the time."""

from __future__ import annotations

import math
import threading
import time


class SystemClock:
    """Plug of `broker.ports.Clock`. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ahead = -math.inf
        """Seconds from the boot to the epoch, as far as this clock has ever known."""

    def now(self) -> float:
        """Seconds since the epoch, UTC: the system's clock where it goes on, CLOCK_BOOTTIME where it was set back.

        It follows forward and never back. While it is ahead it goes on all the same: what waits for a time (a limit
        that refills, a lease that is tried again) must not wait for the system's clock to catch up.
        """
        with self._lock:
            boot = time.clock_gettime(time.CLOCK_BOOTTIME)
            self._ahead = max(self._ahead, time.time() - boot)
            return self._ahead + boot

    def monotonic(self) -> float:
        """Seconds of CLOCK_BOOTTIME: goes on while the machine sleeps, so that no age is ever too small."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)
