"""Faults: what a plug raises that is none of the broker's errors costs its own row a try, and the others nothing."""

from __future__ import annotations

from collections.abc import Callable

OnFault = Callable[[str, Exception], None]
"""Told what was worked on, and what was raised: its text may quote a secret and belongs in no log and no row."""


def fault(error: Exception) -> str:
    """What a row keeps of it."""
    return f"fault of the broker: {type(error).__qualname__}"


class Aside:
    """Rows that have raised what no row may are left aside for a while: they neither end the loop nor fill the log."""

    def __init__(self, on_fault: OnFault, wait: float) -> None:
        """`wait` in seconds."""
        self._on_fault = on_fault
        self._wait = wait
        self._until: dict[str, float] = {}

    def put(self, row_id: str, what: str, error: Exception, now: float) -> None:
        """Say so, and leave it aside. `now` in seconds."""
        self._on_fault(what, error)
        self._until = {key: until for key, until in self._until.items() if until > now}
        self._until[row_id] = now + self._wait

    def has(self, row_id: str, now: float) -> bool:
        """True while it is."""
        return self._until.get(row_id, now) > now
