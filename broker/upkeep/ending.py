"""End: attestations expire, and what can neither hit nor count any more is dropped from log and state."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from broker.model.attestation import AttestationState
from broker.model.credential import LeaseState
from broker.ports import RevocationFeed, StateStore, Transaction
from broker.upkeep.limits import BATCH, UpkeepLimits

_UNENDED: Final = (LeaseState.PENDING, LeaseState.ACTIVE)
PRUNE_EVERY: Final = 15.0
PRUNE_ROWS: Final = 10 * BATCH
PRUNE_ROUNDS: Final = 50
PRUNE_SETS: Final = 8
"""Code sets that one transaction drops: each may be some megabytes."""


class Ending:
    """What time alone brings about."""

    def __init__(self, state: StateStore, feed: RevocationFeed, limits: UpkeepLimits) -> None:
        self._state = state
        self._feed = feed
        self._limits = limits
        self._prune_after = 0.0
        self._forgotten: tuple[int, ...] = ()

    async def expire(self, now: float) -> bool:
        """One batch; True where more is due at once. Raises `Unavailable`."""

        async def work(tx: Transaction) -> bool:
            due = await tx.attestations.due(now, BATCH)
            begun = False
            ended = await tx.attestations.end(due, AttestationState.EXPIRED)
            await tx.accounts.begin_closing(ended, now)
            for name in ended:
                # Nothing outlives its attestation, not even what was granted when it was to live longer.
                # What ends with it has expired, and is cleaned as that. All of it: nobody comes back for the rest.
                for lease in await tx.leases.of_attestation(name):
                    if lease.state in _UNENDED and (
                        lease.state is LeaseState.PENDING or lease.expires_at > now
                    ):
                        revoking = replace(lease, state=LeaseState.REVOKING, next_attempt_at=now)
                        begun = await tx.leases.replace(revoking, lease.state) or begun
            return len(due) >= BATCH or begun

        if not await self._state.read(lambda tx: tx.attestations.due(now, 1)):
            return False
        return await self._state.transact(work)

    async def prune(self, now: float) -> None:
        """Now and then: log entries that deny nothing, nonces and proofs that are over, code sets beyond their budget.
        Raises `Unavailable`."""
        if now < self._prune_after:
            return
        ended = now - self._limits.longest_life
        # What a failing state did not drop is dropped the next time.
        self._forgotten += self._feed.denials.forget(now, ended, ended - self._limits.instance)
        if self._forgotten:
            await self._state.transact(lambda tx: tx.revocations.prune(self._forgotten))
            self._forgotten = ()
        for _ in range(PRUNE_ROUNDS):
            if await self._state.transact(lambda tx: tx.replays.prune(now, PRUNE_ROWS)) < PRUNE_ROWS:
                break
        judged, names = self._limits.judged, self._limits.names
        for _ in range(PRUNE_ROUNDS):
            if await self._state.transact(lambda tx: tx.code.prune(judged, names, PRUNE_SETS)) < PRUNE_SETS:
                break
        self._prune_after = now + PRUNE_EVERY
