"""Close: when nothing of an instance is under way any more, take its accounts back, look, and say so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from broker.errors import LockstepError
from broker.model.account import Account, AccountState
from broker.model.credential import Confirmation
from broker.model.step import Step
from broker.ports import AccountKeeper, Clock, StateStore, Transaction
from broker.upkeep.cutting import CUT, FROZEN, Cutting, Holding, missed
from broker.upkeep.faults import OnFault, fault
from broker.upkeep.limits import BATCH, STUCK_AFTER, UpkeepLimits
from broker.upkeep.sweeping import Sweeping

DRAINED: Final = "drained"
CLOSED: Final = "closed"
SWEPT: Final = "swept"
GONE: Final = "gone"
ABREAST: Final = 8
"""Instances that are closed at once."""
SOON: Final = 0.05
"""Seconds until a closing that waits for leases looks again, at first."""


class Closing:
    """Works through accounts that are to be closed, an instance at a time.

    A request in flight survives every kill: accounts go last, after every call
    for the instance was answered; where nobody can know whether one is on its
    way (another process sent it), after the longest time that one may take.
    """

    def __init__(
        self,
        clock: Clock,
        state: StateStore,
        cutting: Cutting,
        sweeping: Sweeping,
        on_stuck: Callable[[Account], None],
        on_fault: OnFault,
        limits: UpkeepLimits,
    ) -> None:
        self._clock = clock
        self._state = state
        self._cutting = cutting
        self._sweeping = sweeping
        self._on_stuck = on_stuck
        self._on_fault = on_fault
        self._limits = limits
        self._under_way: set[tuple[str, str]] = set()

    async def tick(self, now: float) -> int:
        """One batch; how many instances were due, beside those that another round works on. Raises `Unavailable`
        where the state is."""
        due = await self._state.read(lambda tx: tx.accounts.due(now, BATCH))
        all_of_them = {(account.backend, account.attestation_id) for account in due}
        instances = sorted(all_of_them - self._under_way)
        self._under_way.update(instances)
        try:
            for start in range(0, len(instances), ABREAST):
                some = instances[start : start + ABREAST]
                turns = (self._close(*instance, now) for instance in some)
                results = await asyncio.gather(*turns, return_exceptions=True)
                failed = [one for one in results if one is not None]
                if failed:
                    raise failed[0]
        finally:
            self._under_way.difference_update(instances)
        return len(instances)

    async def _close(self, backend: str, attestation_id: str, now: float) -> None:
        keeper = self._cutting.keeper(backend)
        await self._cutting.at(backend, attestation_id)
        holding = await self._cutting.holding(backend, attestation_id)
        if holding is None:
            return
        closing = [
            account
            for account in holding.accounts
            if account.state in (AccountState.CLOSING, AccountState.STUCK)
        ]
        if keeper is None:
            await self._again(closing, now, f"backend {backend!r} is not configured")
            return
        if holding.ended and any(lease.state.live for lease in holding.leases):
            await self._wait(closing, now)
            return
        sent_elsewhere = [account for account in closing if account.replica != keeper.replica]
        quiet_at = max((account.closing_at for account in sent_elsewhere), default=0.0) + keeper.longest_call
        if sent_elsewhere and now < quiet_at:
            await self._wait(closing, now, quiet_at)
            return
        if not keeper.quiet(attestation_id):
            await self._wait(closing, now)
            return
        try:
            async with asyncio.timeout(self._limits.pending):
                steps = await self._through(keeper, holding, closing, attestation_id, bool(sent_elsewhere))
        except (LockstepError, TimeoutError) as error:
            why = error.message if isinstance(error, LockstepError) else "no answer"
            await self._again(closing, now, why)
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this instance's
            self._on_fault(f"accounts of {attestation_id}", error)
            await self._again(closing, now, fault(error))
            return
        if isinstance(steps, str):
            await self._again(closing, now, steps)
            return
        await self._closed(holding, closing, steps)

    async def _through(
        self,
        keeper: AccountKeeper,
        holding: Holding,
        closing: Sequence[Account],
        attestation_id: str,
        unsure: bool,
    ) -> Sequence[Step] | str:
        """Drain, accounts, cutter, sweep, confirm; the steps, or what is not gone."""
        steps: list[Step] = []

        def did(name: str, detail: str = "") -> None:
            steps.append(Step(name, self._clock.now(), detail))

        if holding.ended and not holding.book.did(FROZEN):
            return "the backend did not freeze it"
        if holding.ended and unsure:
            # What another process had sent may have come after its freeze, and made what was not there then.
            await keeper.freeze(attestation_id)
        answered = "every call was answered, or had all the time that it may take"
        did(DRAINED, f"{keeper.longest_call:g} s have passed" if unsure else answered)
        for account in closing:
            await keeper.close(account)
        did(CLOSED, f"{len(closing)} accounts")
        if holding.ended and holding.cutters:
            cut = await self._cutting.cut(holding, attestation_id)
            if not cut:
                return "the target was not cut"
        if unsure:
            found = await self._sweeping.backend(holding.book.backend)
            did(SWEPT, f"{found.taken} leases that no row knew")
        for account in closing:
            confirmed = await keeper.confirm(account, self._clock.now())
            if confirmed.result is Confirmation.ALIVE:
                return f"still alive: {confirmed.method}"
            did(GONE, f"{confirmed.result}: {confirmed.method}")
        for name in holding.cutters if holding.ended else ():
            cutter = self._cutting.cutter(name)
            if cutter is None:
                return f"cutter {name!r} is not configured"
            remains = await cutter.confirm(attestation_id)
            if not remains.gone:
                return f"{name}: {remains.logins} logins and {remains.sessions} sessions left"
            if not missed(holding.book.steps, name):
                did(CUT, f"{name}: no login and no session in two looks")
        return steps

    async def _closed(self, holding: Holding, closing: Sequence[Account], steps: Sequence[Step]) -> None:
        now = self._clock.now()

        async def work(tx: Transaction) -> None:
            for account in closing:
                current = await tx.accounts.get(account.id)
                if current is None or current.accessor != account.accessor:
                    continue  # its accessor has just become known
                kept = (*current.steps, *steps) if account.id == holding.book.id else current.steps
                done = replace(
                    current, state=AccountState.CLOSED, closed_at=now, next_attempt_at=0.0, steps=kept
                )
                await tx.accounts.replace(done, current.state)
            if holding.book not in closing:
                book = await tx.accounts.get(holding.book.id)
                if book is not None:
                    await tx.accounts.replace(replace(book, steps=(*book.steps, *steps)), book.state)

        await self._state.transact(work)

    async def _wait(self, closing: Sequence[Account], now: float, until: float = 0.0) -> None:
        """Others are not through: look again soon, and ever later."""
        age = max(now - account.closing_at for account in closing) if closing else 0.0
        wait = min(max(SOON, age / 4), self._limits.backoff_most)
        await self._move(closing, lambda account: replace(account, next_attempt_at=max(now + wait, until)))

    async def _again(self, closing: Sequence[Account], now: float, why: str) -> None:
        """Try later; after several tries it is STUCK, which is an alarm, and still tried."""

        def later(account: Account) -> Account:
            attempts = account.attempts + 1
            wait = min(self._limits.backoff * 2 ** min(attempts - 1, 16), self._limits.backoff_most)
            return replace(
                account,
                state=AccountState.STUCK if attempts >= STUCK_AFTER else AccountState.CLOSING,
                attempts=attempts,
                next_attempt_at=now + wait,
                detail=why[:200],
            )

        for account in await self._move(closing, later):
            if account.attempts == STUCK_AFTER:
                self._on_stuck(account)

    async def _move(
        self, closing: Sequence[Account], change: Callable[[Account], Account]
    ) -> Sequence[Account]:
        async def work(tx: Transaction) -> Sequence[Account]:
            moved = []
            for account in closing:
                current = await tx.accounts.get(account.id)
                if current is None or current.state not in (AccountState.CLOSING, AccountState.STUCK):
                    continue
                new = change(current)
                await tx.accounts.replace(new, current.state)
                moved.append(new)
            return moved

        return await self._state.transact(work)
