"""Reports and how they ended, as rows."""

from __future__ import annotations

import heapq
import json
from collections.abc import Sequence
from itertools import islice
from operator import attrgetter

from broker.adapters.state.codec import to_json
from broker.adapters.state.judgements import detection_json, held_text, read_detection, read_held
from broker.adapters.state.sqlite.session import Row, Session
from broker.model.detection import DetectionRecord, DetectionState

_by_id = attrgetter("id")


class SqliteDetections:
    """Plug of `broker.ports.DetectionStore`."""

    __slots__ = ("_db",)

    def __init__(self, session: Session) -> None:
        self._db = session

    async def add(self, record: DetectionRecord) -> None:
        """Raises `Conflict` where the id is taken."""
        self._db.change(
            "detections.add",
            (
                record.id,
                record.detection.detector,
                record.detection.event_id,
                record.state,
                record.reason,
                record.decided_by,
                record.decision_id,
                record.revocation_id,
                record.received_at,
                to_json(record.instances),
                to_json(detection_json(record.detection)),
                record.siblings,
                held_text(record.held),
            ),
        )

    async def get(self, detection_id: str) -> DetectionRecord | None:
        """The report of an id."""
        row = self._db.one("detections.get", (detection_id,))
        return None if row is None else _read(row)

    async def decide(self, record: DetectionRecord) -> bool:
        """False where there is no such report, or it is not held."""
        written = (
            record.state,
            record.reason,
            record.decided_by,
            record.decision_id,
            record.revocation_id,
            to_json(record.instances),
            record.siblings,
        )
        return self._db.change("detections.decide", (*written, record.id)) > 0

    async def by_event(self, detector: str, event_id: str) -> DetectionRecord | None:
        """The first report of a sender's event."""
        row = self._db.one("detections.by_event", (detector, event_id))
        return None if row is None else _read(row)

    async def applied_instances(self, detector: str, since: float) -> int:
        """How many distinct instances a detector's APPLIED reports, received at or after `since`, have revoked."""
        row = self._db.one("detections.applied_instances", (detector, since))
        return 0 if row is None else int(row[0])

    async def denied_instances(self, detector: str, since: float) -> int:
        """How many distinct instances a detector's reports have revoked or put in quarantine."""
        row = self._db.one("detections.denied_instances", (detector, since))
        return 0 if row is None else int(row[0])

    async def siblings(self, detector: str, since: float, revoked_only: bool) -> int:
        """How many more those stopped; of those that revoked somebody, or of all that denied."""
        if revoked_only:
            row = self._db.one("detections.siblings_of_revoked", (detector, since))
        else:
            row = self._db.one("detections.siblings", (detector, since))
        return 0 if row is None else int(row[0])

    async def page(
        self, states: Sequence[DetectionState], limit: int, after: str = ""
    ) -> Sequence[DetectionRecord]:
        """In id order after an id; empty `states` is all."""
        if not states:
            return [_read(row) for row in self._db.all("detections.page", (after, limit))]
        pages = (self._db.all("detections.page_of_state", (state, after, limit)) for state in set(states))
        merged = heapq.merge(*([_read(row) for row in page] for page in pages), key=_by_id)
        return list(islice(merged, limit))

    async def drop(self, ids: Sequence[str]) -> None:
        """Forget rows; unknown ids are passed over."""
        self._db.change_many("detections.drop", [(item,) for item in ids])


def _read(row: Row) -> DetectionRecord:
    _, record_id, detector, event_id, state, reason, decided_by, decision_id, revocation_id, at, *rest = row
    *texts, siblings, held = rest
    instances, details = (json.loads(text) for text in texts)
    return DetectionRecord(
        id=record_id,
        detection=read_detection(detector, event_id, details),
        state=DetectionState(state),
        reason=reason,
        decision_id=decision_id,
        revocation_id=revocation_id,
        instances=tuple(instances),
        received_at=at,
        decided_by=decided_by,
        siblings=siblings,
        held=read_held(held),
    )
