"""Act on a report: deny, or record why not; either way in one transaction with the row that makes it count once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from broker.ledger import Denial, Ledger
from broker.model.appraisal import Finding
from broker.model.decision import Decision, DecisionKind, Effect
from broker.model.detection import Detection, DetectionKind, DetectionRecord, DetectionState, Held
from broker.model.requests import ReportAnswer
from broker.model.role import DetectorPolicy, Mode
from broker.ports import AuditLog, Clock, Entropy, StateStore, Transaction
from broker.report.caps import room, siblings
from broker.report.sentence import Sentence
from broker.report.standing import Hit
from lockstep.formats import FindingReason, Reason, UnitKind

_KIND_OF_CODE = {
    DetectionKind.LIBRARY: UnitKind.SHARED_OBJECT,
    DetectionKind.EXEC: UnitKind.EXECUTABLE,
    DetectionKind.SCRIPT: UnitKind.SCRIPT,
    DetectionKind.MODULE: UnitKind.PYTHON_SOURCE,
}


@dataclass(frozen=True, slots=True)
class ReportLimits:
    """`quarantine` (seconds) is how long a timed ban lasts, `replay` how long a report's id is remembered."""

    quarantine: float = 900.0
    replay: float = 3600.0


class Acting:
    """Writes how a report ended."""

    def __init__(
        self,
        clock: Clock,
        entropy: Entropy,
        state: StateStore,
        ledger: Ledger,
        audit: AuditLog,
        limits: ReportLimits,
    ) -> None:
        self._clock = clock
        self._entropy = entropy
        self._state = state
        self._ledger = ledger
        self._audit = audit
        self._limits = limits

    async def deny(
        self,
        detection: Detection,
        policy: DetectorPolicy,
        hits: Sequence[Hit],
        sentence: Sentence,
        wanted: Held,
        now: float,
    ) -> ReportAnswer | None:
        """Deny the hits; None where that is beyond the cap. Raises `Unavailable`."""
        targets = sentence.targets(hits, now + self._limits.quarantine)
        others = 0

        async def fits(tx: Transaction) -> bool:
            nonlocal others
            if not sentence.cost:
                return True
            others = await siblings(tx, targets, hits)
            return await room(tx, policy, now, revokes=sentence.revokes) >= sentence.cost + others

        # Looked at before as well: what is called off in the transaction has kept others waiting.
        if not await self._state.read(fits):
            return None
        effect = Effect.REVOKED if sentence.revokes else Effect.QUARANTINED
        decision = self._decision(detection, hits, effect, now)
        told = "; ".join(text for text in (decision.detail, sentence.note) if text)
        decision = replace(decision, revocation_id=self._entropy.identifier("V", now), detail=told)
        state = DetectionState.HELD if sentence.held else DetectionState.APPLIED
        reason = f"{sentence.held}: banned for a time" if sentence.held else decision.detail
        record = _record(detection, decision, state, reason, now, wanted)
        beyond = False

        async def first(tx: Transaction) -> bool:
            nonlocal beyond
            beyond = not await fits(tx)
            return not beyond and await self._keep(tx, replace(record, siblings=others))

        denied = await self._ledger.deny(
            Denial(
                id=decision.revocation_id,
                targets=targets,
                attestations=record.instances if sentence.revokes else (),
                wide=False,
                actor=f"detector:{detection.detector}",
                reason=decision.detail,
                decision=decision,
                at=self._clock.now(),
                detection_id=record.id,
                reported_at=now,
            ),
            first=first,
        )
        if denied is not None:
            return ReportAnswer(state, record.id, decision.id, reason)
        return None if beyond else await self._duplicate(detection)

    async def record(
        self,
        detection: Detection,
        state: DetectionState,
        reason: str,
        hits: Sequence[Hit],
        effect: Effect,
        now: float,
        wanted: Held | None = None,
    ) -> ReportAnswer:
        """Keep a report that denies nobody, with the reason; `wanted` is what one that is held would have done.

        Raises `Unavailable`.
        """
        decision = self._decision(detection, hits, effect, now)
        decision = replace(decision, detail=f"{decision.detail}; {reason}")
        record = _record(detection, decision, state, reason, now, wanted)

        async def work(tx: Transaction) -> bool:
            if not await self._keep(tx, record):
                return False
            await tx.decisions.add(decision)
            return True

        if not await self._state.transact(work, urgent=True):
            return await self._duplicate(detection)
        self._audit.record(decision)
        return ReportAnswer(state, record.id, decision.id, reason)

    async def earlier(self, detection: Detection) -> ReportAnswer | None:
        """The answer to a report that was taken before."""
        found = await self._state.read(
            lambda tx: tx.detections.by_event(detection.detector, detection.event_id)
        )
        if found is None:
            return None
        return ReportAnswer(DetectionState.DUPLICATE, found.id, found.decision_id, found.state.value)

    async def _keep(self, tx: Transaction, record: DetectionRecord) -> bool:
        """The replay row commits with the outcome: a crash between the two would lose the report on its retry."""
        detection = record.detection
        key = f"{detection.detector}\x00{detection.event_id}".encode()
        if not await tx.replays.claim("detection", key, record.received_at + self._limits.replay):
            return False
        await tx.detections.add(record)
        return True

    async def _duplicate(self, detection: Detection) -> ReportAnswer:
        earlier = await self.earlier(detection)
        return earlier or ReportAnswer(DetectionState.DUPLICATE, "", "", "seen before")

    def _decision(self, detection: Detection, hits: Sequence[Hit], effect: Effect, now: float) -> Decision:
        first = hits[0] if hits else None
        found = detection.object
        name = found.name or found.path or "code"
        stand = first.foremost if first else None
        finding = Finding(
            FindingReason.UNIT_NOT_APPROVED,
            _KIND_OF_CODE.get(detection.kind),
            found.digest,
            found.path,
            found.name,
        )
        enforced = any(hit.enforced for hit in hits)
        return Decision(
            id=self._entropy.identifier("D", now),
            kind=DecisionKind.DETECTION,
            at=now,
            verdict=Reason.APPRAISAL_FAILED if hits else Reason.OK,
            effect=effect,
            mode=None if first is None else Mode.ENFORCE if enforced else Mode.OBSERVE,
            identity=first.attestation.identity.name if first else "",
            attestation_id=first.attestation.id if first else "",
            role=stand.role if stand else "",
            role_version=stand.version if stand else b"",
            application=stand.application if stand else "",
            manifests=stand.manifests if stand else (),
            code_set=first.attestation.code_set if first else b"",
            findings=(finding,),
            findings_total=1,
            detection_id=self._entropy.identifier("R", now),
            instances=tuple(hit.attestation.id for hit in hits),
            actor=f"detector:{detection.detector}",
            detail=f"{detection.kind}: {name[:200]}",
        )


def _record(
    detection: Detection,
    decision: Decision,
    state: DetectionState,
    reason: str,
    now: float,
    wanted: Held | None,
) -> DetectionRecord:
    return DetectionRecord(
        id=decision.detection_id,
        detection=detection,
        state=state,
        reason=reason,
        decision_id=decision.id,
        revocation_id=decision.revocation_id,
        instances=decision.instances,
        received_at=now,
        held=wanted if state is DetectionState.HELD else None,
    )
