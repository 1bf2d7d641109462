"""Decide what becomes of a report: the broker decides, not the detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType

from broker.errors import LimitExceeded, NotFound
from broker.ledger import Ledger
from broker.model.attestation import Attestation, AttestationState
from broker.model.caller import WorkloadCaller
from broker.model.decision import Effect
from broker.model.detection import Detection, DetectionKind, DetectionState, DetectionSubject, Held
from broker.model.requests import ReportAnswer
from broker.model.role import Action, Cap, DetectorPolicy, Rate
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
from broker.report.acting import Acting, ReportLimits
from broker.report.match import Match, Matcher, ended
from broker.report.sentence import Sentence, sentences
from broker.report.standing import Hit, Stand, stands
from lockstep.formats import UnitKind

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

_OF_THE_SENSOR = frozenset({DetectionKind.SENSOR_BLIND, DetectionKind.HEARTBEAT})
"""Kinds that say something of the sensor and nothing of code."""

_ANY_CODE = frozenset(UnitKind)
_BY_CONTENT = MappingProxyType(
    {
        DetectionKind.LIBRARY: frozenset({UnitKind.SHARED_OBJECT}),
        # What begins with #! is started too; the interpreter that it names is a report of its own.
        DetectionKind.EXEC: frozenset(
            {UnitKind.EXECUTABLE, UnitKind.SCRIPT, UnitKind.PYTHON_SOURCE, UnitKind.MODULE_JS}
        ),
        DetectionKind.SCRIPT: _ANY_CODE - {UnitKind.EXECUTABLE, UnitKind.SHARED_OBJECT, UnitKind.MODEL},
        DetectionKind.MODULE: _ANY_CODE - {UnitKind.EXECUTABLE, UnitKind.SHARED_OBJECT, UnitKind.MODEL},
        # These say how it came, not what it is.
        DetectionKind.MEMFD: _ANY_CODE,
        DetectionKind.DOWNLOAD: _ANY_CODE,
    }
)
"""Kinds whose digest is of what ran, and as which units that may be approved: an approved model is no library.

A patched or injected process still has its approved file's digest.
"""


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
        self._roles = roles
        self._manifests = manifests
        self._state = state
        self._rates = rates
        self._matcher = Matcher(state, feed)
        self._acting = Acting(clock, entropy, state, ledger, audit, limits)

    async def report(self, detection: Detection, policy: DetectorPolicy) -> ReportAnswer:
        """An authentic report of a configured detector.

        1. its rate, 2. seen before?, 3. match, 4. decide against scope, manifest,
        mode, action and cap, 5. deny, or record why not, in one transaction.
        """
        now = self._clock.now()
        wait = self._rates.allow("detector", policy.name, now)
        if wait > 0:
            raise LimitExceeded(f"detector {policy.name!r} reports too fast", retry_after=wait)
        earlier = await self._acting.earlier(detection)
        if earlier is not None:
            return earlier
        match = await self._matcher.match(detection.subject, now)
        return await self._decide(detection, policy, match, now)

    async def report_self(self, caller: WorkloadCaller, detection: Detection) -> ReportAnswer:
        """A workload's own hook. Whatever subject it states, only its own attestation is meant."""
        now = self._clock.now()
        wait = self._rates.allow("self", caller.proof.thumbprint.hex(), now)
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
        earlier = await self._acting.earlier(own)
        if earlier is not None:
            return earlier
        alive = attestation.state is AttestationState.ALIVE
        return await self._decide(own, SELF, Match((attestation,)) if alive else ended(attestation), now)

    # --- decide -----------------------------------------------------------------------------------

    async def _decide(
        self, detection: Detection, policy: DetectorPolicy, match: Match, now: float
    ) -> ReportAnswer:
        if match.state is not None:
            return await self._acting.record(detection, match.state, match.reason, (), Effect.NONE, now)
        hits, excused = await self._hits(detection, policy, match.attestations, now)
        if not hits:
            state = DetectionState.UNRELATED if excused else DetectionState.REJECTED
            why = "approved by the manifest" if excused else _beyond(policy, detection)
            return await self._acting.record(detection, state, why, (), Effect.NONE, now)
        enforced = [hit for hit in hits if hit.enforced]
        action = policy.action_for(detection.kind)
        if not enforced or action is Action.OBSERVE or detection.kind in _OF_THE_SENSOR:
            why = f"{detection.kind} is only observed" if enforced else "the role observes"
            return await self._acting.record(detection, DetectionState.OBSERVED, why, hits, Effect.NONE, now)
        return await self._sentence(detection, policy, match, enforced, action, now)

    async def _hits(
        self, detection: Detection, policy: DetectorPolicy, attestations: Sequence[Attestation], now: float
    ) -> tuple[list[Hit], bool]:
        """Those that the report counts against; and whether the manifest approves what somebody ran."""
        book = self._roles.current()
        # Never where the workload says that it runs: it would choose who may speak of it.
        named = detection.subject.process.node
        seen = [item for item in attestations if policy.covers_node(item.place.node or named)]

        async def look(tx: Transaction) -> list[tuple[Attestation, Sequence[Stand]]]:
            return [(item, await stands(tx, item, book, now)) for item in seen]

        excused = False
        hits = []
        for attestation, found in await self._state.read(look) if seen else ():
            against = []
            for stand in found:
                if not policy.covers(stand.role):
                    continue
                if await self._approved(stand, detection):
                    excused = True
                else:
                    against.append(stand)
            if against:
                hits.append(Hit(attestation, tuple(against)))
        return hits, excused

    async def _approved(self, stand: Stand, detection: Detection) -> bool:
        """Code that the workload's manifest for this role approves is no violation of it."""
        digest = detection.object.digest
        kinds = _BY_CONTENT.get(detection.kind)
        if not digest or kinds is None or not stand.manifests:
            return False
        reference = await self._manifests.by_digests(stand.manifests)
        return reference is not None and reference.approves_digest(digest, kinds)

    async def _sentence(
        self,
        detection: Detection,
        policy: DetectorPolicy,
        match: Match,
        hits: Sequence[Hit],
        action: Action,
        now: float,
    ) -> ReportAnswer:
        # Nothing caps what names nobody but itself.
        wanted = Held(action, exact=match.exact)
        possible = [Sentence(action)] if policy is SELF else sentences(match, hits, action)
        for sentence in possible:
            # Where these are not all, how many they are is not known either.
            if match.whole or not sentence.cost:
                answer = await self._acting.deny(detection, policy, hits, sentence, wanted, now)
                if answer is not None:
                    return answer
        why = f"{len(hits)} instances are beyond the cap"
        return await self._acting.record(detection, DetectionState.HELD, why, hits, Effect.HELD, now, wanted)


def _beyond(policy: DetectorPolicy, detection: Detection) -> str:
    unsaid = bool(policy.nodes) and not detection.subject.process.node
    return "outside the detector's scope" + (": it has nodes, and the report names none" if unsaid else "")
