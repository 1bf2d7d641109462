"""An answer of Vault's that is lost: what it would have named is dead, or said to live, before a receipt is signed."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from broker.errors import Unavailable
from broker.issue import IssueLimits
from broker.model.credential import Lease, LeaseState
from broker.model.revocation import SelectorKind
from broker.model.role import Revocability
from broker.upkeep import UpkeepLimits
from tests.support.house import APPROVED, DAY, House, Workload, role
from tests.support.relay import Relay
from tests.support.vault_plug import Ahead, plug

if TYPE_CHECKING:
    from tests.support.postgres import Login
    from tests.support.vault_ground import Ground

pytestmark = pytest.mark.integration

LIMITS = UpkeepLimits(look_again=0.0, pending=20.0, skew=5.0, backoff_most=5.0)
LAST = 2 * (LIMITS.pending + LIMITS.skew)


@dataclass
class Scene:
    """A broker whose way to Vault goes through a relay, and one workload."""

    house: House
    relay: Relay
    ground: Ground
    path: str
    database: Login
    workload: Workload

    async def lose(self) -> Lease:
        """Ask for a login; Vault makes it, and its answer does not arrive."""
        before = len(self.ground.leases(self.path))
        self.relay.mute()
        asking = asyncio.create_task(self.workload.issue("db"))
        async with asyncio.timeout(20):
            while True:
                if len(self.ground.leases(self.path)) > before:
                    break
                await asyncio.sleep(0.02)
        self.relay.cut()
        with pytest.raises(Unavailable) as lost:
            await asking
        self.relay.mend()
        assert not lost.value.without_effect
        [row] = [lease for lease in await self.house.leases() if not lease.handle]
        return row

    def logins(self) -> int:
        """Of this instance, at the database."""
        with self.database.connect() as look:
            found = look.execute(
                "SELECT count(*) FROM pg_roles WHERE starts_with(rolname, %s)", [f"ls-{self.workload.id}-"]
            ).fetchone()
            assert found is not None
            return int(found[0])


@contextlib.asynccontextmanager
async def scene(ground: Ground, database: Login, **options: Any) -> AsyncIterator[Scene]:
    path = ground.database(database)
    clock = Ahead()
    with Relay(ground.server.port) as relay:
        # One worker, whose connection stands: a new one would need answers before it asks.
        settings = {"addresses": (f"https://{relay.address}",), "timeout": 15.0, "connections": 1, **options}
        through = ground.options(**settings)
        async with plug(through, clock=clock) as vault:
            vault.watch([path])
            house = await House.open(
                role("db", backend="vault", revocability=Revocability.AT_TARGET, parameters={"path": path}),
                publish=False,
                clock=clock,
                issue_limits=IssueLimits(pending=LIMITS.pending),
                upkeep_limits=LIMITS,
            )
            house.backends["vault"] = vault
            now = house.now
            await house.publish(1, *APPROVED, not_before=now - DAY, not_after=now + DAY)
            yield Scene(house, relay, ground, path, database, await house.attested())


async def test_the_receipt_is_signed_when_the_login_is_gone(ground: Ground, database: Login) -> None:
    async with scene(ground, database) as found:
        house = found.house
        kept = await found.workload.issue("db")
        lost = await found.lose()
        assert found.logins() == 2
        name = (await house.revoke(SelectorKind.LEASE, lost.id)).revocation_id
        for _ in range(int(LAST / 5) + 2):
            await house.tick(5)
            assert not await house.settled(name) or found.logins() == 1
        assert await house.settled(name)
        assert json.loads(await house.receipt(name))["unconfirmed"] == []
        assert (await house.lease(lost.id)).state is LeaseState.REVOKED
        assert (await house.lease(kept.lease.id)).state is LeaseState.ACTIVE
        assert found.logins() == 1


async def test_without_a_sweep_the_receipt_says_until_when_it_may_live(
    ground: Ground, database: Login
) -> None:
    async with scene(ground, database, sweep=False) as found:
        house = found.house
        await found.workload.issue("db")
        lost = await found.lose()
        name = (await house.revoke(SelectorKind.LEASE, lost.id)).revocation_id
        await house.tick(LIMITS.pending)
        await house.tick(1)
        assert found.logins() == 2
        receipt = json.loads(await house.receipt(name))
        [left] = receipt["unconfirmed"]
        assert left["lease"] == lost.id
        assert left["what"].startswith("until_expiry")
        assert (await house.lease(lost.id)).expires_at == lost.max_expires_at


async def test_what_vault_refused_is_known_not_to_be_there(ground: Ground, database: Login) -> None:
    async with scene(ground, database) as found:
        await found.workload.issue("db")
        ground.root.write("database/roles/payments", db_name="nowhere")
        with pytest.raises(Unavailable) as refused:
            await found.workload.issue("db")
        assert refused.value.without_effect
        [row] = [lease for lease in await found.house.leases() if not lease.handle]
        assert row.state is LeaseState.REVOKED


async def test_what_was_never_sent_is_known_not_to_be_there(ground: Ground, database: Login) -> None:
    async with scene(ground, database, circuit_failures=1) as found:
        await found.workload.issue("db")
        found.relay.__exit__(None, None, None)
        for _ in range(2):
            with pytest.raises(Unavailable) as away:
                await found.workload.issue("db")
        # The first found a connection that broke under it; to the second nothing was open.
        assert away.value.without_effect
        latest = max((lease for lease in await found.house.leases()), key=lambda lease: lease.id)
        assert latest.state is LeaseState.REVOKED
