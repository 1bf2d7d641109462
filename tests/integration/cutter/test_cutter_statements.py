"""The statements that we ship for Vault's database role, run as Vault runs them, with the cutter and without."""

from __future__ import annotations

import contextlib

import psycopg
import pytest

from broker.adapters.cutters.postgres import PostgresCutter
from broker.model.account import Remains
from tests.support.postgres_ground import PostgresGround

REVOCATIONS = ("revocation", "revocation-plain")


@pytest.mark.parametrize("statement", REVOCATIONS)
def test_a_login_is_dropped_with_its_sessions_and_leaves_what_it_made_to_the_owner(
    postgres_ground: PostgresGround, attestation: str, other: str, statement: str
) -> None:
    login = postgres_ground.login(attestation)
    with contextlib.ExitStack() as ends:
        beside = ends.enter_context(contextlib.closing(postgres_ground.login(other).connect()))
        works, rests = (ends.enter_context(contextlib.closing(login.connect())) for _ in range(2))
        works.execute("CREATE TABLE app.migrated (id integer)")
        works.execute("CREATE TEMPORARY TABLE mine (id integer)")
        rests.execute("BEGIN")
        rests.execute("SELECT * FROM app.orders FOR UPDATE")
        postgres_ground.retire(login.user, statement)
        for session in (works, rests):
            with pytest.raises(psycopg.OperationalError):
                session.execute("SELECT 1")
        assert beside.execute("SELECT count(*) FROM app.migrated").fetchone() == (0,)
        beside.execute("SELECT * FROM app.orders FOR UPDATE NOWAIT")
        beside.execute("DROP TABLE app.migrated")
    assert postgres_ground.roles(attestation) == []
    assert postgres_ground.sessions(attestation) == []
    with pytest.raises(psycopg.OperationalError):
        login.connect()


@pytest.mark.parametrize("statement", REVOCATIONS)
async def test_after_a_cut_vault_still_drops_the_login(
    postgres_ground: PostgresGround, cutter: PostgresCutter, attestation: str, statement: str
) -> None:
    login = postgres_ground.login(attestation)
    with contextlib.closing(login.connect()):
        assert await cutter.cut(attestation) == Remains(0, 0)
    postgres_ground.retire(login.user, statement)
    assert postgres_ground.roles(attestation) == []


def test_a_login_that_cannot_be_dropped_cannot_log_in(
    postgres_ground: PostgresGround, attestation: str
) -> None:
    login = postgres_ground.login(attestation)
    with postgres_ground.superuser.connect() as superuser:
        # Something of its own in another database, which no statement here reaches.
        elsewhere = postgres_ground.server.create_database()
        superuser.execute(f'ALTER DATABASE "{elsewhere.database}" OWNER TO "{login.user}"')
        with contextlib.closing(login.connect()) as session:
            postgres_ground.retire(login.user)
            with pytest.raises(psycopg.OperationalError):
                session.execute("SELECT 1")
        assert postgres_ground.roles(attestation) == [login.user]
        assert postgres_ground.can_log_in(attestation) == []
        postgres_ground.server.drop_database(elsewhere.database)
    postgres_ground.retire(login.user)
    assert postgres_ground.roles(attestation) == []


def test_to_retire_what_is_gone_is_no_error(postgres_ground: PostgresGround, attestation: str) -> None:
    login = postgres_ground.login(attestation)
    for _ in range(2):
        postgres_ground.retire(login.user)
    assert postgres_ground.roles(attestation) == []
