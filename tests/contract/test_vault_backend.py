"""VaultBackend keeps to the contract of credential backends, on a real OpenBao and a real PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from broker.adapters.backends.vault.backend import VaultBackend
from broker.adapters.clock import SystemClock
from broker.model.account import Account, AccountState
from broker.model.credential import Grant
from tests.contract.backend_suite import BackendSuite, grant_at

if TYPE_CHECKING:
    from tests.support.postgres import Login
    from tests.support.vault_ground import Ground

pytestmark = pytest.mark.integration


class VaultSuite(BackendSuite):
    """Give a `parameters` fixture: a role's, for an engine that is mounted."""

    @pytest.fixture
    async def backend(self, ground: Ground) -> AsyncIterator[VaultBackend]:
        plug = VaultBackend("vault", ground.options(), SystemClock(), "R-1")
        yield plug
        await plug.close()

    @pytest.fixture
    def now(self) -> float:
        return time.time()

    @pytest.fixture
    async def grant(self, backend: VaultBackend, now: float, parameters: dict[str, Any]) -> Grant:
        account = Account("C-1", "A-1", "vault", "R-1", AccountState.OPENING, now)
        accessor = await backend.accounts.open(account, 300)
        opened = replace(account, state=AccountState.OPEN, accessor=accessor)
        base = grant_at(
            now,
            backend="vault",
            handle="",
            account_id="C-1",
            revocability=backend.revocability_of(parameters),
        )
        return replace(base, parameters=parameters, account=opened)


class TestVaultDatabase(VaultSuite):
    @pytest.fixture
    def parameters(self, ground: Ground, database: Login) -> dict[str, Any]:
        return {"path": ground.database(database)}


class TestVaultKeyValue(VaultSuite):
    @pytest.fixture
    def parameters(self, ground: Ground) -> dict[str, Any]:
        ground.mount("kv", "kv-v2")
        ground.root.write("kv/data/partner", data={"key": "static-secret"})
        ground.allow("kv/data/partner", "read")
        return {"path": "kv/data/partner"}


class TestVaultCertificates(VaultSuite):
    @pytest.fixture
    def parameters(self, ground: Ground) -> dict[str, Any]:
        ground.mount("pki", "pki")
        ground.root.write("pki/root/generate/internal", common_name="test", ttl="12h", key_type="ec")
        ground.root.write("pki/roles/pay", allow_any_name=True, max_ttl="1h", key_type="ec")
        ground.allow("pki/issue/pay", "update")
        return {"path": "pki/issue/pay", "data": {"common_name": "pay.example"}}


class TestVaultSsh(VaultSuite):
    @pytest.fixture
    def parameters(self, ground: Ground) -> dict[str, Any]:
        ground.mount("ssh", "ssh")
        ground.root.write("ssh/config/ca", generate_signing_key=True)
        ground.root.write(
            "ssh/roles/pay",
            key_type="ca",
            allow_user_certificates=True,
            allowed_users="deploy",
            default_user="deploy",
            max_ttl="1h",
        )
        ground.allow("ssh/issue/pay", "update")
        return {"path": "ssh/issue/pay", "data": {"valid_principals": "deploy"}}
