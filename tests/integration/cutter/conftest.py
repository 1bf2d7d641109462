"""A cutter at PostgreSQL, of every version that is here, and ids that no other test has."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from broker.adapters.cutters.postgres import PostgresCutter
from broker.adapters.entropy import SystemEntropy
from tests.support.postgres import Postgres
from tests.support.postgres_ground import PostgresGround, cutter_options, lay_out
from tests.support.programs import postgres_versions

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder talks to a real server."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session", params=postgres_versions())
def postgres_server(request: pytest.FixtureRequest, postgres_servers: Callable[[int], Postgres]) -> Postgres:
    """One of each version."""
    return postgres_servers(request.param)


@pytest.fixture(scope="module")
def postgres_ground(postgres_server: Postgres) -> Iterator[PostgresGround]:
    """One database for the tests of a file: each brings attestations of its own, and leaves what it found."""
    database = postgres_server.create_database()
    yield lay_out(postgres_server, database)
    postgres_server.drop_database(database.database)


@pytest.fixture
async def cutter(postgres_ground: PostgresGround, tmp_path: Path) -> AsyncIterator[PostgresCutter]:
    """As the broker has it."""
    cutter = PostgresCutter(cutter_options(postgres_ground.cutter, tmp_path))
    yield cutter
    await cutter.close()


@pytest.fixture
def attestation() -> str:
    """An id as the broker makes it."""
    return SystemEntropy().identifier("A", time.time())


@pytest.fixture
def other() -> str:
    """Another one."""
    return SystemEntropy().identifier("A", time.time())
