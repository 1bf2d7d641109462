"""The system's randomness, and ids that sort by time."""

from __future__ import annotations

import os
import threading
from typing import Final

_CROCKFORD: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_RANDOM_BITS: Final = 80
_RANDOM_LIMIT: Final = 1 << _RANDOM_BITS
_MAX_MILLISECONDS: Final = (1 << 48) - 1
# The first random part of a millisecond leaves its top bit free, so that counting up never runs out.
_FRESH_BITS: Final = _RANDOM_BITS - 1


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
        if not 0 <= milliseconds <= _MAX_MILLISECONDS:
            raise ValueError("the time of an id is out of range")
        with self._lock:
            if milliseconds > self._milliseconds:
                self._milliseconds = milliseconds
                self._random = int.from_bytes(os.urandom(_RANDOM_BITS // 8)) >> (_RANDOM_BITS - _FRESH_BITS)
            else:
                # The same millisecond, or a clock behind: a random step up, not guessable from the last id.
                self._random += 1 + int.from_bytes(os.urandom(4))
            number = self._milliseconds * _RANDOM_LIMIT + self._random
        return f"{prefix}-{_base32(number)}"


def _base32(number: int) -> str:
    return "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5))
