"""A broker of verbs that dies by SIGKILL at one chosen call of a backend, a cutter or the state, and one that recovers.

``python -m tests.support.mortal ORDER.json``: says JSON lines. Real are the state (SQLite), Vault and the target;
identities and evidence are fakes, and there are no doors.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from broker.adapters.backends.vault import AppRoleLogin, VaultBackend, VaultOptions
from broker.adapters.clock import SystemClock
from broker.adapters.cutters.options import PostgresOptions
from broker.adapters.cutters.postgres import PostgresCutter
from broker.adapters.entropy import SystemEntropy
from broker.adapters.state.sqlite import SqliteState
from broker.model.account import Account, AccountState, Remains
from broker.model.attestation import AttestationState
from broker.model.credential import Confirmed, Grant, Issued, Lease
from broker.model.revocation import RevocationState, SelectorKind
from broker.model.role import Revocability
from broker.ports import CredentialBackend, TargetCutter, Transaction
from tests.support.house import APPROVED, DAY, House, IssueLimits, UpkeepLimits, role

T = TypeVar("T")

PENDING: Final = 1.0
"""Seconds that an answer may be on its way, here."""
PATIENCE: Final = 40.0


def say(event: str, **facts: Any) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)


class Fate:
    """Counts calls, and ends the process before or after one of them."""

    def __init__(self, at: int | None, *, after: bool) -> None:
        self._at = at
        self._after = after
        self._number = 0
        self.armed = False
        self.trace: list[str] = []

    async def of(self, name: str, call: Awaitable[T]) -> T:
        if not self.armed:
            return await call
        number, self._number = self._number, self._number + 1
        self.trace.append(name)
        if number == self._at and not self._after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = await call
        if number == self._at and self._after:
            os.kill(os.getpid(), signal.SIGKILL)
        return result


class MortalAccounts:
    """`AccountKeeper` around another."""

    def __init__(self, inner: Any, fate: Fate) -> None:
        self._inner = inner
        self._fate = fate

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
        return await self._fate.of("open", self._inner.open(account, ttl))

    async def freeze(self, attestation_id: str) -> None:
        await self._fate.of("freeze", self._inner.freeze(attestation_id))

    async def close(self, account: Account) -> None:
        await self._fate.of("close", self._inner.close(account))

    async def confirm(self, account: Account, now: float) -> Confirmed:
        return await self._fate.of("confirm account", self._inner.confirm(account, now))

    @property
    def sweeps(self) -> bool:
        return self._inner.sweeps  # type: ignore[no-any-return]

    async def strays(self, before: float) -> Sequence[str]:
        return await self._inner.strays(before)  # type: ignore[no-any-return]

    async def attestations(self) -> Sequence[str]:
        return await self._inner.attestations()  # type: ignore[no-any-return]

    async def revoke_stray(self, handle: str) -> None:
        await self._inner.revoke_stray(handle)


class MortalBackend:
    """`CredentialBackend` around another."""

    def __init__(self, inner: CredentialBackend, fate: Fate) -> None:
        self._inner = inner
        self._fate = fate
        self._accounts = MortalAccounts(inner.accounts, fate)

    @property
    def outside(self) -> bool:
        return self._inner.outside

    @property
    def accounts(self) -> MortalAccounts:
        return self._accounts

    def revocability_of(self, parameters: Mapping[str, Any]) -> Revocability:
        return self._inner.revocability_of(parameters)

    async def issue(self, grant: Grant) -> Issued:
        return await self._fate.of("issue", self._inner.issue(grant))

    async def renew(self, grant: Grant) -> Issued | None:
        return await self._fate.of("renew", self._inner.renew(grant))

    async def revoke(self, lease: Lease) -> None:
        await self._fate.of("revoke", self._inner.revoke(lease))

    async def confirm(self, lease: Lease, now: float) -> Confirmed:
        return await self._fate.of("confirm lease", self._inner.confirm(lease, now))


class MortalCutter:
    """`TargetCutter` around another."""

    def __init__(self, inner: TargetCutter, fate: Fate) -> None:
        self._inner = inner
        self._fate = fate

    async def cut(self, attestation_id: str) -> Remains:
        return await self._fate.of("cut", self._inner.cut(attestation_id))

    async def confirm(self, attestation_id: str) -> Remains:
        return await self._fate.of("confirm cut", self._inner.confirm(attestation_id))

    async def close(self) -> None:
        await self._inner.close()


class MortalState:
    """`StateStore` around another: writes count as calls, so that the process also dies between two of them."""

    def __init__(self, inner: SqliteState, fate: Fate) -> None:
        self._inner = inner
        self._fate = fate
        self._written = asyncio.Event()

    async def transact(self, work: Callable[[Transaction], Awaitable[T]], *, urgent: bool = False) -> T:
        result = await self._fate.of("write", self._inner.transact(work, urgent=urgent))
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


@dataclass(frozen=True)
class Order:
    """What to do: `act` is ``issue``, ``revoke`` or ``recover``; `die` the number of a call, None to live."""

    act: str
    state: str
    vault: Mapping[str, Any]
    path: str
    cutter: Mapping[str, Any] | None = None
    die: int | None = None
    after: bool = False


async def play(order: Order) -> None:
    """Do it, and say what was called."""
    clock, entropy = SystemClock(), SystemEntropy()
    fate = Fate(order.die, after=order.after)
    state = await SqliteState.open(Path(order.state), clock, entropy)
    options = VaultOptions(
        addresses=tuple(order.vault["addresses"]),
        login=AppRoleLogin(Path(order.vault["role_id_file"]), Path(order.vault["secret_id_file"])),
        namespace=order.vault["namespace"],
        ca_file=Path(order.vault["ca_file"]),
        timeout=2.5,
        max_request_duration=1.0,
    )
    vault = VaultBackend("vault", options, clock, entropy.token(8).hex())
    vault.watch([order.path])
    parameters = {"path": order.path, **({"cutter": "target"} if order.cutter else {})}
    house = await House.open(
        role("db", backend="vault", revocability=Revocability.AT_TARGET, parameters=parameters),
        publish=False,
        state=MortalState(state, fate),
        clock=clock,
        entropy=entropy,
        issue_limits=IssueLimits(pending=PENDING),
        upkeep_limits=UpkeepLimits(
            look_again=0.0, pending=PENDING, skew=0.5, sweep=1.0, backoff=0.05, backoff_most=0.5
        ),
    )
    house.backends["vault"] = MortalBackend(vault, fate)
    if order.cutter:
        house.cutters["target"] = MortalCutter(PostgresCutter(PostgresOptions(**order.cutter)), fate)
    try:
        async with asyncio.timeout(PATIENCE):
            await {"issue": issue, "revoke": revoke, "recover": recover}[order.act](house, fate)
    finally:
        for cutter in house.cutters.values():
            await cutter.close()
        await vault.close()
        await state.close()
    say("done", trace=fate.trace)


async def issue(house: House, fate: Fate) -> None:
    """The first credential of an instance, then another one."""
    workload = await _attested(house)
    fate.armed = True
    await workload.issue("db")
    await workload.issue("db")


async def revoke(house: House, fate: Fate) -> None:
    """An instance with two credentials is revoked, until the receipt is there."""
    workload = await _attested(house)
    await workload.issue("db")
    await workload.issue("db")
    fate.armed = True
    await house.revoke(SelectorKind.ATTESTATION, workload.id)
    await _settled(house)


async def recover(house: House, fate: Fate) -> None:
    """Start again on what is there; end every instance, and work until nothing is left to do."""
    alive = await house.look(lambda tx: tx.accounts.page((), 1000))
    leases = await house.leases()
    for attestation_id in sorted({item.attestation_id for item in (*alive, *leases)}):
        if (await house.attestation(attestation_id)).state is AttestationState.ALIVE:
            await house.revoke(SelectorKind.ATTESTATION, attestation_id)
    await _settled(house)


async def _attested(house: House) -> Any:
    now = house.clock.now()
    await house.publish(1, *APPROVED, not_before=now - DAY, not_after=now + DAY)
    return await house.attested()


async def _settled(house: House) -> None:
    stop = asyncio.Event()
    running = asyncio.create_task(house.upkeep.run(stop))
    try:
        while True:
            acts = await house.look(lambda tx: tx.revocations.page(1000))
            open_ones = [act for act in acts if act.state is not RevocationState.SETTLED]
            live = [
                account
                for account in await house.look(lambda tx: tx.accounts.page((), 1000))
                if account.state is not AccountState.CLOSED
            ]
            if not open_ones and not live and not [one for one in await house.leases() if one.state.live]:
                return
            written = asyncio.ensure_future(house.state.next_write())
            await asyncio.wait((running, written), return_when=asyncio.FIRST_COMPLETED)
            written.cancel()
            if running.done():
                await running
    finally:
        stop.set()
        await running


if __name__ == "__main__":
    asyncio.run(play(Order(**json.loads(Path(sys.argv[1]).read_text()))))
