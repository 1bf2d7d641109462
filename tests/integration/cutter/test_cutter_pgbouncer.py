"""Behind PgBouncer: workloads come through it as themselves, are cut at the server, and are not let in again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from broker.adapters.cutters.postgres import PostgresCutter
from broker.errors import Unavailable
from broker.model.account import Remains
from tests.support.pgbouncer import POOLER, PgBouncer, pgbouncer
from tests.support.postgres_ground import PostgresGround, cutter_options
from tests.support.programs import POSTGRES, Absent
from tests.support.storm import Storm, answers

if TYPE_CHECKING:
    from tests.support.postgres import Login, Postgres


@pytest.fixture(scope="session")
def postgres_server(postgres_servers: Callable[[int], Postgres]) -> Postgres:
    """One version: of what differs between them a pooler sees nothing."""
    return postgres_servers(POSTGRES)


def started(ground: PostgresGround, mode: str) -> Iterator[PgBouncer]:
    try:
        with pgbouncer(ground, mode) as running:
            yield running
    except Absent as absent:
        pytest.skip(str(absent))


@pytest.fixture(params=["session", "transaction"])
def pooler(request: pytest.FixtureRequest, postgres_ground: PostgresGround) -> Iterator[PgBouncer]:
    yield from started(postgres_ground, request.param)


@pytest.fixture
def by_statements(postgres_ground: PostgresGround) -> Iterator[PgBouncer]:
    yield from started(postgres_ground, "statement")


async def alive(sessions: list[psycopg.Connection]) -> int:
    """Asked all at once: a pooler lets each wait for a server connection that does not come."""
    return sum(await asyncio.gather(*(asyncio.to_thread(answers, session) for session in sessions)))


# --- workloads ------------------------------------------------------------------------------------------


async def test_login_and_sessions_end_and_none_comes_again(
    postgres_ground: PostgresGround,
    cutter: PostgresCutter,
    pooler: PgBouncer,
    attestation: str,
    other: str,
) -> None:
    login = postgres_ground.login(attestation)
    spared = postgres_ground.login(other)
    with contextlib.ExitStack() as ends:

        def session(who: Login) -> psycopg.Connection:
            return ends.enter_context(contextlib.closing(pooler.through(who).connect()))

        rests, works = session(login), session(login)
        beside = session(spared)
        assert rests.execute("SELECT session_user::text, current_user::text").fetchone() == (
            login.user,
            postgres_ground.owner,
        )
        works.execute("BEGIN")
        works.execute("LOCK TABLE app.orders IN ACCESS EXCLUSIVE MODE")
        assert pooler.servers(login.user) > 0
        assert await cutter.confirm(attestation) == Remains(1, pooler.servers(login.user))

        assert await cutter.cut(attestation) == Remains(0, 0)
        assert await alive([rests, works]) == 0
        assert pooler.servers(login.user) == 0
        for _ in range(3):
            with pytest.raises(psycopg.OperationalError, match="no such user"):
                session(login)
        assert postgres_ground.sessions(attestation) == []
        assert await cutter.confirm(attestation) == Remains(0, 0)
        # Whoever else comes through the same pooler notices nothing.
        assert beside.execute("SELECT note FROM app.orders").fetchall() == [("first",)]
        assert session(spared).execute("SELECT 1").fetchone() == (1,)


async def test_a_server_connection_that_the_pooler_keeps_is_a_session_like_any_other(
    postgres_ground: PostgresGround, cutter: PostgresCutter, pooler: PgBouncer, attestation: str
) -> None:
    login = postgres_ground.login(attestation)
    with pooler.through(login).connect() as session:
        session.execute("SELECT 1")
    # The workload has gone, and its connection to the server waits for the next.
    assert pooler.servers(login.user) == 1
    assert postgres_ground.sessions(attestation) == [login.user]
    assert await cutter.confirm(attestation) == Remains(1, 1)
    assert await cutter.cut(attestation) == Remains(0, 0)
    assert postgres_ground.sessions(attestation) == []
    with pytest.raises(psycopg.OperationalError, match="no such user"):
        pooler.through(login).connect()


async def test_a_storm_through_the_pooler_ends(
    postgres_ground: PostgresGround, cutter: PostgresCutter, pooler: PgBouncer, attestation: str
) -> None:
    logins = [postgres_ground.login(attestation) for _ in range(3)]

    def come(login: Login) -> psycopg.Connection:
        session = pooler.through(login).connect()
        try:
            session.execute("SELECT 1")
        except psycopg.Error:
            session.close()
            raise
        return session

    with Storm(logins, come) as storm:
        await asyncio.to_thread(storm.raging, 4)
        assert await cutter.cut(attestation) == Remains(0, 0)
        await asyncio.to_thread(storm.over)
        assert storm.refused == 3
        assert await alive(storm.sessions) == 0
        assert postgres_ground.sessions(attestation) == []
        assert await cutter.confirm(attestation) == Remains(0, 0)


def test_the_pooler_learns_of_logins_of_ours_that_can_log_in_and_of_nothing_else(
    postgres_ground: PostgresGround, pooler: PgBouncer, attestation: str
) -> None:
    login = postgres_ground.login(attestation)
    query = "SELECT login, left(verifier, 14) FROM lockstep.pooled(%s)"
    with postgres_ground.superuser.connect() as session:
        session.execute(f"SET SESSION AUTHORIZATION {POOLER}")
        assert session.execute(query, (login.user,)).fetchall() == [(login.user, "SCRAM-SHA-256$")]
        for name in (postgres_ground.superuser.user, postgres_ground.vault.user, "ls-%", "", None):
            assert session.execute(query, (name,)).fetchall() == []
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute("SELECT rolpassword FROM pg_catalog.pg_authid")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute("SELECT lockstep.cut(%s)", (f"ls-{attestation}",))
    with pytest.raises(psycopg.OperationalError, match="no such user"):
        pooler.through(postgres_ground.vault).connect()


# --- the cutter itself ----------------------------------------------------------------------------------


async def test_the_cutter_may_come_through_it_too(
    postgres_ground: PostgresGround, pooler: PgBouncer, attestation: str, other: str, tmp_path: Path
) -> None:
    options = cutter_options(pooler.through(postgres_ground.cutter), tmp_path)
    cutter = PostgresCutter(options)
    with contextlib.ExitStack() as ends:
        logins = [postgres_ground.login(attestation) for _ in range(4)]
        for login in logins:
            ends.enter_context(contextlib.closing(pooler.through(login).connect()))
            ends.enter_context(contextlib.closing(login.connect()))
        beside = ends.enter_context(contextlib.closing(postgres_ground.login(other).connect()))
        assert await cutter.faults() == ()
        # At once, so that in transaction mode their messages share connections to the server.
        cuts = await asyncio.gather(*(cutter.cut(attestation) for _ in range(8)))
        assert cuts == [Remains(0, 0)] * 8
        assert await cutter.confirm(attestation) == Remains(0, 0)
        assert postgres_ground.can_log_in(attestation) == []
        assert postgres_ground.sessions(attestation) == []
        assert beside.execute("SELECT 1").fetchone() == (1,)
    await cutter.close()


async def test_where_statements_are_pooled_the_cutter_is_refused_and_says_why(
    postgres_ground: PostgresGround, by_statements: PgBouncer, attestation: str, tmp_path: Path
) -> None:
    login = postgres_ground.login(attestation)
    cutter = PostgresCutter(cutter_options(by_statements.through(postgres_ground.cutter), tmp_path))
    acts = (lambda: cutter.cut(attestation), lambda: cutter.confirm(attestation), cutter.faults)
    for act in acts:
        with pytest.raises(Unavailable, match=r"a pooler before the database refuses: .* transaction mode"):
            await act()
    assert postgres_ground.can_log_in(attestation) == [login.user]
    await cutter.close()


async def test_a_pooler_that_does_not_know_the_cutter_says_so(
    postgres_ground: PostgresGround, pooler: PgBouncer, attestation: str, tmp_path: Path
) -> None:
    stranger = pooler.through(postgres_ground.vault)
    cutter = PostgresCutter(cutter_options(stranger, tmp_path))
    with pytest.raises(Unavailable, match="it must know the login"):
        await cutter.cut(attestation)
    await cutter.close()
