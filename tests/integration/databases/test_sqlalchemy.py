"""`lockstep_client.sqlalchemy.bind` on a real PostgreSQL: rotation replaces, revocation cuts, with both engines."""

from __future__ import annotations

import asyncio
import gc
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

import lockstep_client
from lockstep_client import LiveCredential, Revoked, Unavailable
from lockstep_client.aio import Lockstep as AioLockstep
from lockstep_client.client import Lockstep
from lockstep_client.evidence import EvidenceSource
from lockstep_client.settings import Settings
from tests.integration.databases.conftest import Stage
from tests.unit.client.core.conftest import becomes

WHO = sa.text("SELECT current_user")
SLEEP = sa.text("SELECT pg_sleep(60)")


@pytest.fixture
def face(settings: Settings, evidence: Callable[[], EvidenceSource], stage: Stage) -> Iterator[Lockstep]:
    with lockstep_client.connect(settings=settings, evidence=evidence) as found:
        yield found


@pytest.fixture
def db(face: Lockstep) -> LiveCredential:
    return face.credential("db")


def bound(stage: Stage, db: LiveCredential) -> sa.Engine:
    place = stage.database
    found = sa.create_engine(
        f"postgresql+psycopg://{place.host}:{place.port}/{place.database}",
        connect_args={"sslmode": "verify-full", "sslrootcert": str(place.ca)},
    )
    lockstep_client.sqlalchemy.bind(found, db)
    return found


@pytest.fixture
def engine(stage: Stage, db: LiveCredential) -> Iterator[sa.Engine]:
    found = bound(stage, db)
    yield found
    found.dispose()
    # What was left open would warn now, and fail the test.
    gc.collect()


def who(connection: sa.Connection) -> str:
    return str(connection.execute(WHO).scalar_one())


# --- rotation -------------------------------------------------------------------------------------------


def test_a_rotation_replaces_idle_sessions_and_lets_those_in_use_finish(
    stage: Stage, face: Lockstep, engine: sa.Engine
) -> None:
    with engine.connect() as used:
        with engine.connect() as idle:
            first = who(idle)
        assert who(used) == first == stage.users[0]
        stage.has(first, 2)
        second = stage.rotate(face)
        assert who(used) == first
        with engine.connect() as taken:
            assert who(taken) == second
            # The idle one was closed in order, not left to the end of the overlap.
            stage.has(first, 1)
        with engine.connect() as again:
            assert who(again) == second
        assert stage.sessions(second) == 1
        gc.collect()
    stage.has(first, 0)
    with engine.connect() as one, engine.connect() as other:
        assert {who(one), who(other)} == {second}


def test_a_session_that_outlives_the_overlap_is_ended_by_the_database_alone(
    stage: Stage, face: Lockstep, engine: sa.Engine
) -> None:
    with engine.connect() as used:
        first = who(used)
        second = stage.rotate(face, overlap=0.5)
        stage.broker.wait_until(lambda: stage.broker.given_back == ["L-1"])
        stage.has(first, 0)
        with pytest.raises(sa.exc.OperationalError):
            used.execute(WHO)
    with engine.connect() as taken:
        assert who(taken) == second


def test_an_engine_that_was_used_before_changes_its_login(stage: Stage, db: LiveCredential) -> None:
    engine = sa.create_engine(stage.database.dsn.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        assert who(connection) == "postgres"
    lockstep_client.sqlalchemy.bind(engine, db)
    with engine.connect() as connection:
        assert who(connection) == stage.users[0]
    engine.dispose()


def test_without_a_pool(stage: Stage, face: Lockstep, db: LiveCredential) -> None:
    engine = sa.create_engine(db.dsn("postgresql+psycopg").reveal(), poolclass=sa.NullPool)
    lockstep_client.sqlalchemy.bind(engine, db)
    with engine.connect() as connection:
        first = who(connection)
        second = stage.rotate(face)
    stage.has(first, 0)
    with engine.connect() as connection:
        assert who(connection) == second
    stage.has(second, 0)


def test_silence_lets_nobody_take_a_connection_and_a_voice_does(
    stage: Stage, face: Lockstep, engine: sa.Engine
) -> None:
    with engine.connect() as connection:
        first = who(connection)
        face._connection.parts().holding.lose_all(Unavailable("nobody was heard"))
        with pytest.raises(Unavailable), engine.connect():
            pass
        assert who(connection) == first
    face._connection.refresh_soon(0.0)
    becomes(lambda: face.ready)
    with engine.connect() as connection:
        assert who(connection) == stage.users[-1] != first


# --- revocation -----------------------------------------------------------------------------------------


def test_a_revocation_ends_idle_sessions(stage: Stage, face: Lockstep, engine: sa.Engine) -> None:
    with engine.connect() as one, engine.connect() as other:
        assert who(one) == who(other)
    stage.has(stage.users[0], 2)
    stage.revoke()
    stage.has(stage.users[0], 0)
    for _ in range(3):
        with pytest.raises(Revoked), engine.connect():
            pass


def test_a_revocation_ends_a_session_in_the_middle_of_a_query(
    stage: Stage, face: Lockstep, engine: sa.Engine
) -> None:
    errors: list[Exception] = []

    def work() -> None:
        try:
            with engine.connect() as connection:
                connection.execute(SLEEP)
        except sa.exc.OperationalError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    stage.busy(stage.users[0])
    stage.revoke()
    thread.join(10)
    assert len(errors) == 1
    with pytest.raises(Revoked), engine.connect():
        pass


def test_a_revocation_during_the_overlap_ends_both(stage: Stage, face: Lockstep, engine: sa.Engine) -> None:
    with engine.connect() as old:
        first = who(old)
        second = stage.rotate(face)
        with engine.connect() as new:
            assert who(new) == second
            stage.revoke()
            stage.has(first, 0)
            stage.has(second, 0)
            for connection in (old, new):
                with pytest.raises(sa.exc.OperationalError):
                    connection.execute(WHO)


def test_a_session_that_comes_in_the_middle_of_a_revocation_does_not_stay(
    stage: Stage, face: Lockstep, engine: sa.Engine
) -> None:
    over = threading.Event()
    face.on_revoked(lambda _: over.set())

    @sa.event.listens_for(engine, "connect", insert=True)
    def meanwhile(_connection: Any, _record: Any) -> None:
        # It is logged in, and nobody has been told of it yet.
        stage.revoke()
        assert over.wait(10)

    with pytest.raises(Revoked), engine.connect():
        pass
    stage.has(stage.users[0], 0)
    assert face._connection.sessions("db").cut() == 0


def test_a_slow_callback_delays_no_cut(stage: Stage, face: Lockstep, db: LiveCredential) -> None:
    released, began = threading.Event(), threading.Event()

    def slow(_revocation: Any) -> None:
        began.set()
        assert released.wait(30)

    face.on_revoked(slow)
    engine = bound(stage, db)
    with engine.connect() as connection:
        assert who(connection) == stage.users[0]
        stage.revoke()
        try:
            assert began.wait(10)
            stage.has(stage.users[0], 0)
        finally:
            released.set()
        with pytest.raises(sa.exc.OperationalError):
            connection.execute(WHO)
    engine.dispose()


def test_what_is_closed_in_order_is_forgotten(face: Lockstep, engine: sa.Engine) -> None:
    sessions = face._connection.sessions("db")
    with engine.connect() as connection:
        assert len(sessions) == 1
        connection.detach()
    assert len(sessions) == 0
    with engine.connect():
        pass
    assert len(sessions) == 1
    engine.dispose()
    assert len(sessions) == 0


# --- a fork -----------------------------------------------------------------------------------------------

FORK = """
import os, sys
import lockstep_client, sqlalchemy as sa
from tests.unit.client.core.conftest import Loaded
with lockstep_client.connect(evidence=Loaded().source) as ls:
    db = ls.credential("db")
    engine = sa.create_engine(db.dsn("postgresql+psycopg").reveal())
    lockstep_client.sqlalchemy.bind(engine, db)
    who = lambda connection: connection.execute(sa.text("SELECT current_user")).scalar_one()
    with engine.connect() as used, engine.connect() as idle:
        mine = who(used), who(idle)
        idle.close()
        child = os.fork()
        if child == 0:
            with engine.connect() as connection:
                theirs = who(connection)
            engine.dispose()
            # Its own sessions alone: the parent's are open here as well.
            cut = ls._connection.sessions("db").cut()
            ls.close()
            sys.stdout.write(f"child {theirs not in mine} {cut}\\n")
            sys.stdout.flush()
            os._exit(0)
        os.waitpid(child, 0)
        with engine.connect() as again:
            print("parent", (who(used), who(again)) == mine, flush=True)
    engine.dispose()
"""


def test_a_forked_child_leaves_the_sessions_of_its_parent_alone(
    stage: Stage, settings: Settings, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(FORK)
    done = subprocess.run(
        [sys.executable, str(program)],
        env={**os.environ, **settings.environment(), "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "child True 0\nparent True\n"), done.stderr


# --- asyncio --------------------------------------------------------------------------------------------


@pytest.fixture
async def aio(
    settings: Settings, evidence: Callable[[], EvidenceSource], stage: Stage
) -> AsyncIterator[AioLockstep]:
    async with lockstep_client.aio.connect(settings=settings, evidence=evidence) as found:
        yield found


@pytest.fixture
async def async_engine(stage: Stage, aio: AioLockstep) -> AsyncIterator[AsyncEngine]:
    place = stage.database
    found = create_async_engine(
        f"postgresql+asyncpg://{place.host}:{place.port}/{place.database}",
        connect_args={"ssl": ssl.create_default_context(cafile=str(place.ca))},
    )
    lockstep_client.sqlalchemy.bind(found, await aio.credential("db"))
    yield found
    await found.dispose()
    gc.collect()


async def test_an_async_engine_rotates(stage: Stage, aio: AioLockstep, async_engine: AsyncEngine) -> None:
    async with async_engine.connect() as used:
        async with async_engine.connect() as idle:
            first = (await idle.execute(WHO)).scalar_one()
        await asyncio.to_thread(stage.has, first, 2)
        second = await asyncio.to_thread(stage.rotate, aio)
        assert (await used.execute(WHO)).scalar_one() == first
        async with async_engine.connect() as taken:
            assert (await taken.execute(WHO)).scalar_one() == second
        await asyncio.to_thread(stage.has, first, 1)
    await asyncio.to_thread(stage.has, first, 0)
    await asyncio.to_thread(stage.has, second, 1)


async def test_an_async_engine_is_cut(stage: Stage, aio: AioLockstep, async_engine: AsyncEngine) -> None:
    async with async_engine.connect():
        pass

    async def work() -> None:
        async with async_engine.connect() as connection:
            await connection.execute(SLEEP)

    async with async_engine.connect():  # and one that does nothing
        task = asyncio.create_task(work())
        await asyncio.to_thread(stage.busy, stage.users[0])
        await asyncio.to_thread(stage.revoke)
        with pytest.raises(sa.exc.DBAPIError):
            await task
        # A server in the middle of a query hears of it when it has something to say; the idle one is gone.
        await asyncio.to_thread(stage.has, stage.users[0], 1)
    with pytest.raises(Revoked):
        async with async_engine.connect():
            pass


async def test_a_loop_that_stands_still_delays_no_cut(
    stage: Stage, aio: AioLockstep, async_engine: AsyncEngine
) -> None:
    @aio.on_revoked
    async def slow(_revocation: Any) -> None:
        stage.has(stage.users[0], 0)  # blocks the loop until the server has seen the end

    async with async_engine.connect() as connection:
        await connection.execute(WHO)
        stage.revoke()
        stage.has(stage.users[0], 0)
        with pytest.raises(sa.exc.DBAPIError):
            await connection.execute(WHO)


async def test_an_async_session_that_comes_in_the_middle_of_a_revocation_does_not_stay(
    stage: Stage, aio: AioLockstep, async_engine: AsyncEngine
) -> None:
    db = await aio.credential("db")

    @sa.event.listens_for(async_engine.sync_engine, "connect", insert=True)
    def meanwhile(_connection: Any, _record: Any) -> None:
        stage.revoke()
        becomes(lambda: not aio.ready)

    with pytest.raises(Revoked):
        async with async_engine.connect():
            pass
    await asyncio.to_thread(stage.has, stage.users[0], 0)
    with pytest.raises(Revoked):
        db.login()
