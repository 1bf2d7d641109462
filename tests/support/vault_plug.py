"""VaultBackend in tests: made, with accounts and grants, and what it warned of."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from broker.adapters.backends.vault import VaultOptions
from broker.adapters.backends.vault.backend import VaultBackend
from broker.adapters.clock import SystemClock
from broker.model.account import Account, AccountState
from broker.model.credential import Grant
from broker.ports import Clock
from tests.contract.backend_suite import grant_at

if TYPE_CHECKING:
    from tests.support.vault_ground import Ground

KV = "kv/data/partner"


class Ahead(SystemClock):
    """The real clock, `ahead` by so many seconds."""

    ahead = 0.0

    def now(self) -> float:
        return super().now() + self.ahead

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead

    def advance(self, seconds: float) -> None:
        """So much further ahead."""
        self.ahead += seconds


class Plug(VaultBackend):
    """Remembers its warnings in `warned`."""

    def __init__(self, options: VaultOptions, replica: str = "R-1", clock: Clock | None = None) -> None:
        self.warned: list[str] = []
        super().__init__("vault", options, clock or SystemClock(), replica, self.warned.append)


@contextlib.asynccontextmanager
async def plug(
    options: VaultOptions, replica: str = "R-1", clock: Clock | None = None
) -> AsyncIterator[Plug]:
    """Closed at the end."""
    made = Plug(options, replica, clock)
    try:
        yield made
    finally:
        await made.close()


def key_value(ground: Ground) -> str:
    """A KV engine with one secret, the cheapest there is; its path."""
    ground.mount("kv", "kv-v2")
    ground.root.write(KV, data={"key": "static-secret"})
    ground.allow(KV, "read")
    return KV


def account(number: int = 1, *, replica: str = "R-1", attestation: str = "") -> Account:
    """Not opened yet."""
    return Account(
        f"C-{number}", attestation or f"A-{number}", "vault", replica, AccountState.OPENING, time.time()
    )


async def opened(backend: VaultBackend, wanted: Account | None = None, ttl: float = 300) -> Account:
    """An open account."""
    wanted = wanted or account()
    accessor = await backend.accounts.open(wanted, ttl)
    return replace(wanted, state=AccountState.OPEN, accessor=accessor)


def grant(
    backend: VaultBackend,
    account: Account,
    path: str,
    parameters: Mapping[str, Any] | None = None,
    **lease: Any,
) -> Grant:
    """A grant on an account, five minutes from now; `lease` changes the lease."""
    parameters = {"path": path, **(parameters or {})}
    base = grant_at(
        time.time(),
        **{
            "backend": "vault",
            "handle": "",
            "attestation_id": account.attestation_id,
            "account_id": account.id,
            "revocability": backend.revocability_of(parameters),
            **lease,
        },
    )
    return replace(base, parameters=parameters, account=account)
