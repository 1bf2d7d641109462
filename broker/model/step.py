"""One step of what was done, for receipts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """What was done, when (seconds, UTC), and how it was confirmed."""

    name: str
    at: float
    detail: str = ""
