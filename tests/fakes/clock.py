"""A clock that stands until it is told to go on."""

from __future__ import annotations

START = 1_800_000_000.0


class FakeClock:
    """Plug of `broker.ports.Clock`."""

    def __init__(self, now: float = START, monotonic: float = 1_000.0) -> None:
        self._now = now
        self._monotonic = monotonic

    def now(self) -> float:
        """Seconds since the epoch, UTC."""
        return self._now

    def monotonic(self) -> float:
        """Seconds since some boot."""
        return self._monotonic

    def advance(self, seconds: float) -> float:
        """Both clocks go on; the new `now`."""
        if seconds < 0:
            raise ValueError("time does not run backwards")
        self._now += seconds
        self._monotonic += seconds
        return self._now

    def step(self, now: float) -> None:
        """The wall clock is set, back or forth; the other knows nothing of it."""
        self._now = now
