"""Further engines at a real OpenBao: what they give, how it is taken back, and what nobody can take back."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from broker.adapters.backends.vault.handles import parse_handle
from broker.errors import Unavailable
from broker.model.credential import Confirmation
from broker.model.role import Revocability
from tests.support.vault_ground import broker_policy
from tests.support.vault_plug import grant, key_value, opened, plug

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.vault_ground import Ground

pytestmark = pytest.mark.integration


def certificates(ground: Ground, **role: object) -> str:
    ground.mount("pki", "pki")
    ground.root.write("pki/root/generate/internal", common_name="test", ttl="12h", key_type="ec")
    ground.root.write("pki/roles/pay", **{"allow_any_name": True, "max_ttl": "1h", "key_type": "ec", **role})
    ground.allow("pki/issue/pay", "update")
    return "pki/issue/pay"


async def test_a_login_of_a_cache_and_its_session_end_with_the_lease(ground: Ground, tmp_path: Path) -> None:
    from tests.support.valkey import ADMIN, Denied, valkey

    path = "database/creds/payments"
    with valkey(tmp_path / "valkey") as server:
        ground.mount("database", "database")
        ground.root.write(
            "database/config/cache",
            plugin_name="valkey-database-plugin",
            host="127.0.0.1",
            port=server.port,
            username=ADMIN,
            password=server.password,
            allowed_roles=["payments"],
        )
        ground.root.write(
            "database/roles/payments",
            db_name="cache",
            creation_statements='["~pay:*", "+get", "+set", "+ping"]',
        )
        ground.allow(path, "read")
        async with plug(ground.options()) as backend:
            wanted = grant(backend, await opened(backend), path)
            issued = await backend.issue(wanted)
            fields = issued.credential.fields
            with server.session(fields["username"], fields["password"]) as session:
                assert session.ask("SET", "pay:a", "1") == "OK"
                with pytest.raises(Denied, match="NOPERM"):
                    session.ask("SET", "other", "1")
                lease = replace(wanted.lease, handle=issued.handle)
                await backend.revoke(lease)
                assert (await backend.confirm(lease, time.time())).result is Confirmation.GONE
                with pytest.raises(ConnectionError):
                    session.ask("PING")
            with (
                pytest.raises(Denied, match="WRONGPASS"),
                server.session(fields["username"], fields["password"]),
            ):
                pass


async def test_what_a_role_says_of_its_target_is_told_and_never_sent(ground: Ground) -> None:
    path = certificates(ground)
    # The server itself refuses whatever else is in the request.
    ground.root.write(
        "sys/policies/acl/lockstep-issue",
        policy=f'path "{path}" {{ capabilities = ["update"]\n'
        'allowed_parameters = { "common_name" = ["pay.example"], "ttl" = [] } }',
    )
    target = {"host": "db.example", "port": 5432, "database": "pay", "serial_number": "mine"}
    async with plug(ground.options()) as backend:
        account = await opened(backend)
        data = {"common_name": "pay.example"}
        issued = await backend.issue(grant(backend, account, path, {"data": data, "target": target}))
        # What the engine says of what it made wins.
        assert {**target, "serial_number": issued.parameters["serial_number"]}.items() <= (
            dict(issued.parameters).items()
        )
        assert ":" in issued.parameters["serial_number"]
        assert not set(target) & set(issued.credential.fields)
        with pytest.raises(Unavailable, match="may not use"):
            await backend.issue(grant(backend, account, path, {"data": {**data, "host": "db.example"}}))


class TestCertificates:
    async def test_live_no_longer_than_the_lease_and_say_until_when(self, ground: Ground) -> None:
        path = certificates(ground)
        async with plug(ground.options()) as backend:
            wanted = grant(backend, await opened(backend), path, {"data": {"common_name": "pay.example"}})
            issued = await backend.issue(wanted)
            fields = issued.credential.fields
            certificate = x509.load_pem_x509_certificate(fields["certificate"].encode())
            ends = certificate.not_valid_after_utc.timestamp()
            assert ends <= wanted.lease.expires_at + 1
            key = load_pem_private_key(fields["private_key"].encode(), None)
            assert key.public_key() == certificate.public_key()
            assert issued.parameters["serial_number"].replace(":", "") == f"{certificate.serial_number:040x}"
            lease = replace(wanted.lease, handle=issued.handle)
            found = await backend.confirm(lease, time.time())
            assert (found.result, found.until) == (Confirmation.UNTIL_EXPIRY, ends)
            assert (await backend.confirm(lease, ends)).result is Confirmation.GONE
            assert await backend.renew(replace(wanted, lease=lease)) is None

    async def test_go_into_the_revocation_list_where_that_is_allowed(self, ground: Ground) -> None:
        path = certificates(ground)
        async with plug(ground.options()) as backend:
            wanted = grant(backend, await opened(backend), path, {"data": {"common_name": "pay.example"}})
            lease = replace(wanted.lease, handle=(await backend.issue(wanted)).handle)
            await backend.revoke(lease)
            assert (await backend.confirm(lease, time.time())).method == "nobody can take it back"
            allowed = 'path "pki/revoke" { capabilities = ["update"] }\npath "pki/cert/*" { capabilities = ["read"] }'
            ground.restrict(broker_policy(ground.sweep) + allowed)
            await backend.revoke(lease)
            await backend.revoke(lease)
            found = await backend.confirm(lease, time.time())
            assert found.result is Confirmation.UNTIL_EXPIRY
            assert found.method.startswith("in the certificate revocation list")

    async def test_of_a_role_with_leases_are_not_taken_for_more(self, ground: Ground) -> None:
        path = certificates(ground, generate_lease=True)
        async with plug(ground.options()) as backend:
            wanted = grant(backend, await opened(backend), path, {"data": {"common_name": "pay.example"}})
            issued = await backend.issue(wanted)
            assert parse_handle(issued.handle).until
            assert issued.expires_at <= wanted.lease.expires_at


async def test_a_static_secret_is_said_to_be_one(ground: Ground) -> None:
    path = key_value(ground)
    async with plug(ground.options()) as backend:
        wanted = grant(backend, await opened(backend), path)
        assert wanted.lease.revocability is Revocability.NEVER
        lease = replace(wanted.lease, handle=(await backend.issue(wanted)).handle)
        await backend.revoke(lease)
        found = await backend.confirm(lease, time.time())
        assert (found.result, found.method) == (
            Confirmation.UNTIL_EXPIRY,
            "a static secret: change it at its source",
        )
        renewed = await backend.renew(replace(wanted, lease=lease))
        assert renewed is not None
        assert not renewed.credential.fields


async def test_a_value_that_is_no_text_is_json(ground: Ground) -> None:
    path = key_value(ground)
    ground.root.write(
        path, data={"port": 5432, "tls": True, "hosts": ["a", "b"], "more": {"x": 1}, "none": None}
    )
    async with plug(ground.options()) as backend:
        issued = await backend.issue(grant(backend, await opened(backend), path))
        assert issued.credential.fields == {
            "port": "5432",
            "tls": "true",
            "hosts": "a\nb",
            "more": '{"x": 1}',
        }


async def test_any_path_that_is_written(ground: Ground) -> None:
    ground.mount("transit", "transit")
    ground.root.write("transit/keys/pay")
    ground.allow("transit/datakey/plaintext/pay", "update")
    parameters = {"engine": "generic", "method": "write", "data": {"bits": 256}}
    async with plug(ground.options()) as backend:
        held = await opened(backend)
        wanted = grant(backend, held, "transit/datakey/plaintext/pay", parameters)
        issued = await backend.issue(wanted)
        assert issued.credential.fields["plaintext"]
        lease = replace(wanted.lease, handle=issued.handle)
        assert (await backend.confirm(lease, time.time())).result is Confirmation.UNTIL_EXPIRY
        # Called revocable, and nothing came that could be revoked: not handed out.
        stronger = grant(
            backend, held, "transit/datakey/plaintext/pay", {**parameters, "revocability": "at_target"}
        )
        with pytest.raises(Unavailable, match="without a lease"):
            await backend.issue(stronger)


async def test_a_path_that_is_not_there_is_no_secret(ground: Ground) -> None:
    ground.mount("kv", "kv-v2")
    ground.allow("kv/data/absent", "read")
    async with plug(ground.options()) as backend:
        with pytest.raises(Unavailable, match="answered 404"):
            await backend.issue(grant(backend, await opened(backend), "kv/data/absent"))
        assert backend.trouble == ""
