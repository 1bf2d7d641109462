"""How often somebody may ask: token buckets with a bounded number of keys."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from broker.errors import Misuse
from broker.model.role import Rate

DEFAULT_KEYS: Final = 65_536


class TokenBuckets:
    """Plug of `broker.ports.RateLimiter`, owned by one event loop.

    Each key of a scope may spend `Rate.count` tokens at once and gets them back
    evenly over `Rate.period` seconds (the generic cell rate algorithm: one
    number a key). At most `keys` keys a scope are remembered; a key is
    forgotten once its bucket is full again. When none can be forgotten, new
    keys are refused: a flood of keys must not buy fresh buckets, and it shuts
    no other scope.
    """

    def __init__(self, rates: Mapping[str, Rate], *, keys: int = DEFAULT_KEYS) -> None:
        """`rates` by scope; raises ``ValueError`` for a rate that lets nothing through."""
        if keys < 1 or any(rate.count < 1 or rate.period <= 0 for rate in rates.values()):
            raise ValueError("a rate needs a count and a period above zero")
        self._scopes = {scope: _Scope(rate, keys) for scope, rate in rates.items()}

    def allow(self, scope: str, key: str, now: float) -> float:
        """0.0 and one token spent, or the seconds until the next one. `now` is seconds, of one clock.

        Raises `Misuse` for a scope without a rate.
        """
        try:
            buckets = self._scopes[scope]
        except KeyError:
            raise Misuse(f"no rate is set for {scope!r}") from None
        return buckets.allow(key, now)


class _Scope:
    __slots__ = ("_full_at", "_keys", "_period", "_step")

    def __init__(self, rate: Rate, keys: int) -> None:
        self._step = rate.period / rate.count
        self._period = rate.period
        self._keys = keys
        # When each key's bucket is full again; the key that spent last stands last.
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def allow(self, key: str, now: float) -> float:
        full_at = self._full_at.get(key)
        if full_at is None:
            wait = self._make_room(now)
            if wait > 0:
                return wait
            full_at = now
        start = max(full_at, now)
        # One part in a million of a step absorbs the rounding of the sums.
        wait = start + self._step - now - self._period
        if wait > self._step * 1e-6:
            return wait
        self._full_at[key] = start + self._step
        self._full_at.move_to_end(key)
        return 0.0

    def _make_room(self, now: float) -> float:
        # Two at a time: the table shrinks again after a flood, and no call pays for all of it.
        for _ in range(2):
            if not self._full_at:
                return 0.0
            oldest, full_at = next(iter(self._full_at.items()))
            if full_at > now:
                return full_at - now if len(self._full_at) >= self._keys else 0.0
            del self._full_at[oldest]
        return 0.0
