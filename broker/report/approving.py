"""What a cap held back, decided by a person: approve, and it happens as if it had not been held; or dismiss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from broker.belonging import Belonging, outside
from broker.errors import Conflict, InvalidRequest, NotFound
from broker.ledger import Denial, Ledger, Target, instance_targets, quarantine_targets, write_lift
from broker.model.attestation import Attestation, AttestationState
from broker.model.caller import OperatorCaller
from broker.model.decision import Decision, DecisionKind, Effect
from broker.model.detection import DetectionRecord, DetectionState, Held
from broker.model.matching import text_problem
from broker.model.revocation import LogEntry, taint
from broker.model.role import Action, RoleBook
from broker.ports import AuditLog, Clock, Entropy, RevocationFeed, RoleSource, StateStore, Transaction
from broker.report.acting import ReportLimits
from broker.report.caps import siblings
from broker.report.match import MATCH_LIMIT
from broker.report.standing import Hit, stands
from lockstep.formats import Reason


@dataclass(frozen=True, slots=True)
class _Case:
    """A held report as it stands: whom it means by now, and the decision that held it."""

    record: DetectionRecord
    hits: tuple[Hit, ...]
    decision: Decision
    owned: bool
    """All hits are within the caller's scope, those that have attested since the report as well."""


class Approver:
    """A person's word on a held report; the first one counts, and saying the same again changes nothing.

    Raises `InvalidRequest` (reason, ticket), `NotFound`, `Denied` (not all of it
    is within the caller's scope), `Conflict` (it is not held, or was decided the
    other way), `Unavailable`.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        entropy: Entropy,
        roles: RoleSource,
        state: StateStore,
        feed: RevocationFeed,
        ledger: Ledger,
        audit: AuditLog,
        limits: ReportLimits,
    ) -> None:
        self._clock = clock
        self._entropy = entropy
        self._roles = roles
        self._state = state
        self._feed = feed
        self._ledger = ledger
        self._audit = audit
        self._limits = limits

    async def approve(
        self, caller: OperatorCaller, detection_id: str, reason: str, ticket: str
    ) -> DetectionRecord:
        """Do what the report would have done, to those whom it meant and to what they have attested as since.

        Denied durably when this returns. The role, the manifest and the policy
        are not asked again: they were when it came.
        """
        now = self._clock.now()
        _check_texts(reason or "approved", ticket)
        book = self._roles.current()
        case = await self._state.read(lambda tx: _case(tx, detection_id, caller, book, now))
        if isinstance(case, DetectionRecord):
            return _settled(case, DetectionState.APPLIED)
        if not case.owned:
            raise outside()
        held = case.record.held
        if held is None:
            raise Conflict(
                "it was held by an older broker, which kept no record of what it would have done: "
                "revoke what it names, then dismiss it"
            )
        revokes = held.action is Action.REVOKE
        targets = _targets(case.hits, held, now + self._limits.quarantine)
        if not targets:
            raise Conflict("nothing is left of those whom it named: dismiss it")
        alive = tuple(
            hit.attestation.id for hit in case.hits if hit.attestation.state is AttestationState.ALIVE
        )
        decision = replace(
            self._decision(case, caller, "approved", reason, ticket, now),
            effect=Effect.REVOKED if revokes else Effect.QUARANTINED,
            revocation_id=self._entropy.identifier("V", now),
            instances=tuple(hit.attestation.id for hit in case.hits),
        )
        record = replace(
            case.record,
            state=DetectionState.APPLIED,
            reason=_said("approved", reason),
            decided_by=caller.actor,
            decision_id=decision.id,
            revocation_id=decision.revocation_id,
            instances=decision.instances,
        )

        async def first(tx: Transaction) -> bool:
            return await tx.detections.decide(
                replace(record, siblings=await siblings(tx, targets, case.hits))
            )

        denied = await self._ledger.deny(
            Denial(
                id=decision.revocation_id,
                targets=targets,
                attestations=alive if revokes else (),
                wide=False,
                actor=caller.actor,
                reason=f"{_what(case.record)}; {record.reason}",
                ticket=ticket,
                decision=decision,
                at=now,
                detection_id=record.id,
            ),
            first=first,
        )
        return record if denied is not None else await self._decided(record)

    async def dismiss(
        self, caller: OperatorCaller, detection_id: str, reason: str, ticket: str
    ) -> DetectionRecord:
        """It was nothing: the report ends, and with it the timed ban that held whom it named."""
        now = self._clock.now()
        _check_texts(reason, ticket)
        book = self._roles.current()
        case = await self._state.read(lambda tx: _case(tx, detection_id, caller, book, now))
        if isinstance(case, DetectionRecord):
            return _settled(case, DetectionState.DISMISSED)
        said = _said("dismissed", reason)
        decision = replace(
            self._decision(case, caller, "dismissed", reason, ticket, now),
            verdict=Reason.OK,
            revocation_id=case.record.revocation_id,
        )
        record = replace(
            case.record,
            state=DetectionState.DISMISSED,
            reason=said,
            decided_by=caller.actor,
            decision_id=decision.id,
        )

        async def work(tx: Transaction) -> tuple[Decision, Sequence[LogEntry]] | None:
            if not await tx.detections.decide(record):
                return None
            banned = await tx.revocations.get(record.revocation_id) if record.revocation_id else None
            lifted: Sequence[LogEntry] = ()
            if banned is not None and not banned.lifted_at:
                lifted = await write_lift(tx, banned, decision, said)
            done = replace(decision, effect=Effect.LIFTED if lifted else Effect.RECORDED)
            await tx.decisions.add(done)
            return done, lifted

        written = await self._state.transact(work, urgent=True)
        if written is None:
            return await self._decided(record)
        done, lifted = written
        if lifted:
            self._feed.announce(lifted)
        self._audit.record(done)
        return record

    async def _decided(self, wanted: DetectionRecord) -> DetectionRecord:
        """Somebody was faster."""
        found = await self._state.read(lambda tx: tx.detections.get(wanted.id))
        if found is None:
            raise NotFound("no such report")
        return _settled(found, wanted.state)

    def _decision(
        self, case: _Case, caller: OperatorCaller, word: str, reason: str, ticket: str, now: float
    ) -> Decision:
        """What was decided about the report when it came, and by whom it is decided now."""
        return replace(
            case.decision,
            id=self._entropy.identifier("D", now),
            at=now,
            actor=caller.actor,
            ticket=ticket,
            detail=f"{_what(case.record)}; {_said(word, reason)}; it was {case.decision.id}",
        )


async def _case(
    tx: Transaction, detection_id: str, caller: OperatorCaller, book: RoleBook, now: float
) -> _Case | DetectionRecord:
    """A held report, or one that was decided before. Raises `NotFound`, `Denied`."""
    record = await tx.detections.get(detection_id)
    if record is None:
        raise NotFound("no such report")
    belonging = Belonging(tx, book, caller.reach("approve"))
    if not await belonging.owns_detection(record):
        raise outside()
    if record.state is not DetectionState.HELD:
        return record
    found: dict[str, Attestation] = {}
    for instance in record.instances:
        attestation = await tx.attestations.get(instance)
        if attestation is not None:
            found[attestation.id] = attestation
            # A timed ban ends, and whoever it held has attested anew since: it is still the one that was meant.
            for selector in taint(attestation, hold=False):
                later = await tx.attestations.alive_by(selector, MATCH_LIMIT)
                found.update((item.id, item) for item in later)
    hits = [Hit(item, tuple(await stands(tx, item, book, now))) for item in found.values()]
    decision = await tx.decisions.get(record.decision_id)
    if decision is None:
        decision = Decision(record.decision_id, DecisionKind.DETECTION, now, Reason.OK, Effect.HELD)
    owned = await belonging.owns_instances(tuple(found))
    return _Case(record, tuple(hits), replace(decision, detection_id=record.id), owned)


def _targets(hits: Sequence[Hit], held: Held, until: float) -> tuple[Target, ...]:
    """The log entries; `until` (seconds, UTC) ends a quarantine. No identity is stopped for a guess."""
    found: list[Target] = []
    for hit in hits:
        hold = held.exact and (hit.hold or not hit.stands)
        if held.action is Action.REVOKE:
            found += instance_targets(hit.attestation, hold=hold)
        else:
            found += quarantine_targets(hit.attestation, until, hold=hold)
    return tuple(found)


def _settled(record: DetectionRecord, wanted: DetectionState) -> DetectionRecord:
    """A report that was decided so before, by whomever. Raises `Conflict` where it was not."""
    if record.decided_by and record.state is wanted:
        return record
    if record.decided_by:
        raise Conflict(
            f"it was {record.reason.partition(':')[0]} by {record.decided_by}: nothing was changed"
        )
    raise Conflict(f"it is not held but {record.state}: there is nothing to decide")


def _what(record: DetectionRecord) -> str:
    seen = record.detection.object
    return f"{record.detection.kind}: {(seen.name or seen.path or 'code')[:200]}"


def _said(word: str, reason: str) -> str:
    return f"{word}: {reason}" if reason else word


def _check_texts(reason: str, ticket: str) -> None:
    problem = text_problem(reason, ticket)
    if problem:
        raise InvalidRequest(problem)
