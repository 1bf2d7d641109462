"""Attest: a workload proves who it is and what code it has loaded (RFC 9334: the Verifier)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from broker.errors import Denied, InvalidRequest, LimitExceeded, LockstepError, NotFound
from broker.ledger import Denial, Ledger, instance_targets, loaded_banned
from broker.model.appraisal import Appraisal, Status, best_appraisal
from broker.model.attestation import Attestation, AttestationState
from broker.model.caller import ProofUse
from broker.model.case import (
    Case,
    bearer_keys,
    binding_conflict,
    failing_hints,
    fell_in_enforce,
    grown,
    make_case,
    manifest_banned,
    refusal_text,
    result_of,
    unmeasured_names,
    verdict_of,
)
from broker.model.decision import Decision, DecisionKind, Effect
from broker.model.evidence import (
    CodeSet,
    Evidence,
    InstanceKey,
    SealedEvidence,
    UnitHint,
)
from broker.model.identity import WorkloadIdentity
from broker.model.manifest import ReferenceValues
from broker.model.requests import AttestAnswer, AttestOrder, ReattestOrder, RoleVerdict
from broker.model.revocation import (
    attestation_keys,
)
from broker.model.role import Mode, Role, Silence
from broker.ports import (
    AuditLog,
    ChallengeMint,
    Clock,
    Entropy,
    EvidenceVerifier,
    IdentityVerifier,
    ManifestSource,
    RateLimiter,
    RevocationFeed,
    RoleSource,
    StateStore,
    Transaction,
)
from lockstep.formats import Reason

MAX_FINDINGS_KEPT = 500


@dataclass(frozen=True, slots=True)
class AttestLimits:
    """`lifetime` of an attestation and `renewal_window` after a manifest's end, in seconds."""

    lifetime: float = 300.0
    renewal_window: float = 86_400.0
    challenges_pending: int = 100_000


class Verifier:
    """Challenge, attest, reattest.

    Raises `Denied` (identity, evidence, appraisal, bans), `InvalidRequest`,
    `LimitExceeded` (an instance that is refused too often), `Unavailable`.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        entropy: Entropy,
        roles: RoleSource,
        challenges: ChallengeMint,
        identities: IdentityVerifier,
        evidence: EvidenceVerifier,
        manifests: ManifestSource,
        state: StateStore,
        feed: RevocationFeed,
        ledger: Ledger,
        rates: RateLimiter,
        audit: AuditLog,
        limits: AttestLimits,
    ) -> None:
        self._clock = clock
        self._entropy = entropy
        self._roles = roles
        self._challenges = challenges
        self._identities = identities
        self._evidence = evidence
        self._manifests = manifests
        self._state = state
        self._feed = feed
        self._ledger = ledger
        self._rates = rates
        self._audit = audit
        self._limits = limits
        self._spent: dict[bytes, float] = {}

    def challenge(self, spki: bytes) -> tuple[bytes, float]:
        """A nonce for an instance key (DER SPKI), and how many seconds it lives. Stores nothing."""
        now = self._clock.now()
        key = self._evidence.parse_key(spki)
        return self._challenges.mint(key.thumbprint, now), self._challenges.lifetime

    async def attest(self, order: AttestOrder, proof: ProofUse) -> AttestAnswer:
        """A new attestation, or the reason why not. The nonce is spent either way.

        1. nonce: MAC, age, key; claimed in memory, made durable with the outcome
        2. identity proof → identity; its roles
        3. evidence: signature, binding to nonce, key and identity
        4. bans on who and where
        5. appraise against each application's reference values
        6. bans on what: digests, packages, manifests
        7. one transaction: nonce, code set, attestation, decisions
        8. the fence: what was revoked meanwhile counts
        """
        now = self._clock.now()
        key = self._evidence.parse_key(order.spki)
        if key.thumbprint != proof.thumbprint:
            raise Denied(Reason.PROOF_REJECTED, "the proof was made by another key")
        nonce_ends = self._spend(order.nonce, key.thumbprint, now)
        identity: WorkloadIdentity | None = None
        try:
            as_of = self._feed.denials.seq
            identity = await self._identities.verify(order.identity_proof, now)
            roles = self._entitled(identity, order.roles)
            evidence = await self._verify_evidence(order.evidence, key, order.nonce, identity, now)
            if any(item.base_digest for item in evidence):
                raise Denied(Reason.EVIDENCE_REJECTED, "a first attestation carries the whole code set")
            code = CodeSet.of(unit for item in evidence for unit in item.units)
            case = make_case(identity, key, evidence, code, roles, as_of, now)
            self._refuse_banned(case)
            return await self._conclude(case, order, nonce_ends)
        except LockstepError as error:
            if not error.decision_id:
                await self._record_refusal(error, order.nonce, nonce_ends, identity, DecisionKind.ATTEST, now)
            raise self._or_limit(error, identity, now) from None

    async def reattest(self, order: ReattestOrder, proof: ProofUse) -> AttestAnswer:
        """Fresh evidence for a living attestation: same key, same identity, same level or higher.

        The recorded code set only grows. Unapproved code, where a role enforces,
        revokes the instance.
        """
        now = self._clock.now()
        as_of = self._feed.denials.seq
        previous, base = await self._living(order.attestation_id, proof, now)
        key = previous.key
        nonce_ends = self._spend(order.nonce, key.thumbprint, now)
        identity: WorkloadIdentity | None = None
        try:
            identity = await self._identities.verify(order.identity_proof, now)
            if (identity.provider, identity.name) != (previous.identity.provider, previous.identity.name):
                raise Denied(Reason.IDENTITY_REJECTED, "the proof is of another identity")
            roles = self._entitled(identity, ())
            evidence = await self._verify_evidence(order.evidence, key, order.nonce, identity, now)
            code = grown(base, evidence)
            case = make_case(identity, key, evidence, code, roles, as_of, now)
            if case.assurance < previous.assurance:
                raise Denied(Reason.ASSURANCE_TOO_LOW, "evidence may not become weaker")
            self._refuse_banned(case)
            return await self._renew_result(case, previous, order.nonce, nonce_ends)
        except LockstepError as error:
            if not error.decision_id:
                await self._record_refusal(
                    error, order.nonce, nonce_ends, identity, DecisionKind.REATTEST, now, order.attestation_id
                )
            raise

    # --- steps ------------------------------------------------------------------------------------

    def _spend(self, nonce: bytes, thumbprint: bytes, now: float) -> float:
        ends = self._challenges.check(nonce, thumbprint, now)
        if nonce in self._spent:
            raise Denied(Reason.CHALLENGE_REJECTED, "the nonce was used before")
        if len(self._spent) >= self._limits.challenges_pending:
            self._spent = {known: end for known, end in self._spent.items() if end > now}
            if len(self._spent) >= self._limits.challenges_pending:
                raise LimitExceeded("too many challenges at once", retry_after=1.0)
        self._spent[nonce] = ends
        return ends

    def _entitled(self, identity: WorkloadIdentity, wanted: Sequence[str]) -> tuple[Role, ...]:
        roles = self._roles.current().roles_for(identity)
        if wanted:
            by_name = {role.name: role for role in roles}
            missing = [name for name in wanted if name not in by_name]
            if missing:
                raise Denied(Reason.NOT_ENTITLED, f"no role {missing[0][:64]!r} for this identity")
            roles = tuple(by_name[name] for name in dict.fromkeys(wanted))
        if not roles:
            raise Denied(Reason.NOT_ENTITLED, "no role matches this identity")
        return roles

    async def _verify_evidence(
        self,
        sealed: Sequence[SealedEvidence],
        key: InstanceKey,
        nonce: bytes,
        identity: WorkloadIdentity,
        now: float,
    ) -> tuple[Evidence, ...]:
        if not sealed:
            raise Denied(Reason.EVIDENCE_REJECTED, "no evidence")
        if len(sealed) > 4:
            raise InvalidRequest("more than four evidence items", reason=Reason.TOO_LARGE)
        found = []
        for item in sealed:
            evidence = await self._evidence.verify(item, key, nonce, now)
            conflict = binding_conflict(identity, evidence.process)
            if conflict:
                raise Denied(Reason.EVIDENCE_REJECTED, f"evidence and identity name another {conflict}")
            found.append(evidence)
        return tuple(found)

    def _refuse_banned(self, case: Case) -> None:
        if self._feed.denials.banned(bearer_keys(case), case.now) is not None:
            raise Denied(Reason.BANNED, "this identity, key or place is banned until an operator lifts it")

    async def _conclude(self, case: Case, order: AttestOrder, nonce_ends: float) -> AttestAnswer:
        appraisals = await self._appraise(case, previous=None)
        denials = self._feed.denials
        attestation_id = self._entropy.identifier("A", case.now)
        results = tuple(result_of(name, appraisal) for name, appraisal in appraisals.items())
        verdicts, decisions = self._judge(
            case,
            appraisals,
            DecisionKind.ATTEST,
            "" if order.dry_run else attestation_id,
            dry_run=order.dry_run,
        )
        granted = any(verdict.granted for verdict in verdicts)
        attestation = Attestation(
            id=attestation_id,
            identity=case.identity,
            key=case.key,
            assurance=case.assurance,
            process=case.process,
            results=results,
            code_set=case.code.digest,
            state=AttestationState.ALIVE,
            created_at=case.now,
            refreshed_at=case.now,
            expires_at=self._expiry(case, appraisals),
            as_of=case.as_of,
            decision_id=verdicts[0].decision_id,
            unmeasured=unmeasured_names(case.evidence),
        )
        failing = failing_hints(appraisals.values())
        keep = granted and not order.dry_run

        async def work(tx: Transaction) -> str:
            if not await tx.replays.claim("nonce", order.nonce, nonce_ends):
                return "replayed"
            banned = await loaded_banned(tx, denials.wide_bans(case.now), case.code)
            await tx.code.put(case.code)
            if failing:
                await tx.code.put_hints(failing)
            if banned:
                for decision in decisions:
                    await tx.decisions.add(replace(decision, verdict=Reason.BANNED, effect=Effect.REFUSED))
                return "banned"
            if keep:
                await tx.attestations.add(attestation)
            for decision in decisions:
                await tx.decisions.add(decision)
            return "kept"

        outcome = await self._state.transact(work)
        first = verdicts[0]
        if outcome == "replayed":
            raise Denied(Reason.CHALLENGE_REJECTED, "the nonce was used before")
        for decision in decisions:
            self._audit.record(decision)
        if outcome == "banned":
            raise Denied(Reason.BANNED, "it has loaded code that is banned", decision_id=first.decision_id)
        if not granted and not order.dry_run:
            raise Denied(
                first.reason, refusal_text(first), decision_id=first.decision_id, count=first.findings
            )
        if keep:
            await self._fence(attestation, case)
        return self._answer(case, attestation if keep else None, verdicts, attestation.expires_at)

    async def _renew_result(
        self, case: Case, previous: Attestation, nonce: bytes, nonce_ends: float
    ) -> AttestAnswer:
        appraisals = await self._appraise(case, previous=previous)
        denials = self._feed.denials
        verdicts, decisions = self._judge(case, appraisals, DecisionKind.REATTEST, previous.id)
        worse = fell_in_enforce(case.roles, verdicts, previous)
        refreshed = replace(
            previous,
            identity=case.identity,
            assurance=case.assurance,
            process=case.process,
            results=tuple(result_of(name, appraisal) for name, appraisal in appraisals.items()),
            code_set=case.code.digest,
            refreshed_at=case.now,
            expires_at=self._expiry(case, appraisals),
            as_of=case.as_of,
            unmeasured=unmeasured_names(case.evidence),
        )
        failing = failing_hints(appraisals.values())
        if worse is not None:
            await self._revoke_fallen(case, previous, worse, decisions, nonce, nonce_ends, failing)

        async def work(tx: Transaction) -> str:
            if not await tx.replays.claim("nonce", nonce, nonce_ends):
                return "replayed"
            await tx.code.put(case.code)
            if failing:
                await tx.code.put_hints(failing)
            for decision in decisions:
                await tx.decisions.add(decision)
            if await loaded_banned(tx, denials.wide_bans(case.now), case.code):
                return "banned"
            return "kept" if await tx.attestations.refresh(refreshed) else "ended"

        outcome = await self._state.transact(work)
        first = verdicts[0]
        if outcome == "replayed":
            raise Denied(Reason.CHALLENGE_REJECTED, "the nonce was used before")
        for decision in decisions:
            self._audit.record(decision)
        if outcome == "banned":
            raise Denied(Reason.BANNED, "it has loaded code that is banned", decision_id=first.decision_id)
        if outcome == "ended":
            raise Denied(Reason.REVOKED, "the attestation ended meanwhile", decision_id=first.decision_id)
        await self._fence(refreshed, case)
        return self._answer(case, refreshed, verdicts, refreshed.expires_at)

    async def _revoke_fallen(
        self,
        case: Case,
        previous: Attestation,
        worse: RoleVerdict,
        decisions: Sequence[Decision],
        nonce: bytes,
        nonce_ends: float,
        failing: Sequence[UnitHint],
    ) -> None:
        revocation_id = self._entropy.identifier("V", case.now)
        own = next(decision for decision in decisions if decision.id == worse.decision_id)
        decision = replace(own, effect=Effect.REVOKED, revocation_id=revocation_id, instances=(previous.id,))

        async def first(tx: Transaction) -> bool:
            if not await tx.replays.claim("nonce", nonce, nonce_ends):
                return False
            await tx.code.put(case.code)
            await tx.code.put_hints(failing)
            return True

        denied = await self._ledger.deny(
            Denial(
                id=revocation_id,
                targets=instance_targets(previous, case.roles),
                attestations=(previous.id,),
                wide=False,
                actor="broker:reattest",
                reason="its own evidence shows code that is not approved",
                decision=decision,
                at=case.now,
                reported_at=case.now,
            ),
            first=first,
        )
        if denied is None:
            raise Denied(Reason.CHALLENGE_REJECTED, "the nonce was used before")
        raise Denied(Reason.REVOKED, refusal_text(worse), decision_id=decision.id, count=worse.findings)

    async def _living(self, attestation_id: str, proof: ProofUse, now: float) -> tuple[Attestation, CodeSet]:
        async def work(tx: Transaction) -> tuple[Attestation | None, CodeSet | None]:
            found = await tx.attestations.get(attestation_id)
            return found, await tx.code.get(found.code_set) if found is not None else None

        attestation, code = await self._state.read(work)
        if attestation is None or code is None or attestation.key.thumbprint != proof.thumbprint:
            raise NotFound("no such attestation of this key")
        if attestation.state is AttestationState.REVOKED:
            raise Denied(Reason.REVOKED, "the attestation was revoked", decision_id=attestation.decision_id)
        if attestation.state is not AttestationState.ALIVE or attestation.expires_at <= now:
            raise Denied(
                Reason.ATTESTATION_EXPIRED, "the attestation has ended: attest anew", decision_id="-"
            )
        return attestation, code

    async def _appraise(self, case: Case, previous: Attestation | None) -> Mapping[str, Appraisal]:
        """One appraisal per application of the case's roles, in name order.

        A running instance may go on under the manifest that admitted it when
        that was retired, and for a window when it expired.
        """
        denials = self._feed.denials
        found: dict[str, Appraisal] = {}
        for application in sorted({name for role in case.roles for name in role.manifests}):
            alternatives = list(await self._manifests.alternatives(application, case.now))
            if previous is not None:
                kept = await self._kept(previous, application, case.now)
                if kept is not None and all(kept.digests[0] != item.digests[0] for item in alternatives):
                    alternatives.append(kept)
            usable = [item for item in alternatives if not manifest_banned(denials, item, case.now)]
            found[application] = best_appraisal(case.evidence, case.code, usable)
        return found

    async def _kept(self, previous: Attestation, application: str, now: float) -> ReferenceValues | None:
        for result in previous.results:
            if result.application == application and result.manifests:
                reference = await self._manifests.by_digests(result.manifests)
                if reference is not None and now < reference.manifest.not_after + self._limits.renewal_window:
                    return reference
        return None

    def _judge(
        self,
        case: Case,
        appraisals: Mapping[str, Appraisal],
        kind: DecisionKind,
        attestation_id: str,
        *,
        dry_run: bool = False,
    ) -> tuple[tuple[RoleVerdict, ...], tuple[Decision, ...]]:
        """Verdict per role, the worst refusal first; one decision each."""
        verdicts: list[tuple[RoleVerdict, Decision]] = []
        for role in case.roles:
            application = min(
                role.manifests, key=lambda name: (appraisals[name].status, len(appraisals[name].findings))
            )
            appraisal = appraisals[application]
            reason = verdict_of(role, case, appraisal)
            passes = reason is Reason.OK
            tolerated = role.mode is Mode.OBSERVE and reason in (Reason.APPRAISAL_FAILED, Reason.NO_MANIFEST)
            granted = passes or tolerated
            effect = Effect.GRANTED if passes else Effect.NONE if tolerated or dry_run else Effect.REFUSED
            decision = Decision(
                id=self._entropy.identifier("D", case.now),
                kind=kind,
                at=case.now,
                verdict=reason,
                effect=Effect.NONE if dry_run else effect,
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
            verdicts.append((verdict, decision))
        verdicts.sort(key=lambda pair: (pair[0].granted, pair[0].reason is Reason.OK, pair[0].role))
        return tuple(verdict for verdict, _ in verdicts), tuple(decision for _, decision in verdicts)

    def _expiry(self, case: Case, appraisals: Mapping[str, Appraisal]) -> float:
        ends = [case.now + self._limits.lifetime, case.identity.not_after]
        ends.extend(
            appraisal.reference.manifest.not_after + self._limits.renewal_window
            for appraisal in appraisals.values()
            if appraisal.reference is not None and appraisal.status is Status.AFFIRMING
        )
        return min(ends)

    async def _fence(self, attestation: Attestation, case: Case) -> None:
        """After the commit: whatever was revoked since `as_of` counts, or a grant could slip past a deny."""
        seq = await self._feed.catch_up()
        if seq == case.as_of and not self._feed.denials.anticipating:
            return
        denials = self._feed.denials
        keys = tuple(attestation_keys(attestation))
        hit = denials.cut(keys, case.as_of) is not None or denials.banned(keys, case.now) is not None

        async def work(tx: Transaction) -> bool:
            found = hit or await loaded_banned(tx, denials.wide_after(case.as_of), case.code)
            if found:
                await tx.attestations.end([attestation.id], AttestationState.REVOKED)
            return found

        if await self._state.transact(work, urgent=True):
            raise Denied(Reason.REVOKED, "revoked while it attested", decision_id=attestation.decision_id)

    def _answer(
        self,
        case: Case,
        attestation: Attestation | None,
        verdicts: tuple[RoleVerdict, ...],
        expires_at: float,
    ) -> AttestAnswer:
        granted = {verdict.role for verdict in verdicts if verdict.granted}
        silences = [role.silence for role in case.roles if role.name in granted]
        return AttestAnswer(
            attestation=attestation,
            decision_id=verdicts[0].decision_id,
            status=max(verdict.status for verdict in verdicts),
            assurance=case.assurance,
            expires_at=expires_at,
            roles=verdicts,
            silence=min(silences, key=lambda silence: silence.grace, default=Silence()),
            as_of=case.as_of,
            now=case.now,
        )

    async def _record_refusal(
        self,
        error: LockstepError,
        nonce: bytes,
        nonce_ends: float,
        identity: WorkloadIdentity | None,
        kind: DecisionKind,
        now: float,
        attestation_id: str = "",
    ) -> None:
        """A refused attempt spends its nonce; a denial is a decision with an id."""
        decision = None
        if isinstance(error, Denied):
            decision = Decision(
                id=self._entropy.identifier("D", now),
                kind=kind,
                at=now,
                verdict=error.reason,
                effect=Effect.REFUSED,
                identity=identity.name if identity else "",
                attestation_id=attestation_id,
                detail=error.message,
            )

        async def work(tx: Transaction) -> None:
            await tx.replays.claim("nonce", nonce, nonce_ends)
            if decision is not None:
                await tx.decisions.add(decision)

        await self._state.transact(work)
        if decision is not None:
            error.decision_id = decision.id
            self._audit.record(decision)

    def _or_limit(self, error: LockstepError, identity: WorkloadIdentity | None, now: float) -> LockstepError:
        """The error, or a limit where this identity is refused too often."""
        if isinstance(error, Denied) and identity is not None:
            wait = self._rates.allow("refused", identity.name, now)
            if wait > 0:
                return LimitExceeded("refused too often: wait", retry_after=wait)
        return error
