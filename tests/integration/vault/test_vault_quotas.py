"""A server whose quotas are hit: whoever asks for a secret hears a limit, and taking back goes on.

OpenBao has rate limits (`test_vault_weather`) and no lease count quotas: as Vault answers there, a front answers
before a real OpenBao.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from broker.errors import LimitExceeded, Unavailable
from broker.model.credential import Confirmation
from tests.support.https_stub import Said, Stub, https
from tests.support.openbao import Refused
from tests.support.vault_front import Front
from tests.support.vault_plug import account, grant, key_value, opened, plug

if TYPE_CHECKING:
    from pathlib import Path

    from broker.adapters.backends.vault import VaultOptions
    from tests.support.postgres import Login
    from tests.support.vault_ground import Ground

pytestmark = pytest.mark.integration

TOKEN_ROLE = "auth/token/create/lockstep"


def lease_count(path: str) -> Said:
    """What Vault answers (`vault/quotas`): 429, and no word of when to try again."""
    text = f'1 error occurred:\n\t* request path "{path}": lease count quota exceeded\n\n'
    return Said(429, {"errors": [text]})


@pytest.fixture
def front(ground: Ground) -> Front:
    return Front(ground.server.address, ground.server.ca)


@pytest.fixture
def stub(front: Front, tmp_path: Path) -> Iterator[Stub]:
    with https(front, tmp_path / "front") as listening:
        yield listening


@pytest.fixture
def options(ground: Ground, stub: Stub) -> VaultOptions:
    return ground.options(addresses=(stub.url,), ca_file=stub.ca, circuit_failures=1, circuit_pause=30.0)


async def test_no_more_leases_is_a_limit_for_those_who_ask(
    ground: Ground, front: Front, options: VaultOptions, database: Login
) -> None:
    path = ground.database(database)
    async with plug(options) as backend:
        held = await opened(backend)
        first = grant(backend, held, path)
        lease = replace(first.lease, handle=(await backend.issue(first)).handle)
        front.instead[path] = lease_count(path)
        for _ in range(3):
            with pytest.raises(LimitExceeded) as refused:
                await backend.issue(grant(backend, held, path))
            assert refused.value.retry_after is None
        # Asked once each time: whoever tries again at once makes it worse.
        assert front.refused == [path] * 3
        # The circuit stays closed, and what was given before is taken back.
        assert backend.trouble == ""
        await backend.revoke(lease)
        assert (await backend.confirm(lease, time.time())).result is Confirmation.GONE
        await backend.accounts.freeze(held.attestation_id)
        assert ground.leases(path) == []
        front.instead.clear()
        again = await opened(backend, account(2))
        assert (await backend.issue(grant(backend, again, path))).handle


async def test_no_more_tokens_is_one_too(front: Front, options: VaultOptions, ground: Ground) -> None:
    path = key_value(ground)
    async with plug(options) as backend:
        front.instead[TOKEN_ROLE] = lease_count(TOKEN_ROLE)
        with pytest.raises(LimitExceeded):
            await opened(backend)
        assert backend.accounts.quiet("A-1")
        front.instead.clear()
        assert (await backend.issue(grant(backend, await opened(backend), path))).credential.fields


async def test_one_that_is_hit_while_taking_back_is_tried_again(
    ground: Ground, front: Front, options: VaultOptions, database: Login
) -> None:
    path = ground.database(database)
    async with plug(options) as backend:
        wanted = grant(backend, await opened(backend), path)
        lease = replace(wanted.lease, handle=(await backend.issue(wanted)).handle)
        front.instead["sys/leases/revoke"] = lease_count("sys/leases/revoke")
        with pytest.raises(Unavailable, match="limit is reached"):
            await backend.revoke(lease)
        front.instead.clear()
        await backend.revoke(lease)
        assert (await backend.confirm(lease, time.time())).result is Confirmation.GONE


def test_this_server_has_no_quota_of_leases(ground: Ground) -> None:
    """Where it has one, the tests above belong on it."""
    if ground.server.root.read("sys/plugins/catalog/auth/approle").get("version", "").endswith(".bao"):
        with pytest.raises(Refused) as refused:
            ground.server.root.write("sys/quotas/lease-count/all", max_leases=1)
        assert refused.value.status == 404
        assert "unsupported path" in str(refused.value)
