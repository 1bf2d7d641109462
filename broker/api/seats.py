"""How many streams may be open: in all, and by one caller."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from broker.errors import LimitExceeded


class Seats:
    """Owned by one event loop."""

    def __init__(self, total: int, each: int, opening: int = 256) -> None:
        """`opening` bounds the streams of one address that have not yet said whose they are."""
        self._total = total
        self._each = each
        self._opening = opening
        self._taken: Counter[str] = Counter()
        self._sum = 0

    def __len__(self) -> int:
        return self._sum

    def opening(self, address: str) -> AbstractContextManager[None]:
        """A seat for a stream that has not yet said whose it is."""
        return self._seat(f"opening:{address}", self._opening)

    def take(self, caller: str) -> AbstractContextManager[None]:
        """One seat for as long as the block runs; raises `LimitExceeded`."""
        return self._seat(caller, self._each)

    @contextmanager
    def _seat(self, caller: str, each: int) -> Iterator[None]:
        if self._sum >= self._total or self._taken[caller] >= each:
            if not self._taken[caller]:
                del self._taken[caller]
            raise LimitExceeded("too many open streams", retry_after=1.0)
        self._taken[caller] += 1
        self._sum += 1
        try:
            yield
        finally:
            self._sum -= 1
            self._taken[caller] -= 1
            if not self._taken[caller]:
                del self._taken[caller]
