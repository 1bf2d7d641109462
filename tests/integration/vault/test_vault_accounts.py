"""Accounts and leases at a real OpenBao with a real PostgreSQL: one act stops an instance, and nothing is forgotten."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from broker.errors import Denied, Unavailable
from broker.model.credential import Confirmation
from tests.support.vault_ground import Ground
from tests.support.vault_plug import Ahead, Plug, account, grant, key_value, opened, plug

if TYPE_CHECKING:
    from tests.support.postgres import Login, Postgres

pytestmark = pytest.mark.integration


def entity(ground: Ground, attestation: str) -> dict[str, object]:
    mount = ground.root.read("sys/auth")["token/"]["accessor"]
    answer = ground.root.write(
        "identity/lookup/entity", alias_name=f"ls-{attestation.lower()}", alias_mount_accessor=mount
    )
    return answer.get("data") or {}


class TestAnAccount:
    async def test_is_a_service_token_of_an_entity_of_the_instance(self, ground: Ground) -> None:
        async with plug(ground.options()) as backend:
            held = await opened(backend, ttl=7200)
            data = ground.root.write("auth/token/lookup-accessor", accessor=held.accessor)["data"]
            assert (data["type"], data["orphan"], data["display_name"]) == ("service", True, "token-A-1")
            assert data["policies"] == ["lockstep-issue"]
            # Never longer than five minutes, whatever the role says.
            assert data["creation_ttl"] == 300
            assert data["entity_id"] == entity(ground, "A-1")["id"]
            assert backend.accounts.holds(held)
            assert not backend.accounts.holds(replace(held, replica="R-2"))
            assert not backend.accounts.holds(account(2))

    async def test_two_processes_have_two_tokens_under_one_entity(self, ground: Ground) -> None:
        path = key_value(ground)
        async with plug(ground.options()) as one, plug(ground.options(), replica="R-2") as other:
            first = await opened(one)
            second = await opened(other, account(2, replica="R-2", attestation="A-1"))
            assert first.accessor != second.accessor
            # Either stops both.
            await other.accounts.freeze("A-1")
            with pytest.raises(Denied):
                await one.issue(grant(one, first, path))
            assert not one.accounts.holds(first)
            with pytest.raises(Denied):
                await one.accounts.open(account(3, attestation="A-1"), 300)

    async def test_is_extended_for_credentials_that_outlive_it(self, ground: Ground) -> None:
        path = key_value(ground)
        async with plug(ground.options()) as backend:
            held = await opened(backend, ttl=60)
            issued = await backend.issue(grant(backend, held, path))
            assert issued.expires_at > time.time() + 200
            data = ground.root.write("auth/token/lookup-accessor", accessor=held.accessor)["data"]
            assert data["ttl"] > 200

    async def test_that_another_process_opened_is_extended_by_its_accessor(self, ground: Ground) -> None:
        path = key_value(ground)
        async with plug(ground.options()) as before:
            held = await opened(before, ttl=60)
            wanted = grant(before, held, path)
            issued = await before.issue(wanted)
        async with plug(ground.options(), replica="R-2") as after:
            lease = replace(wanted.lease, handle=issued.handle)
            renewed = await after.renew(replace(wanted, lease=lease))
            assert renewed is not None
            assert renewed.expires_at > time.time() + 200
            with pytest.raises(Unavailable, match="lost"):
                await after.issue(wanted)
            await after.accounts.close(held)
            assert await after.renew(replace(wanted, lease=lease)) is None

    async def test_that_ran_out_is_not_held(self, ground: Ground) -> None:
        clock = Ahead()
        async with plug(ground.options(), clock=clock) as backend:
            held = await opened(backend, ttl=30)
            clock.ahead = 31
            assert not backend.accounts.holds(held)

    async def test_a_token_role_that_makes_batch_tokens_is_refused(self, ground: Ground) -> None:
        ground.root.write("auth/token/roles/lockstep", token_type="batch", renewable=False)
        ground.restrict('path "*" { capabilities = ["create", "update", "read", "list", "sudo"] }')
        async with plug(ground.options()) as backend:
            with pytest.raises(Unavailable):
                await opened(backend)
            assert backend.accounts.quiet("A-1")

    async def test_a_token_role_that_gives_the_brokers_own_rights_away_is_refused(
        self, ground: Ground
    ) -> None:
        ground.root.write("auth/token/roles/lockstep", allowed_policies=[])
        async with plug(ground.options()) as backend:
            with pytest.raises(Unavailable, match="own policies"):
                await opened(backend)
            # What was made is gone again: the broker's own token is the only one.
            assert ground.tokens() == 1


class TestStopping:
    async def test_refuses_everything_at_once_and_closing_takes_the_leases(
        self, ground: Ground, database: Login
    ) -> None:
        path = ground.database(database)
        async with plug(ground.options()) as backend:
            held = await opened(backend)
            issued = await backend.issue(grant(backend, held, path))
            assert len(ground.leases(path)) == 1
            await backend.accounts.freeze("A-1")
            assert entity(ground, "A-1")["disabled"] is True
            with pytest.raises(Denied):
                await backend.issue(grant(backend, held, path))
            assert (await backend.accounts.confirm(held, time.time())).result is Confirmation.ALIVE
            await backend.accounts.close(held)
            await backend.accounts.close(held)
            found = await backend.accounts.confirm(held, time.time())
            assert (found.result, found.method) == (
                Confirmation.GONE,
                "accessor unknown to the backend, entity disabled",
            )
            # Leases of a token that was revoked go a moment later; asked for, at once.
            lease = replace(grant(backend, held, path).lease, handle=issued.handle)
            await backend.revoke(lease)
            assert (await backend.confirm(lease, time.time())).result is Confirmation.GONE
            assert not ground.leases(path)

    async def test_an_instance_that_never_was_is_no_error(self, ground: Ground) -> None:
        async with plug(ground.options()) as backend:
            await backend.accounts.freeze("A-404")
            found = await backend.accounts.confirm(account(404), time.time())
            assert (found.result, found.method) == (Confirmation.GONE, "the backend never knew the instance")

    async def test_works_on_accounts_whose_accessor_was_never_learned(self, ground: Ground) -> None:
        async with plug(ground.options()) as before:
            await opened(before)
        async with plug(ground.options(), replica="R-2") as after:
            lost = account()
            assert list(await after.accounts.attestations()) == ["A-1"]
            # While the instance lives, nobody has that token, and it ends by itself.
            await after.accounts.close(lost)
            found = await after.accounts.confirm(lost, time.time())
            assert found.result is Confirmation.UNTIL_EXPIRY
            assert found.until == pytest.approx(lost.opened_at + 330)
            assert (await after.accounts.confirm(lost, found.until)).result is Confirmation.GONE
            await after.accounts.freeze("A-1")
            assert (await after.accounts.confirm(lost, time.time())).result is Confirmation.GONE
            assert list(await after.accounts.attestations()) == []

    async def test_reaches_an_account_that_was_being_opened(self, ground: Ground) -> None:
        async with plug(ground.options()) as backend:
            await backend.accounts.attestations()
            opening = asyncio.create_task(backend.accounts.open(account(), 300))
            # Sent, and not answered: the loop has not turned for it yet.
            await asyncio.sleep(0)
            await backend.accounts.freeze("A-1")
            await asyncio.gather(opening, return_exceptions=True)
            assert entity(ground, "A-1").get("disabled", True) is True
            assert not backend.accounts.holds(account())

    async def test_finds_the_entity_anew_where_the_known_one_is_gone(self, ground: Ground) -> None:
        async with plug(ground.options()) as backend:
            held = await opened(backend)
            ground.root.delete(f"identity/entity/id/{entity(ground, 'A-1')['id']}")
            again = await opened(backend, account(2, attestation="A-1"))
            backend.accounts._entities.learn("A-1", "00000000-0000-0000-0000-000000000000")
            await backend.accounts.freeze("A-1")
            assert entity(ground, "A-1")["disabled"] is True
            assert held.accessor != again.accessor

    async def test_what_others_keep_in_the_same_vault_is_not_ours(self, ground: Ground) -> None:
        ground.root.write("identity/entity", name="human")
        async with plug(ground.options()) as backend:
            await opened(backend)
            # The broker's own entity and that of a human are left alone.
            assert list(await backend.accounts.attestations()) == ["A-1"]


class TestLeases:
    async def test_a_sweep_finds_what_nobody_knows(self, ground: Ground, database: Login) -> None:
        path = ground.database(database)
        async with plug(ground.options()) as backend:
            backend.watch([path])
            held = await opened(backend)
            began = time.time()
            handles = {(await backend.issue(grant(backend, held, path))).handle for _ in range(3)}
            assert list(await backend.accounts.strays(began - 5)) == []
            assert set(await backend.accounts.strays(time.time() + 5)) == handles
            stray = handles.pop()
            await backend.accounts.revoke_stray(stray)
            await backend.accounts.revoke_stray(stray)
            assert set(await backend.accounts.strays(time.time() + 5)) == handles

    async def test_what_is_not_to_be_swept_is_nobodys_stray(self, ground: Ground, database: Login) -> None:
        path = ground.database(database)
        async with plug(ground.options(sweep=False)) as backend:
            backend.watch([path])
            await backend.issue(grant(backend, await opened(backend), path))
            assert list(await backend.accounts.strays(time.time() + 5)) == []

    async def test_a_sweep_of_a_path_without_leases_finds_nothing(self, ground: Ground) -> None:
        async with plug(ground.options()) as backend:
            backend.watch(["generic/creds/x"])
            assert list(await backend.accounts.strays(time.time())) == []

    async def test_vaults_own_words_bound_the_life(self, ground: Ground, database: Login) -> None:
        path = ground.database(database, default_ttl="90s", max_ttl="100s")
        async with plug(ground.options()) as backend:
            held = await opened(backend)
            wanted = grant(backend, held, path)
            issued = await backend.issue(wanted)
            assert issued.expires_at == pytest.approx(time.time() + 90, abs=3)
            # Five more minutes are not to be had: take another.
            assert (
                await backend.renew(replace(wanted, lease=replace(wanted.lease, handle=issued.handle)))
                is None
            )

    async def test_a_login_works_until_it_is_taken_back(self, ground: Ground, database: Login) -> None:
        path = ground.database(database)
        async with plug(ground.options()) as backend:
            held = await opened(backend)
            issued = await backend.issue(grant(backend, held, path))
            fields = issued.credential.fields
            assert fields["username"].startswith("ls-A-1-")
            login = replace(database, user=fields["username"], password=fields["password"])
            with login.connect() as session:
                assert session.execute("SELECT 1").fetchone() == (1,)
            lease = replace(grant(backend, held, path).lease, handle=issued.handle)
            assert (await backend.confirm(lease, time.time())).result is Confirmation.ALIVE
            await backend.revoke(lease)
            with database.connect() as session:
                left = session.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [fields["username"]])
                assert left.fetchone() is None

    async def test_a_target_that_is_away_is_no_revocation(self, ground: Ground) -> None:
        from tests.support.postgres import postgres

        with postgres() as server:
            backend_path = ground.database(server.create_database())
            async with plug(ground.options(timeout=20.0)) as backend:
                await self._away(ground, backend, server, backend_path)

    async def _away(self, ground: Ground, backend: Plug, server: Postgres, path: str) -> None:
        held = await opened(backend)
        wanted = grant(backend, held, path)
        issued = await backend.issue(wanted)
        lease = replace(wanted.lease, handle=issued.handle)
        server.stop()
        with pytest.raises(Unavailable):
            await backend.revoke(lease)
        assert (await backend.confirm(lease, time.time())).result is Confirmation.ALIVE
        with pytest.raises(Unavailable):
            await backend.issue(wanted)
        # Vault itself answered: others are served.
        assert backend.trouble == ""
        server.start()
        await backend.revoke(lease)
        assert (await backend.confirm(lease, time.time())).result is Confirmation.GONE
