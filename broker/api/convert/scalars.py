"""Times, durations and enum values, both ways."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final, Generic, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from broker.errors import InvalidRequest

W = TypeVar("W", bound=int)
M = TypeVar("M")

# RFC 3339 years 1 to 9999, as google.protobuf.Timestamp demands.
_FIRST: Final = -62_135_596_800
_LAST: Final = 253_402_300_799
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


class Twins(Generic[W, M]):
    """A one-to-one table of wire values and nouns; 0, the unspecified one, has no twin."""

    def __init__(self, what: str, pairs: Mapping[W, M]) -> None:
        self._what = what
        self._to_model = dict(pairs)
        self._to_wire = {noun: value for value, noun in pairs.items()}

    def model(self, value: W) -> M:
        """Raises `InvalidRequest` for an unspecified or unknown value."""
        try:
            return self._to_model[value]
        except KeyError:
            raise InvalidRequest(f"{self._what}: unspecified or unknown") from None

    def wire(self, noun: M) -> W:
        """Total over the noun's values."""
        return self._to_wire[noun]


def to_timestamp(seconds: float) -> Timestamp:
    """Seconds since the epoch, UTC; clipped to what a Timestamp can say (an infinite end is the last year)."""
    clipped = min(max(seconds, _FIRST), _LAST)
    whole = math.floor(clipped)
    nanos = min(round((clipped - whole) * 1_000_000) * 1000, 999_999_000)
    return Timestamp(seconds=whole, nanos=nanos)


def from_timestamp(stamp: Timestamp, what: str) -> float:
    """Raises `InvalidRequest` outside of the years 1 to 9999."""
    if not _FIRST <= stamp.seconds <= _LAST or not 0 <= stamp.nanos < 1_000_000_000:
        raise InvalidRequest(f"{what}: not a time")
    return stamp.seconds + stamp.nanos / 1e9


def to_duration(seconds: float) -> Duration:
    """Never negative."""
    clipped = min(max(seconds, 0.0), 315_576_000_000.0)
    whole = math.floor(clipped)
    return Duration(seconds=whole, nanos=min(round((clipped - whole) * 1e9), 999_999_999))


def digest(value: bytes, what: str) -> bytes:
    """A SHA-256; raises `InvalidRequest`."""
    if len(value) != 32:
        raise InvalidRequest(f"{what}: not 32 bytes")
    return value


def text(value: str, what: str, limit: int = 1024, *, empty: bool = True) -> str:
    """A bounded text without control characters; raises `InvalidRequest`."""
    if len(value) > limit or (not value and not empty) or _CONTROL.search(value):
        raise InvalidRequest(f"{what}: missing, too long or not printable")
    return value
