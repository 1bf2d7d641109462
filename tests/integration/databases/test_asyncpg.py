"""`LiveCredential.asyncpg_connect` on a real PostgreSQL, with both faces of the SDK and with both event loops."""

from __future__ import annotations

import asyncio
import gc
import ssl
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import asyncpg
import pytest
import uvloop

import lockstep_client
from lockstep_client import LiveCredential, Revoked
from lockstep_client.client import Lockstep
from lockstep_client.evidence import EvidenceSource
from lockstep_client.settings import Settings
from tests.integration.databases.conftest import Stage
from tests.unit.client.core.conftest import becomes

ENDED = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError)


def place(stage: Stage, **changes: Any) -> dict[str, Any]:
    found = stage.database
    return {
        "host": found.host,
        "port": found.port,
        "database": found.database,
        "ssl": ssl.create_default_context(cafile=str(found.ca)),
        **changes,
    }


async def who(pool: Any) -> str:
    return str(await pool.fetchval("SELECT current_user"))


@pytest.fixture
def face(settings: Settings, evidence: Callable[[], EvidenceSource], stage: Stage) -> Iterator[Lockstep]:
    """The synchronous one."""
    with lockstep_client.connect(settings=settings, evidence=evidence) as found:
        yield found


@pytest.fixture
def db(face: Lockstep) -> LiveCredential:
    return face.credential("db")


@pytest.fixture
async def pool(stage: Stage, db: LiveCredential) -> AsyncIterator[Any]:
    async with asyncpg.create_pool(
        connect=db.asyncpg_connect, min_size=2, max_size=2, **place(stage)
    ) as found:
        yield found


# --- rotation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["method", "lambda", "coroutine function"])
async def test_a_pool_takes_new_sessions_after_a_rotation(
    stage: Stage, face: Lockstep, db: LiveCredential, pool: Any, how: str
) -> None:
    async def expire() -> None:
        assert asyncio.get_running_loop() is pool._loop
        await pool.expire_connections()

    told = asyncio.Event()
    callbacks = {
        "method": pool.expire_connections,
        "lambda": lambda: pool.expire_connections(),
        "coroutine function": expire,
    }
    db.on_rotated(callbacks[how])

    @db.on_rotated
    async def after() -> None:
        told.set()

    first = await who(pool)
    second = await asyncio.to_thread(stage.rotate, face)
    async with asyncio.timeout(10):
        await told.wait()
    async with pool.acquire() as one, pool.acquire() as other:
        assert {await one.fetchval("SELECT current_user"), await other.fetchval("SELECT current_user")} == {
            second
        }
    await asyncio.to_thread(stage.has, first, 0)


async def test_with_the_asyncio_face(
    settings: Settings, evidence: Callable[[], EvidenceSource], stage: Stage
) -> None:
    async with lockstep_client.aio.connect(settings=settings, evidence=evidence) as ls:
        db = await ls.credential("db")
        async with asyncpg.create_pool(
            connect=db.asyncpg_connect, min_size=1, max_size=1, **place(stage)
        ) as pool:
            db.on_rotated(pool.expire_connections)
            told = asyncio.Event()
            db.on_rotated(told.set)
            assert await who(pool) == stage.users[0]
            second = await asyncio.to_thread(stage.rotate, ls)
            async with asyncio.timeout(10):
                await told.wait()
            assert await who(pool) == second
            await asyncio.to_thread(stage.revoke)
            await asyncio.to_thread(stage.has, second, 0)
            with pytest.raises(Revoked):
                await who(pool)


def test_a_callback_that_was_registered_outside_any_loop_finds_that_of_the_pool(
    stage: Stage, face: Lockstep, db: LiveCredential
) -> None:
    pools: list[Any] = []
    done = threading.Event()

    async def expire() -> None:
        assert asyncio.get_running_loop() is pools[0]._loop
        await pools[0].expire_connections()
        done.set()

    db.on_rotated(expire)

    async def main() -> str:
        async with asyncpg.create_pool(
            connect=db.asyncpg_connect, min_size=1, max_size=1, **place(stage)
        ) as pool:
            pools.append(pool)
            await who(pool)
            await asyncio.to_thread(stage.rotate, face)
            assert await asyncio.to_thread(done.wait, 10)
            return await who(pool)

    assert asyncio.run(main()) == stage.users[1]


# --- revocation -----------------------------------------------------------------------------------------


async def test_a_revocation_ends_sessions_in_use_and_idle(stage: Stage, pool: Any) -> None:
    async def work() -> None:
        await pool.execute("SELECT pg_sleep(60)")

    task = asyncio.create_task(work())
    await asyncio.to_thread(stage.busy, stage.users[0])
    await asyncio.to_thread(stage.revoke)
    with pytest.raises(ENDED):
        await task
    await asyncio.to_thread(stage.has, stage.users[0], 1)  # the one that still sleeps at the server
    with pytest.raises(Revoked):
        await who(pool)


async def test_a_loop_that_stands_still_delays_nothing(stage: Stage, pool: Any) -> None:
    await who(pool)
    stage.revoke()  # all of this on the loop's thread
    stage.has(stage.users[0], 0)
    # It has not read of the end yet.
    with pytest.raises((*ENDED, Revoked)):
        await who(pool)
    with pytest.raises(Revoked):
        await asyncio.gather(who(pool), who(pool))


def test_sessions_that_a_closed_loop_left_behind_are_ended(
    stage: Stage, face: Lockstep, db: LiveCredential
) -> None:
    left: list[Any] = []

    async def main() -> None:
        left.append(await db.asyncpg_connect(**place(stage)))

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    stage.has(stage.users[0], 1)
    stage.revoke()
    stage.has(stage.users[0], 0)
    with warnings.catch_warnings():
        # Nobody closed them in their loop: that is what this is about.
        warnings.simplefilter("ignore", ResourceWarning)
        left.clear()
        gc.collect()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_sessions_of_a_loop_that_does_not_run_are_ended(
    stage: Stage, face: Lockstep, db: LiveCredential, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    made = loop()
    connection = made.run_until_complete(db.asyncpg_connect(**place(stage)))
    stage.has(stage.users[0], 1)
    stage.revoke()
    stage.has(stage.users[0], 0)
    while not connection.is_closed():  # once it runs, it learns of it
        made.run_until_complete(asyncio.sleep(0))
    made.close()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_from_another_thread(
    stage: Stage, face: Lockstep, db: LiveCredential, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def main() -> str:
        connection = await db.asyncpg_connect(**place(stage))
        task = asyncio.create_task(connection.execute("SELECT pg_sleep(60)"))
        await asyncio.to_thread(stage.busy, stage.users[0])
        await asyncio.to_thread(stage.revoke)
        try:
            await task
        except ENDED as error:
            assert connection.is_closed()
            return type(error).__name__
        return "nothing"

    with asyncio.Runner(loop_factory=loop) as runner:
        assert runner.run(main()) == "ConnectionDoesNotExistError"


class Gate:
    """A way to the server that lets nothing through until it is opened."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.came = asyncio.Event()
        self.opened = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.came.set()
        await self.opened.wait()
        there, thither = await asyncio.open_connection("127.0.0.1", self._port)
        await asyncio.gather(self._pump(reader, thither), self._pump(there, writer))

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.close()


async def test_revoked_while_it_connects(stage: Stage, face: Lockstep, db: LiveCredential) -> None:
    gate = Gate(stage.database.port)
    async with await asyncio.start_server(gate.serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        task = asyncio.create_task(db.asyncpg_connect(**place(stage, port=port)))
        async with asyncio.timeout(10):
            await gate.came.wait()
        await asyncio.to_thread(stage.revoke)
        await asyncio.to_thread(becomes, lambda: not face.ready)
        gate.opened.set()
        # The server takes the login: nobody has told it otherwise.
        with pytest.raises(Revoked):
            await task
        await asyncio.to_thread(stage.has, stage.users[0], 0)
    with pytest.raises(Revoked):
        await db.asyncpg_connect(**place(stage))
