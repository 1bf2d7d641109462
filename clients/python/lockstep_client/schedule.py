"""When to renew and when to try again: pure functions of time (seconds) and of luck, which is drawn apart."""

from __future__ import annotations

import random

RENEW_AT = 2 / 3
"""Share of a lifetime after which it is renewed."""
JITTER = 0.1
"""Largest share of a lifetime by which a renewal comes earlier, so that a fleet spreads."""
SHORTEST = 0.5
"""Never renew sooner than this after the last time."""


def luck() -> float:
    """Uniform in [0, 1): spreads a fleet's calls over time, and guards nothing."""
    return random.random()  # noqa: S311 - not for secrets


def renew_after(lifetime: float, drawn: float) -> float:
    """How long after a grant to renew it; `drawn` is somebody's `luck`."""
    return max(SHORTEST, lifetime * (RENEW_AT - JITTER * drawn))


def backoff(attempt: int, drawn: float, *, first: float = 0.2, most: float = 5.0) -> float:
    """Pause after failed attempt number `attempt` (from 1): exponential with full jitter above half."""
    ceiling = min(most, first * 2.0 ** min(attempt - 1, 16))
    return ceiling * (0.5 + 0.5 * drawn)


def silence_grace(grace: float, drawn: float) -> float:
    """The role's grace, up to a tenth longer: not everyone lets go in the same instant."""
    return grace * (1.0 + 0.1 * drawn)
