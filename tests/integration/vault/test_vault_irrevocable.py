"""A target that refuses to drop what a real OpenBao tells it to: never called gone, found by the sweep, an alarm."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from broker.errors import Unavailable
from broker.model.credential import Confirmation, Lease
from tests.support.vault_ground import broker_policy
from tests.support.vault_plug import Plug, grant, opened, plug

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.openbao_raw import RawBao
    from tests.support.postgres import Postgres
    from tests.support.vault_stage import VaultStage

pytestmark = pytest.mark.integration

REFUSES = ["SELECT 1/0"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RawBao]:
    from tests.support.openbao_raw import RawBao

    own = RawBao(tmp_path_factory.mktemp("raw"))
    try:
        own.start()
        yield own
    finally:
        own.stop()


@pytest.fixture
def stage(server: RawBao, postgres_server: Postgres, tmp_path: Path) -> VaultStage:
    """Its database never drops a login."""
    from tests.support.vault_stage import lay_out

    stage = lay_out(server, postgres_server, tmp_path / "stage")
    stage.vault.root.write("database/roles/payments", revocation_statements=REFUSES)
    return stage


async def issued(backend: Plug, number: int = 1) -> Lease:
    from tests.support.vault_plug import account
    from tests.support.vault_stage import PATH

    backend.watch([PATH])
    wanted = grant(backend, await opened(backend, account(number)), PATH)
    return replace(wanted.lease, handle=(await backend.issue(wanted)).handle)


async def test_a_refusal_of_the_target_is_no_success(stage: VaultStage) -> None:
    async with plug(stage.vault.options()) as backend:
        lease = await issued(backend)
        for _ in range(2):
            with pytest.raises(Unavailable, match="revoking a lease: the backend answered 400"):
                await backend.revoke(lease)
        assert (await backend.confirm(lease, time.time())).result is Confirmation.ALIVE
        assert await backend.accounts.given_up() == []


async def test_what_the_server_has_given_up_on_is_never_called_gone(
    server: RawBao, stage: VaultStage
) -> None:
    async with plug(stage.vault.options()) as backend:
        lease, other = await issued(backend, 1), await issued(backend, 2)
        server.give_up(stage.vault.namespace, lease.handle)
        with pytest.raises(Unavailable, match="irrevocable"):
            await backend.confirm(lease, time.time())
        with pytest.raises(Unavailable, match="irrevocable"):
            await backend.revoke(lease)
        assert await backend.accounts.given_up() == [lease.handle]
        assert (await backend.confirm(other, time.time())).result is Confirmation.ALIVE

        # Put right at the target, it is taken back after all.
        stage.vault.root.write("database/roles/payments", revocation_statements=['DROP ROLE "{{name}}"'])
        await backend.revoke(lease)
        assert (await backend.confirm(lease, time.time())).result is Confirmation.GONE
        assert await backend.accounts.given_up() == []


async def test_leases_of_others_are_theirs(server: RawBao, stage: VaultStage) -> None:
    root = stage.vault.root
    role = root.read("database/roles/payments")
    root.write("database/roles/theirs", **{**role, "db_name": "orders"})
    root.write("database/config/orders", allowed_roles=["payments", "theirs"])
    theirs = root.call("GET", "database/creds/theirs")["lease_id"]
    server.give_up(stage.vault.namespace, theirs)
    async with plug(stage.vault.options()) as backend:
        await issued(backend)
        assert await backend.accounts.given_up() == []


async def test_without_the_right_to_ask_the_sweep_goes_on_and_says_so_once(stage: VaultStage) -> None:
    policy = broker_policy(stage.vault.sweep).replace('path "sys/leases" {', 'path "sys/nothing" {')
    stage.vault.restrict(policy)
    async with plug(stage.vault.options()) as backend:
        lease = await issued(backend)
        for _ in range(2):
            assert await backend.accounts.given_up() == []
        assert backend.warned == ["backend vault: its login may not GET sys/leases"]
        assert list(await backend.accounts.strays(time.time() + 60)) == [lease.handle]
