"""A role that hands out logins of a real PostgreSQL, at a broker whose every answer the test chooses."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from psycopg import sql

from lockstep.v1 import credential_pb2, revocation_pb2
from lockstep_client.evidence import EvidenceSource
from lockstep_client.leases import LiveCredential
from lockstep_client.settings import Settings
from tests.fakes.broker import FakeBroker
from tests.fakes.tls import ServerFiles, server_files
from tests.unit.client.core.conftest import Loaded, becomes

if TYPE_CHECKING:
    from tests.support.postgres import Login, Postgres

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder talks to a real PostgreSQL."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ServerFiles:
    return server_files(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def broker(tls: ServerFiles) -> Iterator[FakeBroker]:
    server = FakeBroker(tls).start()
    yield server
    server.stop()


@pytest.fixture
def settings(broker: FakeBroker, tls: ServerFiles, tmp_path: Path) -> Settings:
    token = tmp_path / "identity.jwt"
    token.write_text("header.claims.signature\n")
    return Settings(address=broker.address, ca_file=str(tls.ca_file), identity_token_file=str(token))


@pytest.fixture
def evidence() -> Callable[[], EvidenceSource]:
    return Loaded().source


class Stage:
    """The role ``db``: each secret is a new login. The test rotates and revokes; the database knows who is there."""

    def __init__(self, broker: FakeBroker, server: Postgres, database: Login) -> None:
        self.broker = broker
        self.server = server
        self.database = database
        self.users: list[str] = []
        self.told: tuple[float, float] | None = None
        """What the role says of its rotation, but for one that the test asks for."""
        self.password: Callable[[], str] = lambda: secrets.token_urlsafe(12)
        self._lock = threading.Lock()
        self._leases: dict[str, str] = {}
        broker.policy.rotates = False
        broker.policy.secret = self._make
        broker.policy.ended = self._drop
        broker.policy.parameters = {
            "host": database.host,
            "port": database.port,
            "database": database.database,
            "sslmode": "verify-full",
            "sslrootcert": str(database.ca),
        }

    def _make(self, lease: credential_pb2.Lease) -> dict[str, str]:
        # One rotation at a time: whoever wants another says so.
        self.broker.policy.rotation = self.told
        user, password = f"u-{secrets.token_hex(6)}", self.password()
        with self.database.connect() as session:
            session.execute(
                sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
                    sql.Identifier(user), sql.Literal(password)
                )
            )
        with self._lock:
            self.users.append(user)
            self._leases[lease.lease_id] = user
        return {"username": user, "password": password}

    def _drop(self, lease_id: str) -> None:
        self.retire(self._leases[lease_id])

    def retire(self, user: str) -> None:
        """Take a login back as Vault's statements do."""
        with self.database.connect() as session:
            session.execute(f'ALTER ROLE "{user}" NOLOGIN')
            session.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", (user,)
            )
            session.execute(f'DROP ROLE IF EXISTS "{user}"')

    def sessions(self, user: str) -> int:
        """How many sessions a login has at the server."""
        with self.database.connect() as session:
            (count,) = session.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE usename = %s", (user,)
            ).fetchone() or (0,)
        return int(count)

    def has(self, user: str, sessions: int) -> None:
        """Wait until a login has so many."""
        becomes(lambda: self.sessions(user) == sessions)

    def busy(self, user: str) -> None:
        """Wait until a login is in the middle of a query."""
        query = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s AND state = 'active'"

        def active() -> bool:
            with self.database.connect() as session:
                return session.execute(query, (user,)).fetchone() == (1,)

        becomes(active)

    def rotate(self, face: Any, overlap: float = 60.0) -> str:
        """Its secret is replaced now; the new login, once it is held."""
        connection = face._connection
        before = len(self.users)
        self.broker.policy.rotation = (0.001, overlap)
        connection.refresh_soon(0.0)
        self.broker.wait_until(lambda: len(self.users) > before)
        credential = LiveCredential(connection, "db")
        becomes(lambda: credential.username == self.users[-1])
        return self.users[-1]

    def revoke(self) -> None:
        """The broker takes everything back; nothing happens at the database by itself."""
        self.broker.wait_until(lambda: self.broker.watched != [])
        self.broker.revoke(revocation_pb2.Selector(attestation_id=list(self.broker.instances)[-1]))

    def clear(self) -> None:
        """Leave no login behind."""
        for user in self.users:
            with self.database.connect() as session:
                known = session.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (user,)).fetchone()
            if known:
                self.retire(user)


@pytest.fixture
def stage(broker: FakeBroker, postgres_server: Postgres, database: Login) -> Iterator[Stage]:
    found = Stage(broker, postgres_server, database)
    yield found
    found.clear()
