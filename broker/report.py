"""Report: a detector saw code run; match, decide, and deny before the reporter is answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from broker.errors import LimitExceeded, NotFound
from broker.ledger import Denial, Ledger, Target, instance_targets
from broker.model.appraisal import Finding
from broker.model.attestation import Attestation, AttestationState
from broker.model.caller import WorkloadCaller
from broker.model.decision import Decision, DecisionKind, Effect
from broker.model.detection import (
    Detection,
    DetectionKind,
    DetectionRecord,
    DetectionState,
    DetectionSubject,
)
from broker.model.matching import may_be, subject_selector
from broker.model.requests import ReportAnswer
from broker.model.revocation import Selector, SelectorKind
from broker.model.role import Action, Cap, DetectorPolicy, Mode, Rate, Role
from broker.ports import (
    AuditLog,
    Clock,
    Entropy,
    ManifestSource,
    RateLimiter,
    RevocationFeed,
    RoleSource,
    StateStore,
    Transaction,
)
from lockstep.formats import FindingReason, Reason, UnitKind

MATCH_LIMIT = 1000

SELF = DetectorPolicy(
    name="self",
    kind="self",
    actions={},
    default_action=Action.REVOKE,
    roles=(),
    nodes=(),
    rate=Rate(100, 60.0),
    cap=Cap(instances=1, share=1.0, period=0.0),
)
"""A workload's own hook: it may name nobody but itself, so nothing caps it."""

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


@dataclass(frozen=True, slots=True)
class _Match:
    attestations: tuple[Attestation, ...]
    exact: bool
    state: DetectionState | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Hit:
    attestation: Attestation
    roles: tuple[Role, ...]

    @property
    def enforced(self) -> bool:
        return any(role.mode is Mode.ENFORCE for role in self.roles)


class Reporter:
    """What becomes of a report. Every one ends in a `DetectionState`, durable before the answer.

    Raises `LimitExceeded` (the detector's rate; the report was not taken: send it
    again), `Unavailable` (nothing is promised: send it again).
    """

    def __init__(
        self,
        *,
        clock: Clock,
        entropy: Entropy,
        roles: RoleSource,
        manifests: ManifestSource,
        state: StateStore,
        feed: RevocationFeed,
        ledger: Ledger,
        rates: RateLimiter,
        audit: AuditLog,
        limits: ReportLimits,
    ) -> None:
        self._clock = clock
        self._entropy = entropy
        self._roles = roles
        self._manifests = manifests
        self._state = state
        self._feed = feed
        self._ledger = ledger
        self._rates = rates
        self._audit = audit
        self._limits = limits

    async def report(self, detection: Detection, policy: DetectorPolicy) -> ReportAnswer:
        """An authentic report of a configured detector.

        1. its rate, 2. seen before?, 3. match, 4. decide against scope, manifest,
        mode, action and cap, 5. deny, or record why not, in one transaction.
        """
        now = self._clock.now()
        wait = self._rates.allow("detector", policy.name, now)
        if wait > 0:
            raise LimitExceeded(f"detector {policy.name!r} reports too fast", retry_after=wait)
        earlier = await self._state.read(
            lambda tx: tx.detections.by_event(detection.detector, detection.event_id)
        )
        if earlier is not None:
            return _repeated(earlier)
        return await self._decide(detection, policy, await self._match(detection.subject), now)

    async def report_self(self, caller: WorkloadCaller, detection: Detection) -> ReportAnswer:
        """A workload's own hook. Whatever subject it states, only its own attestation is meant."""
        now = self._clock.now()
        wait = self._rates.allow("self", caller.attestation_id, now)
        if wait > 0:
            raise LimitExceeded("too many reports of one workload", retry_after=wait)
        attestation = await self._state.read(lambda tx: tx.attestations.get(caller.attestation_id))
        if attestation is None or attestation.key.thumbprint != caller.proof.thumbprint:
            raise NotFound("no such attestation of this key")
        own = replace(
            detection,
            detector=f"self:{attestation.id}",
            subject=DetectionSubject(attestation_id=attestation.id, process=attestation.process),
        )
        earlier = await self._state.read(lambda tx: tx.detections.by_event(own.detector, own.event_id))
        if earlier is not None:
            return _repeated(earlier)
        if attestation.state is AttestationState.ALIVE:
            match = _Match((attestation,), exact=True)
        else:
            match = _ended(attestation)
        return await self._decide(own, SELF, match, now)

    # --- match ------------------------------------------------------------------------------------

    async def _match(self, subject: DetectionSubject) -> _Match:
        """Most exact first. A subject that is fully named and not ours is unrelated; one that is
        incomplete and could be ours is matched loosely."""
        selector = subject_selector(subject)
        if selector is None:
            return await self._match_loosely(subject)

        async def work(tx: Transaction) -> tuple[Attestation | None, Sequence[Attestation]]:
            if selector.kind is SelectorKind.ATTESTATION:
                named = await tx.attestations.get(selector.value)
                alive = [named] if named is not None and named.state is AttestationState.ALIVE else []
                return named, alive
            return None, await tx.attestations.alive_by(selector, MATCH_LIMIT)

        named, alive = await self._state.read(work)
        if alive:
            exact = selector.kind in (SelectorKind.ATTESTATION, SelectorKind.PROCESS) or len(alive) == 1
            return _Match(tuple(alive), exact=exact)
        if named is not None:
            return _ended(named)
        if self._feed.denials.cut([selector], 0) is not None:
            return _Match((), exact=True, state=DetectionState.DUPLICATE, reason="already revoked")
        return _Match((), exact=True, state=DetectionState.UNRELATED, reason="no attested workload")

    async def _match_loosely(self, subject: DetectionSubject) -> _Match:
        node = subject.process.node
        if not node:
            return _Match((), exact=False, state=DetectionState.UNMATCHED, reason="the subject names nothing")
        alive = await self._state.read(
            lambda tx: tx.attestations.alive_by(Selector(SelectorKind.NODE, node), MATCH_LIMIT)
        )
        fitting = tuple(found for found in alive if may_be(found, subject.process))
        if not fitting:
            return _Match((), exact=False, state=DetectionState.UNMATCHED, reason="nobody fits the subject")
        return _Match(fitting, exact=False)

    # --- decide -----------------------------------------------------------------------------------

    async def _decide(
        self, detection: Detection, policy: DetectorPolicy, match: _Match, now: float
    ) -> ReportAnswer:
        if match.state is not None:
            return await self._record(detection, match.state, match.reason, (), Effect.NONE, now)
        book = self._roles.current()
        hits: list[_Hit] = []
        excused = "outside the detector's scope"
        for attestation in match.attestations:
            roles = tuple(
                role
                for role in book.roles_for(attestation.identity)
                if policy.covers(role.name) and attestation.result_for(role.manifests) is not None
            )
            if not roles or not policy.covers_node(attestation.whereabouts.node):
                continue
            if await self._approved(attestation, detection.object.digest):
                excused = "approved by the manifest"
                continue
            hits.append(_Hit(attestation, roles))
        if not hits:
            state = DetectionState.UNRELATED if excused.startswith("approved") else DetectionState.REJECTED
            return await self._record(detection, state, excused, (), Effect.NONE, now)
        action = policy.action_for(detection.kind)
        enforced = [hit for hit in hits if hit.enforced]
        if action is Action.OBSERVE or detection.kind is DetectionKind.SENSOR_BLIND or not enforced:
            why = "the role observes" if not enforced else f"{detection.kind} is only observed"
            return await self._record(detection, DetectionState.OBSERVED, why, hits, Effect.NONE, now)
        if not match.exact:
            # It could be any of these: none gets anything new until somebody has looked.
            return await self._deny(detection, policy, enforced, Action.QUARANTINE, now)
        if policy is SELF or len(enforced) <= await self._room(policy, now):
            return await self._deny(detection, policy, enforced, action, now)
        if len(enforced) == 1:
            return await self._deny(detection, policy, enforced, Action.QUARANTINE, now, held=True)
        why = f"{len(enforced)} instances are beyond the cap"
        return await self._record(detection, DetectionState.HELD, why, enforced, Effect.HELD, now)

    async def _approved(self, attestation: Attestation, digest: bytes) -> bool:
        """The broker decides, not the detector: code that the workload's manifest approves is no violation."""
        if not digest:
            return False
        for result in attestation.results:
            if result.manifests:
                reference = await self._manifests.by_digests(result.manifests)
                if reference is not None and reference.approves_digest(digest):
                    return True
        return False

    async def _room(self, policy: DetectorPolicy, now: float) -> int:
        cap = policy.cap

        async def work(tx: Transaction) -> tuple[int, int]:
            return (
                await tx.detections.applied_instances(policy.name, now - cap.period),
                await tx.attestations.count_alive(),
            )

        used, alive = await self._state.read(work)
        return max(1, min(cap.instances, int(cap.share * alive))) - used

    # --- act --------------------------------------------------------------------------------------

    async def _deny(
        self,
        detection: Detection,
        policy: DetectorPolicy,
        hits: Sequence[_Hit],
        action: Action,
        now: float,
        *,
        held: bool = False,
    ) -> ReportAnswer:
        revocation_id = self._entropy.identifier("V", now)
        detection_id = self._entropy.identifier("R", now)
        instances = tuple(hit.attestation.id for hit in hits)
        revoke = action is Action.REVOKE
        targets: tuple[Target, ...]
        if revoke:
            targets = tuple(target for hit in hits for target in instance_targets(hit.attestation, hit.roles))
        else:
            until = now + self._limits.quarantine
            targets = tuple(
                Target(Selector(SelectorKind.ATTESTATION, name), cut=False, ban=True, until=until)
                for name in instances
            )
        effect = Effect.REVOKED if revoke else Effect.HELD if held else Effect.QUARANTINED
        decision = self._decision(detection, detection_id, hits, effect, now, revocation_id)
        state = DetectionState.HELD if held else DetectionState.APPLIED
        reason = "beyond the cap: banned for a time" if held else decision.detail
        record = DetectionRecord(
            id=detection_id,
            detection=detection,
            state=state,
            reason=reason,
            decision_id=decision.id,
            revocation_id=revocation_id,
            instances=instances,
            received_at=now,
        )

        async def first(tx: Transaction) -> bool:
            return await self._keep(tx, record)

        denied = await self._ledger.deny(
            Denial(
                id=revocation_id,
                targets=targets,
                attestations=instances if revoke else (),
                wide=False,
                actor=f"detector:{policy.name}",
                reason=decision.detail,
                decision=decision,
                at=self._clock.now(),
                detection_id=detection_id,
                reported_at=now,
            ),
            first=first,
        )
        if denied is None:
            return await self._duplicate(detection)
        return ReportAnswer(state, detection_id, decision.id, reason)

    async def _record(
        self,
        detection: Detection,
        state: DetectionState,
        reason: str,
        hits: Sequence[_Hit],
        effect: Effect,
        now: float,
    ) -> ReportAnswer:
        detection_id = self._entropy.identifier("R", now)
        decision = self._decision(detection, detection_id, hits, effect, now, "")
        record = DetectionRecord(
            id=detection_id,
            detection=detection,
            state=state,
            reason=reason,
            decision_id=decision.id,
            revocation_id="",
            instances=tuple(hit.attestation.id for hit in hits),
            received_at=now,
        )

        async def work(tx: Transaction) -> bool:
            if not await self._keep(tx, record):
                return False
            await tx.decisions.add(replace(decision, detail=f"{decision.detail}; {reason}"))
            return True

        if not await self._state.transact(work, urgent=True):
            return await self._duplicate(detection)
        self._audit.record(decision)
        return ReportAnswer(state, detection_id, decision.id, reason)

    async def _keep(self, tx: Transaction, record: DetectionRecord) -> bool:
        """The replay row commits with the outcome: a crash between the two would lose the report on its retry."""
        detection = record.detection
        key = f"{detection.detector}\x00{detection.event_id}".encode()
        if not await tx.replays.claim("detection", key, record.received_at + self._limits.replay):
            return False
        await tx.detections.add(record)
        return True

    async def _duplicate(self, detection: Detection) -> ReportAnswer:
        earlier = await self._state.read(
            lambda tx: tx.detections.by_event(detection.detector, detection.event_id)
        )
        if earlier is None:
            return ReportAnswer(DetectionState.DUPLICATE, "", "", "seen before")
        return _repeated(earlier)

    def _decision(
        self,
        detection: Detection,
        detection_id: str,
        hits: Sequence[_Hit],
        effect: Effect,
        now: float,
        revocation_id: str,
    ) -> Decision:
        first = hits[0] if hits else None
        found = detection.object
        name = found.name or found.path or "code"
        result = first.attestation.result_for(first.roles[0].manifests) if first else None
        finding = Finding(
            FindingReason.UNIT_NOT_APPROVED,
            _KIND_OF_CODE.get(detection.kind),
            found.digest,
            found.path,
            found.name,
        )
        return Decision(
            id=self._entropy.identifier("D", now),
            kind=DecisionKind.DETECTION,
            at=now,
            verdict=Reason.APPRAISAL_FAILED if hits else Reason.OK,
            effect=effect,
            mode=None if first is None else Mode.ENFORCE if first.enforced else Mode.OBSERVE,
            identity=first.attestation.identity.name if first else "",
            attestation_id=first.attestation.id if first else "",
            role=first.roles[0].name if first else "",
            role_version=first.roles[0].version if first else b"",
            application=result.application if result else "",
            manifests=result.manifests if result else (),
            code_set=first.attestation.code_set if first else b"",
            findings=(finding,),
            findings_total=1,
            detection_id=detection_id,
            revocation_id=revocation_id,
            instances=tuple(hit.attestation.id for hit in hits),
            actor=f"detector:{detection.detector}",
            detail=f"{detection.kind}: {name[:200]}",
        )


def _ended(attestation: Attestation) -> _Match:
    if attestation.state is AttestationState.REVOKED:
        return _Match((), exact=True, state=DetectionState.DUPLICATE, reason="already revoked")
    return _Match((), exact=True, state=DetectionState.UNRELATED, reason="the attestation has ended")


def _repeated(record: DetectionRecord) -> ReportAnswer:
    return ReportAnswer(DetectionState.DUPLICATE, record.id, record.decision_id, record.state.value)
