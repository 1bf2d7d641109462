"""FakeCutter: a target in memory whose logins and sessions end, that can be slow, down or stubborn."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from broker.errors import LockstepError, Unavailable
from broker.model.account import Remains, TargetFault
from lockstep.formats import Reason


class FakeCutter:
    """`logins` and `sessions` are what the target has, by attestation; a test fills them as a workload would."""

    def __init__(self) -> None:
        self.logins: dict[str, int] = {}
        self.sessions: dict[str, int] = {}
        self.calls: list[tuple[str, str]] = []
        self.closed = False
        self.wrong: tuple[TargetFault, ...] = ()
        self._failures: dict[str, list[LockstepError]] = {}
        self._held: dict[str, asyncio.Event] = {}
        self._stubborn: dict[str, int] = {}
        self._known: dict[str, int] = {}
        self._called = asyncio.Event()

    # --- the weather --------------------------------------------------------------------------------

    def fail(self, call: str, times: int = 1, error: LockstepError | None = None) -> None:
        """The next calls of ``cut`` or ``confirm`` raise."""
        problem = error or Unavailable(Reason.BACKEND_UNAVAILABLE, "the target does not answer")
        self._failures.setdefault(call, []).extend([problem] * times)

    def hold(self, call: str) -> asyncio.Event:
        """Calls wait until the event that is returned is set."""
        return self._held.setdefault(call, asyncio.Event())

    def resist(self, attestation_id: str, times: int = 1) -> None:
        """The next cuts leave a session, as one that was logging in meanwhile."""
        self._stubborn[attestation_id] = times

    async def heard(self, call: str, times: int = 1) -> None:
        """Wait until so many calls have come."""
        async with asyncio.timeout(5):
            while sum(name == call for name, _ in self.calls) < times:
                self._called.clear()
                await self._called.wait()

    async def _weather(self, call: str, attestation_id: str) -> None:
        self.calls.append((call, attestation_id))
        self._called.set()
        if call in self._held:
            await self._held[call].wait()
        if self._failures.get(call):
            raise self._failures[call].pop(0)

    # --- the port -----------------------------------------------------------------------------------

    async def cut(self, attestation_id: str) -> Remains:
        await self._weather("cut", attestation_id)
        known = self._known[attestation_id] = self._known.get(attestation_id, 0) + self.logins.pop(
            attestation_id, 0
        )
        self.sessions.pop(attestation_id, None)
        if self._stubborn.get(attestation_id, 0) > 0:
            self._stubborn[attestation_id] -= 1
            self.sessions[attestation_id] = 1
        return replace(self._look(attestation_id), known=known)

    async def confirm(self, attestation_id: str) -> Remains:
        await self._weather("confirm", attestation_id)
        return self._look(attestation_id)

    async def faults(self) -> tuple[TargetFault, ...]:
        await self._weather("faults", "")
        return self.wrong

    async def close(self) -> None:
        self.closed = True

    def _look(self, attestation_id: str) -> Remains:
        return Remains(self.logins.get(attestation_id, 0), self.sessions.get(attestation_id, 0))
