"""What is wrong at a real PostgreSQL for its cutter: each fault by itself, and the line that mends it."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from broker.adapters.cutters.postgres import PostgresCutter
from broker.errors import Unavailable
from tests.support.postgres_ground import PostgresGround, cutter_options, lay_out

if TYPE_CHECKING:
    from broker.model.account import TargetFault
    from tests.support.postgres import Login, Postgres

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[3]


async def faults(login: Login, folder: Path) -> tuple[TargetFault, ...]:
    cutter = PostgresCutter(cutter_options(login, folder))
    try:
        return await cutter.faults()
    finally:
        await cutter.close()


@pytest.fixture
def own(postgres_ground: PostgresGround) -> Iterator[Login]:
    """A cutter's login of this test's own: roles are the whole server's."""
    name, password = f"cutter_{secrets.token_hex(4)}", secrets.token_urlsafe(12)
    superuser = postgres_ground.superuser
    with superuser.connect() as session:
        session.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
        session.execute(f"GRANT USAGE ON SCHEMA lockstep TO {name}")
        session.execute(
            f"GRANT EXECUTE ON FUNCTION lockstep.cut(text), lockstep.end_sessions(text), lockstep.look(text) TO {name}"
        )
    yield postgres_ground.server.login(name, password, superuser.database)
    with superuser.connect() as session:
        session.execute(f"DROP OWNED BY {name}")
        session.execute(f"DROP ROLE {name}")


def mend(server: Postgres, login: Login, line: str) -> None:
    """As the superuser, from the root of the repository."""
    superuser = server.superuser
    done = subprocess.run(
        ["sh", "-euc", line],
        cwd=ROOT,
        env={
            "PATH": f"{server.program('psql').parent}:/usr/bin:/bin",
            "PGHOST": login.host,
            "PGPORT": str(login.port),
            "PGUSER": superuser.user,
            "PGPASSWORD": superuser.password,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


async def test_a_login_as_it_should_be(own: Login, tmp_path: Path) -> None:
    assert await faults(own, tmp_path) == ()


@pytest.mark.parametrize(
    "attribute", ["SUPERUSER", "CREATEROLE", "CREATEDB", "REPLICATION", "BYPASSRLS"], ids=str.lower
)
async def test_a_login_with_an_attribute(
    postgres_ground: PostgresGround, own: Login, tmp_path: Path, attribute: str
) -> None:
    with postgres_ground.superuser.connect() as session:
        session.execute(f"ALTER ROLE {own.user} {attribute}")
    (fault,) = await faults(own, tmp_path)
    assert (fault.what, fault.wide) == (f"{own.user} has attributes, and needs none", True)
    mend(postgres_ground.server, own, fault.mend)
    assert await faults(own, tmp_path) == ()


async def test_a_login_that_is_a_member_of_another_role(
    postgres_ground: PostgresGround, own: Login, tmp_path: Path
) -> None:
    with postgres_ground.superuser.connect() as session:
        session.execute(f'GRANT pg_signal_backend, "{postgres_ground.owner}" TO {own.user}')
    (fault,) = await faults(own, tmp_path)
    assert fault.wide
    assert f"is a member of {postgres_ground.owner}, pg_signal_backend" in fault.what
    mend(postgres_ground.server, own, fault.mend)
    assert await faults(own, tmp_path) == ()


async def test_functions_that_it_may_not_call(
    postgres_ground: PostgresGround, own: Login, tmp_path: Path
) -> None:
    with postgres_ground.superuser.connect() as session:
        session.execute(f"REVOKE EXECUTE ON FUNCTION lockstep.look(text) FROM {own.user}")
    (fault,) = await faults(own, tmp_path)
    assert (fault.what, fault.wide) == (f"{own.user} may not call lockstep's functions", False)


async def test_a_database_without_the_functions(
    postgres_server: Postgres, postgres_ground: PostgresGround, tmp_path: Path
) -> None:
    superuser = postgres_server.create_database()
    try:
        known = postgres_ground.cutter
        cutter = postgres_server.login(known.user, known.password, superuser.database)
        (fault,) = await faults(cutter, tmp_path)
        assert fault.what == "lockstep_cutter may not call lockstep's functions"
        mend(postgres_server, cutter, fault.mend)
        assert await faults(cutter, tmp_path) == ()
    finally:
        postgres_server.drop_database(superuser.database)


async def test_a_standby(tmp_path: Path) -> None:
    from tests.support.postgres import postgres

    with postgres() as server:
        ground = lay_out(server, server.create_database())
        server.stop()
        (server._data / "standby.signal").touch()
        server.start()
        (fault,) = await faults(ground.cutter, tmp_path)
        assert (fault.what, fault.wide) == ("the database is a standby, where nothing can be cut", False)
        assert fault.mend.startswith("# ")


async def test_a_target_that_is_away(tmp_path: Path) -> None:
    from tests.support.postgres import postgres

    with postgres() as server:
        ground = lay_out(server, server.create_database())
        server.stop()
        with pytest.raises(Unavailable, match="cannot be reached"):
            await faults(ground.cutter, tmp_path)
