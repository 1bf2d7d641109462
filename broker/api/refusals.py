"""Refusals that are no decision, as lines of the log: few, however many there are.

A decision has its row and its audit line. What is refused before anybody is
known (a challenge that is not ours, an identity that does not hold) has
neither, or whoever liked could fill the state; without a word it would be
nowhere but in a count.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import structlog

from broker.errors import Denied, LockstepError

MOST: Final = 10
"""Lines a second, of one door."""


class RefusalLog:
    """Owned by one event loop."""

    def __init__(
        self, log: structlog.typing.FilteringBoundLogger, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock` in seconds."""
        self._log = log
        self._clock = clock
        self._since = clock()
        self._said = 0
        self._unsaid = 0

    def refused(self, method: str, error: LockstepError, address: str) -> None:
        """A line, or one more in the count of those that the next line tells of."""
        if not isinstance(error, Denied) or error.decision_id:
            return
        now = self._clock()
        if now - self._since >= 1.0:
            self._since, self._said = now, 0
        if self._said >= MOST:
            self._unsaid += 1
            return
        self._said += 1
        more = {"unsaid": self._unsaid} if self._unsaid else {}
        self._unsaid = 0
        self._log.warning(
            "refused", method=method, reason=error.reason.value, why=error.message, address=address, **more
        )
