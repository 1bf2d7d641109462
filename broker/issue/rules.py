"""What a grant must hold against, and refusals as data: pure, apart from what a transaction reads."""

from __future__ import annotations

from dataclasses import dataclass

from broker.errors import Conflict, Denied, LimitExceeded, LockstepError, NotFound, Unauthenticated
from broker.issue.returning import Cut
from broker.ledger import Undecided, refuse_undecided, wide_hit
from broker.model.account import Account
from broker.model.appraisal import Status
from broker.model.attestation import Attestation, AttestationState
from broker.model.credential import Grant, Lease, LeaseState
from broker.model.decision import Decision
from broker.model.denials import DenySet
from broker.model.revocation import attestation_keys, lease_keys
from broker.model.role import Mode, Role
from broker.ports import Transaction
from lockstep.formats import Reason


@dataclass(frozen=True, slots=True)
class Refused:
    """A refusal, as data: a transaction that raises would lose its decision row, and what it `cut`."""

    reason: Reason
    message: str
    count: int = 0
    decision: Decision | None = None
    cut: Cut | None = None

    def error(self) -> LockstepError:
        """What the caller gets."""
        if self.decision is not None:
            return Denied(self.reason, self.message, decision_id=self.decision.id, count=self.count)
        if self.reason is Reason.NOT_FOUND:
            return NotFound(self.message)
        if self.reason is Reason.RATE_LIMITED:
            return LimitExceeded(self.message)
        if self.reason is Reason.PROOF_REJECTED:
            return Unauthenticated(self.reason, self.message)
        if self.reason is Reason.CONFLICT:
            return Conflict(self.message)
        return Denied(self.reason, self.message, count=self.count)


async def objection(
    tx: Transaction, denials: DenySet, attestation: Attestation, role: Role, now: float
) -> Refused | None:
    """Why a role may not be granted to an attestation now; None where it may. Raises `Undecided`."""
    if attestation.state is AttestationState.REVOKED:
        return Refused(Reason.REVOKED, "the attestation was revoked")
    if attestation.state is not AttestationState.ALIVE or attestation.expires_at <= now:
        return Refused(Reason.ATTESTATION_EXPIRED, "the attestation has ended: attest anew")
    if not role.identity.accepts(attestation.identity):
        return Refused(Reason.NOT_ENTITLED, f"role {role.name!r} does not match this identity")
    if role.ttl_at(attestation.assurance) is None:
        return Refused(Reason.ASSURANCE_TOO_LOW, f"role {role.name!r} needs stronger evidence")
    result = attestation.result_for(role.manifests)
    if result is None:
        return Refused(Reason.STALE_EVIDENCE, "the code was not appraised for this role: attest anew")
    if role.mode is Mode.ENFORCE and result.status is not Status.AFFIRMING:
        reason = Reason.APPRAISAL_FAILED if result.manifests else Reason.NO_MANIFEST
        return Refused(reason, f"{result.findings} units are not approved", result.findings)
    keys = tuple(attestation_keys(attestation))
    if denials.cut(keys, attestation.as_of) is not None:
        return Refused(Reason.REVOKED, "the attestation was revoked")
    if denials.banned(keys, now) is not None:
        return Refused(Reason.BANNED, "banned until an operator lifts it")
    if await wide_hit(tx, denials.wide_after(attestation.as_of), attestation):
        return Refused(Reason.REVOKED, "it has loaded code that was revoked")
    refuse_undecided(denials.early, keys, now)
    if await wide_hit(tx, denials.early.wide_cuts(), attestation):
        raise Undecided
    return None


def renewal_objection(
    lease: Lease, attestation: Attestation, role: Role, denials: DenySet, now: float
) -> Refused | None:
    """Why a lease may not be renewed, beside what stands against its role. Raises `Undecided`."""
    if lease.state is not LeaseState.ACTIVE or lease.expires_at <= now:
        return Refused(Reason.LEASE_ENDED, "the lease has ended: issue anew")
    if lease.backend != role.backend:
        return Refused(Reason.LEASE_ENDED, "the role has moved to another backend: issue anew")
    keys = tuple(lease_keys(lease, attestation))
    if denials.cut(keys, lease.as_of) is not None:
        return Refused(Reason.REVOKED, "the lease was revoked")
    if attestation.refreshed_at <= lease.issued_at:
        return Refused(Reason.STALE_EVIDENCE, "no evidence, no renewal: reattest first")
    if lease.max_expires_at <= now:
        return Refused(Reason.LEASE_ENDED, "the lease has reached its longest life: issue anew")
    refuse_undecided(denials.early, keys, now)
    return None


def lifetime(attestation: Attestation, role: Role, now: float, ceiling: float) -> float:
    """Seconds granted: nothing outlives the attestation, the identity's proof or the longest life."""
    ttl = role.ttl_at(attestation.assurance) or 0.0
    return max(0.0, min(now + ttl, attestation.expires_at, attestation.identity.not_after, ceiling) - now)


def grant_of(
    lease: Lease, attestation: Attestation, role: Role, ttl: float, account: Account | None = None
) -> Grant:
    """What the backend learns."""
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
        account=account,
    )


async def is_good(tx: Transaction, denials: DenySet, lease: Lease, now: float) -> Attestation | None:
    """The attestation of a lease whose credential may be relied on now; None where it may not.

    What is decided and not durable yet counts: this says no to one question, and ends nothing.
    """
    if lease.state is not LeaseState.ACTIVE or lease.expires_at <= now:
        return None
    attestation = await tx.attestations.get(lease.attestation_id)
    if (
        attestation is None
        or attestation.state is not AttestationState.ALIVE
        or attestation.expires_at <= now
    ):
        return None
    keys = tuple(lease_keys(lease, attestation))
    if denials.cut(keys, lease.as_of) is not None or denials.early.cut(keys) is not None:
        return None
    # Granted by what the attestation was held against, which may be older than the lease.
    wide = denials.wide_after(min(lease.as_of, attestation.as_of))
    if await wide_hit(tx, (*denials.early.wide_cuts(), *wide), attestation):
        return None
    return attestation
