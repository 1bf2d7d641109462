"""How many streams may be open: in all, and by one caller."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final

from broker.api.limits import Limits
from broker.errors import LimitExceeded

_OPENING_EACH: Final = 256


class Pool:
    """So many seats in all, so many for one name. Owned by one event loop."""

    def __init__(self, total: int, each: int) -> None:
        self._total = total
        self._each = each
        self._taken: Counter[str] = Counter()
        self._sum = 0

    def __len__(self) -> int:
        return self._sum

    @contextmanager
    def take(self, name: str) -> Iterator[None]:
        """One seat for as long as the block runs; raises `LimitExceeded`."""
        if self._sum >= self._total or self._taken[name] >= self._each:
            if not self._taken[name]:
                del self._taken[name]
            raise LimitExceeded("too many open streams", retry_after=1.0)
        self._taken[name] += 1
        self._sum += 1
        try:
            yield
        finally:
            self._sum -= 1
            self._taken[name] -= 1
            if not self._taken[name]:
                del self._taken[name]


class Seats:
    """Three pools, so that nobody who has not said who it is can take the seats of those who have."""

    def __init__(self, limits: Limits) -> None:
        self._callers = Pool(limits.streams, limits.streams_per_caller)
        self._opening = Pool(limits.streams, _OPENING_EACH)
        self._public = Pool(limits.public_streams, limits.public_streams_per_address)

    def __len__(self) -> int:
        """Streams of callers that are known."""
        return len(self._callers)

    def opening(self, address: str) -> AbstractContextManager[None]:
        """A seat, by its address, for a stream that has not yet said whose it is; raises `LimitExceeded`."""
        return self._opening.take(address)

    def take(self, caller: str) -> AbstractContextManager[None]:
        """A seat for a caller that is known; raises `LimitExceeded`."""
        return self._callers.take(caller)

    def public(self, address: str) -> AbstractContextManager[None]:
        """A seat, by its address, for a stream that may last and whose caller is nobody (health, reflection);
        raises `LimitExceeded`."""
        return self._public.take(address)
