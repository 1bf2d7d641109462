"""Between a durable lease and its credential: the account at the backend that the credential is to hang on."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from broker.errors import Denied, LockstepError, Unavailable
from broker.issue.granting import IssueLimits
from broker.model.account import Account, AccountState
from broker.model.attestation import Attestation, AttestationState
from broker.ports import AccountKeeper, Clock, StateStore, Transaction
from lockstep.formats import Reason


def ended_as(attestation: Attestation | None) -> Reason | None:
    """What its holder hears of an attestation that does not live: revoked only where somebody revoked it."""
    if attestation is None or attestation.state is AttestationState.REVOKED:
        return Reason.REVOKED
    return None if attestation.state is AttestationState.ALIVE else Reason.ATTESTATION_EXPIRED


class Openings:
    """Opens an account once, however many credentials wait for it.

    Its row is durable before the backend hears of it, and knows the accessor
    before the first credential hangs on it: at every moment a row leads to
    whatever may exist.
    """

    def __init__(self, clock: Clock, state: StateStore, limits: IssueLimits) -> None:
        self._clock = clock
        self._state = state
        self._limits = limits
        self._under_way: dict[str, asyncio.Task[Account]] = {}

    async def opened(self, keeper: AccountKeeper, account: Account, ttl: float) -> Account:
        """The account, OPEN and with its accessor. Raises `Unavailable`, `Denied` (revoked meanwhile)."""
        if account.state is AccountState.OPEN:
            return account
        task = self._under_way.get(account.id)
        if task is None:
            # Others wait for it too: it goes on when the caller that began it goes away.
            task = asyncio.create_task(self._open(keeper, account, ttl), name="open account")
            self._under_way[account.id] = task
            task.add_done_callback(lambda done: self._through(account.id, done))
        return await asyncio.shield(task)

    def _through(self, account_id: str, task: asyncio.Task[Account]) -> None:
        self._under_way.pop(account_id, None)
        if not task.cancelled():
            task.exception()  # whoever waited was told; nobody may be left

    async def _open(self, keeper: AccountKeeper, account: Account, ttl: float) -> Account:
        try:
            async with asyncio.timeout(self._limits.pending):
                accessor = await keeper.open(account, ttl)
        except (LockstepError, TimeoutError) as failure:
            # It may be there all the same.
            await self._begin_closing(account)
            if isinstance(failure, TimeoutError):
                raise Unavailable(Reason.BACKEND_UNAVAILABLE, "the backend does not answer") from None
            raise
        known = replace(account, accessor=accessor)
        try:
            opened = await self._state.transact(lambda tx: self._settle(tx, known))
        except LockstepError:
            # Its row does not know the accessor, and only that finds it for sure.
            await self._at_backend(keeper, known)
            raise
        if isinstance(opened, Reason):
            await self._at_backend(keeper, known)
            raise Denied(opened, f"{opened} while it was issued")
        return opened

    async def _settle(self, tx: Transaction, known: Account) -> Account | Reason:
        """OPENING → OPEN; why not, where the attestation has ended: then the closing row learns the accessor."""
        reason = ended_as(await tx.attestations.get(known.attestation_id))
        if reason is None:
            opened = replace(known, state=AccountState.OPEN)
            if await tx.accounts.replace(opened, AccountState.OPENING):
                return opened
        current = await tx.accounts.get(known.id)
        if current is not None:
            await tx.accounts.replace(self._closing(replace(current, accessor=known.accessor)), current.state)
        return reason or Reason.ATTESTATION_EXPIRED

    async def _begin_closing(self, account: Account) -> None:
        closing = self._closing(account)
        try:
            await self._state.transact(lambda tx: tx.accounts.replace(closing, AccountState.OPENING))
        except LockstepError:
            return  # it stays OPENING, and closes with its attestation

    def _closing(self, account: Account) -> Account:
        now = self._clock.now()
        return replace(account, state=AccountState.CLOSING, closing_at=now, next_attempt_at=now)

    async def _at_backend(self, keeper: AccountKeeper, account: Account) -> None:
        """At once, where it can be; `Upkeep` does it again, and confirms."""
        try:
            async with asyncio.timeout(self._limits.pending):
                await keeper.close(account)
        except (LockstepError, TimeoutError):
            return
