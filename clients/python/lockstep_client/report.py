"""What the guard saw goes to the broker at once, and again until it is acknowledged."""

from __future__ import annotations

import datetime as dt
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from google.protobuf.timestamp_pb2 import Timestamp

from lockstep.v1 import detection_pb2
from lockstep_client import methods
from lockstep_client.callers import Caller
from lockstep_client.errors import LockstepError
from lockstep_client.messages import fresh_id
from lockstep_client.streaming import StreamThread
from lockstep_client.transport import Stream, Transport
from lockstep_client.words import word

HEARTBEAT_EVERY = 5.0
"""Seconds between heartbeats on an idle stream."""
MOST_WAITING = 1024
"""Reports that may wait for their acknowledgement; beyond it they are counted as lost, which is said."""
_Reply = detection_pb2.ReportResponse


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


class Reporter:
    """Bounded, in order, each report under one event id over all its tries."""

    def __init__(
        self,
        transport: Transport,
        who: Callable[[], tuple[str, Caller] | None],
        decided: Callable[[Outcome], None],
        denied: Callable[[LockstepError], None],
    ) -> None:
        self._decided = decided
        self._lock = threading.Lock()
        self._waiting: OrderedDict[int, detection_pb2.Detection] = OrderedDict()
        self._arrived = threading.Event()
        self._acknowledged = threading.Condition(self._lock)
        self._seq = 0
        self._lost = 0
        self._instance = fresh_id()
        self.thread = StreamThread("lockstep-report", transport, methods.REPORT, who, self._begin, denied)

    def report(self, observation: Observation) -> None:
        """Queue one observation; never blocks, never raises."""
        detection = detection_pb2.Detection(
            event_id=fresh_id(),
            kind=_kind(observation.kind),
            observed_at=_stamp(observation.observed_at),
            object=detection_pb2.DetectionObject(
                digest=observation.digest,
                path=observation.path,
                size=observation.size,
                name=observation.name,
            ),
        )
        with self._lock:
            if len(self._waiting) >= MOST_WAITING:
                self._lost += 1
            else:
                self._seq += 1
                detection.seq = self._seq
                self._waiting[self._seq] = detection
        self._arrived.set()

    def flush(self, timeout: float) -> bool:
        """Wait until everything queued has been acknowledged; False after `timeout` seconds."""
        with self._acknowledged:
            return self._acknowledged.wait_for(lambda: not self._waiting, timeout)

    def _begin(self, attestation_id: str) -> ReportSession:
        return ReportSession(self, attestation_id)

    def opening(self, attestation_id: str) -> detection_pb2.ReportRequest:
        """The message that opens a stream."""
        return detection_pb2.ReportRequest(
            open=detection_pb2.ReportOpen(attestation_id=attestation_id, instance=self._instance)
        )

    def after(self, seq: int, attestation_id: str) -> detection_pb2.ReportRequest | None:
        """The oldest report with a number above `seq`."""
        with self._lock:
            for number, detection in self._waiting.items():
                if number > seq:
                    # A workload may name nobody but itself, and its attestation may be a new one by now.
                    detection.subject.attestation_id = attestation_id
                    return detection_pb2.ReportRequest(detection=detection)
        return None

    def heartbeat(self) -> detection_pb2.ReportRequest:
        """Says how many reports were lost since the last one."""
        with self._lock:
            lost, self._lost = self._lost, 0
            return detection_pb2.ReportRequest(heartbeat=detection_pb2.Heartbeat(seq=self._seq, lost=lost))

    def wait(self, timeout: float) -> None:
        """For something new."""
        self._arrived.wait(timeout)
        self._arrived.clear()

    def wake(self) -> None:
        """Whoever waits looks again."""
        self._arrived.set()

    def acknowledge(self, answer: _Reply) -> None:
        """Durable at the broker: forget it here."""
        with self._acknowledged:
            done = self._waiting.pop(answer.seq, None)
            self._acknowledged.notify_all()
        if done is not None:
            state = word(detection_pb2.DetectionState, answer.state, "DETECTION_STATE_")
            self._decided(Outcome(done.event_id, state, answer.reason, answer.decision_id))


class ReportSession:
    """One stream of it: everything that is not acknowledged, from the start."""

    def __init__(self, reporter: Reporter, attestation_id: str) -> None:
        self._reporter = reporter
        self._attestation_id = attestation_id
        self._ended = threading.Event()
        self.healthy = False

    def first(self) -> detection_pb2.ReportRequest:
        """Names the attestation that the reports are about."""
        return self._reporter.opening(self._attestation_id)

    def later(self, cancel: Callable[[], None]) -> Iterator[detection_pb2.ReportRequest]:
        """Reports as they come; a heartbeat where none does."""
        sent = 0
        while not self._ended.is_set():
            request = self._reporter.after(sent, self._attestation_id)
            if request is not None:
                sent = request.detection.seq
                yield request
                continue
            yield self._reporter.heartbeat()
            self._reporter.wait(HEARTBEAT_EVERY)

    def take(self, answer: _Reply, stream: Stream[_Reply]) -> bool:
        """An acknowledgement."""
        self.healthy = True
        self._reporter.acknowledge(answer)
        return False

    def end(self) -> None:
        """Stop sending."""
        self._ended.set()
        self._reporter.wake()


def _kind(word: str) -> detection_pb2.DetectionKind.ValueType:
    name = f"DETECTION_KIND_{word.upper()}"
    known = name in detection_pb2.DetectionKind.keys()  # noqa: SIM118 - an enum wrapper, no mapping
    return detection_pb2.DetectionKind.Value(name) if known else detection_pb2.DETECTION_KIND_UNSPECIFIED


def _stamp(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(dt.datetime.fromtimestamp(seconds, dt.UTC))
    return stamp
