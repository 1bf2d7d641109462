"""Real servers that tests share: started when the first test asks, ended with the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.canary_plugin import (  # noqa: F401 - hooks: whatever a run leaves behind is searched for secrets
    _files_of_the_run,
    pytest_runtest_logreport,
    pytest_sessionfinish,
    pytest_terminal_summary,
)

# Imported where it is asked for: tests that measure their own process want nothing else loaded in it.
if TYPE_CHECKING:
    from tests.support.openbao import OpenBao
    from tests.support.postgres import Login, Postgres
    from tests.support.postgres_ground import PostgresGround
    from tests.support.vault_ground import Ground


@pytest.fixture(scope="session")
def openbao_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    """One OpenBao in memory. Whoever seals, stops or freezes takes one of their own (`openbao`)."""
    from tests.support.openbao import openbao

    with openbao(tmp_path_factory.mktemp("openbao")) as server:
        yield server


@pytest.fixture
def ground(openbao_server: OpenBao, tmp_path: Path) -> Ground:
    """A namespace of this test's own on the shared server."""
    from tests.support.vault_ground import lay_out

    return lay_out(openbao_server, tmp_path / "ground")


@pytest.fixture(scope="session")
def postgres_servers() -> Iterator[Callable[[int], Postgres]]:
    """One PostgreSQL of each version that is asked for; where it is not on this machine, the test is skipped."""
    import contextlib

    from tests.support.postgres import postgres
    from tests.support.programs import Absent

    started: dict[int, Postgres] = {}
    with contextlib.ExitStack() as ends:

        def server(version: int) -> Postgres:
            if version not in started:
                try:
                    started[version] = ends.enter_context(postgres(version=version))
                except Absent as absent:
                    pytest.skip(str(absent))
            return started[version]

        yield server


@pytest.fixture(scope="session")
def postgres_server(postgres_servers: Callable[[int], Postgres]) -> Postgres:
    """One PostgreSQL. Roles belong to the whole server: name them uniquely. Whoever stops it takes one of their own."""
    from tests.support.programs import POSTGRES

    return postgres_servers(POSTGRES)


@pytest.fixture
def database(postgres_server: Postgres) -> Iterator[Login]:
    """A new, empty database, as the superuser sees it."""
    login = postgres_server.create_database()
    yield login
    postgres_server.drop_database(login.database)


@pytest.fixture
def postgres_ground(postgres_server: Postgres, database: Login) -> PostgresGround:
    """A database of this test's own with the SQL that we ship, as an administrator lays it out."""
    from tests.support.postgres_ground import lay_out

    return lay_out(postgres_server, database)
