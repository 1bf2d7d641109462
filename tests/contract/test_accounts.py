"""Vault's accounts, on a real OpenBao and a real PostgreSQL, and the fake ones keep to the contract of accounts."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from broker.ports import AccountKeeper
from tests.contract.account_suite import AccountSuite, Granting
from tests.contract.backend_suite import grant_at
from tests.fakes.accounts import FakeVault
from tests.support.vault_plug import Plug, grant

if TYPE_CHECKING:
    from broker.model.account import Account
    from broker.model.credential import Grant
    from tests.support.postgres import Login
    from tests.support.vault_ground import Ground


@pytest.mark.integration
class TestVaultAccounts(AccountSuite):
    @pytest.fixture
    def now(self) -> float:
        return time.time()

    @pytest.fixture
    def path(self, ground: Ground, database: Login) -> str:
        return ground.database(database)

    @pytest.fixture
    async def plugs(self, ground: Ground) -> AsyncIterator[list[Plug]]:
        made: list[Plug] = []
        yield made
        for plug in made:
            await plug.close()

    @pytest.fixture
    def backend(self, ground: Ground, plugs: list[Plug], path: str) -> Plug:
        plugs.append(Plug(ground.options(), "R-1"))
        plugs[0].watch([path])
        return plugs[0]

    @pytest.fixture
    def another(self, ground: Ground, plugs: list[Plug]) -> Callable[[], AccountKeeper]:
        def start() -> AccountKeeper:
            plugs.append(Plug(ground.options(), "R-2"))
            return plugs[-1].accounts

        return start

    @pytest.fixture
    def granting(self, backend: Plug, path: str) -> Granting:
        def made(account: Account, lease_id: str) -> Grant:
            return grant(backend, account, path, id=lease_id)

        return made


class TestFakeAccounts(AccountSuite):
    @pytest.fixture
    def now(self) -> float:
        return 1_800_000_000.0

    @pytest.fixture
    def backend(self) -> FakeVault:
        return FakeVault()

    @pytest.fixture
    def another(self, backend: FakeVault) -> Callable[[], AccountKeeper]:
        def start() -> AccountKeeper:
            backend.restarted()
            return backend.accounts

        return start

    @pytest.fixture
    def granting(self, backend: FakeVault, now: float) -> Granting:
        def made(account: Account, lease_id: str) -> Grant:
            changes: dict[str, Any] = {"attestation_id": account.attestation_id, "account_id": account.id}
            return replace(grant_at(now, id=lease_id, handle="", **changes), account=account)

        return made
