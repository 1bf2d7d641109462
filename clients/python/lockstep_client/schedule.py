"""When to renew and when to try again: pure functions of time, all in seconds."""

from __future__ import annotations

RENEW_AT = 2 / 3
"""Share of a lifetime after which it is renewed."""
JITTER = 0.1
"""Largest share of a lifetime by which a renewal comes earlier, so that a fleet spreads."""
SHORTEST = 0.5
"""Never renew sooner than this after the last time."""


def renew_after(lifetime: float, luck: float) -> float:
    """How long after a grant to renew it; `luck` is uniform in [0, 1)."""
    return max(SHORTEST, lifetime * (RENEW_AT - JITTER * luck))


def backoff(attempt: int, luck: float, *, first: float = 0.2, most: float = 5.0) -> float:
    """Pause after failed attempt number `attempt` (from 1): exponential with full jitter above half."""
    ceiling = min(most, first * 2.0 ** min(attempt - 1, 16))
    return ceiling * (0.5 + 0.5 * luck)


def silence_grace(grace: float, luck: float) -> float:
    """The role's grace, up to a tenth longer: not everyone lets go in the same instant."""
    return grace * (1.0 + 0.1 * luck)
