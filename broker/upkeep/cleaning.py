"""Clean: take credentials back at their backends, look whether they are gone, and never forget one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from broker.errors import LockstepError, Unavailable
from broker.model.credential import Confirmation, Confirmed, Lease, LeaseState
from broker.ports import Clock, CredentialBackend, StateStore, Transaction
from broker.upkeep.cutting import Cutting
from broker.upkeep.faults import OnFault, fault
from broker.upkeep.limits import BATCH, STUCK_AFTER, UpkeepLimits
from broker.upkeep.sweeping import Sweeping

ABREAST: Final = 16
"""Leases of one backend that are cleaned at once."""


class Cleaning:
    """Works through the leases that are due, each backend by itself."""

    def __init__(
        self,
        clock: Clock,
        backends: Mapping[str, CredentialBackend],
        state: StateStore,
        cutting: Cutting,
        sweeping: Sweeping,
        on_stuck: Callable[[Lease], None],
        on_fault: OnFault,
        limits: UpkeepLimits,
    ) -> None:
        self._clock = clock
        self._backends = backends
        self._state = state
        self._cutting = cutting
        self._sweeping = sweeping
        self._on_stuck = on_stuck
        self._on_fault = on_fault
        self._limits = limits
        self._under_way: set[str] = set()

    async def tick(self, now: float) -> int:
        """One batch; how many were due, beside those that another round works on. Raises `Unavailable` where the
        state is."""
        limit = BATCH + len(self._under_way)
        found = await self._state.read(lambda tx: tx.leases.due(now, limit))
        due = [lease for lease in found if lease.id not in self._under_way][:BATCH]
        ids = {lease.id for lease in due}
        self._under_way |= ids
        queues: dict[str, list[Lease]] = {}
        for lease in due:
            queues.setdefault(lease.backend, []).append(lease)
        turns = [self._turn(queue, now) for queue in queues.values()]
        try:
            failed = [one for one in await asyncio.gather(*turns, return_exceptions=True) if one is not None]
        finally:
            self._under_way -= ids
        if failed:
            raise failed[0]
        return len(due)

    async def _turn(self, queue: Sequence[Lease], now: float) -> None:
        """The leases of one backend; one that answers nobody is left until the next round."""
        for start in range(0, len(queue), ABREAST):
            some = queue[start : start + ABREAST]
            results = await asyncio.gather(
                *(self._clean(lease, now) for lease in some), return_exceptions=True
            )
            for result in results:
                if isinstance(result, BaseException):
                    raise result
            if not any(results):
                return

    async def _clean(self, lease: Lease, now: float) -> bool:
        """False where the backend did not answer."""
        try:
            return await self._take_back(lease, now)
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this lease's
            # Were it to end the loop, the same row would be due again at the next start, and end that one.
            self._on_fault(f"lease {lease.id}", error)
            await self._again(lease, now, fault(error))
            return True

    async def _take_back(self, lease: Lease, now: float) -> bool:
        backend = self._backends.get(lease.backend)
        if backend is None:
            await self._again(lease, now, f"backend {lease.backend!r} is not configured")
            return True
        expired = lease.state is LeaseState.ACTIVE
        if lease.account_id and not expired:
            # Nothing is cleaned while the instance could make more of it.
            await self._cutting.at(lease.backend, lease.attestation_id)
        unanswered = backend.outside and not lease.handle
        again_at = await self._may_come_until(backend, lease, now) if unanswered else None
        try:
            async with asyncio.timeout(self._limits.pending):
                if not expired or backend.outside:
                    await backend.revoke(lease)
                if unanswered and again_at is None:
                    # Its answer was lost: whatever it left has no row, and is not gone before it was looked for.
                    again_at = await self._sweeping.lost(lease.backend, lease.issued_at)
                confirmed = await backend.confirm(lease, now) if again_at is None else None
        except (LockstepError, TimeoutError) as error:
            why = f"{error.reason}: {error.message}" if isinstance(error, LockstepError) else "no answer"
            await self._again(lease, now, why)
            return False
        if confirmed is None or again_at is not None:
            await self._later(lease, now, again_at or 0.0)
            return True
        if confirmed.result is Confirmation.ALIVE:
            await self._again(lease, now, "still alive")
            return True
        state = LeaseState.EXPIRED if expired else LeaseState.REVOKED
        await self._replace(
            lease,
            replace(
                lease,
                state=state,
                # What nobody can take back says until when it lives, whatever the lease was to be.
                expires_at=max(lease.expires_at, confirmed.until),
                ended_at=self._clock.now(),
                detail=_found(confirmed),
                next_attempt_at=0.0,
            ),
        )
        return True

    async def _may_come_until(self, backend: CredentialBackend, lease: Lease, now: float) -> float | None:
        """A request in flight survives every kill: without a handle nothing is gone before it is answered. Until
        when it may be (seconds, UTC); None where no answer is on its way any more."""
        ends = lease.issued_at + self._limits.pending
        if now >= ends:
            return None
        keeper = backend.accounts
        if keeper is None or not lease.account_id:
            return ends
        account = await self._state.read(lambda tx: tx.accounts.get(lease.account_id))
        sent_here = account is not None and account.replica == keeper.replica
        return None if sent_here and keeper.quiet(lease.attestation_id) else ends

    async def _later(self, lease: Lease, now: float, until: float) -> None:
        wait = min(self._limits.backoff_most, max(until - now, self._limits.backoff))
        waiting = replace(lease, state=LeaseState.REVOKING, next_attempt_at=now + wait)
        await self._replace(lease, waiting)

    async def _again(self, lease: Lease, now: float, why: str) -> None:
        """Try later; after several tries it is STUCK, which is an alarm, and still tried."""
        attempts = lease.attempts + 1
        wait = min(self._limits.backoff * 2 ** min(attempts - 1, 16), self._limits.backoff_most)
        stuck = attempts >= STUCK_AFTER
        later = replace(
            lease,
            state=LeaseState.STUCK if stuck else LeaseState.REVOKING,
            attempts=attempts,
            next_attempt_at=now + wait,
            detail=why[:200],
        )
        if await self._replace(lease, later) and stuck and lease.state is not LeaseState.STUCK:
            self._on_stuck(later)

    async def _replace(self, seen: Lease, new: Lease) -> bool:
        """False where the row has moved since it was read: its handle may have become known."""

        async def work(tx: Transaction) -> bool:
            current = await tx.leases.get(seen.id)
            if current is None or (current.state, current.handle) != (seen.state, seen.handle):
                return False
            if seen.state is LeaseState.ACTIVE and current.expires_at != seen.expires_at:
                return False  # renewed meanwhile
            return await tx.leases.replace(new, seen.state)

        return await self._state.transact(work)


def _found(confirmed: Confirmed) -> str:
    return f"{confirmed.result}: {confirmed.method}"
