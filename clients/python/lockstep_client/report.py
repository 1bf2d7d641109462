"""What the guard saw goes to the broker at once, and again until it is acknowledged."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator

from lockstep.v1 import detection_pb2
from lockstep_client import methods
from lockstep_client.callers import Caller
from lockstep_client.errors import InvalidRequest, LockstepError
from lockstep_client.messages import fresh_id
from lockstep_client.observed import Observation, Outcome, bare, detection_of
from lockstep_client.streaming import StreamThread
from lockstep_client.transport import Stream, Transport
from lockstep_client.words import word

__all__ = ["Observation", "Outcome", "Reporter"]

log = logging.getLogger("lockstep")

HEARTBEAT_EVERY = 5.0
"""Seconds between heartbeats on an idle stream."""
MOST_WAITING = 1024
"""Reports that may wait for their acknowledgement; beyond it they are counted as lost, which is said."""
_MOST_LOST = 2**32
"""More than anybody counts, and a number that the wire can say."""
_Reply = detection_pb2.ReportResponse


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
        self._denied = denied
        self._lock = threading.Lock()
        self._waiting: OrderedDict[int, detection_pb2.Detection] = OrderedDict()
        self._arrived = threading.Event()
        self._acknowledged = threading.Condition(self._lock)
        self._seq = 0
        self._lost = 0
        self._instance = fresh_id()
        self._session: ReportSession | None = None
        self.thread = StreamThread(
            "lockstep-report", transport, methods.REPORT, who, self._begin, self._refused
        )

    def report(self, observation: Observation) -> None:
        """Queue one observation; never blocks, never raises: what cannot be told is counted as lost."""
        try:
            detection = detection_of(observation)
        except Exception:  # a door: what is no observation must not silence the next one
            log.exception("an observation could not be told, and is counted as lost")
            self.lose(1)
            return
        with self._lock:
            if len(self._waiting) >= MOST_WAITING:
                self._lost += 1
            else:
                self._seq += 1
                detection.seq = self._seq
                self._waiting[self._seq] = detection
        self._arrived.set()

    def lose(self, count: int) -> None:
        """Say that so many observations never came here."""
        with self._lock:
            self._lost = min(self._lost + max(0, count), _MOST_LOST)
        self._arrived.set()

    def flush(self, timeout: float) -> bool:
        """Wait until everything queued has been acknowledged; False after `timeout` seconds."""
        with self._acknowledged:
            return self._acknowledged.wait_for(lambda: not self._waiting, timeout)

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

    def lost(self) -> int:
        """How many observations were lost and have not been owned up to."""
        with self._lock:
            return self._lost

    def owned(self, count: int) -> None:
        """The broker has heard of so many losses."""
        with self._lock:
            self._lost -= count

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

    def _begin(self, attestation_id: str) -> ReportSession:
        self._session = ReportSession(self, attestation_id)
        return self._session

    def _refused(self, error: LockstepError) -> None:
        self._denied(error)
        # Answers come in order: the oldest that was sent and not answered is the one that the broker cannot read.
        if isinstance(error, InvalidRequest) and self._session is not None and self._shed(self._session.sent):
            self.thread.kick()

    def _shed(self, sent: int) -> bool:
        """Take what may have offended out of the oldest report, then the report: the next ones must get through."""
        with self._acknowledged:
            oldest = next(iter(self._waiting), None)
            if oldest is None or oldest > sent:
                return False
            if not bare(self._waiting[oldest]):
                del self._waiting[oldest]
                self._lost += 1
                self._acknowledged.notify_all()
            return True


class ReportSession:
    """One stream of it: everything that is not acknowledged, from the start."""

    def __init__(self, reporter: Reporter, attestation_id: str) -> None:
        self._reporter = reporter
        self._attestation_id = attestation_id
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._owning: deque[int] = deque()
        self.sent = 0
        self.healthy = False

    def first(self) -> detection_pb2.ReportRequest:
        """Names the attestation that the reports are about."""
        return self._reporter.opening(self._attestation_id)

    def later(self, cancel: Callable[[], None]) -> Iterator[detection_pb2.ReportRequest]:
        """Reports as they come; a heartbeat where none does."""
        while not self._ended.is_set():
            request = self._reporter.after(self.sent, self._attestation_id)
            if request is not None:
                self.sent = request.detection.seq
                yield request
                continue
            yield self._heartbeat()
            self._reporter.wait(HEARTBEAT_EVERY)

    def take(self, answer: _Reply, stream: Stream[_Reply]) -> bool:
        """An acknowledgement: of a report, or of a heartbeat, which has no outcome."""
        self.healthy = True
        if answer.state != detection_pb2.DETECTION_STATE_UNSPECIFIED:
            self._reporter.acknowledge(answer)
            return False
        with self._lock:
            heard = self._owning.popleft() if self._owning else 0
        self._reporter.owned(heard)
        return False

    def end(self) -> None:
        """Stop sending."""
        self._ended.set()
        self._reporter.wake()

    def _heartbeat(self) -> detection_pb2.ReportRequest:
        """Owns up to what was lost; until the answer is there, the next stream says it again."""
        with self._lock:
            lost = max(0, self._reporter.lost() - sum(self._owning))
            self._owning.append(lost)
        return detection_pb2.ReportRequest(heartbeat=detection_pb2.Heartbeat(seq=self.sent, lost=lost))
