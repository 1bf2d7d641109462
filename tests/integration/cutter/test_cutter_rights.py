"""What a cautious administrator would try with the cutter's login and with Vault's, given what our SQL gives them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from broker.adapters.cutters.postgres import PostgresCutter
from broker.errors import Unavailable
from broker.model.account import Remains
from tests.support import pki
from tests.support.postgres import Login, Postgres, postgres
from tests.support.postgres_ground import SHIPPED, PostgresGround, cutter_options, lay_out, run

REFUSED = psycopg.errors.InsufficientPrivilege
BAD_NAME = psycopg.errors.InvalidParameterValue

STATEMENTS = (
    # roles and databases
    "CREATE ROLE mallory",
    "CREATE ROLE mallory SUPERUSER LOGIN",
    "CREATE DATABASE mallory",
    "ALTER ROLE {victim} NOLOGIN",
    "ALTER ROLE {victim} PASSWORD 'mine'",
    "DROP ROLE {victim}",
    "ALTER ROLE lockstep_cutter CREATEROLE",
    "ALTER ROLE lockstep_cutter CONNECTION LIMIT -1",
    "GRANT {owner} TO lockstep_cutter",
    "GRANT lockstep_vault TO lockstep_cutter",
    "GRANT pg_signal_backend TO lockstep_cutter",
    # to become somebody else
    "SET ROLE lockstep_vault",
    "SET ROLE lockstep_ender",
    "SET ROLE {owner}",
    "SET ROLE {victim}",
    "SET SESSION AUTHORIZATION {victim}",
    # tables, files, the server
    "SELECT * FROM app.orders",
    "INSERT INTO app.orders VALUES (7, 'mine')",
    "BEGIN; LOCK TABLE app.orders",
    "SELECT * FROM pg_catalog.pg_authid",
    "BEGIN; LOCK TABLE pg_catalog.pg_authid IN ACCESS SHARE MODE",
    "CREATE TABLE public.mine (id integer)",
    "CREATE TABLE app.mine (id integer)",
    "CREATE TABLE lockstep.mine (id integer)",
    "CREATE SCHEMA mine",
    "DROP EXTENSION plpgsql",
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "SELECT pg_read_file('postgresql.conf')",
    "SELECT pg_reload_conf()",
    "ALTER SYSTEM SET max_connections = 1",
    # sessions, but through the functions
    "SELECT pg_terminate_backend({pid})",
    "SELECT pg_cancel_backend({pid})",
    # functions that are not for it, and those that are, made anew
    "SELECT lockstep.logins_of('ls-A-x')",
    "SELECT lockstep.end_matching('.*')",
    "SELECT lockstep.end_login('{name}')",
    "SELECT lockstep.retire('{name}')",
    "ALTER FUNCTION lockstep.cut(text) SET search_path = public",
    "ALTER FUNCTION lockstep.cut(text) OWNER TO lockstep_cutter",
    "DROP FUNCTION lockstep.cut(text)",
    "CREATE FUNCTION lockstep.logins_of(prefix name) RETURNS text LANGUAGE sql AS 'SELECT ''.*'''",
    "CREATE OR REPLACE FUNCTION lockstep.logins_of(prefix text) RETURNS text LANGUAGE sql AS 'SELECT ''.*'''",
)

PUBLICLY = (
    "CREATE TEMPORARY TABLE mine (id integer)",
    "SELECT lo_creat(-1)",
    "SELECT lo_create(0)",
    "SELECT lo_from_bytea(0, 'mine')",
    "DO $$ BEGIN END $$",
)
"""What PUBLIC may, and so the cutter's login where it has no database of its own."""

PREFIXES: tuple[str | None, ...] = (
    None,
    "",
    "%",
    "_",
    "ls",
    "ls-",
    "ls-%",
    "ls-_-%",
    "ls-A",
    "ls-A-",
    "ls-A-%",
    "ls-A-_",
    "ls-A-.*",
    "ls-A-x.",
    "ls-A-x|.*",
    "ls-A-x$|",
    "ls-A-x\n",
    "ls-A-x\nls-A-y",
    "\nls-A-x",
    " ls-A-x",
    "ls--x",
    "LS-A-x",
    "ls-1-x",
    "ls-A-é",
    "ls-Ä-x",
    'ls-A-x"',
    "ls-A-x'; DROP ROLE postgres; --",
    "ls-ABCDEFGHI-x",
    "ls-A-" + "x" * 41,
    "postgres",
    "lockstep_vault",
)


FOR_THE_CUTTER = ("cut", "end_sessions", "look")

NEARLY = (
    "ls_{}_0001",
    "ls-{}",
    "ls-{}-",
    "ls-{}-00-01",
    "ls-{}-0_01",
    "ls-{}-0001 ",
    "xls-{}-0001",
    "LS-{}-0001",
)
"""Names of logins that are not of the form."""

LOGINS: tuple[str | None, ...] = (
    *PREFIXES,
    "ls-%-%-%",
    "ls-A-%-%",
    "ls-A-.*-.*",
    "ls-A-x-y|.*",
    "ls-A-x-y\n",
    "ls-A-x-y-z",
    "ls-A-x-" + "y" * 21,
    'ls-A-x-y"; DROP ROLE postgres; --',
)
"""What is no name of a login of ours."""


def statement(text: str, ground: PostgresGround, victim: Login, pid: int) -> str:
    names = {
        "victim": f'"{victim.user}"',
        "name": victim.user,
        "owner": f'"{ground.owner}"',
        "pid": str(pid),
    }
    for name, value in names.items():
        text = text.replace(f"{{{name}}}", value)
    return text


@pytest.fixture
def victim(postgres_ground: PostgresGround, other: str) -> Iterator[tuple[Login, psycopg.Connection]]:
    """A login of another attestation, with a session."""
    login = postgres_ground.login(other)
    with contextlib.closing(login.connect()) as session:
        yield login, session


def lives(victim: tuple[Login, psycopg.Connection]) -> bool:
    """It has its session and can log in."""
    login, session = victim
    with contextlib.closing(login.connect()) as another:
        return session.execute("SELECT 1").fetchone() == another.execute("SELECT 1").fetchone() == (1,)


# --- the cutter's login ---------------------------------------------------------------------------------


def test_the_cutters_login_may_do_nothing_of_this(
    postgres_ground: PostgresGround, victim: tuple[Login, psycopg.Connection]
) -> None:
    allowed = []
    with postgres_ground.cutter.connect() as session:
        for text in STATEMENTS:
            try:
                run(session, statement(text, postgres_ground, victim[0], victim[1].info.backend_pid))
                allowed.append(text)
            except REFUSED:
                session.execute("ROLLBACK")
    assert allowed == []
    assert lives(victim)


async def test_what_it_may_as_everybody_may_is_taken_from_it_in_a_database_of_its_own(
    postgres_ground: PostgresGround, postgres_server: Postgres, attestation: str, tmp_path: Path
) -> None:
    own = postgres_server.create_database()
    with own.connect() as session:
        run(session, (SHIPPED / "cutter.sql").read_text())
        run(session, (SHIPPED / "apart.sql").read_text())
        run(session, (SHIPPED / "apart.sql").read_text())
    login = postgres_ground.login(attestation)
    there = postgres_server.login(postgres_ground.cutter.user, postgres_ground.cutter.password, own.database)
    allowed = []
    with there.connect() as session:
        for text in PUBLICLY:
            with contextlib.suppress(REFUSED):
                session.execute(text)
                allowed.append(text)
    assert allowed == []
    # Nobody else comes there.
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        postgres_server.login(login.user, login.password, own.database).connect()
    # And it reaches what is in every other database.
    with contextlib.closing(login.connect()):
        cutter = PostgresCutter(cutter_options(there, tmp_path))
        assert await cutter.faults() == ()
        assert await cutter.confirm(attestation) == Remains(1, 1)
        assert await cutter.cut(attestation) == Remains(0, 0)
        assert await cutter.confirm(attestation) == Remains(0, 0)
        await cutter.close()
    assert postgres_ground.sessions(attestation) == []
    postgres_server.drop_database(own.database)


def test_a_database_with_tables_is_nobodys_own(postgres_ground: PostgresGround) -> None:
    with postgres_ground.superuser.connect() as session:
        with pytest.raises(psycopg.errors.RaiseException, match="it has tables"):
            run(session, (SHIPPED / "apart.sql").read_text())
        session.execute("ROLLBACK")
        allowed = session.execute(
            "SELECT has_database_privilege('public', current_database(), 'TEMPORARY')"
        ).fetchone()
    assert allowed == (True,)


def test_whatever_is_no_prefix_of_ours_is_refused(
    postgres_ground: PostgresGround, victim: tuple[Login, psycopg.Connection]
) -> None:
    taken = []
    with postgres_ground.cutter.connect() as session:
        for function in FOR_THE_CUTTER:
            for prefix in PREFIXES:
                try:
                    session.execute(f"SELECT lockstep.{function}(%s::text)", (prefix,))
                    taken.append((function, prefix))
                except BAD_NAME:
                    pass
    assert taken == []
    assert lives(victim)


async def test_a_prefix_reaches_its_attestation_alone(
    postgres_ground: PostgresGround, cutter: PostgresCutter
) -> None:
    stem = f"A-{time.time_ns():x}"
    near = [f"{stem}0", f"{stem}x", stem[:-1], f"B{stem[1:]}", f"AA{stem[1:]}", stem.upper()]
    assert stem.upper() != stem
    with contextlib.ExitStack() as ends:
        spared = [postgres_ground.login(name) for name in near]
        for login in (postgres_ground.login(stem), *spared):
            ends.enter_context(contextlib.closing(login.connect()))
        assert await cutter.cut(stem) == Remains(0, 0)
        for name, login in zip(near, spared, strict=True):
            assert postgres_ground.can_log_in(name) == [login.user]
            assert postgres_ground.sessions(name) == [login.user]


async def test_names_that_are_only_nearly_ours_are_left_alone(
    postgres_ground: PostgresGround, cutter: PostgresCutter, attestation: str
) -> None:
    names = [name.format(attestation) for name in NEARLY]
    with postgres_ground.superuser.connect() as superuser, contextlib.ExitStack() as ends:
        for name in names:
            superuser.execute(f"CREATE ROLE \"{name}\" LOGIN PASSWORD 'word'")
            ends.callback(superuser.execute, f'DROP ROLE "{name}"')
        logins = [
            postgres_ground.server.login(name, "word", postgres_ground.superuser.database) for name in names
        ]
        sessions = [ends.enter_context(contextlib.closing(login.connect())) for login in logins]
        assert await cutter.cut(attestation) == Remains(0, 0)
        for session, login in zip(sessions, logins, strict=True):
            assert session.execute("SELECT 1").fetchone() == (1,)
            login.connect().close()


async def test_a_superuser_is_left_alone_whatever_its_name_and_said_to_be_there(
    postgres_ground: PostgresGround, cutter: PostgresCutter, attestation: str
) -> None:
    name = f"ls-{attestation}-0001"
    with postgres_ground.superuser.connect() as superuser:
        superuser.execute(f"CREATE ROLE \"{name}\" SUPERUSER LOGIN PASSWORD 'word'")
        there = postgres_ground.server.login(name, "word", postgres_ground.superuser.database)
        try:
            with contextlib.closing(there.connect()) as session:
                assert await cutter.cut(attestation) == Remains(1, 1)
                assert session.execute("SELECT 1").fetchone() == (1,)
                with pytest.raises(REFUSED):
                    postgres_ground.retire(name)
                assert session.execute("SELECT 1").fetchone() == (1,)
        finally:
            superuser.execute(f'DROP ROLE "{name}"')


async def test_from_16_on_a_login_that_vault_did_not_make_keeps_login_and_is_said_to_be_there(
    postgres_ground: PostgresGround, cutter: PostgresCutter, attestation: str
) -> None:
    name = f"ls-{attestation}-0001"
    made_here = postgres_ground.login(attestation)
    with postgres_ground.superuser.connect() as superuser:
        superuser.execute(f"CREATE ROLE \"{name}\" LOGIN PASSWORD 'word'")
        try:
            # One that cannot be cut keeps no other.
            left = 1 if postgres_ground.server.version >= 16 else 0
            assert await cutter.cut(attestation) == Remains(left, 0)
            assert postgres_ground.can_log_in(attestation) == [name] * left
            assert made_here.user not in postgres_ground.can_log_in(attestation)
        finally:
            superuser.execute(f'DROP ROLE "{name}"')


def test_a_search_path_of_the_callers_own_deceives_no_function(
    postgres_ground: PostgresGround, victim: tuple[Login, psycopg.Connection], attestation: str
) -> None:
    mine = postgres_ground.login(attestation)
    with contextlib.ExitStack() as ends:
        superuser = ends.enter_context(postgres_ground.superuser.connect())
        # More than it has: somewhere to make things, as in a schema public that was upgraded from 14.
        superuser.execute("CREATE SCHEMA evil; GRANT ALL ON SCHEMA evil TO PUBLIC")
        ends.callback(superuser.execute, "DROP SCHEMA evil CASCADE")
        session = ends.enter_context(postgres_ground.cutter.connect())
        for left in ("text", "name"):
            for operator, says in (("~", "true"), ("!~", "false"), ("=", "true")):
                called = f'evil."says {operator} {left}"'
                session.execute(
                    f"CREATE FUNCTION {called}({left}, text) RETURNS boolean LANGUAGE sql AS 'SELECT {says}'"
                )
                session.execute(
                    f"CREATE OPERATOR evil.{operator} (FUNCTION = {called}, LEFTARG = {left}, RIGHTARG = text)"
                )
        session.execute("CREATE FUNCTION evil.format(text, text) RETURNS text LANGUAGE sql AS 'SELECT $2'")
        session.execute(
            "CREATE TEMPORARY TABLE pg_roles AS SELECT oid, rolname, rolcanlogin, false AS rolsuper FROM pg_roles"
        )
        session.execute(
            "CREATE TEMPORARY TABLE pg_stat_activity AS SELECT * FROM pg_catalog.pg_stat_activity"
        )
        for path in ("evil, pg_temp, pg_catalog", "pg_temp, evil", "evil"):
            session.execute(f"SET search_path = {path}")
            for function in FOR_THE_CUTTER:
                with pytest.raises(BAD_NAME):
                    session.execute(f"SELECT lockstep.{function}('ls-%')")
                session.execute(f"SELECT lockstep.{function}(%s::text)", (f"ls-{attestation}",))
    assert lives(victim)
    assert postgres_ground.can_log_in(attestation) == []
    with pytest.raises(psycopg.OperationalError, match="not permitted to log in"):
        mine.connect()


# --- everybody else -------------------------------------------------------------------------------------


def test_nobody_but_those_it_is_for_may_execute_a_function(postgres_ground: PostgresGround) -> None:
    query = """
        SELECT p.proname, p.proowner::regrole::text, p.prosecdef,
               array(SELECT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END
                     FROM aclexplode(p.proacl) WHERE grantee <> p.proowner ORDER BY 1)
        FROM pg_proc p WHERE pronamespace = 'lockstep'::regnamespace ORDER BY 1
    """
    with postgres_ground.cutter.connect() as session:
        # What is not its own to give is given to nobody, with a warning.
        session.execute("GRANT EXECUTE ON FUNCTION lockstep.cut(text) TO PUBLIC")
        session.execute("GRANT USAGE ON SCHEMA lockstep TO PUBLIC")
    with postgres_ground.superuser.connect() as superuser:
        assert superuser.execute(query).fetchall() == [
            ("cut", "lockstep_vault", True, ["lockstep_cutter"]),
            ("end_login", "lockstep_ender", True, ["lockstep_vault"]),
            ("end_matching", "lockstep_ender", False, []),
            ("end_sessions", "lockstep_ender", True, ["lockstep_cutter"]),
            ("logins_of", "postgres", False, ["lockstep_ender", "lockstep_vault"]),
            ("look", "lockstep_ender", True, ["lockstep_cutter"]),
            ("retire", "postgres", False, ["lockstep_vault"]),
        ]
        public = "SELECT has_schema_privilege('public', 'lockstep', 'USAGE, CREATE')"
        assert superuser.execute(public).fetchone() == (False,)
        # Each runs on a path of its own, whoever calls it.
        loose = superuser.execute(
            "SELECT proname FROM pg_proc WHERE pronamespace = 'lockstep'::regnamespace"
            " AND NOT 'search_path=pg_catalog, pg_temp' = ANY (coalesce(proconfig, '{}'))"
        ).fetchall()
        assert loose == []
        # Who ends sessions is nobody that anybody can be.
        members = "SELECT count(*) FROM pg_auth_members WHERE roleid = 'lockstep_ender'::regrole"
        assert superuser.execute(members).fetchone() == (0,)
        may = "SELECT rolcanlogin FROM pg_roles WHERE rolname = 'lockstep_ender'"
        assert superuser.execute(may).fetchone() == (False,)


def test_a_workload_may_call_none_of_them(
    postgres_ground: PostgresGround, victim: tuple[Login, psycopg.Connection], attestation: str
) -> None:
    with postgres_ground.login(attestation).connect() as session:
        for role in ("NONE", f'"{postgres_ground.owner}"'):
            session.execute(f"SET ROLE {role}")
            for function in (*FOR_THE_CUTTER, "end_login", "retire", "end_matching", "logins_of"):
                with pytest.raises(REFUSED):
                    session.execute(f"SELECT lockstep.{function}(%s::text)", (victim[0].user,))
    assert lives(victim)


# --- Vault's login --------------------------------------------------------------------------------------


def test_vault_retires_and_ends_logins_of_ours_alone(
    postgres_ground: PostgresGround, victim: tuple[Login, psycopg.Connection]
) -> None:
    with postgres_ground.vault.connect() as session, postgres_ground.cutter.connect() as bystander:
        for name in (*LOGINS, "lockstep_cutter", postgres_ground.owner):
            with pytest.raises(BAD_NAME):
                session.execute("SELECT lockstep.retire(%s::text)", (name,))
            assert session.execute("SELECT lockstep.end_login(%s::text)", (name,)).fetchone() == (None,)
        assert bystander.execute("SELECT 1").fetchone() == (1,)
    assert lives(victim)


def test_vaults_login_ends_no_session_by_itself(
    postgres_ground: PostgresGround, victim: tuple[Login, psycopg.Connection]
) -> None:
    with postgres_ground.vault.connect() as session:
        for text in (
            "SELECT pg_terminate_backend({pid})",
            "SELECT lockstep.end_matching('.*')",
            "SELECT lockstep.end_sessions('ls-A-x')",
            "GRANT lockstep_ender TO lockstep_vault" if postgres_ground.server.version >= 16 else "",
            "CREATE ROLE mallory SUPERUSER",
            "SELECT * FROM app.orders",
        ):
            if text:
                with pytest.raises(REFUSED):
                    session.execute(statement(text, postgres_ground, victim[0], victim[1].info.backend_pid))
    assert lives(victim)


# --- what is too wide is said ---------------------------------------------------------------------------


WIDENED = (
    ("ALTER ROLE {} CREATEDB", "ALTER ROLE {} NOCREATEDB", "has attributes"),
    ("ALTER ROLE {} CREATEROLE", "ALTER ROLE {} NOCREATEROLE", "has attributes"),
    ("GRANT pg_monitor TO {}", "REVOKE pg_monitor FROM {}", "is a member of pg_monitor"),
    (
        "REVOKE EXECUTE ON FUNCTION lockstep.look(text) FROM {}",
        "GRANT EXECUTE ON FUNCTION lockstep.look(text) TO {}",
        "may not call lockstep's functions",
    ),
)


async def test_a_login_that_is_too_wide_or_too_narrow_is_a_fault(
    postgres_ground: PostgresGround, cutter: PostgresCutter
) -> None:
    with postgres_ground.superuser.connect() as superuser:
        for widen, mend, said in WIDENED:
            superuser.execute(widen.format(postgres_ground.cutter.user))
            try:
                [fault] = await cutter.faults()
            finally:
                superuser.execute(mend.format(postgres_ground.cutter.user))
            assert said in fault.what
            assert await cutter.faults() == ()


# --- a client certificate -------------------------------------------------------------------------------


async def test_with_a_client_certificate_no_password_opens_anything(tmp_path: Path, attestation: str) -> None:
    with postgres() as server:
        ground = lay_out(server, server.create_database())
        server.allow(
            f"hostssl {ground.cutter.database} lockstep_cutter 127.0.0.1/32 cert",
            "host all lockstep_cutter all reject",
        )
        files = pki.certify("lockstep_cutter", server.authority, now=time.time()).write(tmp_path, "cutter")
        certified: dict[str, Any] = {
            "certificate": str(files[0]),
            "key": str(files[1]),
            "password_file": "",
        }
        cutter = PostgresCutter(cutter_options(ground.cutter, tmp_path, **certified))
        login = ground.login(attestation)
        with contextlib.closing(login.connect()):
            assert await cutter.faults() == ()
            assert await cutter.cut(attestation) == Remains(0, 0)
        with pytest.raises(psycopg.OperationalError):
            ground.cutter.connect()
        for changes in ({}, {**certified, "database": "postgres"}):
            another = PostgresCutter(cutter_options(ground.cutter, tmp_path, **changes))
            with pytest.raises(Unavailable, match="the database refuses the login"):
                await another.cut(attestation)
            await another.close()
        await cutter.close()


@pytest.mark.parametrize("what", ["the schema", "a function"])
def test_a_schema_that_somebody_else_had_first_is_not_trusted(
    postgres_server: Postgres, database: Login, what: str
) -> None:
    """A database's owner who is no superuser, often the application's, would own what runs as Vault's admin."""
    name = f"early_{database.database}"
    with database.connect(autocommit=True) as administrator:
        run(administrator, (SHIPPED / "roles.sql").read_text())
        administrator.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'early'")
        try:
            administrator.execute(f'ALTER DATABASE "{database.database}" OWNER TO {name}')
            early = postgres_server.login(name, "early", database.database)
            with early.connect(autocommit=True) as session:
                session.execute("CREATE SCHEMA lockstep")
                session.execute(
                    "CREATE FUNCTION lockstep.logins_of(prefix text) RETURNS text LANGUAGE sql AS $$ SELECT '.*' $$"
                )
            if what == "a function":
                administrator.execute("ALTER SCHEMA lockstep OWNER TO CURRENT_USER")
            with pytest.raises(psycopg.errors.RaiseException, match=r"not ours: .*lockstep") as refused:
                run(administrator, (SHIPPED / "cutter.sql").read_text())
            assert "drop schema lockstep" in str(refused.value)
            administrator.rollback()
            found = administrator.execute(
                "SELECT count(*) FROM pg_proc WHERE pronamespace = 'lockstep'::regnamespace"
            ).fetchone()
            assert found == (1,)
            administrator.execute("DROP SCHEMA lockstep CASCADE")
            for _ in range(2):  # an upgrade runs it again
                run(administrator, (SHIPPED / "cutter.sql").read_text())
        finally:
            administrator.execute(f'ALTER DATABASE "{database.database}" OWNER TO CURRENT_USER')
            administrator.execute(f"DROP OWNED BY {name}")
            administrator.execute(f"DROP ROLE {name}")
