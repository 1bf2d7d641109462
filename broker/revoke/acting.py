"""Revoke by a selector: check what is asked, look what it hits, deny it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from broker.belonging import Belonging, outside
from broker.errors import InvalidRequest
from broker.ledger import Denial, Ledger, Target, holds, instance_targets
from broker.model.credential import Lease, LeaseState
from broker.model.decision import Decision, DecisionKind, Effect
from broker.model.matching import selector_problem, text_problem
from broker.model.proposal import Preview
from broker.model.requests import RevokeAnswer, RevokeOrder
from broker.model.revocation import SelectorKind
from broker.model.role import RoleBook
from broker.ports import Clock, Entropy, RevocationFeed, RoleSource, StateStore, Transaction
from broker.revoke.looking import Look, look, preview_of
from lockstep.formats import Reason


@dataclass(frozen=True, slots=True)
class Plan:
    """An order that may be carried out: its log entries, the instances that end at once, whether more is to be
    found, and what was seen of all that."""

    order: RevokeOrder
    ban: bool
    seen: Look
    preview: Preview
    targets: tuple[Target, ...]
    ended: tuple[str, ...]
    wide: bool


class Acting:
    """What revoking and confirming have in common."""

    def __init__(
        self,
        clock: Clock,
        entropy: Entropy,
        roles: RoleSource,
        state: StateStore,
        feed: RevocationFeed,
        ledger: Ledger,
    ) -> None:
        self._clock = clock
        self._entropy = entropy
        self._roles = roles
        self._state = state
        self._feed = feed
        self._ledger = ledger

    async def plan(self, order: RevokeOrder, now: float) -> Plan:
        """What would be refused is refused here, on a dry run too.

        Raises `InvalidRequest`, `NotFound`, `Denied` (outside the reach of the right), `Unavailable`.
        """
        check_texts(order.reason, order.ticket)
        problem = selector_problem(order.selector)
        if problem:
            raise InvalidRequest(f"selector {order.selector.kind}: {problem}")
        if order.until is not None and order.until <= now:
            raise InvalidRequest("until: lies in the past")
        if order.until is not None and order.ban is False:
            raise InvalidRequest("until: says how long a ban holds, and this is a cut alone")
        # Who says until when means a ban, also of what is only cut by default.
        usual = order.selector.kind.bans_by_default or order.until is not None
        ban = usual if order.ban is None else order.ban
        book = self._roles.current()

        async def work(tx: Transaction) -> tuple[Look, Preview]:
            seen = await look(tx, order.selector)
            belonging = Belonging(tx, book, order.reach)
            # Nobody's instances are within where it hits nobody: then nothing says whose it is.
            if not await belonging.owns_hits(order.selector, seen.attestations, seen.lease, ban=ban):
                raise outside()
            return seen, await preview_of(belonging, tx, seen, order, ban=ban)

        seen, preview = await self._state.read(work)
        targets, ended, wide = _targets(order, seen, book, ban)
        return Plan(order, ban, seen, preview, targets, ended, wide)

    async def deny(
        self,
        plan: Plan,
        now: float,
        *,
        revocation_id: str = "",
        note: str = "",
        first: Callable[[Transaction], Awaitable[bool]] | None = None,
    ) -> RevokeAnswer | None:
        """Durable when this returns; None where `first` called it off. `note` goes into the decision, for people."""
        order, seen = plan.order, plan.seen
        told = f"{order.selector}: {order.reason}"
        decision = Decision(
            id=self._entropy.identifier("D", now),
            kind=DecisionKind.REVOKE,
            at=now,
            verdict=Reason.REVOKED,
            effect=Effect.REVOKED,
            attestation_id=plan.ended[0] if len(plan.ended) == 1 else "",
            identity=seen.attestations[0].identity.name if len(seen.attestations) == 1 else "",
            revocation_id=revocation_id or self._entropy.identifier("V", now),
            instances=tuple(found.id for found in seen.attestations[:100]),
            actor=order.actor,
            ticket=order.ticket,
            detail=f"{told}; {note}" if note else told,
        )

        async def work(tx: Transaction) -> bool:
            if first is not None and not await first(tx):
                return False
            if seen.lease is not None:
                await _begin_end(tx, seen.lease, now)
            return True

        denied = await self._ledger.deny(
            Denial(
                id=decision.revocation_id,
                targets=plan.targets,
                attestations=plan.ended,
                wide=plan.wide,
                actor=order.actor,
                reason=order.reason,
                ticket=order.ticket,
                decision=decision,
                at=now,
            ),
            first=work,
        )
        if denied is None:
            return None
        return RevokeAnswer(
            decision.revocation_id,
            decision.id,
            denied.head,
            len(seen.attestations),
            seen.leases,
            plan.preview,
        )


async def _begin_end(tx: Transaction, lease: Lease, now: float) -> None:
    current = await tx.leases.get(lease.id)
    if current is not None and current.state in (LeaseState.PENDING, LeaseState.ACTIVE):
        ending = replace(current, state=LeaseState.REVOKING, next_attempt_at=now)
        await tx.leases.replace(ending, current.state)


def _targets(
    order: RevokeOrder, seen: Look, book: RoleBook, ban: bool
) -> tuple[tuple[Target, ...], tuple[str, ...], bool]:
    """Log entries, instances that end at once, and whether more is to be found."""
    selector = order.selector
    own = Target(selector, cut=True, ban=ban, until=order.until)
    if selector.kind in (SelectorKind.LEASE, SelectorKind.TOKEN):
        return (own,), (), False
    if selector.kind is SelectorKind.ATTESTATION:
        attestation = seen.attestations[0]
        roles = book.roles_for(attestation.identity)
        taints = instance_targets(attestation, hold=holds(roles))[1:] if ban else ()
        bounded = tuple(replace(target, until=order.until) if target.ban else target for target in taints)
        return (own, *bounded), (attestation.id,), False
    return (own,), (), True


def check_texts(reason: str, ticket: str) -> None:
    """Raises `InvalidRequest` where the words that an operator gives an act are none."""
    problem = text_problem(reason, ticket)
    if problem:
        raise InvalidRequest(problem)
