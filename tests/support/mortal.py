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
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from broker.adapters.backends.vault import AppRoleLogin, VaultOptions
from broker.adapters.cutters.options import PostgresOptions
from broker.model.attestation import AttestationState
from broker.model.revocation import SelectorKind
from tests.support.house import House
from tests.support.witnessed import attested, kept_up, settled, witnessed_house

T = TypeVar("T")

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
    fate = Fate(order.die, after=order.after)
    options = VaultOptions(
        addresses=tuple(order.vault["addresses"]),
        login=AppRoleLogin(Path(order.vault["role_id_file"]), Path(order.vault["secret_id_file"])),
        namespace=order.vault["namespace"],
        ca_file=Path(order.vault["ca_file"]),
        timeout=2.5,
        max_request_duration=1.0,
    )
    cutter = PostgresOptions(**order.cutter) if order.cutter else None
    async with (
        witnessed_house(fate, Path(order.state), options, {"db": order.path}, cutter) as house,
        asyncio.timeout(PATIENCE),
    ):
        await {"issue": issue, "revoke": revoke, "recover": recover}[order.act](house, fate)
    say("done", trace=fate.trace)


async def issue(house: House, fate: Fate) -> None:
    """The first credential of an instance, then another one."""
    workload = await attested(house)
    fate.armed = True
    await workload.issue("db")
    await workload.issue("db")


async def revoke(house: House, fate: Fate) -> None:
    """An instance with two credentials is revoked, until the receipt is there."""
    workload = await attested(house)
    await workload.issue("db")
    await workload.issue("db")
    fate.armed = True
    await house.revoke(SelectorKind.ATTESTATION, workload.id)
    async with kept_up(house):
        await settled(house)


async def recover(house: House, fate: Fate) -> None:
    """Start again on what is there; end every instance, and work until nothing is left to do."""
    alive = await house.look(lambda tx: tx.accounts.page((), 1000))
    leases = await house.leases()
    for attestation_id in sorted({item.attestation_id for item in (*alive, *leases)}):
        if (await house.attestation(attestation_id)).state is AttestationState.ALIVE:
            await house.revoke(SelectorKind.ATTESTATION, attestation_id)
    async with kept_up(house):
        await settled(house)


if __name__ == "__main__":
    asyncio.run(play(Order(**json.loads(Path(sys.argv[1]).read_text()))))
