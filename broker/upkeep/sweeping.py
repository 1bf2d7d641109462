"""Sweep: find at the backends what no row knows and take it back, and what they have given up on."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from broker.errors import LockstepError
from broker.model.attestation import AttestationState
from broker.model.credential import Lease, LeaseState
from broker.ports import AccountKeeper, Clock, CredentialBackend, StateStore, Transaction
from broker.upkeep.faults import OnFault
from broker.upkeep.limits import BATCH, STUCK_AFTER, UpkeepLimits

GIVEN_UP: Final = "the backend has given up taking it back: its target refuses to drop it"


@dataclass(frozen=True, slots=True)
class Swept:
    """One look at a backend: leases that no row knew were `taken` back; of what was made before `before` (seconds,
    UTC) nothing is left that no row knows."""

    taken: int
    before: float


class Sweeping:
    """At the start and now and then: leases without a row, leases that a backend has given up on, and instances
    that could still be served though they have ended."""

    def __init__(
        self,
        clock: Clock,
        backends: Mapping[str, CredentialBackend],
        state: StateStore,
        on_fault: OnFault,
        on_stuck: Callable[[Lease], None],
        on_alarm: Callable[[str], None],
        limits: UpkeepLimits,
    ) -> None:
        self._clock = clock
        self._backends = backends
        self._state = state
        self._on_fault = on_fault
        self._on_stuck = on_stuck
        self._on_alarm = on_alarm
        self._limits = limits
        self._after: dict[str, float] = {}
        self._reached: dict[str, float] = {}
        self._looking: dict[str, asyncio.Lock] = {}
        self._given_up: dict[str, frozenset[str]] = {}

    def given_up(self) -> Mapping[str, int]:
        """By backend: how many leases it had given up on when it was last swept."""
        return {name: len(found) for name, found in self._given_up.items() if name in self._backends}

    async def tick(self, now: float) -> None:
        """Sweep each backend whose turn it is. Raises `Unavailable`; its turn then comes again soon."""
        for name, backend in list(self._backends.items()):
            if backend.accounts is None or now < self._after.get(name, 0.0):
                continue
            # A backend that is down must not be asked at every round.
            self._after[name] = now + self._limits.backoff_most
            try:
                await self.backend(name)
            except LockstepError:
                raise
            except Exception as error:  # noqa: BLE001 - a backend's own; its turn comes again
                self._on_fault(f"sweep of {name}", error)
                continue
            self._after[name] = now + self._limits.sweep

    async def backend(self, name: str) -> Swept:
        """Look through one backend, and take back what no row knows. Raises what the first failed with, after all
        the others."""
        backend = self._backends.get(name)
        keeper = None if backend is None else backend.accounts
        if keeper is None:
            return Swept(0, -math.inf)
        # An answer that is still on its way is no stray: its row does not know its handle yet.
        before = self._clock.now() - self._young
        found = await self._unknown(await keeper.strays(before))
        failed: list[LockstepError] = []
        for handle in found:
            try:
                await keeper.revoke_stray(handle)
            except LockstepError as error:
                failed.append(error)
        await self._freeze_ended(keeper)
        await self._tell_given_up(name, await keeper.given_up())
        if failed:
            raise failed[0]
        self._reached[name] = max(before, self._reached.get(name, -math.inf))
        return Swept(len(found), before)

    async def lost(self, name: str, asked_at: float) -> float | None:
        """Look for what a call may have made whose answer was lost, `asked_at` seconds, UTC.

        None where it would have been found, or the backend does not list what it
        made; else when to ask again: not before the last moment in which it can
        have been made is old enough to be looked at. There is one look before
        that, as soon as it can find what was made at once. Raises `Unavailable`.
        """
        backend = self._backends.get(name)
        if backend is None or backend.accounts is None or not backend.accounts.sweeps:
            return None
        soon, latest = asked_at + self._limits.skew, asked_at + self._limits.pending + self._limits.skew
        async with self._looking.setdefault(name, asyncio.Lock()):
            reached = self._reached.get(name, -math.inf)
            # However many were lost, each look counts for all of them.
            for made_at in (soon, latest):
                if reached < made_at <= self._clock.now() - self._young:
                    reached = (await self.backend(name)).before
                elif reached < made_at:
                    return made_at + self._young
        return None

    @property
    def _young(self) -> float:
        """Seconds for which what was made may be unknown to its row."""
        return self._limits.pending + self._limits.skew

    async def _tell_given_up(self, name: str, handles: Sequence[str]) -> None:
        """Whatever has a row is STUCK from now on; what has none is an alarm as well."""
        before, self._given_up[name] = self._given_up.get(name, frozenset()), frozenset(handles)
        for handle in handles:
            lease = await self._state.transact(lambda tx, handle=handle: self._stick(tx, handle))  # type: ignore[misc]
            if lease is not None:
                self._on_stuck(lease)
        unknown = [handle for handle in await self._unknown(handles) if handle not in before]
        if unknown:
            self._on_alarm(
                f"backend {name} has given up on {len(unknown)} leases that no row knows, "
                f"{unknown[0]} first: drop their logins at the target by hand, then revoke them there"
            )

    async def _stick(self, tx: Transaction, handle: str) -> Lease | None:
        lease = await tx.leases.by_handle(handle)
        if lease is None or not lease.state.live or lease.state is LeaseState.STUCK:
            return None
        stuck = replace(
            lease,
            state=LeaseState.STUCK,
            attempts=max(lease.attempts, STUCK_AFTER),
            next_attempt_at=lease.next_attempt_at or self._clock.now(),
            detail=GIVEN_UP,
        )
        return stuck if await tx.leases.replace(stuck, lease.state) else None

    async def _unknown(self, handles: Sequence[str]) -> Sequence[str]:
        unknown: list[str] = []
        for start in range(0, len(handles), BATCH):
            some = handles[start : start + BATCH]

            async def work(tx: Transaction, some: Sequence[str] = some) -> Sequence[str]:
                missing = []
                for handle in some:
                    lease = await tx.leases.by_handle(handle) or await tx.leases.by_stem(handle)
                    if lease is None or not lease.state.live:
                        missing.append(handle)
                return missing

            unknown += await self._state.read(work)
        return unknown

    async def _freeze_ended(self, keeper: AccountKeeper) -> None:
        """Instances that a lost write, or a restored backup, has made us forget."""
        for attestation_id in await keeper.attestations():
            found = await self._state.read(
                lambda tx, wanted=attestation_id: tx.attestations.get(wanted)  # type: ignore[misc]
            )
            if found is None or found.state is not AttestationState.ALIVE:
                await keeper.freeze(attestation_id)
