"""The Relying Party: grants on attestation results, never on its own look at code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from broker.belonging import Belonging, outside
from broker.errors import InvalidRequest
from broker.issue.delivery import Delivery
from broker.issue.granting import Granted, Granting, IssueLimits, begin_end, claimed
from broker.issue.returning import Cut, checked_offline, cut, noted, usable
from broker.issue.rules import Refused, is_good
from broker.ledger import Ledger
from broker.model.caller import OperatorCaller, WorkloadCaller
from broker.model.credential import Lease, LeaseState
from broker.model.decision import DecisionKind
from broker.model.reach import EVERYTHING, Reach
from broker.model.requests import Introspection, IssueAnswer, Page
from broker.model.role import RoleBook
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
MAX_PAGE = 1000


class Issuer:
    """Issue, renew, give back, list, introspect.

    Raises `Denied`, `NotFound`, `InvalidRequest`, `Unauthenticated` (a proof used
    twice), `LimitExceeded` (live leases), `Unavailable` (backend or state;
    worth a retry).
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
        ledger: Ledger,
        audit: AuditLog,
        limits: IssueLimits,
    ) -> None:
        self._clock = clock
        self._entropy = entropy
        self._roles = roles
        self._backends = backends
        self._state = state
        self._feed = feed
        self._ledger = ledger
        self._audit = audit
        self._granting = Granting(entropy, feed, limits)
        self._delivery = Delivery(clock, entropy, state, feed, ledger, audit, limits)

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
        wanted = self._roles.current().roles.get(role)
        backend = self._backends.get(wanted.backend) if wanted is not None else None
        as_of = self._feed.denials.seq

        async def work(tx: Transaction) -> Granted | Refused:
            attestation = await claimed(tx, caller)
            if isinstance(attestation, Refused):
                return attestation
            if wanted is None or backend is None:
                unknown = Refused(Reason.NOT_ENTITLED, "no such role")
                return await self._granting.refuse(tx, attestation, role, DecisionKind.ISSUE, unknown, now)
            return await self._granting.open(tx, attestation, wanted, backend, request_id, as_of, now)

        granted = self._granted(await self._ledger.once_decided(lambda: self._state.transact(work)))
        assert backend is not None  # noqa: S101 - nothing is granted without one
        issued = await self._delivery.make(backend, granted)
        lease = await self._delivery.activate(backend, granted, issued)
        await self._delivery.fence(backend, lease, granted, as_of)
        assert wanted is not None  # noqa: S101 - nor without a role
        return IssueAnswer(lease, issued.credential, issued.parameters, now, wanted.rotate)

    async def renew(self, caller: WorkloadCaller, lease_id: str) -> IssueAnswer:
        """Extend a lease; the attestation must have brought fresh evidence since the last grant."""
        now = self._clock.now()
        book = self._roles.current()
        as_of = self._feed.denials.seq

        async def work(tx: Transaction) -> Granted | Refused:
            attestation = await claimed(tx, caller)
            if isinstance(attestation, Refused):
                return attestation
            lease = await tx.leases.get(lease_id)
            if lease is None or lease.attestation_id != attestation.id:
                return Refused(Reason.NOT_FOUND, "no such lease of this attestation")
            role = book.roles.get(lease.role)
            if role is None or lease.backend not in backends:
                gone = Refused(Reason.NOT_ENTITLED, "the role is gone")
                return await self._granting.refuse(tx, attestation, lease.role, DecisionKind.RENEW, gone, now)
            return await self._granting.extend(tx, attestation, role, lease, as_of, now)

        # A reload swaps them; what was asked of one is finished with it.
        backends = dict(self._backends)
        granted = self._granted(await self._ledger.once_decided(lambda: self._state.transact(work)))
        lease, backend = granted.lease, backends[granted.lease.backend]
        issued = await self._delivery.renewed(backend, granted)
        if issued.expires_at < lease.expires_at:
            lease = replace(lease, expires_at=issued.expires_at)
            shorter = lease
            await self._state.transact(lambda tx: tx.leases.replace(shorter, LeaseState.ACTIVE))
        # Last: what was revoked while any of this was done counts.
        await self._delivery.fence(backend, lease, granted, as_of)
        credential = issued.credential if issued.credential.token or issued.credential.fields else None
        role = book.roles.get(lease.role)
        return IssueAnswer(lease, credential, issued.parameters, now, role.rotate if role else None)

    async def give_back(self, caller: WorkloadCaller | OperatorCaller, lease_id: str) -> Lease:
        """End a lease early, in the log too: offline verifiers refuse its token. Idempotent, but that each call of
        an operator is a decision of its own."""
        now = self._clock.now()
        book = self._roles.current()

        async def work(tx: Transaction) -> tuple[Lease, Cut | None] | Refused:
            if isinstance(caller, WorkloadCaller):
                attestation = await claimed(tx, caller)
                if isinstance(attestation, Refused):
                    return attestation
            lease = await tx.leases.get(lease_id)
            if lease is None or (
                isinstance(caller, WorkloadCaller) and lease.attestation_id != caller.attestation_id
            ):
                return Refused(Reason.NOT_FOUND, "no such lease of this attestation")
            if isinstance(caller, OperatorCaller):
                objection = await _operator_objection(tx, lease, caller, book)
                if objection is not None:
                    return objection
            ended = await begin_end(tx, lease, now)
            if isinstance(caller, OperatorCaller):
                # Whoever acts on what is another's leaves a decision, whether or not anybody checks it offline.
                return ended, await _by_operator(tx, lease, caller.actor, self._entropy, now)
            if not usable(lease) or not checked_offline(lease, self._backends.get(lease.backend)):
                return ended, None
            return ended, await cut(
                tx,
                lease,
                self._entropy,
                now,
                actor=lease.identity,
                reason="given back by its holder",
                aloud=False,
            )

        result = await self._state.transact(work)
        if isinstance(result, Refused):
            raise result.error()
        ended, written = result
        self._tell(written)
        return ended

    async def leases(
        self,
        caller: WorkloadCaller | OperatorCaller,
        states: Sequence[LeaseState],
        limit: int,
        after: str,
        attestation_id: str,
    ) -> Page[Lease]:
        """Leases in id order after an id: a workload sees its attestation's, an operator those within its scope.

        A page may be shorter than `limit` and not be the last.
        """
        only = caller.attestation_id if isinstance(caller, WorkloadCaller) else attestation_id
        reach = EVERYTHING if isinstance(caller, WorkloadCaller) else caller.reach("read")
        bounded = max(1, min(limit, MAX_PAGE))
        book = self._roles.current()

        async def work(tx: Transaction) -> Page[Lease]:
            found = await tx.leases.page(states, bounded, after, only)
            belonging = Belonging(tx, book, reach)
            kept = [lease for lease in found if await belonging.sees_lease(lease)]
            return Page(tuple(kept), found[-1].id if len(found) == bounded else "")

        return await self._state.read(work)

    async def introspect(
        self, token_id: str, audiences: frozenset[str] | None, reach: Reach = EVERYTHING
    ) -> Introspection:
        """RFC 7662: whether a token (by its `jti`) is good now, for somebody who serves `audiences` (None: any), or an
        operator whose right has a `reach`."""
        now = self._clock.now()
        denials = self._feed.denials
        book = self._roles.current()

        async def work(tx: Transaction) -> Introspection:
            lease = await tx.leases.by_handle(token_id)
            if lease is None or (audiences is not None and lease.audience not in audiences):
                return Introspection(active=False)
            if not await Belonging(tx, book, reach).sees_lease(lease):
                return Introspection(active=False)
            attestation = await is_good(tx, denials, lease, now)
            if attestation is None:
                return Introspection(active=False)
            return Introspection(active=True, lease=lease, attestation=attestation)

        return await self._state.read(work)

    def _tell(self, written: Cut | None) -> None:
        if written is not None:
            self._feed.announce(written.entries)
            self._audit.record(written.decision)

    def _granted(self, result: Granted | Refused) -> Granted:
        self._tell(result.cut)
        if result.decision is not None:
            self._audit.record(result.decision)
        if isinstance(result, Refused):
            raise result.error()
        return result


async def _operator_objection(
    tx: Transaction, lease: Lease, caller: OperatorCaller, book: RoleBook
) -> Refused | None:
    """Why an operator may not end a lease by itself."""
    right = "revoke:lease"
    if not await Belonging(tx, book, caller.reach(right)).sees_lease(lease):
        return Refused(Reason.NOT_ENTITLED, outside().message)
    if caller.needs(right) > 1:
        return Refused(
            Reason.NOT_ENTITLED,
            f"{right} takes {caller.needs(right)} operators: propose it with lockstep revoke --lease {lease.id}",
        )
    return None


async def _by_operator(tx: Transaction, lease: Lease, actor: str, entropy: Entropy, now: float) -> Cut:
    """With a receipt where it ends something; else on record."""
    if usable(lease):
        return await cut(tx, lease, entropy, now, actor=actor, reason="ended by an operator", aloud=True)
    return await noted(tx, lease, entropy, now, actor=actor)
