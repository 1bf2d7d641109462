"""A sweep takes back what no row knows, and nothing that a row knows under another spelling."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker.model.credential import LeaseState
from broker.model.role import Revocability
from tests.support.house import APPROVED, DAY, House, role
from tests.support.vault_plug import Ahead, plug

if TYPE_CHECKING:
    from broker.model.requests import IssueAnswer
    from tests.support.postgres import Login
    from tests.support.vault_ground import Ground

pytestmark = pytest.mark.integration


async def test_roles_of_two_classes_may_share_a_path(ground: Ground, database: Login) -> None:
    path = ground.database(database)
    clock = Ahead()
    weaker = {"path": path, "revocability": "until_expiry"}
    async with plug(ground.options(), clock=clock) as vault:
        vault.watch([path])
        house = await House.open(
            role("db", backend="vault", revocability=Revocability.AT_TARGET, parameters={"path": path}),
            role("weak", backend="vault", revocability=Revocability.UNTIL_EXPIRY, parameters=weaker),
            publish=False,
            clock=clock,
        )
        house.backends["vault"] = vault
        now = house.now
        await house.publish(1, *APPROVED, not_before=now - DAY, not_after=now + DAY)
        workload = await house.attested()
        mine, weak, stray = [await workload.issue(name) for name in ("db", "weak", "db")]
        house.state._tables.leases.pop(stray.lease.id)
        await house.tick(house.upkeep_limits.pending + house.upkeep_limits.skew + 5)

        def logs_in(answer: IssueAnswer) -> bool:
            fields = answer.credential.fields if answer.credential is not None else {}
            with database.connect() as look:
                query = "SELECT rolcanlogin FROM pg_roles WHERE rolname = %s"
                return look.execute(query, [fields["username"]]).fetchone() == (True,)

        assert [logs_in(answer) for answer in (mine, weak, stray)] == [True, True, False]
        assert (await house.lease(weak.lease.id)).state is LeaseState.ACTIVE
        # It is found again by its row, too.
        await house.issuer.give_back(workload.caller(), weak.lease.id)
        await house.tick()
        assert not logs_in(weak)
