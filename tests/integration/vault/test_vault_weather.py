"""VaultBackend while Vault is down, sealed, slow, away, restarted, or refuses: it says so, and goes on afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from broker.errors import LimitExceeded, Unavailable
from broker.model.credential import Confirmation, Lease, LeaseState
from tests.support.openbao import OpenBao, openbao
from tests.support.relay import Relay
from tests.support.vault_ground import Ground, broker_policy, lay_out
from tests.support.vault_plug import Ahead, account, grant, key_value, opened, plug

pytestmark = pytest.mark.integration

DOWN = {"circuit_failures": 2, "circuit_pause": 30.0, "timeout": 1.0}


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    """One that these tests may stop; what it knows survives."""
    with openbao(tmp_path_factory.mktemp("raft"), storage="raft") as server:
        yield server


@pytest.fixture
def own_ground(own_server: OpenBao, tmp_path: Path) -> Ground:
    return lay_out(own_server, tmp_path / "ground")


@pytest.mark.parametrize("weather", ["killed", "sealed", "frozen"])
async def test_when_it_is_away_everybody_hears_so_at_once_and_afterwards_all_is_well(
    own_server: OpenBao, own_ground: Ground, weather: str
) -> None:
    path = key_value(own_ground)
    clock = Ahead()
    async with plug(own_ground.options(**DOWN), clock=clock) as backend:
        held = await opened(backend)
        {"killed": own_server.kill, "sealed": own_server.seal, "frozen": own_server.freeze}[weather]()
        try:
            for _ in range(2):
                with pytest.raises(Unavailable, match="does not answer"):
                    await backend.issue(grant(backend, held, path))
            # The circuit is open: nobody waits.
            began = time.monotonic()
            with pytest.raises(Unavailable, match="down") as refused:
                await backend.issue(grant(backend, held, path))
            with pytest.raises(Unavailable, match="down"):
                await backend.accounts.freeze("A-2")
            assert time.monotonic() - began < 0.25
            assert refused.value.retry_after
            assert backend.trouble
            assert own_server.address not in str(refused.value)
        finally:
            {"killed": own_server.start, "sealed": own_server.unseal, "frozen": own_server.thaw}[weather]()
        clock.ahead += 31
        issued = await backend.issue(grant(backend, held, path))
        assert issued.credential.fields
        assert backend.trouble == ""
        assert backend.warned[-1] == "backend vault: answers again"


async def test_one_probe_goes_out_while_the_circuit_is_open(own_server: OpenBao, own_ground: Ground) -> None:
    clock = Ahead()
    async with plug(own_ground.options(**DOWN), clock=clock) as backend:
        await backend.accounts.attestations()
        own_server.freeze()
        try:
            for _ in range(2):
                with pytest.raises(Unavailable):
                    await backend.accounts.attestations()
            clock.ahead += 31
            probe, *others = await asyncio.gather(
                *(backend.accounts.attestations() for _ in range(4)), return_exceptions=True
            )
        finally:
            own_server.thaw()
        assert "does not answer" in str(probe)
        assert {str(item) for item in others} == {"the backend is down"}


async def test_accounts_and_leases_survive_a_restart(own_server: OpenBao, own_ground: Ground) -> None:
    path = key_value(own_ground)
    async with plug(own_ground.options()) as backend:
        held = await opened(backend)
        own_server.kill()
        own_server.start()
        assert (await backend.issue(grant(backend, held, path))).credential.fields
        await backend.accounts.freeze(held.attestation_id)
        own_server.kill()
        own_server.start()
        found = await backend.accounts.confirm(replace(held, accessor=""), time.time())
        assert found.result is Confirmation.GONE
        assert "disabled" in found.method


async def test_a_call_whose_answer_is_lost_counts_as_under_way(own_ground: Ground) -> None:
    clock = Ahead()
    async with plug(own_ground.options(timeout=1.0), clock=clock) as backend:
        await backend.accounts.attestations()
        own_ground.server.freeze()
        try:
            with pytest.raises(Unavailable):
                await backend.accounts.open(account(), 300)
        finally:
            own_ground.server.thaw()
        assert not backend.accounts.quiet("A-1")
        assert backend.accounts.quiet("A-2")
        clock.ahead += backend.accounts.longest_call - 1
        assert not backend.accounts.quiet("A-1")
        clock.ahead += 2
        assert backend.accounts.quiet("A-1")


async def test_a_call_that_never_left_does_not_count(ground: Ground) -> None:
    with Relay(ground.server.port) as relay:
        options = ground.options(addresses=(f"https://{relay.address}",), timeout=1.0)
        async with plug(options) as backend:
            await backend.accounts.attestations()
            relay.cut()
            # The kept connection breaks: that may have been the request.
            with pytest.raises(Unavailable):
                await backend.accounts.open(account(1), 300)
            relay.__exit__(None, None, None)
            with pytest.raises(Unavailable):
                await backend.accounts.open(account(2), 300)
            assert backend.accounts.quiet("A-2")


async def test_a_lost_right_is_said_and_nothing_else_breaks(ground: Ground) -> None:
    path = key_value(ground)
    async with plug(ground.options()) as backend:
        held = await opened(backend)
        ground.restrict(
            broker_policy(ground.sweep).replace("identity/lookup/entity", "identity/lookup/nothing")
        )
        with pytest.raises(Unavailable, match="lacks the right"):
            await backend.accounts.freeze("A-9")
        assert backend.warned == ["backend vault: its login may not POST identity/lookup/entity"]
        assert (await backend.issue(grant(backend, held, path))).credential.fields
        assert backend.trouble == ""


async def test_an_account_that_vault_dropped_is_not_held_any_more(ground: Ground) -> None:
    path = key_value(ground)
    async with plug(ground.options()) as backend:
        held = await opened(backend)
        ground.root.write("auth/token/revoke-accessor", accessor=held.accessor)
        assert backend.accounts.holds(held)
        with pytest.raises(Unavailable, match="was lost"):
            await backend.issue(grant(backend, held, path))
        assert not backend.accounts.holds(held)
        assert (await backend.issue(grant(backend, await opened(backend, account(2)), path))).handle


async def test_accounts_without_the_right_are_kept(ground: Ground) -> None:
    path = key_value(ground)
    async with plug(ground.options()) as backend:
        held = await opened(backend)
        ground.readable.clear()
        ground.allow("kv/data/other", "read")
        with pytest.raises(Unavailable, match="may not use"):
            await backend.issue(grant(backend, held, path))
        assert backend.accounts.holds(held)
        assert backend.warned == [f"backend vault: its service tokens may not use {path}"]


async def test_a_quota_is_a_limit_for_those_who_ask(ground: Ground) -> None:
    path = key_value(ground)
    async with plug(ground.options()) as backend:
        held = await opened(backend)
        quota = f"sys/quotas/rate-limit/{ground.namespace or 'all'}"
        where = f"{ground.namespace}/kv".strip("/")
        ground.server.root.call("POST", quota, {"rate": 1, "interval": "60s", "path": where})
        try:
            asked = [backend.issue(grant(backend, held, path)) for _ in range(3)]
            answers = await asyncio.gather(*asked, return_exceptions=True)
        finally:
            ground.server.root.delete(quota)
        assert sum(isinstance(item, LimitExceeded) for item in answers) == 2
        assert backend.trouble == ""


async def test_only_the_pinned_authority_is_believed(ground: Ground, tmp_path: Path) -> None:
    from tests.support import pki

    other = tmp_path / "other.pem"
    other.write_bytes(pki.authority("another authority", now=time.time()).pem)
    async with plug(ground.options(ca_file=other, timeout=2.0)) as backend:
        with pytest.raises(Unavailable):
            await opened(backend)
        assert backend.accounts.quiet("A-1")


async def test_a_namespace_that_is_not_there_is_no_login(ground: Ground) -> None:
    async with plug(ground.options(namespace="nowhere")) as backend:
        with pytest.raises(Unavailable, match="cannot log in"):
            await opened(backend)


async def test_no_token_and_no_secret_is_in_what_is_shown(ground: Ground) -> None:
    path = key_value(ground)
    options = ground.options()
    async with plug(options) as backend:
        held = await opened(backend)
        token = backend.accounts._held["C-1"].token
        issued = await backend.issue(grant(backend, held, path))
        ground.root.write("auth/token/revoke-accessor", accessor=held.accessor)
        with pytest.raises(Unavailable) as refused:
            await backend.issue(grant(backend, held, path))
        own = backend._session._own
        assert own is not None
        shown = " ".join(
            [
                *(
                    repr(item)
                    for item in (backend, backend.accounts, backend._session, own, options, issued, held)
                ),
                repr(backend.accounts._held),
                repr(refused.value),
                *backend.warned,
            ]
        )
        for secret in (token, own.token, "static-secret", (ground.folder / "secret-id").read_text()):
            assert secret not in shown


async def test_a_lease_of_another_backend_is_refused_not_confirmed(ground: Ground) -> None:
    """The broker's login may not look at leases that are not under its paths: that is no proof of absence."""
    async with plug(ground.options()) as backend:
        held = account()
        lease: Lease = replace(grant(backend, held, "kv/data/a").lease, handle="elsewhere/creds/x/abc")
        lease = replace(lease, state=LeaseState.REVOKING)
        with pytest.raises(Unavailable):
            await backend.confirm(lease, time.time())
