"""The system's randomness, and ids that sort by time."""

from __future__ import annotations

import os
import threading
from typing import Final

from broker.model.identifiers import RANDOM_BITS, check_time, spelled

# The first random part of a millisecond leaves its top bit free, so that counting up never runs out.
_FRESH_BITS: Final = RANDOM_BITS - 1


class SystemEntropy:
    """Plug of `broker.ports.Entropy` over the kernel's generator. Safe to use from several threads.

    Ids are ULIDs: 48 bits of milliseconds and 80 random bits, as 26 lower-case
    characters of Crockford's base32. Within a process each id sorts after the
    one before it, whatever time it is given: an id must not appear before a
    place where somebody has already read past.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._milliseconds = 0
        self._random = 0

    def token(self, size: int) -> bytes:
        """`size` random bytes fit for keys and nonces."""
        return os.urandom(size)

    def identifier(self, prefix: str, now: float) -> str:
        """``PREFIX-`` and a ULID of `now` (seconds since the epoch, UTC).

        Raises ``ValueError`` for a time before 1970 or after 10889.
        """
        milliseconds = int(now * 1000)
        check_time(milliseconds)
        with self._lock:
            if milliseconds > self._milliseconds:
                self._milliseconds = milliseconds
                self._random = int.from_bytes(os.urandom(RANDOM_BITS // 8)) >> (RANDOM_BITS - _FRESH_BITS)
            else:
                # The same millisecond, or a clock behind: a random step up, not guessable from the last id.
                self._random += 1 + int.from_bytes(os.urandom(4))
            return spelled(prefix, self._milliseconds, self._random)
