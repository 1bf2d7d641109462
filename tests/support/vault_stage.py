"""A broker whose role hands out logins of a real database, made by a real Vault: laid out for tests and benchmarks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

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


def lay_out(bao: OpenBao, postgres: Postgres, folder: Path) -> VaultStage:
    """A database engine over a database, with the statements and functions that we ship."""
    folder.mkdir(parents=True, exist_ok=True)
    vault = lay_out_vault(bao, folder / "vault", sweep=(PATH, PLAIN))
    target = lay_out_target(postgres, postgres.create_database())
    admin = target.vault
    vault.mount("database", "database")
    vault.root.write(
        "database/config/orders",
        plugin_name="postgresql-database-plugin",
        allowed_roles=["payments", "payments-plain"],
        connection_url=f"postgresql://{{{{username}}}}:{{{{password}}}}@{admin.host}:{admin.port}/{admin.database}"
        f"?sslmode=verify-full&sslrootcert={admin.ca}",
        username=admin.user,
        password=admin.password,
        username_template=USERNAME_TEMPLATE,
    )
    for path, revocation in ((PATH, "revocation"), (PLAIN, "revocation-plain")):
        vault.root.write(
            path.replace("/creds/", "/roles/"),
            db_name="orders",
            creation_statements=[target.statement("creation")],
            revocation_statements=[target.statement(revocation)],
            default_ttl="10m",
            max_ttl="1h",
        )
        vault.allow(path, "read")
    return VaultStage(vault, target, folder)
