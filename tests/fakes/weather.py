"""Plugs with bad days: a state that fails at a chosen call, a backend in whose middle something happens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from broker.errors import Unavailable
from broker.model.credential import Confirmed, Grant, Issued, Lease
from broker.ports import Transaction
from lockstep.formats import Reason
from tests.fakes.backend import FakeBackend
from tests.fakes.state import MemoryState

T = TypeVar("T")

Meanwhile = Callable[[], Awaitable[object]]


class StormyState(MemoryState):
    """A `MemoryState` that can be unreachable, or whose answers can be lost after the commit."""

    def __init__(self, log_id: str = "memory") -> None:
        super().__init__(log_id)
        self.down = False
        self.reads_down = False
        self.writes = 0
        self.reads = 0
        self._fail_before: set[int] = set()
        self._fail_after: set[int] = set()
        self._meanwhile: dict[int, Meanwhile] = {}
        self._written = asyncio.Event()

    def fail_write(self, ahead: int = 1, *, committed: bool = False) -> None:
        """The write that is `ahead` from now fails: before its commit, or, `committed`, after it."""
        (self._fail_after if committed else self._fail_before).add(self.writes + ahead)

    def before_write(self, ahead: int, meanwhile: Meanwhile) -> None:
        """Something happens right before the write that is `ahead` from now."""
        self._meanwhile[self.writes + ahead] = meanwhile

    def calm(self) -> None:
        """No more bad days."""
        self.down = self.reads_down = False
        self._fail_before.clear()
        self._fail_after.clear()
        self._meanwhile.clear()

    async def transact(self, work: Callable[[Transaction], Awaitable[T]], *, urgent: bool = False) -> T:
        self.writes += 1
        number = self.writes
        meanwhile = self._meanwhile.pop(number, None)
        if meanwhile is not None:
            await meanwhile()
        if self.down or number in self._fail_before:
            raise _unavailable()
        result = await super().transact(work, urgent=urgent)
        self._written.set()
        if number in self._fail_after:
            raise _unavailable()
        return result

    async def next_write(self) -> None:
        """Wait until something was written."""
        self._written.clear()
        await self._written.wait()

    async def read(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        self.reads += 1
        if self.down or self.reads_down:
            raise _unavailable()
        return await super().read(work)


class MeddlingBackend(FakeBackend):
    """A `FakeBackend` in the middle of whose calls a test's own things happen, each once."""

    def meanwhile(self, call: str, happens: Meanwhile) -> None:
        """In the middle of the next `call`, after its effect and before its answer; or ``before issue``."""
        self.__dict__.setdefault("_happens", {})[call] = happens

    async def _happen(self, call: str) -> None:
        happens = self.__dict__.get("_happens", {}).pop(call, None)
        if happens is not None:
            await happens()

    async def issue(self, grant: Grant) -> Issued:
        await self._happen("before issue")
        issued = await super().issue(grant)
        await self._happen("issue")
        return issued

    async def renew(self, grant: Grant) -> Issued | None:
        issued = await super().renew(grant)
        await self._happen("renew")
        return issued

    async def revoke(self, lease: Lease) -> None:
        await super().revoke(lease)
        await self._happen("revoke")

    async def confirm(self, lease: Lease, now: float) -> Confirmed:
        confirmed = await super().confirm(lease, now)
        await self._happen("confirm")
        return confirmed


def _unavailable() -> Unavailable:
    return Unavailable(Reason.STATE_UNAVAILABLE, "the state does not answer")
