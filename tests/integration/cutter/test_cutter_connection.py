"""The cutter's own connections: one that dies is no reason not to cut, and what is wrong is said in words of ours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from broker.adapters.cutters.postgres import PostgresCutter
from broker.errors import Unavailable
from broker.model.account import Remains
from tests.support.postgres import PATIENCE, postgres
from tests.support.postgres_ground import PostgresGround, cutter_options, lay_out
from tests.support.programs import POSTGRES
from tests.support.relay import Relay

if TYPE_CHECKING:
    import psycopg

    from tests.support.postgres import Login, Postgres

HELD = """
CREATE OR REPLACE FUNCTION lockstep.logins_of(prefix text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(1);
    RETURN '^' || prefix || '-[0-9A-Za-z]{1,20}$';
END
$$
"""
"""Calls of the cutter wait for this lock."""


@pytest.fixture(scope="session")
def postgres_server(postgres_servers: Callable[[int], Postgres]) -> Postgres:
    """One version: what the client does is the same at each."""
    return postgres_servers(POSTGRES)


@pytest.fixture
def postgres_ground(postgres_server: Postgres, database: Login) -> PostgresGround:
    """A database of each test's own: some change the functions in it."""
    return lay_out(postgres_server, database)


def own_sessions(superuser: psycopg.Connection, ground: PostgresGround) -> list[int]:
    query = "SELECT pid FROM pg_stat_activity WHERE usename = %s AND datname = %s"
    return [pid for (pid,) in superuser.execute(query, (ground.cutter.user, ground.cutter.database))]


async def waiting(superuser: psycopg.Connection) -> None:
    """Until somebody waits for the lock."""
    query = (
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    async with asyncio.timeout(PATIENCE):
        while superuser.execute(query).fetchone() == (0,):  # noqa: ASYNC110 - only the server knows
            await asyncio.sleep(0.005)


async def test_a_connection_that_dies_during_a_call_is_replaced_and_the_call_made_again(
    postgres_ground: PostgresGround, cutter: PostgresCutter, attestation: str
) -> None:
    login = postgres_ground.login(attestation)
    with postgres_ground.superuser.connect() as superuser, login.connect():
        superuser.execute(HELD)
        superuser.execute("SELECT pg_advisory_lock(1)")
        cutting = asyncio.create_task(cutter.cut(attestation))
        await waiting(superuser)
        for pid in own_sessions(superuser, postgres_ground):
            superuser.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
        superuser.execute("SELECT pg_advisory_unlock(1)")
        assert await cutting == Remains(0, 0)
    assert postgres_ground.can_log_in(attestation) == []


async def test_a_wire_that_is_cut_during_a_call_is_no_other_case(
    postgres_ground: PostgresGround, attestation: str, tmp_path: Path
) -> None:
    postgres_ground.login(attestation)
    with Relay(postgres_ground.cutter.port) as relay:
        port = int(relay.address.rpartition(":")[2])
        cutter = PostgresCutter(cutter_options(postgres_ground.cutter, tmp_path, port=port))
        with postgres_ground.superuser.connect() as superuser:
            superuser.execute(HELD)
            superuser.execute("SELECT pg_advisory_lock(1)")
            cutting = asyncio.create_task(cutter.cut(attestation))
            await waiting(superuser)
            relay.cut()
            relay.mend()
            superuser.execute("SELECT pg_advisory_unlock(1)")
            assert await cutting == Remains(0, 0)
        await cutter.close()


async def test_connections_that_died_while_they_rested_cost_nothing(
    postgres_ground: PostgresGround, cutter: PostgresCutter, attestation: str
) -> None:
    assert await cutter.confirm(attestation) == Remains(0, 0)
    postgres_ground.login(attestation)
    with postgres_ground.superuser.connect() as superuser:
        [pid] = own_sessions(superuser, postgres_ground)
        superuser.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
    # No time in between to notice it.
    assert await cutter.cut(attestation) == Remains(0, 0)


async def test_a_server_that_is_away_frozen_and_back(tmp_path: Path, attestation: str) -> None:
    with postgres() as server:
        ground = lay_out(server, server.create_database())
        ground.login(attestation)
        cutter = PostgresCutter(cutter_options(ground.cutter, tmp_path, command=0.5, answer=1.0))
        assert await cutter.faults() == ()
        server.stop()
        with pytest.raises(Unavailable, match="the database cannot be reached"):
            await cutter.cut(attestation)
        server.start()
        assert await cutter.cut(attestation) == Remains(0, 0)
        server.freeze()
        try:
            with pytest.raises(Unavailable, match="the database does not answer"):
                await cutter.confirm(attestation)
        finally:
            server.thaw()
        assert await cutter.confirm(attestation) == Remains(0, 0)
        await cutter.close()


async def test_what_is_wrong_is_said_without_a_word_of_what_was_sent(
    postgres_ground: PostgresGround, attestation: str, tmp_path: Path
) -> None:
    async def said(**changes: object) -> str:
        cutter = PostgresCutter(cutter_options(postgres_ground.cutter, tmp_path, **changes))
        with pytest.raises(Unavailable) as failed:
            await cutter.cut(attestation)
        await cutter.close()
        assert postgres_ground.cutter.password not in str(failed.value)
        assert attestation not in str(failed.value)
        return str(failed.value)

    strange = tmp_path / "strange.password"
    strange.touch(mode=0o600)
    strange.write_text("not-the-password")
    assert await said(password_file=str(strange)) == "cutter: the database refuses the login"
    assert await said(ca="") == "cutter: the database's certificate is not trusted"
    assert "may not call lockstep's functions" in await said(database="postgres")
