"""Appraise a case against the reference values of its roles, and say what follows for each role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from broker.ledger import Undecided
from broker.model.appraisal import Appraisal, Status, best_appraisal
from broker.model.attestation import ApplicationResult, Attestation
from broker.model.case import Case, failing_hints, manifest_keys, result_of, verdict_of
from broker.model.decision import Decision, DecisionKind, Effect
from broker.model.evidence import UnitHint
from broker.model.manifest import ReferenceValues
from broker.model.requests import RoleVerdict
from broker.model.role import Mode, Role
from broker.ports import Entropy, ManifestSource, RevocationFeed
from lockstep.formats import Reason

MAX_FINDINGS_KEPT = 500
MAX_NAMES_KEPT = 5_000


@dataclass(frozen=True, slots=True)
class AttestLimits:
    """`lifetime` of an attestation and `renewal_window` after a manifest's end, in seconds."""

    lifetime: float = 300.0
    renewal_window: float = 86_400.0
    challenges_pending: int = 100_000


@dataclass(frozen=True, slots=True)
class Judgement:
    """Verdicts, the worst refusal first, each with the decision that records it; `expires_at` in seconds, UTC."""

    verdicts: tuple[RoleVerdict, ...]
    decisions: tuple[Decision, ...]
    results: tuple[ApplicationResult, ...]
    failing: tuple[UnitHint, ...]
    expires_at: float

    @property
    def first(self) -> RoleVerdict:
        """What the answer speaks of."""
        return self.verdicts[0]

    @property
    def granted(self) -> bool:
        """True where some role admits it."""
        return any(verdict.granted for verdict in self.verdicts)


class Judge:
    """Holds nothing but what it asks."""

    def __init__(
        self, *, entropy: Entropy, manifests: ManifestSource, feed: RevocationFeed, limits: AttestLimits
    ) -> None:
        self._entropy = entropy
        self._manifests = manifests
        self._feed = feed
        self._limits = limits

    async def judge(
        self,
        case: Case,
        kind: DecisionKind,
        attestation_id: str,
        *,
        previous: Attestation | None = None,
        dry_run: bool = False,
    ) -> Judgement:
        """Appraise, then decide for each role. Raises `Undecided`, `Unavailable`."""
        appraisals = await self._appraise(case, previous)
        pairs = [
            self._decide(case, role, appraisals, kind, attestation_id, dry_run=dry_run) for role in case.roles
        ]
        pairs.sort(key=lambda pair: (pair[0].granted, pair[0].reason is Reason.OK, pair[0].role))
        return Judgement(
            verdicts=tuple(verdict for verdict, _ in pairs),
            decisions=tuple(decision for _, decision in pairs),
            results=tuple(result_of(name, appraisal) for name, appraisal in appraisals.items()),
            failing=failing_hints(appraisals.values())[:MAX_NAMES_KEPT],
            expires_at=self._expiry(case, appraisals),
        )

    async def _appraise(self, case: Case, previous: Attestation | None) -> Mapping[str, Appraisal]:
        """One appraisal per application of the case's roles, in name order.

        A running instance may go on under the manifest that admitted it when
        that was retired, and for a window when it expired.
        """
        found: dict[str, Appraisal] = {}
        for application in sorted({name for role in case.roles for name in role.manifests}):
            alternatives = list(await self._manifests.alternatives(application, case.now))
            if previous is not None:
                kept = await self._kept(previous, application, case.now)
                if kept is not None and all(kept.digests != item.digests for item in alternatives):
                    alternatives.append(kept)
            found[application] = self._best(case, alternatives)
        return found

    def _best(self, case: Case, alternatives: Sequence[ReferenceValues]) -> Appraisal:
        """Under what is not withdrawn. Whoever needs one whose withdrawal is not durable yet gets no verdict."""
        denials = self._feed.denials
        keys = {item.digests: manifest_keys(item) for item in alternatives}
        usable = [item for item in alternatives if denials.banned(keys[item.digests], case.now) is None]
        certain = [item for item in usable if denials.early.banned(keys[item.digests], case.now) is None]
        best = best_appraisal(case.evidence, case.code, certain)
        if best.status is not Status.AFFIRMING and len(certain) < len(usable):
            raise Undecided
        return best

    async def _kept(self, previous: Attestation, application: str, now: float) -> ReferenceValues | None:
        for result in previous.results:
            if result.application == application and result.manifests:
                reference = await self._manifests.by_digests(result.manifests)
                if reference is not None and now < _end(reference) + self._limits.renewal_window:
                    return reference
        return None

    def _decide(
        self,
        case: Case,
        role: Role,
        appraisals: Mapping[str, Appraisal],
        kind: DecisionKind,
        attestation_id: str,
        *,
        dry_run: bool,
    ) -> tuple[RoleVerdict, Decision]:
        application = min(
            role.manifests, key=lambda name: (appraisals[name].status, len(appraisals[name].findings))
        )
        appraisal = appraisals[application]
        reason = verdict_of(role, case, appraisal)
        # In observe a bad verdict on code is seen and has no effect; on evidence too weak, it has.
        tolerated = role.mode is Mode.OBSERVE and reason in (Reason.APPRAISAL_FAILED, Reason.NO_MANIFEST)
        granted = reason is Reason.OK or tolerated
        effect = Effect.NONE if tolerated or dry_run else Effect.GRANTED if granted else Effect.REFUSED
        decision = Decision(
            id=self._entropy.identifier("D", case.now),
            kind=kind,
            at=case.now,
            verdict=reason,
            effect=effect,
            mode=role.mode,
            identity=case.identity.name,
            attestation_id=attestation_id if granted or kind is DecisionKind.REATTEST else "",
            role=role.name,
            role_version=role.version,
            application=application,
            manifests=appraisal.reference.digests if appraisal.reference else (),
            code_set=case.code.digest,
            findings=appraisal.findings[:MAX_FINDINGS_KEPT],
            findings_total=len(appraisal.findings),
            detail="dry run" if dry_run else "",
        )
        verdict = RoleVerdict(
            role=role.name,
            status=appraisal.status,
            mode=role.mode,
            granted=granted,
            reason=reason,
            findings=len(appraisal.findings),
            decision_id=decision.id,
        )
        return verdict, decision

    def _expiry(self, case: Case, appraisals: Mapping[str, Appraisal]) -> float:
        ends = [case.now + self._limits.lifetime, case.identity.not_after]
        ends.extend(
            _end(appraisal.reference) + self._limits.renewal_window
            for appraisal in appraisals.values()
            if appraisal.reference is not None and appraisal.status is Status.AFFIRMING
        )
        return min(ends)


def _end(reference: ReferenceValues) -> float:
    """When the first of a manifest and its layers ends."""
    return min(item.not_after for item in (reference.manifest, *reference.layers))
