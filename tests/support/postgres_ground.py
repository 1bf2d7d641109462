"""What a database administrator lays out for Vault and the cutter: the SQL that we ship, run on a test's database."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg

from broker.adapters.cutters.options import PostgresOptions
from tests.support.postgres import Login, Postgres

SHIPPED: Final = Path(__file__).parents[2] / "deploy" / "vault" / "postgres"


@dataclass(frozen=True)
class PostgresGround:
    """One database with an owner of its own, who has a table ``orders``."""

    server: Postgres
    superuser: Login
    vault: Login
    cutter: Login
    owner: str

    def statement(self, name: str) -> str:
        """A statement that we ship for Vault's database role, for this owner."""
        return (SHIPPED / f"{name}.sql").read_text().replace("app_owner", self.owner)

    def login(self, attestation_id: str, tail: str = "") -> Login:
        """A new login, made as Vault makes it."""
        tail = tail or secrets.token_hex(4)
        password = secrets.token_urlsafe(12)
        name = f"ls-{attestation_id}-{tail}"
        text = self.statement("creation").replace("{{name}}", name).replace("{{password}}", password)
        with self.vault.connect() as session, session.transaction():
            session.execute(text.replace("{{expiration}}", "2999-01-01 00:00:00+00"))
        return self.server.login(name, password, self.superuser.database)

    def retire(self, login: str, statement: str = "revocation") -> None:
        """Take a login back as Vault does: in one transaction."""
        with self.vault.connect() as session, session.transaction():
            session.execute(self.statement(statement).replace("{{name}}", login))

    def can_log_in(self, attestation_id: str) -> list[str]:
        """Logins of an attestation that could log in."""
        query = "SELECT rolname FROM pg_roles WHERE rolcanlogin AND starts_with(rolname, %s) ORDER BY 1"
        return self._names(query, f"ls-{attestation_id}-")

    def roles(self, attestation_id: str) -> list[str]:
        """Roles of an attestation."""
        query = "SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s) ORDER BY 1"
        return self._names(query, f"ls-{attestation_id}-")

    def sessions(self, attestation_id: str) -> list[str]:
        """Who of an attestation has a session, once for each."""
        query = "SELECT usename FROM pg_stat_activity WHERE starts_with(usename, %s) ORDER BY 1"
        return self._names(query, f"ls-{attestation_id}-")

    def orphans(self) -> int:
        """Sessions of roles that are no more."""
        query = (
            "SELECT count(*) FROM pg_stat_activity a"
            " WHERE usesysid <> 0 AND NOT EXISTS (SELECT FROM pg_roles WHERE oid = a.usesysid)"
        )
        with self.superuser.connect() as session:
            (count,) = session.execute(query).fetchone() or (0,)
        return int(count)

    def _names(self, query: str, start: str) -> list[str]:
        with self.superuser.connect() as session:
            return [str(name) for (name,) in session.execute(query, (start,)).fetchall()]


def lay_out(server: Postgres, database: Login) -> PostgresGround:
    """Run what we ship, as the superuser; may be run again."""
    owner = f"owner_{database.database}"
    with database.connect() as session:
        run(session, (SHIPPED / "roles.sql").read_text())
        run(session, (SHIPPED / "cutter.sql").read_text())
        session.execute(f'CREATE ROLE "{owner}" NOLOGIN')
        run(session, (SHIPPED / "owner.sql").read_text().replace("app_owner", f'"{owner}"'))
        session.execute(f'CREATE SCHEMA app AUTHORIZATION "{owner}"')
        session.execute(f'SET ROLE "{owner}"')
        session.execute("CREATE TABLE app.orders (id integer PRIMARY KEY, note text)")
        session.execute("INSERT INTO app.orders VALUES (1, 'first')")
        session.execute("RESET ROLE")
        for role in ("lockstep_vault", "lockstep_cutter"):
            if role not in server.passwords:
                server.passwords[role] = secrets.token_urlsafe(24)
            session.execute(f"ALTER ROLE {role} PASSWORD '{server.passwords[role]}'")

    def known(role: str) -> Login:
        return server.login(role, server.passwords[role], database.database)

    return PostgresGround(server, database, known("lockstep_vault"), known("lockstep_cutter"), owner)


def cutter_options(login: Login, folder: Path, **changes: Any) -> PostgresOptions:
    """How the cutter comes as a login; its password goes to a file in a folder. `changes` go to the options."""
    password = folder / f"{login.user}.password"
    password.touch(mode=0o600)
    password.write_text(login.password)
    values = {
        "host": login.host,
        "port": login.port,
        "database": login.database,
        "user": login.user,
        "password_file": str(password),
        "ca": str(login.ca) if login.tls else "",
        "tls": login.tls,
        **changes,
    }
    return PostgresOptions(**values)


def run(session: psycopg.Connection, script: str) -> None:
    """A script of several statements."""
    session.execute(script.encode())
