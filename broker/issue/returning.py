"""A lease that its holder has no more use for ends in the log too: whoever checks its token offline hears of it."""

from __future__ import annotations

from dataclasses import dataclass

from broker.ledger import Denial, Target, write
from broker.model.credential import Lease, LeaseState
from broker.model.decision import Decision, DecisionKind, Effect
from broker.model.revocation import LogEntry, Selector, SelectorKind
from broker.ports import CredentialBackend, Entropy, Transaction
from lockstep.formats import Reason


@dataclass(frozen=True, slots=True)
class Cut:
    """What was written of a lease's end: to be announced and recorded once it is committed."""

    entries: tuple[LogEntry, ...]
    decision: Decision


def checked_offline(lease: Lease, backend: CredentialBackend | None) -> bool:
    """True where somebody may take its token without asking us.

    What a backend with an outside makes is refused there; only what also names
    an audience has verifiers of its own. A backend that is gone is no excuse.
    """
    return backend is None or not backend.outside or bool(lease.audience)


async def cut(
    tx: Transaction, lease: Lease, entropy: Entropy, now: float, *, actor: str, reason: str, aloud: bool
) -> Cut:
    """Cut one credential in the caller's transaction, for the verifiers of its audience; nothing else falls.

    `aloud` names the lease, so that whoever still holds it hears of it too;
    else the token alone: a holder that gave it back lost nothing.
    """
    quiet = bool(lease.handle) and not aloud
    selector = Selector(SelectorKind.TOKEN, lease.handle) if quiet else Selector(SelectorKind.LEASE, lease.id)
    decision = Decision(
        id=entropy.identifier("D", now),
        kind=DecisionKind.REVOKE,
        at=now,
        verdict=Reason.REVOKED,
        effect=Effect.REVOKED,
        identity=lease.identity,
        role=lease.role,
        revocation_id=entropy.identifier("V", now),
        actor=actor,
        detail=f"{selector}: {reason}",
    )
    denial = Denial(
        id=decision.revocation_id,
        targets=(Target(selector, cut=True, ban=False, audience=lease.audience),),
        attestations=(),
        wide=False,
        actor=actor,
        reason=reason,
        decision=decision,
        at=now,
    )
    return Cut((await write(tx, denial)).entries, decision)


async def noted(tx: Transaction, lease: Lease, entropy: Entropy, now: float, *, actor: str) -> Cut:
    """Somebody would have ended a lease that had ended, or was being taken back: on record, and nothing falls."""
    decision = Decision(
        id=entropy.identifier("D", now),
        kind=DecisionKind.REVOKE,
        at=now,
        verdict=Reason.LEASE_ENDED,
        effect=Effect.RECORDED,
        identity=lease.identity,
        role=lease.role,
        actor=actor,
        detail=f"{Selector(SelectorKind.LEASE, lease.id)}: it was {lease.state} before",
    )
    await tx.decisions.add(decision)
    return Cut((), decision)


def usable(lease: Lease) -> bool:
    """True where a credential may be out there that nobody has begun to take back."""
    return lease.state in (LeaseState.PENDING, LeaseState.ACTIVE)
