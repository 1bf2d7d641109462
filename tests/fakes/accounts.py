"""FakeVault: a backend that keeps accounts, and a target that its logins live at, in memory and with weather."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from broker.errors import LockstepError, Unavailable
from broker.model.account import Account, Remains, TargetFault
from broker.model.credential import Confirmation, Confirmed, Credential, Grant, Issued, Lease
from broker.model.role import Revocability
from lockstep.formats import Reason
from tests.fakes.weather import Meanwhile


@dataclass
class Made:
    """A login at the target, made for a lease."""

    attestation: str
    accessor: str
    lease_id: str
    at: float
    login: bool = True
    session: bool = False


class FakeTarget:
    """`broker.ports.TargetCutter`, and the target itself."""

    def __init__(self) -> None:
        self.logins: dict[str, Made] = {}
        self.failures: list[LockstepError] = []
        self.faults: list[Exception] = []
        self.calls: list[str] = []

    async def cut(self, attestation_id: str) -> Remains:
        self.calls.append("cut")
        self._weather()
        found = self._of(attestation_id)
        for made in found:
            made.login = made.session = False
        return replace(await self._look(attestation_id), known=len(found))

    async def confirm(self, attestation_id: str) -> Remains:
        self.calls.append("confirm")
        self._weather()
        return await self._look(attestation_id)

    async def faults(self) -> tuple[TargetFault, ...]:
        return ()

    async def close(self) -> None:
        return

    async def _look(self, attestation_id: str) -> Remains:
        found = self._of(attestation_id)
        return Remains(sum(made.login for made in found), sum(made.session for made in found))

    def _of(self, attestation_id: str) -> list[Made]:
        return [made for made in self.logins.values() if made.attestation == attestation_id]

    def _weather(self) -> None:
        if self.faults:
            raise self.faults.pop(0)
        if self.failures:
            raise self.failures.pop(0)


class FakeVault:
    """A `CredentialBackend` with accounts: tokens by accessor, and leases that hang on them."""

    _replicas = itertools.count(1)

    def __init__(self, target: FakeTarget | None = None) -> None:
        self.target = target or FakeTarget()
        self.tokens: dict[str, str] = {}
        """Accessors that are good, and whose."""
        self.leases: dict[str, Made] = {}
        self.frozen: set[str] = set()
        self.irrevocable: set[str] = set()
        """Handles of leases that cannot be taken back."""
        self.calls: list[str] = []
        self.swept = True
        self._accounts = FakeAccounts(self)
        self._called = asyncio.Event()
        self.held: set[str] = set()
        self.numbers = itertools.count(1)
        self.name = f"replica-{next(self._replicas)}"
        self._failures: dict[str, list[LockstepError]] = {}
        self._happens: dict[str, Meanwhile] = {}
        self._gates: dict[str, asyncio.Event] = {}
        self.under_way: dict[str, int] = {}

    def restarted(self) -> None:
        """The broker's process is a new one: it holds no token."""
        self.name = f"replica-{next(self._replicas)}"
        self.held.clear()
        self.under_way.clear()

    def fail(self, call: str, times: int = 1) -> None:
        """The next calls raise, before any effect."""
        problem = Unavailable(Reason.BACKEND_UNAVAILABLE, "the backend does not answer")
        self._failures.setdefault(call, []).extend([problem] * times)

    def hold(self, call: str) -> asyncio.Event:
        """Calls wait, after their effect, until the event is set."""
        return self._gates.setdefault(call, asyncio.Event())

    def meanwhile(self, call: str, happens: Meanwhile) -> None:
        """After the effect of the next `call` and before its answer; or ``before CALL``."""
        self._happens[call] = happens

    async def heard(self, call: str) -> None:
        """Wait until a call has come."""
        async with asyncio.timeout(5):
            while call not in self.calls:
                self._called.clear()
                await self._called.wait()

    async def begin(self, call: str) -> None:
        self.calls.append(call)
        self._called.set()
        happens = self._happens.pop(f"before {call}", None)
        if happens is not None:
            await happens()
        if self._failures.get(call):
            raise self._failures[call].pop(0)

    async def end(self, call: str) -> None:
        happens = self._happens.pop(call, None)
        if happens is not None:
            await happens()
        if call in self._gates:
            await self._gates[call].wait()

    # --- CredentialBackend ------------------------------------------------------------------------

    @property
    def outside(self) -> bool:
        return True

    @property
    def accounts(self) -> FakeAccounts:
        return self._accounts

    def revocability_of(self, parameters: Mapping[str, Any]) -> Revocability:
        return Revocability.AT_TARGET

    async def issue(self, grant: Grant) -> Issued:
        await self.begin("issue")
        account, lease = grant.account, grant.lease
        assert account is not None
        # A call that has begun survives what is done to its token: that is what draining is for.
        if account.accessor not in self.tokens or account.attestation_id in self.frozen:
            self.held.discard(account.id)
            denied = Unavailable(Reason.BACKEND_UNAVAILABLE, "permission denied")
            denied.without_effect = True
            raise denied
        self._count(account.attestation_id, 1)
        try:
            await self._happen_before_effect()
            handle = f"creds/{next(self.numbers)}"
            made = Made(account.attestation_id, account.accessor, lease.id, lease.issued_at)
            self.leases[handle] = self.target.logins[handle] = made
            await self.end("issue")
        finally:
            self._count(account.attestation_id, -1)
        return Issued(Credential(fields={"username": handle, "password": "s3cret"}), handle, lease.expires_at)

    async def _happen_before_effect(self) -> None:
        happens = self._happens.pop("within issue", None)
        if happens is not None:
            await happens()
        if "within issue" in self._gates:
            await self._gates["within issue"].wait()

    async def renew(self, grant: Grant) -> Issued | None:
        await self.begin("renew")
        if grant.lease.handle not in self.leases:
            return None
        return Issued(Credential(), grant.lease.handle, grant.lease.expires_at)

    async def revoke(self, lease: Lease) -> None:
        await self.begin("revoke")
        self.drop(lease.handle)
        await self.end("revoke")

    async def confirm(self, lease: Lease, now: float) -> Confirmed:
        if not lease.handle and not self.swept:
            return Confirmed(Confirmation.UNTIL_EXPIRY, "not looked for", lease.max_expires_at)
        alive = lease.handle in self.leases
        return Confirmed(Confirmation.ALIVE if alive else Confirmation.GONE, "fake lookup")

    def drop(self, handle: str) -> None:
        if handle in self.irrevocable:
            raise Unavailable(Reason.BACKEND_UNAVAILABLE, "the target refuses to drop it")
        self.leases.pop(handle, None)
        self.target.logins.pop(handle, None)

    def _count(self, attestation_id: str, change: int) -> None:
        self.under_way[attestation_id] = self.under_way.get(attestation_id, 0) + change


class FakeAccounts:
    """The accounts of a `FakeVault`."""

    def __init__(self, vault: FakeVault) -> None:
        self._vault = vault

    @property
    def replica(self) -> str:
        return self._vault.name

    def holds(self, account: Account) -> bool:
        return account.id in self._vault.held

    async def open(self, account: Account, ttl: float) -> str:
        await self._vault.begin("open")
        accessor = f"accessor-{next(self._vault.numbers)}"
        self._vault.tokens[accessor] = account.attestation_id
        self._vault.held.add(account.id)
        await self._vault.end("open")
        return accessor

    async def freeze(self, attestation_id: str) -> None:
        await self._vault.begin("freeze")
        self._vault.frozen.add(attestation_id)
        await self._vault.end("freeze")

    def quiet(self, attestation_id: str) -> bool:
        return not self._vault.under_way.get(attestation_id)

    async def close(self, account: Account) -> None:
        await self._vault.begin("close")
        self._vault.held.discard(account.id)
        accessor = account.accessor
        self._vault.tokens.pop(accessor, None)
        for handle in [handle for handle, made in self._vault.leases.items() if made.accessor == accessor]:
            self._vault.drop(handle)
        await self._vault.end("close")

    async def confirm(self, account: Account, now: float) -> Confirmed:
        alive = account.accessor in self._vault.tokens
        return Confirmed(Confirmation.ALIVE if alive else Confirmation.GONE, "fake accessor")

    @property
    def longest_call(self) -> float:
        return 30.0

    @property
    def sweeps(self) -> bool:
        return self._vault.swept

    async def strays(self, before: float) -> Sequence[str]:
        await self._vault.begin("strays")
        if not self._vault.swept:
            return []
        return [handle for handle, made in self._vault.leases.items() if made.at <= before]

    async def attestations(self) -> Sequence[str]:
        return sorted(set(self._vault.tokens.values()) - self._vault.frozen)

    async def revoke_stray(self, handle: str) -> None:
        self._vault.drop(handle)

    async def given_up(self) -> Sequence[str]:
        return sorted(self._vault.irrevocable & set(self._vault.leases))
