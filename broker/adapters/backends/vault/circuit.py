"""A circuit breaker: whoever asks a backend that is down hears no at once, and one call tries it now and then."""

from __future__ import annotations

from broker.errors import Unavailable
from broker.ports import Clock
from lockstep.formats import Reason


class Circuit:
    """Closed → (failures in a row) → open → (a pause) → one probe → closed, or open again."""

    def __init__(self, clock: Clock, *, failures: int, pause: float) -> None:
        """`pause` in seconds."""
        self._clock = clock
        self._most = failures
        self._pause = pause
        self._failures = 0
        self._refused_until = float("-inf")

    @property
    def open(self) -> bool:
        """True where calls are refused, but for a probe."""
        return self._failures >= self._most

    def enter(self) -> None:
        """Before a call. Raises `Unavailable` while open."""
        if not self.open:
            return
        now = self._clock.monotonic()
        if now < self._refused_until:
            raise Unavailable(
                Reason.BACKEND_UNAVAILABLE,
                "the backend is down",
                retry_after=self._refused_until - now,
            )
        # This call is the probe; one that is never heard of again is followed by another.
        self._refused_until = now + self._pause

    def answered(self) -> None:
        """The backend is there."""
        self._failures = 0

    def failed(self) -> None:
        """It did not answer, or says that it cannot."""
        self._failures += 1
        if self.open:
            self._refused_until = self._clock.monotonic() + self._pause
