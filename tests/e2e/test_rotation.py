"""Rotation with every part real: OpenBao makes the logins, PostgreSQL takes them, the SDK replaces them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
import sqlalchemy as sa

import lockstep_client
from lockstep_client import Revoked
from tests.support.brokers import Broker, dev_broker
from tests.support.wire import Wire, Workload, envelope, publish
from tests.unit.client.core.conftest import becomes

if TYPE_CHECKING:
    from tests.support.openbao import OpenBao
    from tests.support.postgres import Postgres
    from tests.support.vault_stage import VaultStage

ROLE = """
[roles.{name}]
mode = "observe"
identity = {{ from = "dev", subject = "db-*" }}
manifests = ["app"]
backend = {{ use = "vault", path = "database/creds/payments", cutter = "payments-db", target = {target} }}
ttl = "1m"
rotate = {{ every = "10s", overlap = "{overlap}" }}
after_revocation = "retry"
"""


@pytest.fixture(scope="module")
def stage(
    openbao_server: OpenBao, postgres_server: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> VaultStage:
    from tests.support.vault_stage import lay_out

    return lay_out(openbao_server, postgres_server, tmp_path_factory.mktemp("stage"))


@pytest.fixture(scope="module")
def roles(stage: VaultStage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = stage.target.superuser
    target = (
        f'{{ host = "{place.host}", port = {place.port}, database = "{place.database}", '
        f'sslmode = "verify-full", sslrootcert = "{place.ca}" }}'
    )
    file = tmp_path_factory.mktemp("roles") / "roles.toml"
    file.touch(mode=0o600)
    text = stage.backend() + stage.cutter() + '[manifests.app]\nsigners = ["dev"]\n'
    for name, overlap in (("slow", "10s"), ("quick", "1s")):
        text += ROLE.format(name=name, target=target, overlap=overlap)
    file.write_text(text)
    return file


@pytest.fixture(scope="module")
def broker(roles: Path) -> Iterator[Broker]:
    with dev_broker(roles.parent / "dev", roles) as running:
        publish(running, envelope(running, "app", "lib"))
        yield running


def known(stage: VaultStage) -> set[str]:
    """Logins that the database has."""
    with stage.target.superuser.connect() as session:
        return {str(name) for (name,) in session.execute("SELECT rolname FROM pg_roles")}


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_rotated_logins_live_their_overlap_and_a_revocation_ends_old_and_new(
    broker: Broker, stage: VaultStage
) -> None:
    rotated, revoked = {"slow": threading.Event(), "quick": threading.Event()}, threading.Event()
    with lockstep_client.connect(
        settings=broker.settings("db-sdk"), guard="off", on_revoked=lambda _: revoked.set()
    ) as ls:
        slow, quick = ls.credential("slow"), ls.credential("quick")
        assert (slow.rotate_every, slow.overlap) == (10.0, 10.0)
        slow.on_rotated(rotated["slow"].set)
        quick.on_rotated(rotated["quick"].set)
        engine = sa.create_engine(slow.dsn("postgresql+psycopg").reveal())
        lockstep_client.sqlalchemy.bind(engine, slow)
        (old, _), (gone, _) = slow.login(), quick.login()
        with engine.connect() as used:
            assert used.scalar(sa.text("SELECT note FROM app.orders")) == "first"
            assert all(event.wait(40) for event in rotated.values())
            new = slow.username
            assert new != old
            # Without an overlap to speak of, the old one is soon gone from the database itself.
            becomes(lambda: gone not in known(stage), 20)
            assert {old, new, quick.username} <= known(stage)
            assert used.scalar(sa.text("SELECT session_user")) == old
            with engine.connect() as other:
                assert other.scalar(sa.text("SELECT session_user")) == new
                assert ls.attestation is not None
                kept = [stage.login(*pair(slow))]
                broker.cli("revoke", "--attestation", ls.attestation.id, "--reason", "drill")
                assert revoked.wait(10)
                for connection in (used, other):
                    with pytest.raises(sa.exc.OperationalError):
                        connection.scalar(sa.text("SELECT 1"))
        becomes(lambda: not {old, new} & known(stage), 20)
        for login in kept:
            with pytest.raises(psycopg.OperationalError):
                login.connect()
        with pytest.raises(Revoked), engine.connect():
            pass
        engine.dispose()


def pair(credential: lockstep_client.LiveCredential) -> tuple[str, str]:
    user, password = credential.login()
    return user, password.reveal()


def test_what_the_role_says_is_told_with_every_grant_and_after_a_reload(broker: Broker, roles: Path) -> None:
    text = roles.read_text()
    with Wire(broker.address, broker.ca) as wire:
        workload = Workload(wire, broker.token("db-wire"))
        workload.attest("app")
        issued = workload.issue("slow")
        assert issued.rotation.every.seconds == 10
        assert issued.rotation.overlap.seconds == 10
        assert issued.parameters["sslmode"] == "verify-full"
        workload.reattest()
        assert workload.renew(issued.lease.lease_id).rotation == issued.rotation
        try:
            roles.write_text(text.replace('every = "10s"', 'every = "8h"'))
            assert broker.reload()
            workload.reattest()
            told = workload.renew(issued.lease.lease_id)
            assert told.rotation.every.seconds == 28_800
            assert not told.HasField("credential")
            roles.write_text(text.replace("rotate =", "# rotate ="))
            assert broker.reload()
            workload.reattest()
            assert not workload.renew(issued.lease.lease_id).HasField("rotation")
        finally:
            roles.write_text(text)
            assert broker.reload()
