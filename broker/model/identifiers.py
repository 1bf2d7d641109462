"""How ids are spelled: a prefix and a ULID, so that they sort by time."""

from __future__ import annotations

from typing import Final

RANDOM_BITS: Final = 80
_CROCKFORD: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS: Final = tuple(high + low for high in _CROCKFORD for low in _CROCKFORD)
_SHIFTS: Final = tuple(range(120, -1, -10))
_MAX_MILLISECONDS: Final = (1 << 48) - 1


def check_time(milliseconds: int) -> None:
    """Raises ``ValueError`` for a time that no id can have."""
    if not 0 <= milliseconds <= _MAX_MILLISECONDS:
        raise ValueError("the time of an id is out of range")


def spelled(prefix: str, milliseconds: int, random: int) -> str:
    """``PREFIX-`` and 26 lower-case characters of Crockford's base32: 48 bits of time, 80 others.

    Raises ``ValueError`` for a time before 1970 or after 10889.
    """
    check_time(milliseconds)
    number = (milliseconds << RANDOM_BITS) + random
    return f"{prefix}-" + "".join([_PAIRS[(number >> shift) & 1023] for shift in _SHIFTS])


def first_of(prefix: str, at: float) -> str:
    """What sorts before every id that was made at or after a time (seconds, UTC); "" for a time that no id can have.

    An id may carry a later time than the one it was made at (ids never go
    back), and never an earlier one.
    """
    milliseconds = int(at * 1000)
    return spelled(prefix, milliseconds, 0) if 0 < milliseconds <= _MAX_MILLISECONDS else ""
