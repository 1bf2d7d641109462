"""Cut: stop an instance at its backends and at its targets before anything of it is cleaned."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from broker.errors import LockstepError
from broker.model.account import Account, AccountState
from broker.model.attestation import AttestationState
from broker.model.credential import Lease
from broker.model.step import Step
from broker.ports import AccountKeeper, Clock, CredentialBackend, StateStore, TargetCutter, Transaction
from broker.upkeep.faults import OnFault
from broker.upkeep.limits import UpkeepLimits

FROZEN: Final = "frozen"
"""The step that says: the backend makes and serves nothing for the instance any more."""
CUT: Final = "cut"
"""The step that says: at the target it cannot log in, and its sessions have ended."""
MISSED: Final = "missed"
"""The step that says: the target knows no login of it, though credentials were out whose logins are there."""
MEND: Final = (
    "see what lockstep-broker vault check says of names of logins, and whether it is the right database"
)


@dataclass(frozen=True, slots=True)
class Holding:
    """What one backend holds of one attestation: its accounts, the first of which keeps the steps, and leases."""

    accounts: Sequence[Account]
    leases: Sequence[Lease]
    ended: bool

    @property
    def book(self) -> Account:
        """Where steps are written."""
        return self.accounts[0]

    @property
    def cutters(self) -> Sequence[str]:
        """Names of the cutters of its leases."""
        return sorted({lease.cutter for lease in self.leases if lease.cutter})

    @property
    def done(self) -> bool:
        """True once every target was cut, or looked at in vain."""
        return self.book.did(CUT) or self.book.did(MISSED)

    def out(self, cutter: str, now: float) -> int:
        """How many credentials are out whose logins a cutter is to end."""
        return sum(
            lease.cutter == cutter and lease.state.live and bool(lease.handle) and lease.expires_at > now
            for lease in self.leases
        )


def missed(steps: Sequence[Step], cutter: str) -> bool:
    """True where a cutter has looked for logins in vain."""
    return any(step.name == MISSED and step.detail.startswith(f"{cutter}: ") for step in steps)


class Cutting:
    """Freezes and cuts, once for each instance and backend however many ask; what fails is tried again."""

    def __init__(
        self,
        clock: Clock,
        backends: Mapping[str, CredentialBackend],
        cutters: Mapping[str, TargetCutter],
        state: StateStore,
        on_alarm: Callable[[str], None],
        on_fault: OnFault,
        limits: UpkeepLimits,
    ) -> None:
        self._clock = clock
        self._backends = backends
        self._cutters = cutters
        self._state = state
        self._on_alarm = on_alarm
        self._on_fault = on_fault
        self._limits = limits
        self._under_way: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._missing: set[str] = set()

    async def instance(self, attestation_id: str) -> None:
        """Stop an instance at every backend that holds something of it."""
        found = await self._state.read(lambda tx: tx.accounts.of_attestation(attestation_id))
        names = sorted({account.backend for account in found})
        await asyncio.gather(*(self.at(name, attestation_id) for name in names))

    async def at(self, backend: str, attestation_id: str) -> None:
        """Stop it at one backend, if it has ended and that was not done yet.

        What does not answer is left out, without its step: whoever cleans comes
        here again. Raises `Unavailable` where the state is.
        """
        key = (backend, attestation_id)
        task = self._under_way.get(key)
        if task is None:
            task = asyncio.create_task(self._at(backend, attestation_id), name="cut")
            self._under_way[key] = task
            task.add_done_callback(lambda done: self._through(key, done))
        await asyncio.shield(task)

    def _through(self, key: tuple[str, str], task: asyncio.Task[None]) -> None:
        self._under_way.pop(key, None)
        if not task.cancelled():
            task.exception()

    async def _at(self, backend: str, attestation_id: str) -> None:
        holding = await self.holding(backend, attestation_id)
        keeper = self.keeper(backend)
        if holding is None or not holding.ended or keeper is None:
            return
        freezing = asyncio.create_task(self._freeze(keeper, holding, attestation_id), name="freeze")
        cut: Sequence[Step] = ()
        if holding.cutters and not holding.done:
            # The backend first, so that it makes no more logins; but no target waits for one that hangs.
            await asyncio.wait({freezing}, timeout=self._limits.freeze_first)
            cut = await self.cut(holding, attestation_id)
        steps = [*await freezing, *cut]
        if steps:
            await self.note(holding.book.id, steps)

    async def _freeze(self, keeper: AccountKeeper, holding: Holding, attestation_id: str) -> Sequence[Step]:
        if holding.book.did(FROZEN):
            return ()
        try:
            async with asyncio.timeout(self._limits.pending):
                await keeper.freeze(attestation_id)
        except (LockstepError, TimeoutError):
            return ()
        except Exception as error:  # noqa: BLE001 - without its step it is tried again, and is an alarm in the end
            self._on_fault(f"freezing {attestation_id}", error)
            return ()
        return (Step(FROZEN, self._clock.now(), holding.book.backend),)

    async def cut(self, holding: Holding, attestation_id: str) -> Sequence[Step]:
        """Cut at every target of the instance, and once more a moment later; steps only where all was cut."""
        names = holding.cutters
        results = await asyncio.gather(*(self._cut(name, holding, attestation_id) for name in names))
        return [step for found in results for step in found] if all(results) else ()

    async def _cut(self, name: str, holding: Holding, attestation_id: str) -> Sequence[Step]:
        cutter = self._cutters.get(name)
        if cutter is None:
            return ()
        try:
            async with asyncio.timeout(self._limits.pending):
                remains = await cutter.cut(attestation_id)
                first = Step(
                    CUT,
                    self._clock.now(),
                    f"{name}: {remains.logins} logins, {remains.sessions} sessions left",
                )
                # A session that was being opened while the first look ran shows in the second.
                await asyncio.sleep(self._limits.look_again)
                again = await cutter.cut(attestation_id)
        except (LockstepError, TimeoutError):
            return ()
        except Exception as error:  # noqa: BLE001 - the same
            self._on_fault(f"cutting {attestation_id}", error)
            return ()
        if not again.gone:
            return ()
        if remains.known or again.known:
            self._missing.discard(name)
        elif out := holding.out(name, first.at):
            return (self._missed(name, attestation_id, out, first.at),)
        return (first,)

    def _missed(self, name: str, attestation_id: str, out: int, at: float) -> Step:
        """Nothing found is no proof where something must be: logins have other names, or it is another target."""
        found = f"{name}: found no login of the instance, and {out} must be there"
        if name not in self._missing:
            # Once for each cutter: what is wrong with it is wrong for all.
            self._missing.add(name)
            self._on_alarm(f"cutter {found} ({attestation_id}): {MEND}")
        return Step(MISSED, at, found)

    def keeper(self, backend: str) -> AccountKeeper | None:
        """The accounts of a backend that is configured and keeps some."""
        found = self._backends.get(backend)
        return None if found is None else found.accounts

    def cutter(self, name: str) -> TargetCutter | None:
        """A cutter that is configured."""
        return self._cutters.get(name)

    async def holding(self, backend: str, attestation_id: str) -> Holding | None:
        """What a backend holds of an attestation; None where there never was an account."""

        async def work(tx: Transaction) -> Holding | None:
            accounts = [
                account
                for account in await tx.accounts.of_attestation(attestation_id)
                if account.backend == backend
            ]
            if not accounts:
                return None
            attestation = await tx.attestations.get(attestation_id)
            leases = await tx.leases.of_attestation(attestation_id)
            return Holding(
                accounts,
                [lease for lease in leases if lease.backend == backend],
                attestation is None or attestation.state is not AttestationState.ALIVE,
            )

        return await self._state.read(work)

    async def note(self, account_id: str, steps: Sequence[Step]) -> None:
        """Steps are for the receipt, and so that they are not done again."""

        async def work(tx: Transaction) -> None:
            current = await tx.accounts.get(account_id)
            if current is None:
                return
            again = (CUT, MISSED)
            missing = [step for step in steps if not current.did(step.name) or step.name in again]
            # An account that was opened while its attestation ended is closed like the others.
            state = current.state
            if state in (AccountState.OPENING, AccountState.OPEN):
                now = self._clock.now()
                current = replace(current, state=AccountState.CLOSING, closing_at=now, next_attempt_at=now)
            await tx.accounts.replace(replace(current, steps=(*current.steps, *missing)), state)

        await self._state.transact(work)
