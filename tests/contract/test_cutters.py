"""The cutter at PostgreSQL and the fake keep to the contract of cutters."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from broker.adapters.cutters.postgres import PostgresCutter
from broker.model.account import Remains
from tests.contract.cutter_suite import CutterSuite
from tests.fakes.cutter import FakeCutter
from tests.support.programs import postgres_versions

if TYPE_CHECKING:
    from tests.support.postgres import Login, Postgres
    from tests.support.postgres_ground import PostgresGround


@pytest.fixture(scope="session", params=postgres_versions())
def postgres_server(request: pytest.FixtureRequest, postgres_servers: Callable[[int], Postgres]) -> Postgres:
    """One of each version."""
    return postgres_servers(request.param)


class Database:
    """Logins and sessions at a real server."""

    def __init__(self, ground: PostgresGround, ends: contextlib.ExitStack) -> None:
        self._ground = ground
        self._ends = ends
        self._latest: dict[str, Login] = {}

    def login(self, attestation_id: str) -> None:
        self._latest[attestation_id] = self._ground.login(attestation_id)

    def session(self, attestation_id: str) -> None:
        self._ends.enter_context(contextlib.closing(self._latest[attestation_id].connect()))

    def remains(self, attestation_id: str) -> Remains:
        ground = self._ground
        return Remains(len(ground.can_log_in(attestation_id)), len(ground.sessions(attestation_id)))


@pytest.mark.integration
class TestPostgresCutter(CutterSuite):
    @pytest.fixture
    def target(self, postgres_ground: PostgresGround) -> Iterator[Database]:
        with contextlib.ExitStack() as ends:
            yield Database(postgres_ground, ends)

    @pytest.fixture
    async def cutter(self, postgres_ground: PostgresGround, tmp_path: Path) -> AsyncIterator[PostgresCutter]:
        from tests.support.postgres_ground import cutter_options

        cutter = PostgresCutter(cutter_options(postgres_ground.cutter, tmp_path))
        yield cutter
        await cutter.close()


class Memory:
    """Logins and sessions of the fake."""

    def __init__(self, cutter: FakeCutter) -> None:
        self._cutter = cutter

    def login(self, attestation_id: str) -> None:
        self._cutter.logins[attestation_id] = self._cutter.logins.get(attestation_id, 0) + 1

    def session(self, attestation_id: str) -> None:
        self._cutter.sessions[attestation_id] = self._cutter.sessions.get(attestation_id, 0) + 1

    def remains(self, attestation_id: str) -> Remains:
        return Remains(
            self._cutter.logins.get(attestation_id, 0), self._cutter.sessions.get(attestation_id, 0)
        )


class TestFakeCutter(CutterSuite):
    @pytest.fixture
    def cutter(self) -> FakeCutter:
        return FakeCutter()

    @pytest.fixture
    def target(self, cutter: FakeCutter) -> Memory:
        return Memory(cutter)
