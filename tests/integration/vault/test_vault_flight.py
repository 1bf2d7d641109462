"""A request that Vault has begun survives the stop of its instance: it is known to be under way, and swept after it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from broker.errors import Unavailable
from broker.model.credential import Confirmation
from tests.support.vault_plug import account as new
from tests.support.vault_plug import grant, opened, plug

if TYPE_CHECKING:
    from broker.model.account import Account
    from tests.support.postgres import Login
    from tests.support.vault_ground import Ground

pytestmark = pytest.mark.integration

CREATION = [
    "SELECT pg_advisory_xact_lock(77)",
    "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE app_owner",
]


async def waiting(database: Login, number: int) -> None:
    """Until so many wait for the lock."""
    async with asyncio.timeout(20):
        while True:
            with database.connect() as look:
                found = look.execute(
                    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
                ).fetchone()
            if found == (number,):
                return
            await asyncio.sleep(0.02)


async def test_targets_that_hang_hold_up_no_stop(ground: Ground) -> None:
    from tests.support.postgres import postgres

    with postgres() as server:
        path = ground.database(server.create_database())
        async with plug(ground.options(connections=2, timeout=3.0, circuit_failures=1)) as backend:
            account = await opened(backend)
            leases = []
            for number in range(4):
                wanted = grant(backend, account, path, id=f"L-{number}")
                leases.append(replace(wanted.lease, handle=(await backend.issue(wanted)).handle))
            server.freeze()
            try:
                taking = [asyncio.create_task(backend.revoke(lease)) for lease in leases]
                # Until each worker has one, and others wait.
                await asyncio.wait(taking, timeout=0.3)
                async with asyncio.timeout(2):
                    await backend.accounts.freeze("A-1")
                assert not any(task.done() for task in taking)
                await asyncio.gather(*taking, return_exceptions=True)
                # Vault itself answers: the way to everything else stays open.
                assert backend.trouble == ""
                await backend.accounts.attestations()
            finally:
                server.thaw()
            for lease in leases:
                await backend.revoke(lease)


def logins(database: Login, account: Account) -> int:
    """Of this account alone: roles belong to the server, which other tests use too."""
    with database.connect() as look:
        query = "SELECT count(*) FROM pg_roles WHERE starts_with(rolname, %s)"
        found = look.execute(query, [f"ls-{account.attestation_id}-"]).fetchone()
        assert found is not None
        return int(found[0])


async def test_one_that_is_waited_for_is_answered_after_the_stop_and_what_it_made_is_found(
    ground: Ground, database: Login
) -> None:
    path = ground.database(database, creation_statements=CREATION)
    async with plug(ground.options(timeout=20.0)) as backend:
        backend.watch([path])
        account = await opened(backend, new(attestation="A-waited"))
        wanted = grant(backend, account, path)
        with database.connect() as holder:
            holder.execute("SELECT pg_advisory_lock(77)")
            issuing = asyncio.create_task(backend.issue(wanted))
            await waiting(database, 1)
            await backend.accounts.freeze("A-waited")
            assert not backend.accounts.quiet("A-waited")
            holder.execute("SELECT pg_advisory_unlock(77)")
            issued = await issuing
        assert backend.accounts.quiet("A-waited")
        assert logins(database, account) == 1
        assert list(await backend.accounts.strays(time.time() + 5)) == [issued.handle]
        await backend.accounts.revoke_stray(issued.handle)
        lease = replace(wanted.lease, handle=issued.handle)
        assert (await backend.confirm(lease, time.time())).result is Confirmation.GONE
        await backend.accounts.close(account)
        assert logins(database, account) == 0


async def test_one_that_nobody_waits_for_is_given_up_at_the_target_and_counted_all_the_same(
    ground: Ground, database: Login
) -> None:
    path = ground.database(database, creation_statements=CREATION)
    async with plug(ground.options(timeout=1.0)) as backend:
        backend.watch([path])
        account = await opened(backend, new(attestation="A-given-up"))
        with database.connect() as holder:
            holder.execute("SELECT pg_advisory_lock(77)")
            with pytest.raises(Unavailable, match="did not answer in time"):
                await backend.issue(grant(backend, account, path))
            # The connection was closed, and Vault gave the statement up.
            await waiting(database, 0)
            holder.execute("SELECT pg_advisory_unlock(77)")
        assert not backend.accounts.quiet("A-given-up")
        assert list(await backend.accounts.strays(time.time() + 5)) == []
        assert logins(database, account) == 0
