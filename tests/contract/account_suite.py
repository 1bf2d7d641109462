"""What every keeper of accounts keeps to; each plug's test class says how backend and grants are made."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

import pytest

from broker.errors import LockstepError
from broker.model.account import Account, AccountState
from broker.model.credential import Confirmation, Confirmed, Grant
from broker.ports import AccountKeeper, CredentialBackend

PATIENCE = 10.0
LATER = 5.0
"""Seconds: by then, what was made before has been made."""


class Granting(Protocol):
    """A grant of a credential that hangs on an account."""

    def __call__(self, account: Account, lease_id: str) -> Grant: ...


class AccountSuite:
    """Subclass, name it ``Test…``; give `backend`, `another` (the same backend after a restart of the broker),
    `granting` and `now`."""

    @pytest.fixture
    def keeper(self, backend: CredentialBackend) -> AccountKeeper:
        assert backend.accounts is not None
        return backend.accounts

    @pytest.fixture
    def account(self, keeper: AccountKeeper, now: float) -> Account:
        return Account("C-1", "A-contract", "vault", keeper.replica, AccountState.OPENING, now)

    @pytest.fixture
    async def opened(self, keeper: AccountKeeper, account: Account) -> Account:
        accessor = await keeper.open(account, 300)
        return replace(account, state=AccountState.OPEN, accessor=accessor)

    async def test_who_opened_it_holds_it_and_no_other_process(
        self, keeper: AccountKeeper, opened: Account, another: Callable[[], AccountKeeper]
    ) -> None:
        assert opened.accessor
        assert keeper.holds(opened)
        assert opened.attestation_id in await keeper.attestations()
        after = another()
        assert not after.holds(opened)
        assert after.replica != opened.replica

    async def test_nothing_is_made_through_one_that_is_frozen(
        self, backend: CredentialBackend, keeper: AccountKeeper, opened: Account, granting: Granting
    ) -> None:
        assert (await backend.issue(granting(opened, "L-1"))).credential.fields
        await keeper.freeze(opened.attestation_id)
        await keeper.freeze(opened.attestation_id)
        assert opened.attestation_id not in await keeper.attestations()
        with pytest.raises(LockstepError):
            await backend.issue(granting(opened, "L-2"))

    async def test_to_freeze_what_never_was_is_no_error(self, keeper: AccountKeeper) -> None:
        await keeper.freeze("A-never-was")

    async def test_closing_takes_what_hangs_on_it(
        self,
        backend: CredentialBackend,
        keeper: AccountKeeper,
        opened: Account,
        granting: Granting,
        now: float,
    ) -> None:
        grant = granting(opened, "L-1")
        lease = replace(grant.lease, handle=(await backend.issue(grant)).handle)
        assert (await keeper.confirm(opened, now)).result is Confirmation.ALIVE
        assert (await backend.confirm(lease, now)).result is Confirmation.ALIVE
        await keeper.close(opened)
        assert await _gone(lambda: keeper.confirm(opened, now))
        assert await _gone(lambda: backend.confirm(lease, now))
        assert not keeper.holds(opened)
        await keeper.close(opened)

    async def test_one_whose_accessor_was_never_learned_is_stopped_by_name(
        self,
        backend: CredentialBackend,
        keeper: AccountKeeper,
        opened: Account,
        granting: Granting,
        now: float,
    ) -> None:
        unknown = replace(opened, accessor="", state=AccountState.CLOSING)
        await keeper.freeze(unknown.attestation_id)
        await keeper.close(unknown)
        with pytest.raises(LockstepError):
            await backend.issue(granting(opened, "L-1"))

    async def test_a_lease_that_no_row_knows_is_found_and_taken_back(
        self,
        backend: CredentialBackend,
        keeper: AccountKeeper,
        opened: Account,
        granting: Granting,
        now: float,
    ) -> None:
        grant = granting(opened, "L-1")
        handle = (await backend.issue(grant)).handle
        assert handle not in await keeper.strays(now - 3600)
        assert handle in await keeper.strays(now + LATER)
        await keeper.revoke_stray(handle)
        assert handle not in await keeper.strays(now + LATER)
        lease = replace(grant.lease, handle=handle)
        assert await _gone(lambda: backend.confirm(lease, now))
        await keeper.revoke_stray(handle)

    async def test_it_is_quiet_where_nothing_is_under_way(
        self, backend: CredentialBackend, keeper: AccountKeeper, opened: Account, granting: Granting
    ) -> None:
        await backend.issue(granting(opened, "L-1"))
        assert keeper.quiet(opened.attestation_id)
        assert keeper.longest_call > 0


async def _gone(look: Callable[[], Awaitable[Confirmed]]) -> bool:
    """Soon: a server may take what hangs on a token after it has answered."""
    async with asyncio.timeout(PATIENCE):
        while True:
            if (await look()).result is Confirmation.GONE:
                return True
            await asyncio.sleep(0.02)
