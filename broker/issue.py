"""Issue: a short-lived credential for an attested workload; renew it, give it back, say whether it is good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from broker.errors import Conflict, Denied, InvalidRequest, LockstepError, NotFound, Unavailable
from broker.ledger import wide_hit
from broker.model.appraisal import Status
from broker.model.attestation import Attestation, AttestationState
from broker.model.caller import OperatorCaller, ProofUse, WorkloadCaller
from broker.model.credential import Grant, Issued, Lease, LeaseState
from broker.model.decision import Decision, DecisionKind, Effect
from broker.model.identity import WorkloadIdentity
from broker.model.requests import Introspection, IssueAnswer
from broker.model.revocation import DenySet, attestation_keys, lease_keys
from broker.model.role import Mode, Role
from broker.ports import (
    AuditLog,
    Clock,
    CredentialBackend,
    Entropy,
    RevocationFeed,
    RoleSource,
    StateStore,
    Transaction,
)
from lockstep.formats import Reason

MAX_REQUEST_ID = 64


@dataclass(frozen=True, slots=True)
class IssueLimits:
    """`pending` is how many seconds a backend may take before an unsettled lease is taken back;
    `leases` bounds the live leases of one attestation."""

    pending: float = 60.0
    leases: int = 100


@dataclass(frozen=True, slots=True)
class _Opened:
    """A lease that is durable, and what the backend needs."""

    lease: Lease
    grant: Grant
    attestation: Attestation
    decision: Decision


@dataclass(frozen=True, slots=True)
class _Refused:
    """A refusal, as data: a transaction that raises would lose its decision row."""

    reason: Reason
    message: str
    count: int = 0
    decision: Decision | None = None


class Issuer:
    """The Relying Party: grants on attestation results, never on its own look at code.

    Raises `Denied`, `NotFound`, `InvalidRequest`, `Conflict` (a proof used
    twice), `Unavailable` (backend or state; worth a retry).
    """

    def __init__(
        self,
        *,
        clock: Clock,
        entropy: Entropy,
        roles: RoleSource,
        backends: Mapping[str, CredentialBackend],
        state: StateStore,
        feed: RevocationFeed,
        audit: AuditLog,
        limits: IssueLimits,
    ) -> None:
        self._clock = clock
        self._entropy = entropy
        self._roles = roles
        self._backends = backends
        self._state = state
        self._feed = feed
        self._audit = audit
        self._limits = limits

    async def issue(self, caller: WorkloadCaller, role: str, request_id: str) -> IssueAnswer:
        """A lease and its secret.

        1. transaction: proof claimed, attestation alive, role entitled, nothing banned → lease
        2. backend, with no transaction open
        3. transaction: ACTIVE, unless it was revoked meanwhile: then taken back at once
        4. the fence: what was revoked since step 1 counts
        """
        if not request_id or len(request_id) > MAX_REQUEST_ID or not request_id.isprintable():
            raise InvalidRequest(f"request_id: 1 to {MAX_REQUEST_ID} printable characters")
        now = self._clock.now()
        book = self._roles.current()
        wanted = book.roles.get(role)
        as_of = self._feed.denials.seq
        backend = self._backends.get(wanted.backend) if wanted is not None else None

        async def open_lease(tx: Transaction) -> _Opened | _Refused:
            attestation = await self._claimed(tx, caller)
            if isinstance(attestation, _Refused):
                return attestation
            if wanted is None or backend is None:
                return await self._refuse(
                    tx, attestation, role, DecisionKind.ISSUE, Reason.NOT_ENTITLED, "no such role", now
                )
            problem = await self._objection(tx, attestation, wanted, now)
            if problem is not None:
                return await self._refuse(
                    tx,
                    attestation,
                    role,
                    DecisionKind.ISSUE,
                    problem.reason,
                    problem.message,
                    now,
                    problem.count,
                )
            if await tx.leases.unsettled([attestation.id]) >= self._limits.leases:
                return _Refused(Reason.RATE_LIMITED, "too many live leases of this attestation")
            earlier = await tx.leases.by_request(attestation.id, request_id)
            if earlier is not None and earlier.state in (LeaseState.PENDING, LeaseState.ACTIVE):
                # The first answer was lost: nobody can use it, so it must not stay.
                retired = replace(earlier, state=LeaseState.REVOKING, next_attempt_at=now)
                await tx.leases.replace(retired, earlier.state)
            opened = self._open(attestation, wanted, backend, request_id, as_of, now)
            await tx.leases.open(opened.lease)
            await tx.decisions.add(opened.decision)
            return opened

        opened = self._unwrap(await self._state.transact(open_lease))
        assert backend is not None  # noqa: S101 - open_lease refuses without one
        self._audit.record(opened.decision)
        issued = await self._make(backend, opened)
        lease = await self._settle(backend, opened, issued, now)
        await self._fence(backend, lease, opened, as_of)
        return IssueAnswer(lease, issued.credential, issued.parameters, now)

    async def renew(self, caller: WorkloadCaller, lease_id: str) -> IssueAnswer:
        """Extend a lease; the attestation must have brought fresh evidence since the last grant."""
        now = self._clock.now()
        book = self._roles.current()
        as_of = self._feed.denials.seq

        async def extend(tx: Transaction) -> tuple[_Opened, CredentialBackend] | _Refused:
            attestation = await self._claimed(tx, caller)
            if isinstance(attestation, _Refused):
                return attestation
            lease = await tx.leases.get(lease_id)
            if lease is None or lease.attestation_id != attestation.id:
                return _Refused(Reason.NOT_FOUND, "no such lease of this attestation")
            role = book.roles.get(lease.role)
            backend = self._backends.get(lease.backend)
            if role is None or backend is None:
                return _Refused(Reason.NOT_ENTITLED, "the role is gone")
            problem = await self._objection(tx, attestation, role, now)
            if problem is None:
                problem = _lease_objection(lease, attestation, self._feed.denials, now)
            if problem is not None:
                return await self._refuse(
                    tx,
                    attestation,
                    role.name,
                    DecisionKind.RENEW,
                    problem.reason,
                    problem.message,
                    now,
                    problem.count,
                )
            ttl = self._ttl(attestation, role, now, lease.max_expires_at)
            decision = self._decision(attestation, role, DecisionKind.RENEW, Reason.OK, Effect.GRANTED, now)
            extended = replace(
                lease,
                role_version=role.version,
                mode=role.mode,
                decision_id=decision.id,
                assurance=attestation.assurance,
                issued_at=now,
                expires_at=now + ttl,
                as_of=as_of,
            )
            if not await tx.leases.replace(extended, LeaseState.ACTIVE):
                return _Refused(Reason.LEASE_ENDED, "the lease has ended")
            await tx.decisions.add(decision)
            return _Opened(extended, _grant(extended, attestation, role, ttl), attestation, decision), backend

        result = await self._state.transact(extend)
        if isinstance(result, _Refused):
            raise self._error(result)
        opened, backend = result
        self._audit.record(opened.decision)
        issued = await backend.renew(opened.grant)
        await self._fence(backend, opened.lease, opened, as_of)
        lease = opened.lease
        if issued is not None and issued.expires_at < lease.expires_at:
            lease = replace(lease, expires_at=issued.expires_at)
            await self._write(lease)
        parameters = issued.parameters if issued is not None else {}
        return IssueAnswer(lease, issued.credential if issued is not None else None, parameters, now)

    async def give_back(self, caller: WorkloadCaller | OperatorCaller, lease_id: str) -> Lease:
        """End a lease early. Idempotent."""
        now = self._clock.now()

        async def work(tx: Transaction) -> Lease | _Refused:
            if isinstance(caller, WorkloadCaller):
                attestation = await self._claimed(tx, caller)
                if isinstance(attestation, _Refused):
                    return attestation
            lease = await tx.leases.get(lease_id)
            if lease is None or (
                isinstance(caller, WorkloadCaller) and lease.attestation_id != caller.attestation_id
            ):
                return _Refused(Reason.NOT_FOUND, "no such lease of this attestation")
            return await _begin_end(tx, lease, now)

        return self._unwrap_lease(await self._state.transact(work))

    async def leases(
        self,
        caller: WorkloadCaller | OperatorCaller,
        states: Sequence[LeaseState],
        limit: int,
        after: str,
        attestation_id: str,
    ) -> Sequence[Lease]:
        """Leases in id order after an id: a workload sees its attestation's, an operator all."""
        only = caller.attestation_id if isinstance(caller, WorkloadCaller) else attestation_id
        bounded = max(1, min(limit, 1000))
        return await self._state.read(lambda tx: tx.leases.page(states, bounded, after, only))

    async def introspect(self, token_id: str, audiences: frozenset[str] | None) -> Introspection:
        """RFC 7662: whether a token (by its `jti`) is good now, for somebody who serves `audiences` (None: any)."""
        now = self._clock.now()
        denials = self._feed.denials

        async def work(tx: Transaction) -> Introspection:
            lease = await tx.leases.by_handle(token_id)
            if lease is None or (audiences is not None and lease.audience not in audiences):
                return Introspection(active=False)
            attestation = await tx.attestations.get(lease.attestation_id)
            if attestation is None or not _good(lease, attestation, denials, now):
                return Introspection(active=False)
            if await wide_hit(tx, denials.wide_after(lease.as_of), attestation):
                return Introspection(active=False)
            return Introspection(active=True, lease=lease, attestation=attestation)

        return await self._state.read(work)

    async def revoke_token(self, token_id: str, actor: str, identity: WorkloadIdentity) -> None:
        """RFC 7009: the holder gives a token back. A token that is unknown or another's is no error."""
        now = self._clock.now()

        async def work(tx: Transaction) -> None:
            lease = await tx.leases.by_handle(token_id)
            if lease is not None and lease.identity == identity.name:
                await _begin_end(tx, replace(lease, detail=f"given back by {actor}"[:200]), now)

        await self._state.transact(work, urgent=True)

    # --- steps ------------------------------------------------------------------------------------

    async def _claimed(self, tx: Transaction, caller: WorkloadCaller) -> Attestation | _Refused:
        """The caller's attestation, its proof claimed in the same transaction."""
        proof: ProofUse = caller.proof
        if not await tx.replays.claim("proof", proof.replay_key, proof.expires_at):
            return _Refused(Reason.CONFLICT, "the proof was used before")
        attestation = await tx.attestations.get(caller.attestation_id)
        if attestation is None or attestation.key.thumbprint != proof.thumbprint:
            return _Refused(Reason.NOT_FOUND, "no such attestation of this key")
        return attestation

    async def _objection(
        self, tx: Transaction, attestation: Attestation, role: Role, now: float
    ) -> _Refused | None:
        """Why the role may not be granted to this attestation now; None where it may."""
        if attestation.state is AttestationState.REVOKED:
            return _Refused(Reason.REVOKED, "the attestation was revoked")
        if attestation.state is not AttestationState.ALIVE or attestation.expires_at <= now:
            return _Refused(Reason.ATTESTATION_EXPIRED, "the attestation has ended: attest anew")
        if not role.identity.accepts(attestation.identity):
            return _Refused(Reason.NOT_ENTITLED, f"role {role.name!r} does not match this identity")
        if role.ttl_at(attestation.assurance) is None:
            return _Refused(Reason.ASSURANCE_TOO_LOW, f"role {role.name!r} needs stronger evidence")
        result = attestation.result_for(role.manifests)
        if result is None:
            return _Refused(Reason.STALE_EVIDENCE, "the code was not appraised for this role: reattest")
        if role.mode is Mode.ENFORCE and result.status is not Status.AFFIRMING:
            reason = Reason.APPRAISAL_FAILED if result.manifests else Reason.NO_MANIFEST
            return _Refused(reason, f"{result.findings} units are not approved", result.findings)
        denials = self._feed.denials
        keys = tuple(attestation_keys(attestation))
        if denials.cut(keys, attestation.as_of) is not None:
            return _Refused(Reason.REVOKED, "the attestation was revoked")
        if denials.banned(keys, now) is not None:
            return _Refused(Reason.BANNED, "banned until an operator lifts it")
        if await wide_hit(tx, denials.wide_after(attestation.as_of), attestation):
            return _Refused(Reason.REVOKED, "it has loaded code that was revoked")
        return None

    def _ttl(self, attestation: Attestation, role: Role, now: float, ceiling: float) -> float:
        ttl = role.ttl_at(attestation.assurance) or 0.0
        ends = min(now + ttl, attestation.expires_at, attestation.identity.not_after, ceiling)
        return max(0.0, ends - now)

    def _open(
        self,
        attestation: Attestation,
        role: Role,
        backend: CredentialBackend,
        request_id: str,
        as_of: int,
        now: float,
    ) -> _Opened:
        ceiling = now + role.max_life
        ttl = self._ttl(attestation, role, now, ceiling)
        decision = self._decision(attestation, role, DecisionKind.ISSUE, Reason.OK, Effect.GRANTED, now)
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
            handle=self._entropy.identifier("T", now),
            revocability=backend.revocability,
            possession_required=role.possession_required,
            issued_at=now,
            expires_at=now + ttl,
            max_expires_at=ceiling,
            as_of=as_of,
            next_attempt_at=now + self._limits.pending,
        )
        return _Opened(lease, _grant(lease, attestation, role, ttl), attestation, decision)

    def _decision(
        self,
        attestation: Attestation,
        role: Role,
        kind: DecisionKind,
        verdict: Reason,
        effect: Effect,
        now: float,
    ) -> Decision:
        result = attestation.result_for(role.manifests)
        observed = result is not None and result.status is not Status.AFFIRMING and verdict is Reason.OK
        return Decision(
            id=self._entropy.identifier("D", now),
            kind=kind,
            at=now,
            # The verdict on the code stays visible where the role only observes.
            verdict=Reason.APPRAISAL_FAILED if observed else verdict,
            effect=effect,
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

    async def _refuse(
        self,
        tx: Transaction,
        attestation: Attestation,
        role: str,
        kind: DecisionKind,
        reason: Reason,
        message: str,
        now: float,
        count: int = 0,
    ) -> _Refused:
        decision = Decision(
            id=self._entropy.identifier("D", now),
            kind=kind,
            at=now,
            verdict=reason,
            effect=Effect.REFUSED,
            identity=attestation.identity.name,
            attestation_id=attestation.id,
            role=role[:128],
            code_set=attestation.code_set,
            findings_total=count,
            detail=message,
        )
        await tx.decisions.add(decision)
        return _Refused(reason, message, count, decision)

    async def _make(self, backend: CredentialBackend, opened: _Opened) -> Issued:
        try:
            return await backend.issue(opened.grant)
        except LockstepError as error:
            error.decision_id = error.decision_id or opened.decision.id
            await self._abandon(opened.lease, error.reason)
            raise

    async def _settle(self, backend: CredentialBackend, opened: _Opened, issued: Issued, now: float) -> Lease:
        lease = opened.lease
        ends = min(lease.expires_at, issued.expires_at)
        if not backend.outside:
            return replace(lease, expires_at=ends)
        settled = replace(
            lease, state=LeaseState.ACTIVE, handle=issued.handle, expires_at=ends, next_attempt_at=0.0
        )
        denials = self._feed.denials

        async def activate(tx: Transaction) -> bool:
            attestation = await tx.attestations.get(lease.attestation_id)
            alive = attestation is not None and attestation.state is AttestationState.ALIVE
            hit = denials.cut(lease_keys(settled, opened.attestation), lease.as_of) is not None
            if alive and not hit and await tx.leases.replace(settled, LeaseState.PENDING):
                return True
            # Keep the handle: whoever cleans must be able to find the secret.
            current = await tx.leases.get(lease.id)
            if current is not None and current.state.live:
                ended = replace(settled, state=LeaseState.REVOKING, next_attempt_at=now)
                await tx.leases.replace(ended, current.state)
            return False

        if await self._state.transact(activate):
            return settled
        await backend.revoke(settled)
        raise Denied(Reason.REVOKED, "revoked while it was issued", decision_id=opened.decision.id)

    async def _fence(self, backend: CredentialBackend, lease: Lease, opened: _Opened, as_of: int) -> None:
        """After the commit the head is read once more: what moved it is evaluated before the answer."""
        seq = await self._feed.catch_up()
        denials = self._feed.denials
        if seq == as_of and not denials.anticipating:
            return
        hit = denials.cut(lease_keys(lease, opened.attestation), as_of) is not None

        async def work(tx: Transaction) -> bool:
            found = hit or await wide_hit(tx, denials.wide_after(as_of), opened.attestation)
            if not found:
                current = await tx.attestations.get(lease.attestation_id)
                found = current is None or current.state is AttestationState.REVOKED
            if found:
                current_lease = await tx.leases.get(lease.id)
                if current_lease is not None:
                    await _begin_end(tx, current_lease, self._clock.now())
            return found

        if await self._state.transact(work, urgent=True):
            if backend.outside:
                await backend.revoke(lease)
            raise Denied(Reason.REVOKED, "revoked while it was issued", decision_id=opened.decision.id)

    async def _abandon(self, lease: Lease, reason: Reason) -> None:
        """The backend failed: it may have made the secret all the same, so the lease is cleaned, not forgotten."""
        now = self._clock.now()

        async def work(tx: Transaction) -> None:
            current = await tx.leases.get(lease.id)
            if current is not None and current.state.live:
                ended = replace(
                    current, state=LeaseState.REVOKING, next_attempt_at=now, detail=f"backend: {reason}"
                )
                await tx.leases.replace(ended, current.state)

        await self._state.transact(work, urgent=True)

    async def _write(self, lease: Lease) -> None:
        await self._state.transact(lambda tx: tx.leases.replace(lease, LeaseState.ACTIVE))

    def _unwrap(self, result: _Opened | _Refused) -> _Opened:
        if isinstance(result, _Refused):
            raise self._error(result)
        return result

    def _unwrap_lease(self, result: Lease | _Refused) -> Lease:
        if isinstance(result, _Refused):
            raise self._error(result)
        return result

    def _error(self, refused: _Refused) -> LockstepError:
        if refused.decision is not None:
            self._audit.record(refused.decision)
            return Denied(
                refused.reason, refused.message, decision_id=refused.decision.id, count=refused.count
            )
        if refused.reason is Reason.NOT_FOUND:
            return NotFound(refused.message)
        if refused.reason is Reason.CONFLICT:
            return Conflict(refused.message, reason=Reason.PROOF_REJECTED)
        if refused.reason is Reason.STATE_UNAVAILABLE:
            return Unavailable(refused.reason, refused.message)
        return Denied(refused.reason, refused.message, count=refused.count)


def _grant(lease: Lease, attestation: Attestation, role: Role, ttl: float) -> Grant:
    place = attestation.place
    result = attestation.result_for(role.manifests)
    return Grant(
        lease=lease,
        subject=attestation.identity.subject,
        parameters=role.parameters,
        ttl=ttl,
        key_thumbprint=attestation.key.thumbprint,
        manifests=result.manifests if result and result.status is Status.AFFIRMING else (),
        node=place.node,
        pod_uid=place.pod_uid,
        container_id=place.container_id,
    )


def _good(lease: Lease, attestation: Attestation, denials: DenySet, now: float) -> bool:
    return (
        lease.state is LeaseState.ACTIVE
        and now < lease.expires_at
        and attestation.state is not AttestationState.REVOKED
        and denials.cut(lease_keys(lease, attestation), lease.as_of) is None
    )


def _lease_objection(lease: Lease, attestation: Attestation, denials: DenySet, now: float) -> _Refused | None:
    if lease.state is not LeaseState.ACTIVE or lease.expires_at <= now:
        return _Refused(Reason.LEASE_ENDED, "the lease has ended: issue anew")
    if denials.cut(lease_keys(lease, attestation), lease.as_of) is not None:
        return _Refused(Reason.REVOKED, "the lease was revoked")
    if attestation.refreshed_at <= lease.issued_at:
        return _Refused(Reason.STALE_EVIDENCE, "no evidence, no renewal: reattest first")
    if lease.max_expires_at <= now:
        return _Refused(Reason.LEASE_ENDED, "the lease has reached its longest life: issue anew")
    return None


async def _begin_end(tx: Transaction, lease: Lease, now: float) -> Lease:
    if lease.state not in (LeaseState.PENDING, LeaseState.ACTIVE):
        return lease
    ended = replace(lease, state=LeaseState.REVOKING, next_attempt_at=now)
    await tx.leases.replace(ended, lease.state)
    return ended
