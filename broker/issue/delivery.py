"""Between a durable lease and the caller's hands: the backend, and whatever was revoked meanwhile.

A credential that cannot be handed over does not stay: not when the backend
fails, not when the state does, not when somebody revoked in between.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from broker.errors import Denied, LockstepError, Unavailable
from broker.issue.accounts import Openings, ended_as
from broker.issue.granting import Granted, IssueLimits, begin_end
from broker.ledger import Ledger, Undecided, refuse_undecided, wide_hit
from broker.model.attestation import AttestationState
from broker.model.credential import Grant, Issued, Lease, LeaseState
from broker.model.decision import Decision, Effect
from broker.model.revocation import lease_keys
from broker.ports import (
    AuditLog,
    Clock,
    CredentialBackend,
    Entropy,
    RevocationFeed,
    StateStore,
    Transaction,
)
from lockstep.formats import Reason


class Delivery:
    """Makes, activates, fences; takes back what may not be delivered."""

    def __init__(
        self,
        clock: Clock,
        entropy: Entropy,
        state: StateStore,
        feed: RevocationFeed,
        ledger: Ledger,
        audit: AuditLog,
        limits: IssueLimits,
    ) -> None:
        self._clock = clock
        self._entropy = entropy
        self._state = state
        self._feed = feed
        self._ledger = ledger
        self._audit = audit
        self._limits = limits
        self._openings = Openings(clock, state, limits)

    async def make(self, backend: CredentialBackend, granted: Granted) -> Issued:
        """The secret. A backend that fails may have made it all the same: the lease is cleaned, not forgotten."""
        try:
            if not backend.outside:  # then it waits for nobody
                return await backend.issue(granted.grant)
            async with asyncio.timeout(self._limits.pending):
                return await backend.issue(await self._on_account(backend, granted.grant))
        except (LockstepError, TimeoutError) as failure:
            error = _of_backend(failure, granted)
            await self._end(granted.lease, f"backend: {error.reason}", nothing_made=error.without_effect)
            raise error from None

    async def activate(self, backend: CredentialBackend, granted: Granted, issued: Issued) -> Lease:
        """PENDING → ACTIVE, unless it was revoked meanwhile: then it is taken back at once."""
        ends = min(granted.lease.expires_at, issued.expires_at)
        if not backend.outside:
            return replace(granted.lease, expires_at=ends)
        lease = replace(
            granted.lease,
            state=LeaseState.ACTIVE,
            handle=issued.handle,
            expires_at=ends,
            next_attempt_at=0.0,
        )
        denials = self._feed.denials

        async def work(tx: Transaction) -> Decision | None:
            attestation = await tx.attestations.get(lease.attestation_id)
            reason = ended_as(attestation)
            # What is not durable yet is left to the fence.
            if denials.cut(lease_keys(lease, granted.attestation), lease.as_of) is not None:
                reason = Reason.REVOKED
            if reason is None and await tx.leases.replace(lease, LeaseState.PENDING):
                return None
            await self._hand_to_upkeep(tx, lease)
            # A row that is not PENDING any more: the request came again, or the backend took longer than it may.
            refusal = self._refusal(granted, reason or Reason.BACKEND_UNAVAILABLE)
            await tx.decisions.add(refusal)
            return refusal

        try:
            refusal = await self._state.transact(work)
        except LockstepError:
            # Its row does not know the handle yet, and only the handle finds it for sure.
            await self._at_backend(backend, lease)
            raise
        if refusal is not None:
            self._audit.record(refusal)
            await self._at_backend(backend, lease)
            raise _told(refusal)
        return lease

    async def fence(self, backend: CredentialBackend, lease: Lease, granted: Granted, as_of: int) -> None:
        """After the commit the head is read once more: what moved it is evaluated before the answer.

        Raises `Denied` (revoked, banned), `Unavailable`; the credential is taken back.
        """
        try:
            reason = await self._ledger.once_decided(lambda: self._objection(lease, granted, as_of))
        except LockstepError:
            # What is not delivered does not stay; what was delivered before was good until now.
            if granted.before is None:
                await self._end(lease, "not delivered")
                await self._at_backend(backend, lease)
            else:
                await self._undo(granted, expires_at=lease.expires_at)
            raise
        if reason is None:
            return
        refusal = self._refusal(granted, reason)
        if granted.before is not None and reason is Reason.BANNED:
            # A ban refuses what is new and kills nothing.
            await self._undo(granted, expires_at=granted.before.expires_at, refusal=refusal)
        else:
            await self._end(lease, refusal.detail, refusal)
            await self._at_backend(backend, lease)
        raise _told(refusal)

    async def renewed(self, backend: CredentialBackend, granted: Granted) -> Issued:
        """The backend's part of a renewal. Where it fails, the lease counts as not renewed.

        Raises `Denied` (lease_ended) where the backend cannot renew, `Unavailable`.
        """
        try:
            async with asyncio.timeout(self._limits.pending):
                issued = await backend.renew(granted.grant)
        except (LockstepError, TimeoutError) as failure:
            # It may have been extended there: only the evidence is not used up.
            await self._undo(granted, expires_at=granted.lease.expires_at)
            raise _of_backend(failure, granted) from None
        if issued is None:
            if granted.before is not None:
                await self._undo(granted, expires_at=granted.before.expires_at)
            raise Denied(
                Reason.LEASE_ENDED,
                "the backend does not renew it: issue anew",
                decision_id=granted.decision.id,
            )
        return issued

    # --- steps ------------------------------------------------------------------------------------

    async def _on_account(self, backend: CredentialBackend, grant: Grant) -> Grant:
        if backend.accounts is None or grant.account is None:
            return grant
        try:
            account = await self._openings.opened(backend.accounts, grant.account, grant.ttl)
        except LockstepError as failure:
            # What was to hang on the account was not asked for; the account has a row of its own.
            failure.without_effect = True
            raise
        return replace(grant, account=account)

    async def _objection(self, lease: Lease, granted: Granted, as_of: int) -> Reason | None:
        seq = await self._feed.fence()
        denials = self._feed.denials
        if seq == as_of and not denials.anticipating:
            return None
        now = self._clock.now()
        keys = tuple(lease_keys(lease, granted.attestation))
        if denials.cut(keys, as_of) is not None:
            return Reason.REVOKED
        if denials.banned(keys, now) is not None:
            return Reason.BANNED

        async def work(tx: Transaction) -> bool:
            if await wide_hit(tx, denials.wide_after(as_of), granted.attestation):
                return True
            current = await tx.attestations.get(lease.attestation_id)
            if current is None or current.state is AttestationState.REVOKED:
                return True
            if await wide_hit(tx, denials.early.wide_cuts(), granted.attestation):
                raise Undecided
            return False

        if await self._state.read(work):
            return Reason.REVOKED
        refuse_undecided(denials.early, keys, now)
        return None

    async def _end(
        self, lease: Lease, why: str, refusal: Decision | None = None, *, nothing_made: bool = False
    ) -> None:
        now = self._clock.now()

        async def work(tx: Transaction) -> None:
            current = await tx.leases.get(lease.id)
            if current is not None:
                ending = await begin_end(tx, current, now, why)
                if nothing_made and ending.state is LeaseState.REVOKING and not ending.handle:
                    over = replace(ending, state=LeaseState.REVOKED, ended_at=now, next_attempt_at=0.0)
                    await tx.leases.replace(over, ending.state)
            if refusal is not None:
                await tx.decisions.add(refusal)

        try:
            await self._state.transact(work, urgent=True)
        except LockstepError:
            return  # a row that stays PENDING is due by itself; one that is ACTIVE ends
        if refusal is not None:
            self._audit.record(refusal)

    async def _at_backend(self, backend: CredentialBackend, lease: Lease) -> None:
        """At once, where it can be; `Upkeep` does it again, and confirms."""
        if not backend.outside:
            return
        try:
            async with asyncio.timeout(self._limits.pending):
                await backend.revoke(lease)
        except (LockstepError, TimeoutError):
            return

    async def _hand_to_upkeep(self, tx: Transaction, lease: Lease) -> None:
        """Whoever cleans must find the secret: the row learns its handle, or a new row stands for it."""
        ended = replace(lease, state=LeaseState.REVOKING, next_attempt_at=self._clock.now())
        current = await tx.leases.get(lease.id)
        if current is not None and current.state.live:
            await tx.leases.replace(ended, current.state)
        else:
            # The answer came after its row had been settled without it, and an end is an end.
            late = self._entropy.identifier("L", self._clock.now())
            detail = f"late answer for {lease.id}"
            await tx.leases.open(replace(ended, id=late, request_id="", detail=detail))

    async def _undo(self, granted: Granted, *, expires_at: float, refusal: Decision | None = None) -> None:
        before = granted.before
        if before is None:
            return
        undone = replace(granted.lease, issued_at=before.issued_at, expires_at=expires_at)

        async def work(tx: Transaction) -> None:
            await tx.leases.replace(undone, LeaseState.ACTIVE)
            if refusal is not None:
                await tx.decisions.add(refusal)

        try:
            await self._state.transact(work)
        except LockstepError:
            return  # then the next renewal asks for new evidence first
        if refusal is not None:
            self._audit.record(refusal)

    def _refusal(self, granted: Granted, reason: Reason) -> Decision:
        """The decision that takes the place of the one that granted."""
        now = self._clock.now()
        return replace(
            granted.decision,
            id=self._entropy.identifier("D", now),
            at=now,
            verdict=reason,
            effect=Effect.REFUSED,
            detail=f"{reason} while it was issued",
        )


def _told(refusal: Decision) -> LockstepError:
    if refusal.verdict is Reason.BACKEND_UNAVAILABLE:
        return Unavailable(
            refusal.verdict, "it took too long, or was asked for again", decision_id=refusal.id
        )
    return Denied(refusal.verdict, refusal.detail, decision_id=refusal.id)


def _of_backend(failure: LockstepError | TimeoutError, granted: Granted) -> LockstepError:
    if isinstance(failure, TimeoutError):
        return Unavailable(
            Reason.BACKEND_UNAVAILABLE, "the backend does not answer", decision_id=granted.decision.id
        )
    failure.decision_id = failure.decision_id or granted.decision.id
    return failure
