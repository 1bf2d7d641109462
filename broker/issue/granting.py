"""From a caller's wish to a durable lease, or to a durable refusal: all in the caller's one transaction."""

from __future__ import annotations

from dataclasses import dataclass, replace

from broker.issue.returning import Cut, checked_offline, cut, usable
from broker.issue.rules import Refused, grant_of, lifetime, objection, renewal_objection
from broker.model.account import Account, AccountState
from broker.model.appraisal import Status
from broker.model.attestation import Attestation
from broker.model.caller import WorkloadCaller
from broker.model.credential import Grant, Lease, LeaseState
from broker.model.decision import Decision, DecisionKind, Effect
from broker.model.role import Role
from broker.ports import CredentialBackend, Entropy, RevocationFeed, Transaction
from lockstep.formats import Reason


@dataclass(frozen=True, slots=True)
class IssueLimits:
    """`pending` is how many seconds a backend may take before an unsettled lease is taken back;
    `leases` bounds the live leases of one attestation."""

    pending: float = 60.0
    leases: int = 100


@dataclass(frozen=True, slots=True)
class Granted:
    """A lease that is durable, and what the backend needs; `before` is the lease that a renewal extends,
    `cut` what was written of the earlier lease of a request that came again.

    Where the backend keeps accounts, the grant names the one that the credential
    hangs on; it may still have to be opened.
    """

    lease: Lease
    grant: Grant
    attestation: Attestation
    decision: Decision
    before: Lease | None = None
    cut: Cut | None = None


async def claimed(tx: Transaction, caller: WorkloadCaller) -> Attestation | Refused:
    """The caller's attestation, its proof claimed in the same transaction."""
    proof = caller.proof
    if not await tx.replays.claim("proof", proof.replay_key, proof.expires_at):
        return Refused(Reason.PROOF_REJECTED, "the proof was used before")
    attestation = await tx.attestations.get(caller.attestation_id)
    if attestation is None or attestation.key.thumbprint != proof.thumbprint:
        return Refused(Reason.NOT_FOUND, "no such attestation of this key")
    return attestation


async def begin_end(tx: Transaction, lease: Lease, now: float, detail: str = "") -> Lease:
    """PENDING and ACTIVE become REVOKING; what has gone further stays as it is."""
    if not usable(lease):
        return lease
    ended = replace(
        lease, state=LeaseState.REVOKING, next_attempt_at=now, detail=(detail or lease.detail)[:200]
    )
    await tx.leases.replace(ended, lease.state)
    return ended


class Granting:
    """Opens and extends leases."""

    def __init__(self, entropy: Entropy, feed: RevocationFeed, limits: IssueLimits) -> None:
        self._entropy = entropy
        self._feed = feed
        self._limits = limits

    async def open(
        self,
        tx: Transaction,
        attestation: Attestation,
        role: Role,
        backend: CredentialBackend,
        request_id: str,
        as_of: int,
        now: float,
    ) -> Granted | Refused:
        """A new lease; the earlier one of the same request ends in the same transaction."""
        problem = await objection(tx, self._feed.denials, attestation, role, now)
        if problem is not None:
            return await self.refuse(tx, attestation, role.name, DecisionKind.ISSUE, problem, now)
        earlier = await tx.leases.by_request(attestation.id, request_id)
        lost = None
        if earlier is not None and usable(earlier):
            # The first answer was lost: nobody can use it, so it must not stay.
            lost = await self._lose(tx, earlier, backend if earlier.backend == role.backend else None, now)
        if await tx.leases.unsettled([attestation.id]) >= self._limits.leases:
            return Refused(Reason.RATE_LIMITED, "too many live leases of this attestation", cut=lost)
        ceiling = now + role.max_life
        ttl = lifetime(attestation, role, now, ceiling)
        decision = self._grant_decision(attestation, role, DecisionKind.ISSUE, now)
        account = await self._account(tx, attestation, role, backend, now)
        lease = Lease(
            id=self._entropy.identifier("L", now),
            attestation_id=attestation.id,
            role=role.name,
            role_version=role.version,
            backend=role.backend,
            # Without an outside effect there is nothing to recover: ACTIVE is
            # written, committed, and only then is the token signed.
            state=LeaseState.PENDING if backend.outside else LeaseState.ACTIVE,
            mode=role.mode,
            decision_id=decision.id,
            request_id=request_id,
            identity=attestation.identity.name,
            audience=str(role.parameters.get("audience", "")),
            assurance=attestation.assurance,
            # An outside backend says what it made; until then nobody knows.
            handle="" if backend.outside else self._entropy.identifier("T", now),
            revocability=backend.revocability_of(role.parameters),
            possession_required=role.possession_required,
            issued_at=now,
            expires_at=now + ttl,
            max_expires_at=ceiling,
            as_of=as_of,
            next_attempt_at=now + self._limits.pending,
            account_id="" if account is None else account.id,
            cutter=str(role.parameters.get("cutter", "")),
        )
        await tx.leases.open(lease)
        await tx.decisions.add(decision)
        grant = grant_of(lease, attestation, role, ttl, account)
        return Granted(lease, grant, attestation, decision, cut=lost)

    async def _lose(
        self, tx: Transaction, earlier: Lease, backend: CredentialBackend | None, now: float
    ) -> Cut | None:
        why = "asked for again"
        await begin_end(tx, earlier, now, why)
        if not checked_offline(earlier, backend):
            return None
        return await cut(tx, earlier, self._entropy, now, actor=earlier.identity, reason=why, aloud=False)

    async def _account(
        self, tx: Transaction, attestation: Attestation, role: Role, backend: CredentialBackend, now: float
    ) -> Account | None:
        """The account of this process to hang a credential on: the one that it holds or opens, else a new row."""
        keeper = backend.accounts
        if keeper is None:
            return None
        for account in reversed(await tx.accounts.of_attestation(attestation.id)):
            if (account.backend, account.replica) != (role.backend, keeper.replica):
                continue
            opening = account.state is AccountState.OPENING
            if opening or (account.state is AccountState.OPEN and keeper.holds(account)):
                return account
        account = Account(
            id=self._entropy.identifier("P", now),
            attestation_id=attestation.id,
            backend=role.backend,
            replica=keeper.replica,
            state=AccountState.OPENING,
            opened_at=now,
        )
        await tx.accounts.add(account)
        return account

    async def extend(
        self, tx: Transaction, attestation: Attestation, role: Role, lease: Lease, as_of: int, now: float
    ) -> Granted | Refused:
        """More time for a lease."""
        denials = self._feed.denials
        problem = await objection(tx, denials, attestation, role, now)
        problem = problem or renewal_objection(lease, attestation, role, denials, now)
        if problem is not None:
            return await self.refuse(tx, attestation, role.name, DecisionKind.RENEW, problem, now)
        account = await tx.accounts.get(lease.account_id) if lease.account_id else None
        if lease.account_id and (account is None or account.state is not AccountState.OPEN):
            gone = Refused(Reason.LEASE_ENDED, "what the lease hung on has ended: issue anew")
            return await self.refuse(tx, attestation, role.name, DecisionKind.RENEW, gone, now)
        ttl = lifetime(attestation, role, now, lease.max_expires_at)
        decision = self._grant_decision(attestation, role, DecisionKind.RENEW, now)
        extended = replace(
            lease,
            role_version=role.version,
            mode=role.mode,
            decision_id=decision.id,
            audience=str(role.parameters.get("audience", "")),
            assurance=attestation.assurance,
            possession_required=role.possession_required,
            issued_at=now,
            expires_at=now + ttl,
            as_of=as_of,
        )
        if not await tx.leases.replace(extended, LeaseState.ACTIVE):
            return Refused(Reason.LEASE_ENDED, "the lease has ended: issue anew")
        await tx.decisions.add(decision)
        return Granted(
            extended, grant_of(extended, attestation, role, ttl, account), attestation, decision, lease
        )

    async def refuse(
        self,
        tx: Transaction,
        attestation: Attestation,
        role: str,
        kind: DecisionKind,
        problem: Refused,
        now: float,
    ) -> Refused:
        """Store a refusal as a decision."""
        decision = Decision(
            id=self._entropy.identifier("D", now),
            kind=kind,
            at=now,
            verdict=problem.reason,
            effect=Effect.REFUSED,
            identity=attestation.identity.name,
            attestation_id=attestation.id,
            role=role[:128],
            code_set=attestation.code_set,
            findings_total=problem.count,
            detail=problem.message,
        )
        await tx.decisions.add(decision)
        return replace(problem, decision=decision)

    def _grant_decision(
        self, attestation: Attestation, role: Role, kind: DecisionKind, now: float
    ) -> Decision:
        result = attestation.result_for(role.manifests)
        observed = result is not None and result.status is not Status.AFFIRMING
        return Decision(
            id=self._entropy.identifier("D", now),
            kind=kind,
            at=now,
            # The verdict on the code stays visible where the role only observes.
            verdict=Reason.APPRAISAL_FAILED if observed else Reason.OK,
            effect=Effect.GRANTED,
            mode=role.mode,
            identity=attestation.identity.name,
            attestation_id=attestation.id,
            role=role.name,
            role_version=role.version,
            application=result.application if result else "",
            manifests=result.manifests if result else (),
            code_set=attestation.code_set,
            findings_total=result.findings if result else 0,
        )
