"""FakeBackend: a credential backend with an outside, in memory, that can be slow, down or forgetful."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from typing import Any

from broker.errors import LockstepError, Unavailable
from broker.model.credential import Confirmation, Confirmed, Credential, Grant, Issued, Lease
from broker.model.role import Revocability
from lockstep.formats import Reason
from tests.support import canaries

SECRET = f"s3cret-{secrets.token_hex(8)}"
"""What every secret of a fake backend begins with; the run is searched for it."""
canaries.keep(SECRET, "a secret of a fake backend")


class FakeBackend:
    """Gives numbered secrets; `living` are those that the outside would still take, by handle."""

    def __init__(self, revocability: Revocability = Revocability.AT_TARGET, *, outside: bool = True) -> None:
        self._revocability = revocability
        self._outside = outside
        self._made = 0
        self._failures: dict[str, list[LockstepError]] = {}
        self._held: dict[str, asyncio.Event] = {}
        self.living: dict[str, Lease] = {}
        self.calls: list[tuple[str, str]] = []
        self.poisoned: set[tuple[str, str]] = set()

    # --- the weather --------------------------------------------------------------------------------

    def fail(self, call: str, times: int = 1, error: LockstepError | None = None) -> None:
        """The next calls of ``issue``, ``renew``, ``revoke`` or ``confirm`` raise."""
        problem = error or Unavailable(Reason.BACKEND_UNAVAILABLE, "the backend does not answer")
        self._failures.setdefault(call, []).extend([problem] * times)

    def poison(self, call: str, lease_id: str) -> None:
        """From now on this call for this lease raises what no plug may."""
        self.poisoned.add((call, lease_id))

    def hold(self, call: str) -> asyncio.Event:
        """Calls wait until the event that is returned is set."""
        return self._held.setdefault(call, asyncio.Event())

    async def _weather(self, call: str, lease_id: str) -> None:
        self.calls.append((call, lease_id))
        if call in self._held:
            await self._held[call].wait()
        if self._failures.get(call):
            raise self._failures[call].pop(0)
        if (call, lease_id) in self.poisoned:
            raise KeyError("s3cret")

    # --- the port -----------------------------------------------------------------------------------

    @property
    def accounts(self) -> None:
        return

    def revocability_of(self, parameters: Mapping[str, Any]) -> Revocability:
        return self._revocability

    @property
    def outside(self) -> bool:
        return self._outside

    async def issue(self, grant: Grant) -> Issued:
        await self._weather("issue", grant.lease.id)
        self._made += 1
        handle = f"outside-{self._made}" if self._outside else grant.lease.handle
        self.living[handle] = grant.lease
        fields: Mapping[str, str] = {"username": f"u{self._made}", "password": f"{SECRET}-{self._made}"}
        return Issued(Credential(fields=fields), handle, grant.lease.expires_at)

    async def renew(self, grant: Grant) -> Issued | None:
        await self._weather("renew", grant.lease.id)
        if grant.lease.handle not in self.living:
            return None
        self.living[grant.lease.handle] = grant.lease
        return Issued(Credential(), grant.lease.handle, grant.lease.expires_at)

    async def revoke(self, lease: Lease) -> None:
        await self._weather("revoke", lease.id)
        # By lease as well as by handle: a secret whose handle was never learned must not stay.
        for handle in [
            key for key, known in self.living.items() if key == lease.handle or known.id == lease.id
        ]:
            del self.living[handle]

    async def confirm(self, lease: Lease, now: float) -> Confirmed:
        await self._weather("confirm", lease.id)
        known = self.living.get(lease.handle)
        if known is None or known.expires_at <= now:
            return Confirmed(Confirmation.GONE, "fake lookup")
        return Confirmed(Confirmation.ALIVE, "fake lookup", until=known.expires_at)
