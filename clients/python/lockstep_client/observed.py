"""What was seen, as the wire takes it: whatever a file is called, its report is one that the broker does not refuse."""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import dataclass
from typing import Final, Protocol

from google.protobuf.timestamp_pb2 import Timestamp

from lockstep.v1 import detection_pb2
from lockstep_client.messages import fresh_id

LONGEST_PATH: Final = 4096
LONGEST_NAME: Final = 1024
"""Characters: what the broker keeps of either."""
_DIGEST: Final = 32
_LARGEST: Final = 2**64 - 1


class Observation(Protocol):
    """Code that ran or was about to, as a guard saw it.

    `kind` is a word of ``DetectionKind`` (``module``, ``generated_code``, …),
    `digest` a SHA-256 (32 bytes) or empty, `size` in bytes, `observed_at` in
    seconds since the epoch, UTC.
    """

    @property
    def kind(self) -> str: ...
    @property
    def digest(self) -> bytes: ...
    @property
    def path(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def observed_at(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the broker decided about one report: `state` and `reason` as on the wire, in lower case."""

    event_id: str
    state: str
    reason: str
    decision: str


def detection_of(seen: Observation) -> detection_pb2.Detection:
    """A report with an event id of its own.

    What the wire has no place for is spelled out, cut or left away: code must
    not go unreported because of what it is called.
    """
    digest = bytes(seen.digest)
    return detection_pb2.Detection(
        event_id=fresh_id(),
        kind=_kind(seen.kind),
        observed_at=_stamp(seen.observed_at),
        object=detection_pb2.DetectionObject(
            digest=digest if len(digest) == _DIGEST else b"",
            path=_text(seen.path, LONGEST_PATH),
            size=min(max(0, int(seen.size)), _LARGEST),
            name=_text(seen.name, LONGEST_NAME),
        ),
    )


def bare(detection: detection_pb2.Detection) -> bool:
    """Take the names out of a report; False where there were none."""
    found = detection.object
    had = bool(found.path or found.name)
    found.ClearField("path")
    found.ClearField("name")
    return had


def _text(value: str, most: int) -> str:
    """Protobuf text is UTF-8; a file name need not be."""
    return value[:most].encode("utf-8", "backslashreplace").decode("utf-8")[:most]


def _kind(word: str) -> detection_pb2.DetectionKind.ValueType:
    name = f"DETECTION_KIND_{word.upper()}"
    known = name in detection_pb2.DetectionKind.keys()  # noqa: SIM118 - an enum wrapper, no mapping
    return detection_pb2.DetectionKind.Value(name) if known else detection_pb2.DETECTION_KIND_UNSPECIFIED


def _stamp(seconds: float) -> Timestamp:
    stamp = Timestamp()
    try:
        stamp.FromDatetime(dt.datetime.fromtimestamp(seconds, dt.UTC))
    except (ValueError, OverflowError, OSError):  # no time at all: it was seen by now
        stamp.FromDatetime(dt.datetime.fromtimestamp(time.time(), dt.UTC))
    return stamp
