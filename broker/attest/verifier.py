"""Challenge, attest, reattest: what both kinds of attestation ask of identity and evidence, in one order."""

from __future__ import annotations

from collections.abc import Sequence

from broker.attest.admission import Admission
from broker.attest.judge import AttestLimits, Judge
from broker.attest.nonces import Nonces
from broker.attest.outcome import Outcome, refuse_banned
from broker.attest.renewal import Renewal
from broker.errors import Denied, InvalidRequest, LimitExceeded, LockstepError, Unauthenticated
from broker.ledger import Ledger
from broker.model.attestation import Attestation
from broker.model.caller import ProofUse
from broker.model.case import binding_conflict, grown, make_case, moved, other_process
from broker.model.decision import DecisionKind
from broker.model.evidence import MAX_EVIDENCE, CodeSet, Evidence, InstanceKey, SealedEvidence
from broker.model.identity import WorkloadIdentity
from broker.model.requests import AttestAnswer, AttestOrder, ReattestOrder
from broker.model.role import Role
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
)
from lockstep.formats import Reason

MAX_RESTING = 10_000


class Verifier:
    """Challenge, attest, reattest.

    Raises `Unauthenticated` (a proof by another key), `Denied` (identity,
    evidence, appraisal, bans), `InvalidRequest`,
    `NotFound`, `Conflict`, `LimitExceeded` (an instance that is refused too
    often), `Unavailable`.
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
        self._roles = roles
        self._challenges = challenges
        self._identities = identities
        self._evidence = evidence
        self._feed = feed
        self._rates = rates
        self._nonces = Nonces(challenges, limits.challenges_pending)
        self._resting: dict[str, float] = {}
        judge = Judge(entropy=entropy, manifests=manifests, feed=feed, limits=limits)
        self._ledger = ledger
        self._outcome = Outcome(
            clock=clock, entropy=entropy, state=state, feed=feed, ledger=ledger, audit=audit
        )
        self._admission = Admission(entropy, state, feed, audit, judge, self._outcome, ledger)
        self._renewal = Renewal(entropy, state, feed, audit, judge, self._outcome, ledger)

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
        7. one transaction: nonce, code set, attestation, decisions; a large set is indexed before it, in slices
        8. the fence: what was revoked meanwhile counts
        """
        now = self._clock.now()
        key = self._evidence.parse_key(order.spki)
        if key.thumbprint != proof.thumbprint:
            raise Unauthenticated(Reason.PROOF_REJECTED, "the proof was made by another key")
        nonce = self._nonces.spend(order.nonce, key.thumbprint, now)
        identity: WorkloadIdentity | None = None
        try:
            as_of = self._feed.denials.seq
            identity = await self._identities.verify(order.identity_proof, now)
            self._refuse_resting(identity, now)
            roles = self._entitled(identity, order.roles)
            evidence = await self._verify_evidence(order.evidence, key, order.nonce, identity, now)
            if any(item.base_digest for item in evidence):
                raise Denied(Reason.EVIDENCE_REJECTED, "a first attestation carries the whole code set")
            code = _whole(evidence)
            case = make_case(identity, key, evidence, code, roles, as_of, now)
            await self._ledger.once_decided(lambda: refuse_banned(case, self._feed.denials))
            answer = await self._admission.conclude(case, nonce, dry_run=order.dry_run)
        except LockstepError as error:
            await self._outcome.refused(error, nonce, identity, DecisionKind.ATTEST, now)
            if isinstance(error, Denied) and identity is not None:
                self._count_refusal(identity, now, error)
            raise
        # What would be refused has cost as much to judge as what is.
        if order.dry_run and not any(verdict.granted for verdict in answer.roles):
            self._count_refusal(identity, now)
        return answer

    async def reattest(self, order: ReattestOrder, proof: ProofUse) -> AttestAnswer:
        """Fresh evidence for a living attestation: same key, same identity, same level or higher.

        The recorded code set only grows. Unapproved code, where a role enforces,
        revokes the instance.
        """
        now = self._clock.now()
        as_of = self._feed.denials.seq
        try:
            previous, base = await self._renewal.living(order.attestation_id, proof, now)
        except Denied as error:
            await self._refuse_ended(error, order.attestation_id, now)
            raise
        nonce = self._nonces.spend(order.nonce, previous.key.thumbprint, now)
        identity: WorkloadIdentity | None = None
        try:
            identity = await self._identities.verify(order.identity_proof, now)
            conflict = moved(previous.identity, identity)
            if conflict:
                raise Denied(Reason.IDENTITY_REJECTED, f"the proof is of another {conflict}")
            roles = self._appraised_before(self._entitled(identity, ()), previous)
            evidence = await self._verify_evidence(order.evidence, previous.key, order.nonce, identity, now)
            case = make_case(identity, previous.key, evidence, grown(base, evidence), roles, as_of, now)
            if other_process(previous.process, case.process):
                raise Denied(Reason.EVIDENCE_REJECTED, "the evidence is of another process")
            if case.assurance < previous.assurance:
                raise Denied(Reason.ASSURANCE_TOO_LOW, "evidence may not become weaker")
            return await self._renewal.conclude(case, previous, nonce)
        except LockstepError as error:
            await self._outcome.refused(
                error, nonce, identity, DecisionKind.REATTEST, now, order.attestation_id
            )
            raise

    # --- steps ------------------------------------------------------------------------------------

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

    @staticmethod
    def _appraised_before(roles: tuple[Role, ...], previous: Attestation) -> tuple[Role, ...]:
        # What it never asked for must not colour the answer about what it has.
        known = tuple(role for role in roles if previous.result_for(role.manifests) is not None)
        return known or roles

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
        if len(sealed) > MAX_EVIDENCE:
            raise InvalidRequest(f"more than {MAX_EVIDENCE} evidence items", reason=Reason.TOO_LARGE)
        found = []
        for item in sealed:
            evidence = await self._evidence.verify(item, key, nonce, now)
            conflict = binding_conflict(identity, evidence.process)
            if conflict:
                raise Denied(Reason.EVIDENCE_REJECTED, f"evidence and identity name another {conflict}")
            found.append(evidence)
        return tuple(found)

    # --- refused too often ------------------------------------------------------------------------

    def _refuse_resting(self, identity: WorkloadIdentity, now: float) -> None:
        wait = self._resting.get(_instance(identity), now) - now
        if wait > 0:
            raise LimitExceeded("refused too often: wait", retry_after=wait)

    async def _refuse_ended(self, error: Denied, attestation_id: str, now: float) -> None:
        """A decision, so many of them; whoever goes on asking only waits."""
        wait = self._rates.allow("refused", attestation_id, now)
        if wait > 0:
            raise LimitExceeded("refused too often: wait", retry_after=wait) from error
        await self._outcome.ended(error, attestation_id, now)

    def _count_refusal(
        self, identity: WorkloadIdentity, now: float, error: LockstepError | None = None
    ) -> None:
        """Who has no refusal left is not looked at until one comes back: appraising costs more than asking."""
        wait = self._rates.allow("refused", _instance(identity), now)
        if wait <= 0:
            return
        if len(self._resting) >= MAX_RESTING:
            self._resting = {name: until for name, until in self._resting.items() if until > now}
        if len(self._resting) < MAX_RESTING:
            self._resting[_instance(identity)] = now + wait
        raise LimitExceeded("refused too often: wait", retry_after=wait) from error


def _whole(evidence: Sequence[Evidence]) -> CodeSet:
    """What all items name. The digest of a single one has been held against its units already."""
    if len(evidence) == 1:
        return CodeSet(evidence[0].units, evidence[0].code_set_digest)
    return CodeSet.of(unit for item in evidence for unit in item.units)


def _instance(identity: WorkloadIdentity) -> str:
    """One instance, as exactly as the identity itself says."""
    return f"{identity.name} {identity.instance.pod_uid} {identity.instance.container_id}".rstrip()
