"""The guard of a connection: what was measured is the baseline, everything new is told at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from lockstep_client.errors import ConfigurationError
from lockstep_client.evidence import EvidenceSource, Measured
from lockstep_client.report import Observation

if TYPE_CHECKING:
    from lockstep_client.guard import Guard
    from lockstep_client.measure import Measurement

GuardUse = Literal["report", "enforce", "off"]
GUARD_VARIABLE = "LOCKSTEP_GUARD"
_USES = ("report", "enforce", "off")
_EARLY = 10_000


def guard_use(asked: GuardUse | None) -> GuardUse:
    """The argument, else ``LOCKSTEP_GUARD``, else ``report``. Raises `ConfigurationError`."""
    use = asked or os.environ.get(GUARD_VARIABLE) or "report"
    for known in _USES:
        if use == known:
            return known  # type: ignore[return-value]
    raise ConfigurationError(f"{GUARD_VARIABLE}: one of {', '.join(_USES)}", setting=GUARD_VARIABLE)


class Guarding:
    """Measures this process and watches what it loads after.

    The hook is in place before the first measurement, so that nothing falls
    between the two: what it sees until the broker has recorded that measurement
    waits, and is told afterwards where the measurement did not have it.
    """

    def __init__(self, use: GuardUse) -> None:
        from lockstep_client.guard import Approved
        from lockstep_client.measure import HashCache

        self._use = use
        self._cache = HashCache()
        self._approved = Approved()
        self._lock = threading.Lock()
        self._early: list[Observation] | None = []
        self._early_lost = 0
        self._tell: Callable[[Observation], None] | None = None
        self._lose: Callable[[int], None] | None = None
        self._guard: Guard | None = None

    def evidence(self) -> EvidenceSource:
        """Evidence at level *self*: what this process has loaded, as it sees itself."""
        from lockstep_client.measure import statement

        return Measured(self._measure, statement, unseen_lines)

    def watch(self) -> None:
        """Install the hook; for the life of the interpreter."""
        if self._use == "off":
            return
        from lockstep_client.guard import Guard

        self._guard = Guard(self._seen, self._approved, cache=self._cache, missed=self._missed)
        self._guard.install()
        os.register_at_fork(after_in_child=self._after_fork)

    def tell(self, report: Callable[[Observation], None], lose: Callable[[int], None]) -> None:
        """The broker has the baseline: from here on, and first what waited. `lose` hears how much was lost.

        Only now can a guard enforce: before, nothing was approved, the SDK's own modules least of all.
        """
        with self._lock:
            waiting, self._early, self._tell, self._lose = self._early or [], None, report, lose
            lost, self._early_lost = self._early_lost, 0
        if self._guard is not None and self._use == "enforce":
            self._guard.enforce()
        for observation in waiting:
            if observation.digest not in self._approved:
                report(observation)
        if lost:
            lose(lost)

    def _seen(self, observation: Observation) -> None:
        with self._lock:
            if self._early is not None:
                if len(self._early) < _EARLY:
                    self._early.append(observation)
                else:
                    self._early_lost += 1
                return
            tell = self._tell
        if tell is not None:
            tell(observation)

    def _missed(self, count: int) -> None:
        with self._lock:
            lose = self._lose
            if lose is None:
                self._early_lost += count
                return
        lose(count)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()  # the parent's thread may have held it

    def _measure(self, base: Measurement | None) -> Measurement:
        from lockstep_client.measure import measure_self

        found = measure_self(self._cache, base)
        # The broker judges what is measured; the guard is for what comes after.
        self._approved.add_measurement(found)
        return found


def unseen_lines(measurement: Measurement) -> list[str]:
    """What has no digest, for people."""
    lines = [f"{item.name}: {item.reason}" for item in measurement.unknown]
    lines += [f"{item.name or 'anonymous memory'} {item.permissions}" for item in measurement.anonymous]
    return lines
