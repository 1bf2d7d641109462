"""What every folder of tests may ask for: servers that start when the first test wants one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

# Imported where it is asked for: tests that measure their own process want nothing else loaded in it.
if TYPE_CHECKING:
    from tests.support.postgres import Login, Postgres


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """One PostgreSQL for every test that does not stop it. Roles are its alone: name them uniquely."""
    from tests.support.postgres import postgres

    with postgres() as server:
        yield server


@pytest.fixture
def database(postgres_server: Postgres) -> Iterator[Login]:
    """A new, empty database, as the superuser sees it."""
    login = postgres_server.create_database()
    yield login
    postgres_server.drop_database(login.database)
