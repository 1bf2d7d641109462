"""A broker whose role hands out logins of a real database, made by a real Vault: laid out for tests and benchmarks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg

from broker.adapters.backends.vault_setup import USERNAME_TEMPLATE
from tests.support.postgres import Login, Postgres
from tests.support.postgres_ground import PostgresGround, cutter_options
from tests.support.postgres_ground import lay_out as lay_out_target
from tests.support.vault_ground import Ground
from tests.support.vault_ground import lay_out as lay_out_vault

if TYPE_CHECKING:
    from tests.support.openbao import OpenBao

PATH: Final = "database/creds/payments"
PLAIN: Final = "database/creds/payments-plain"
"""The same, with the revocation statement for a database without our functions."""
SLOW: Final = "database/creds/slow"
"""The same over a connection of its own, with a statement of the test's."""

_BACKEND: Final = """
[backends.vault]
kind = "vault"
address = "{address}"
namespace = "{namespace}"
ca_file = "{ca}"
auth = {{ method = "approle", role_id_file = "{role_id}", secret_id_file = "{secret_id}" }}
"""
_CUTTER: Final = """
[cutters.payments-db]
kind = "postgres"
host = "{host}"
port = {port}
database = "{database}"
user = "{user}"
password_file = "{password}"
ca_file = "{ca}"
"""


@dataclass(frozen=True)
class VaultStage:
    """A namespace at Vault and a database, as an operator lays them out with what we ship."""

    vault: Ground
    target: PostgresGround
    folder: Path

    def backend(self) -> str:
        """``[backends.vault]`` for a configuration."""
        files = self.vault.approle()
        return _BACKEND.format(
            address=self.vault.server.address,
            namespace=self.vault.namespace,
            ca=self.vault.server.ca,
            role_id=files["role_id_file"],
            secret_id=files["secret_id_file"],
        )

    def cutter(self) -> str:
        """``[cutters.payments-db]`` for a configuration."""
        found = cutter_options(self.target.cutter, self.folder)
        return _CUTTER.format(
            host=found.host,
            port=found.port,
            database=found.database,
            user=found.user,
            password=found.password_file,
            ca=found.ca,
        )

    def connect(self, name: str, *roles: str) -> None:
        """A connection of Vault's to the database, for some of its roles."""
        admin = self.target.vault
        self.vault.root.write(
            f"database/config/{name}",
            plugin_name="postgresql-database-plugin",
            allowed_roles=list(roles),
            connection_url=f"postgresql://{{{{username}}}}:{{{{password}}}}@{admin.host}:{admin.port}/{admin.database}"
            f"?sslmode=verify-full&sslrootcert={admin.ca}",
            username=admin.user,
            password=admin.password,
            username_template=USERNAME_TEMPLATE,
        )

    def role(self, path: str, connection: str, *, revocation: str = "revocation", first: str = "") -> None:
        """A path at which instances get logins by what we ship, `first` before it."""
        self.vault.root.write(
            path.replace("/creds/", "/roles/"),
            db_name=connection,
            creation_statements=[first + self.target.statement("creation")],
            revocation_statements=[self.target.statement(revocation)],
            default_ttl="10m",
            max_ttl="1h",
        )
        self.vault.allow(path, "read")

    def login(self, username: str, password: str) -> Login:
        """At the database, with what a workload was given."""
        return self.target.server.login(username, password, self.target.superuser.database)

    @contextlib.contextmanager
    def session(self, username: str, password: str) -> Iterator[psycopg.Connection]:
        """A session of a workload; it may be cut."""
        connection = self.login(username, password).connect()
        try:
            yield connection
        finally:
            connection.close()


NOTHING: Final[Mapping[str, Sequence[Any]]] = {"tokens": [], "leases": [], "logins": []}


def left(vault: Ground, target: PostgresGround, *paths: str) -> Mapping[str, Sequence[Any]]:
    """What could still be used: tokens whose entity is not disabled, leases below paths, logins."""
    tokens = []
    for accessor in vault.root.listed("auth/token/accessors"):
        data = vault.root.write("auth/token/lookup-accessor", accessor=accessor)["data"]
        entity = data.get("entity_id")
        if not data["display_name"].startswith("token-") or not entity:
            continue
        if not vault.root.read(f"identity/entity/id/{entity}")["disabled"]:
            tokens.append(data["display_name"])
    with target.superuser.connect() as session:
        logins = session.execute(
            "SELECT rolname FROM pg_roles WHERE starts_with(rolname, 'ls-') AND pg_has_role(oid, %s, 'member')",
            (target.owner,),
        ).fetchall()
    leases = [lease for path in paths for lease in vault.leases(path)]
    return {"tokens": tokens, "leases": leases, "logins": logins}


def lay_out(bao: OpenBao, postgres: Postgres, folder: Path, *, slow: str = "") -> VaultStage:
    """A database engine over a database, with the statements and functions that we ship; `slow` is a statement that
    comes before each creation at the path `SLOW`, which waits for no other and keeps no other waiting."""
    folder.mkdir(parents=True, exist_ok=True)
    vault = lay_out_vault(bao, folder / "vault", sweep=(PATH, PLAIN, SLOW))
    target = lay_out_target(postgres, postgres.create_database())
    vault.mount("database", "database")
    stage = VaultStage(vault, target, folder)
    stage.connect("orders", "payments", "payments-plain")
    stage.role(PATH, "orders")
    stage.role(PLAIN, "orders", revocation="revocation-plain")
    if slow:
        # Vault makes and drops the logins of one connection one after the other.
        stage.connect("slow", "slow")
        stage.role(SLOW, "slow", first=slow)
    return stage
