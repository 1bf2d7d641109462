"""Leases at Vault: look, extend, revoke, and list those under the paths of our roles."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from broker.adapters.backends.vault.errors import refused, unavailable
from broker.adapters.backends.vault.flights import Flight
from broker.adapters.backends.vault.session import VaultSession
from broker.adapters.backends.vault.wire import Answer, Lane
from broker.model.strict import Malformed, read_time

ABREAST: Final = 8
"""Leases looked up at once, in a sweep."""
IRREVOCABLE: Final = "the backend calls the lease irrevocable: its target refuses to drop it"
_DEPTH: Final = 4
_MOST: Final = 200_000


class VaultLeases:
    """By lease id, with the broker's own token. Raises `Unavailable`."""

    def __init__(self, session: VaultSession) -> None:
        self._session = session
        self._paths: set[str] = set()
        # When leases were made that the last sweep has seen: the next asks only for what is new.
        self._made: dict[str, float] = {}

    def watch(self, paths: Iterable[str]) -> None:
        """Paths whose leases are ours alone, from now on too: a role that is gone left leases behind."""
        self._paths.update(path.strip("/") for path in paths)

    async def found(self, lease_id: str) -> Mapping[str, Any] | None:
        """What Vault knows of it; None where it is gone."""
        answer = await self._session.ask("PUT", "sys/leases/lookup", {"lease_id": lease_id})
        if answer.ok:
            return answer.data
        if _gone(answer):
            return None
        raise refused("looking for a lease", answer)

    async def revoke(self, lease_id: str) -> None:
        """Answered when the target has dropped it; one that is gone is no error."""
        body = {"lease_id": lease_id, "sync": True}
        answer = await self._session.ask("PUT", "sys/leases/revoke", body)
        if answer.ok or _gone(answer):
            return
        if answer.status == 400 and given_up(await self.found(lease_id)):
            raise unavailable(IRREVOCABLE)
        raise refused("revoking a lease", answer)

    async def renew(self, lease_id: str, increment: int, flight: Flight) -> float | None:
        """Seconds that it now lives; None where it is gone, cannot be renewed, or is about to reach its end."""
        body = {"lease_id": lease_id, "increment": increment}
        answer = await self._session.ask("PUT", "sys/leases/renew", body, lane=Lane.GIVE, flight=flight)
        if answer.status in (400, 404):
            return None
        if not answer.ok:
            raise refused("renewing a lease", answer)
        lives = answer.body.get("lease_duration")
        # Less than was asked for: its last seconds, whoever renews again.
        return float(lives) if isinstance(lives, int) and lives >= increment - 1 else None

    async def made_before(self, before: float) -> Sequence[str]:
        """Ids of all leases under the watched paths that were made before a time (seconds, UTC)."""
        ids: list[str] = []
        for path in sorted(self._paths):
            await self._list(path, ids, _DEPTH)
        new = [lease_id for lease_id in ids if lease_id not in self._made]
        gate = asyncio.Semaphore(ABREAST)

        async def issued(lease_id: str) -> tuple[str, float | None]:
            async with gate:
                data = await self.found(lease_id)
            return lease_id, None if data is None else _made(data)

        found = dict(await asyncio.gather(*map(issued, new)))
        known = {**self._made, **{key: at for key, at in found.items() if at is not None}}
        self._made = {lease_id: known[lease_id] for lease_id in ids if lease_id in known}
        return [lease_id for lease_id, at in self._made.items() if at < before]

    async def irrevocable(self) -> Sequence[str]:
        """Ids under the watched paths that the server has given up on: its target refused again and again. Without
        the right to ask, none: the broker's log says so once."""
        if not self._paths:
            return []
        answer = await self._session.ask("GET", "sys/leases?type=irrevocable")
        if answer.status == 403:
            return []
        found = answer.data.get("leases")
        if not answer.ok or not isinstance(found, list):
            raise refused("listing irrevocable leases", answer)
        ids = [str(item.get("lease_id", "")) for item in found if isinstance(item, dict)]
        ours = tuple(f"{path}/" for path in self._paths)
        return [lease_id for lease_id in ids if lease_id.startswith(ours)]

    async def _list(self, path: str, into: list[str], depth: int) -> None:
        answer = await self._session.ask("LIST", f"sys/leases/lookup/{path}")
        if answer.status == 404:
            return
        keys = answer.data.get("keys")
        if not answer.ok or not isinstance(keys, list):
            raise refused("listing leases", answer)
        for key in keys:
            if not str(key).endswith("/"):
                into.append(f"{path}/{key}")
            elif depth:
                await self._list(f"{path}/{str(key).rstrip('/')}", into, depth - 1)
        if len(into) > _MOST:
            raise unavailable("more leases at the backend than can be swept")


def given_up(known: Mapping[str, Any] | None) -> bool:
    """True for a lease that the server no longer tries to take back by itself (OpenBao from 2.6 says it here)."""
    return known is not None and bool(known.get("revoke_error"))


def _gone(answer: Answer) -> bool:
    # 400, not 404, and 403 where it is none of ours; only the first says that it is gone.
    return answer.status == 400 and (answer.says("invalid lease") or answer.says("lease not found"))


def _made(data: Mapping[str, Any]) -> float:
    try:
        return read_time(data.get("issue_time"), "issue_time")
    except Malformed:
        # Neither old enough to be taken back nor young enough to be left.
        raise unavailable("the backend does not say when a lease was made") from None
