"""A broker of verbs on a real Vault, a real target and a real state, every call of which goes by a witness.

Identities and evidence are fakes, and there are no doors.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from broker.adapters.backends.vault import VaultOptions
from broker.adapters.backends.vault.backend import VaultBackend
from broker.adapters.clock import SystemClock
from broker.adapters.cutters.options import PostgresOptions
from broker.adapters.cutters.postgres import PostgresCutter
from broker.adapters.entropy import SystemEntropy
from broker.adapters.state.sqlite import SqliteState
from broker.model.account import Account, AccountState, Remains
from broker.model.credential import Confirmed, Grant, Issued, Lease
from broker.model.revocation import RevocationState
from broker.model.role import Revocability
from broker.ports import CredentialBackend, TargetCutter, Transaction
from tests.support.house import APPROVED, DAY, House, IssueLimits, UpkeepLimits, Workload, role

T = TypeVar("T")

PENDING: Final = 1.0
"""Seconds that an answer may be on its way, where nothing else is said."""


class Witness(Protocol):
    """Sees every call of a backend, a cutter or the state."""

    async def of(self, name: str, call: Awaitable[T]) -> T:
        """Make the call, and whatever the witness is there for."""


class WitnessedAccounts:
    """`AccountKeeper` around another."""

    def __init__(self, inner: Any, witness: Witness) -> None:
        self._inner = inner
        self._witness = witness

    @property
    def replica(self) -> str:
        return str(self._inner.replica)

    @property
    def longest_call(self) -> float:
        return float(self._inner.longest_call)

    def holds(self, account: Account) -> bool:
        return bool(self._inner.holds(account))

    def quiet(self, attestation_id: str) -> bool:
        return bool(self._inner.quiet(attestation_id))

    async def open(self, account: Account, ttl: float) -> str:
        return await self._witness.of("open", self._inner.open(account, ttl))

    async def freeze(self, attestation_id: str) -> None:
        await self._witness.of("freeze", self._inner.freeze(attestation_id))

    async def close(self, account: Account) -> None:
        await self._witness.of("close", self._inner.close(account))

    async def confirm(self, account: Account, now: float) -> Confirmed:
        return await self._witness.of("confirm account", self._inner.confirm(account, now))

    @property
    def sweeps(self) -> bool:
        return self._inner.sweeps  # type: ignore[no-any-return]

    async def strays(self, before: float) -> Sequence[str]:
        return await self._inner.strays(before)  # type: ignore[no-any-return]

    async def given_up(self) -> Sequence[str]:
        return await self._inner.given_up()  # type: ignore[no-any-return]

    async def attestations(self) -> Sequence[str]:
        return await self._inner.attestations()  # type: ignore[no-any-return]

    async def revoke_stray(self, handle: str) -> None:
        await self._inner.revoke_stray(handle)


class WitnessedBackend:
    """`CredentialBackend` around another."""

    def __init__(self, inner: CredentialBackend, witness: Witness) -> None:
        self._inner = inner
        self._witness = witness
        self._accounts = WitnessedAccounts(inner.accounts, witness)

    @property
    def outside(self) -> bool:
        return self._inner.outside

    @property
    def accounts(self) -> WitnessedAccounts:
        return self._accounts

    def revocability_of(self, parameters: Mapping[str, Any]) -> Revocability:
        return self._inner.revocability_of(parameters)

    async def issue(self, grant: Grant) -> Issued:
        return await self._witness.of("issue", self._inner.issue(grant))

    async def renew(self, grant: Grant) -> Issued | None:
        return await self._witness.of("renew", self._inner.renew(grant))

    async def revoke(self, lease: Lease) -> None:
        await self._witness.of("revoke", self._inner.revoke(lease))

    async def confirm(self, lease: Lease, now: float) -> Confirmed:
        return await self._witness.of("confirm lease", self._inner.confirm(lease, now))


class WitnessedCutter:
    """`TargetCutter` around another."""

    def __init__(self, inner: TargetCutter, witness: Witness) -> None:
        self._inner = inner
        self._witness = witness

    async def cut(self, attestation_id: str) -> Remains:
        return await self._witness.of("cut", self._inner.cut(attestation_id))

    async def confirm(self, attestation_id: str) -> Remains:
        return await self._witness.of("confirm cut", self._inner.confirm(attestation_id))

    async def close(self) -> None:
        await self._inner.close()


class WitnessedState:
    """`StateStore` around another: writes count as calls, so that the process also dies between two of them."""

    def __init__(self, inner: SqliteState, witness: Witness) -> None:
        self._inner = inner
        self._witness = witness
        self._written = asyncio.Event()

    async def transact(self, work: Callable[[Transaction], Awaitable[T]], *, urgent: bool = False) -> T:
        result = await self._witness.of("write", self._inner.transact(work, urgent=urgent))
        self._written.set()
        return result

    async def next_write(self) -> None:
        """Wait until something was written."""
        self._written.clear()
        await self._written.wait()

    async def read(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        return await self._inner.read(work)

    async def close(self) -> None:
        await self._inner.close()


@contextlib.asynccontextmanager
async def witnessed_house(
    witness: Witness,
    state_file: Path,
    options: VaultOptions,
    paths: Mapping[str, str],
    cutter: PostgresOptions | None,
    *,
    pending: float = PENDING,
) -> AsyncIterator[House]:
    """`paths` at Vault by the names of their roles. Everything is closed at the end; upkeep does not run by itself."""
    clock, entropy = SystemClock(), SystemEntropy()
    state = await SqliteState.open(state_file, clock, entropy)
    vault = VaultBackend("vault", options, clock, entropy.token(8).hex())
    vault.watch(paths.values())
    cut = {"cutter": "target"} if cutter else {}
    roles = [
        role(name, backend="vault", revocability=Revocability.AT_TARGET, parameters={"path": path, **cut})
        for name, path in paths.items()
    ]
    house = await House.open(
        *roles,
        publish=False,
        state=WitnessedState(state, witness),
        clock=clock,
        entropy=entropy,
        issue_limits=IssueLimits(pending=pending),
        upkeep_limits=UpkeepLimits(
            look_again=0.0, pending=pending, skew=0.5, sweep=1.0, backoff=0.05, backoff_most=0.5
        ),
    )
    house.backends["vault"] = WitnessedBackend(vault, witness)
    if cutter:
        house.cutters["target"] = WitnessedCutter(PostgresCutter(cutter), witness)
    try:
        yield house
    finally:
        for one in house.cutters.values():
            await one.close()
        await vault.close()
        await state.close()


@contextlib.asynccontextmanager
async def kept_up(house: House) -> AsyncIterator[None]:
    """Upkeep runs meanwhile; what it fails with is raised at the end."""
    stop = asyncio.Event()
    running = asyncio.create_task(house.upkeep.run(stop))
    try:
        yield
    finally:
        stop.set()
        await running


async def attested(house: House) -> Workload:
    """An instance that runs what is approved."""
    now = house.clock.now()
    await house.publish(1, *APPROVED, not_before=now - DAY, not_after=now + DAY)
    return await house.attested()


async def settled(house: House) -> None:
    """Wait, while upkeep runs, until nothing is left to do: every receipt signed, no account and no lease alive."""
    while not await _is_settled(house):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await house.state.next_write()


async def _is_settled(house: House) -> bool:
    acts = await house.look(lambda tx: tx.revocations.page(1000))
    if any(act.state is not RevocationState.SETTLED for act in acts):
        return False
    accounts = await house.look(lambda tx: tx.accounts.page((), 1000))
    leases = await house.leases()
    return all(account.state is AccountState.CLOSED for account in accounts) and not any(
        lease.state.live for lease in leases
    )
