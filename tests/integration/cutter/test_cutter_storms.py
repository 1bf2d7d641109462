"""Workloads that fight the cut: storms of logins, sessions in the doorway, rows and tables that are held."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from broker.adapters.cutters.postgres import PostgresCutter
from broker.adapters.entropy import SystemEntropy
from broker.model.account import Remains
from tests.support.postgres import PATIENCE, Login, Postgres
from tests.support.postgres_ground import PostgresGround, cutter_options
from tests.support.storm import Storm

ENTROPY = SystemEntropy()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that only the server knows; the bound is the test's deadline."""
    async with asyncio.timeout(PATIENCE):
        while True:
            if await asyncio.to_thread(condition):
                return
            await asyncio.sleep(0.005)


@pytest.mark.slow
async def test_no_login_survives_a_storm(postgres_ground: PostgresGround, cutter: PostgresCutter) -> None:
    for _ in range(5):
        attestation = ENTROPY.identifier("A", time.time())
        login = postgres_ground.login(attestation)
        with Storm([login] * 3) as storm:
            await asyncio.to_thread(storm.raging, 4)
            assert await cutter.cut(attestation) == Remains(0, 0)
            await asyncio.to_thread(storm.over)
            assert storm.refused == 3
            assert storm.alive() == 0
            assert await cutter.confirm(attestation) == Remains(0, 0)


async def test_a_storm_on_many_logins_ends_too(
    postgres_ground: PostgresGround, cutter: PostgresCutter, attestation: str, other: str
) -> None:
    logins = [postgres_ground.login(attestation) for _ in range(6)]
    with contextlib.closing(postgres_ground.login(other).connect()) as bystander, Storm(logins) as storm:
        await asyncio.to_thread(storm.raging, 12)
        assert await cutter.cut(attestation) == Remains(0, 0)
        await asyncio.to_thread(storm.over)
        assert storm.alive() == 0
        assert bystander.execute("SELECT 1").fetchone() == (1,)


class Doorway:
    """A second database whose door can be held shut: whoever logs in waits there, past the check of the login."""

    def __init__(self, server: Postgres) -> None:
        self.database = server.create_database().database
        self._server = server
        self._holder = server.connect()
        self._ends: list[psycopg.Connection] = []
        self._threads: list[threading.Thread] = []

    def shut(self) -> None:
        self._holder.execute("BEGIN")
        self._holder.execute(f'ALTER DATABASE "{self.database}" RENAME TO "{self.database}_held"')

    def open(self) -> None:
        self._holder.execute("ROLLBACK")

    def enter(self, login: Login) -> None:
        """Somebody logs in, and stays."""
        there = self._server.login(login.user, login.password, self.database)

        def come() -> None:
            with contextlib.suppress(psycopg.OperationalError):
                self._ends.append(there.connect())

        thread = threading.Thread(target=come)
        thread.start()
        self._threads.append(thread)

    def waiting(self) -> int:
        with self._server.connect() as session:
            query = "SELECT count(*) FROM pg_locks WHERE locktype = 'object' AND NOT granted"
            (count,) = session.execute(query).fetchone() or (0,)
            return int(count)

    def alive(self) -> int:
        for thread in self._threads:
            thread.join(PATIENCE)
        alive = 0
        for session in self._ends:
            with contextlib.suppress(psycopg.OperationalError):
                session.execute("SELECT 1")
                alive += 1
        return alive

    def close(self) -> None:
        self._holder.close()
        for thread in self._threads:
            thread.join(PATIENCE)
        for session in self._ends:
            session.close()
        self._server.drop_database(self.database)


@pytest.fixture
def doorway(postgres_server: Postgres) -> Iterator[Doorway]:
    with contextlib.closing(Doorway(postgres_server)) as doorway:
        yield doorway


async def test_who_stands_in_the_doorway_is_no_session_and_not_gone(
    postgres_ground: PostgresGround, cutter: PostgresCutter, doorway: Doorway, attestation: str
) -> None:
    login = postgres_ground.login(attestation)
    doorway.shut()
    doorway.enter(login)
    await until(lambda: doorway.waiting() == 1)
    # Its login was checked before it was taken away, and nobody can tell whose it is.
    assert postgres_ground.sessions(attestation) == []
    assert await cutter.cut(attestation) == Remains(logins=0, sessions=1)
    assert await cutter.confirm(attestation) == Remains(logins=0, sessions=1)
    doorway.open()
    await until(lambda: postgres_ground.sessions(attestation) == [login.user])
    assert await cutter.confirm(attestation) == Remains(logins=0, sessions=1)
    assert await cutter.cut(attestation) == Remains(0, 0)
    assert doorway.alive() == 0


async def test_who_comes_through_the_doorway_during_the_cut_is_ended_by_it(
    postgres_ground: PostgresGround, doorway: Doorway, attestation: str, tmp_path: Path
) -> None:
    async def let_in(seconds: float) -> None:
        if not postgres_ground.sessions(attestation) and doorway.waiting():
            doorway.open()
            await until(lambda: postgres_ground.sessions(attestation) != [])

    cutter = PostgresCutter(cutter_options(postgres_ground.cutter, tmp_path), pause=let_in)
    doorway.shut()
    doorway.enter(postgres_ground.login(attestation))
    await until(lambda: doorway.waiting() == 1)
    async with asyncio.timeout(PATIENCE):
        while not (await cutter.cut(attestation)).gone:
            pass
    assert doorway.alive() == 0
    await cutter.close()


async def test_a_login_that_holds_its_own_row_is_cut(
    postgres_ground: PostgresGround, cutter: PostgresCutter, attestation: str
) -> None:
    logins = [postgres_ground.login(attestation) for _ in range(4)]
    with contextlib.ExitStack() as ends:
        for login in logins[:3]:
            session = ends.enter_context(contextlib.closing(login.connect()))
            session.execute("SET ROLE NONE")
            session.execute("BEGIN")
            session.execute(f"ALTER ROLE \"{login.user}\" PASSWORD 'mine now'")
        assert await cutter.cut(attestation) == Remains(0, 0)
    assert postgres_ground.can_log_in(attestation) == []


async def test_logins_that_others_alter_meanwhile_are_cut(
    postgres_ground: PostgresGround, cutter: PostgresCutter, attestation: str
) -> None:
    logins = [postgres_ground.login(attestation) for _ in range(5)]
    stop = threading.Event()

    def alter(which: int) -> None:
        with postgres_ground.vault.connect() as session:
            while not stop.is_set():
                with contextlib.suppress(psycopg.errors.InternalError_):
                    session.execute(f"ALTER ROLE \"{logins[which].user}\" VALID UNTIL '2999-01-01'")

    threads = [threading.Thread(target=alter, args=(which,)) for which in (0, 0, 2, 2)]
    for thread in threads:
        thread.start()
    try:
        assert await cutter.cut(attestation) == Remains(0, 0)
    finally:
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert postgres_ground.can_log_in(attestation) == []


async def test_sessions_that_hold_wait_and_work_are_ended(
    postgres_ground: PostgresGround, cutter: PostgresCutter, attestation: str, other: str
) -> None:
    login = postgres_ground.login(attestation)
    with contextlib.ExitStack() as ends:
        bystander = ends.enter_context(contextlib.closing(postgres_ground.login(other).connect()))
        # Held by one who is not cut: whoever waits for it goes on waiting, whatever else ends.
        bystander.execute("SELECT pg_advisory_lock(1)")
        holds, waits, works = (ends.enter_context(contextlib.closing(login.connect())) for _ in range(3))
        holds.execute("BEGIN")
        holds.execute("LOCK TABLE app.orders IN ACCESS EXCLUSIVE MODE")

        def run(session: psycopg.Connection, statement: str) -> None:
            with contextlib.suppress(psycopg.OperationalError):
                session.execute(statement)

        threads = [
            threading.Thread(target=run, args=(waits, "SELECT pg_advisory_lock(1)")),
            threading.Thread(target=run, args=(works, "SELECT pg_sleep(120)")),
        ]
        for thread in threads:
            thread.start()
        active = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s AND state = 'active'"
        with postgres_ground.superuser.connect() as superuser:
            await until(lambda: superuser.execute(active, (login.user,)).fetchone() == (2,))
        assert await cutter.cut(attestation) == Remains(0, 0)
        for thread in threads:
            await asyncio.to_thread(thread.join, PATIENCE)
            assert not thread.is_alive()
        for session in (holds, waits, works):
            with pytest.raises(psycopg.OperationalError):
                session.execute("SELECT 1")
        bystander.execute("BEGIN")
        bystander.execute("LOCK TABLE app.orders IN ACCESS EXCLUSIVE MODE NOWAIT")
