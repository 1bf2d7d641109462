"""What `docs/sdk.md` shows of databases is run as it stands, on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

import lockstep_client
from lockstep_client import LiveCredential, Revoked
from lockstep_client.evidence import EvidenceSource
from lockstep_client.settings import Settings
from tests.integration.databases.conftest import Stage
from tests.support.console import blocks
from tests.unit.client.core.conftest import becomes

PAGE = Path(__file__).parents[3] / "docs" / "sdk.md"
WHO = "SELECT session_user"


@pytest.fixture
def shown() -> dict[str, Any]:
    (block,) = [item for item in blocks(PAGE.read_text()) if "def with_sqlalchemy" in item.text]
    found: dict[str, Any] = {}
    exec(compile(block.text, PAGE.name, "exec"), found)
    return found


@pytest.fixture
async def db(
    settings: Settings, evidence: Callable[[], EvidenceSource], stage: Stage
) -> AsyncIterator[LiveCredential]:
    async with lockstep_client.aio.connect(settings=settings, evidence=evidence) as ls:
        yield await ls.credential("db")


async def test_sqlalchemy(stage: Stage, db: LiveCredential, shown: dict[str, Any]) -> None:
    engine = shown["with_sqlalchemy"](db)
    with engine.connect() as connection:
        assert connection.scalar(sa.text(WHO)) == stage.users[0]
        assert connection.connection.driver_connection.pgconn.ssl_in_use
        stage.revoke()
        stage.has(stage.users[0], 0)
        with pytest.raises(sa.exc.OperationalError):
            connection.scalar(sa.text(WHO))
    with pytest.raises(Revoked), engine.connect():
        pass
    engine.dispose()


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
async def test_async_engines(stage: Stage, db: LiveCredential, driver: str) -> None:
    if driver == "psycopg":
        engine = create_async_engine(db.dsn("postgresql+psycopg").reveal())
    else:
        engine = create_async_engine("postgresql+asyncpg://", connect_args={"dsn": db.dsn().reveal()})
    lockstep_client.sqlalchemy.bind(engine, db)
    async with engine.connect() as connection:
        assert await connection.scalar(sa.text(WHO)) == stage.users[0]
        stage.revoke()
        stage.has(stage.users[0], 0)
        with pytest.raises(sa.exc.DBAPIError):
            await connection.scalar(sa.text(WHO))
    with pytest.raises(Revoked):
        async with engine.connect():
            pass
    await engine.dispose()


async def test_asyncpg(stage: Stage, db: LiveCredential, shown: dict[str, Any]) -> None:
    pool = await shown["with_asyncpg"](db)
    assert await pool.fetchval(WHO) == stage.users[0]
    assert await pool.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    await pool.close()


async def test_any_driver(stage: Stage, db: LiveCredential, shown: dict[str, Any]) -> None:
    connection = shown["with_any_driver"](db)
    assert connection.execute(WHO).fetchone() == (stage.users[0],)
    stage.revoke()
    becomes(lambda: stage.sessions(stage.users[0]) == 0)
    connection.close()
