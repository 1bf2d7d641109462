"""What an operator lays out at OpenBao for a broker, in a namespace of its own: policies, token role, engines."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from broker.adapters.backends.vault import AppRoleLogin, VaultOptions
from broker.adapters.backends.vault_setup import USERNAME_TEMPLATE
from tests.support.openbao import Bao, OpenBao, Refused

if TYPE_CHECKING:
    from tests.support.postgres import Login

TOKEN_ROLE: Final = "lockstep"
BROKER_POLICY: Final = "lockstep-broker"
ISSUE_POLICY: Final = "lockstep-issue"

_numbers = itertools.count(1)


def broker_policy(sweep: tuple[str, ...]) -> str:
    """What the broker's own login may: nothing of it reads a secret. `sweep` are the paths whose leases are its."""
    leases = ", ".join(f'"{path}/*"' for path in sweep) or '""'
    listing = "\n".join(
        f'path "sys/leases/lookup/{path}/*" {{ capabilities = ["list", "sudo"] }}' for path in sweep
    )
    return f"""
path "auth/token/create/{TOKEN_ROLE}" {{
  capabilities = ["create", "update"]
  allowed_parameters = {{
    "entity_alias" = ["ls-*"]
    "display_name" = []
    "ttl" = []
    "policies" = []
    "no_default_policy" = [true]
    "renewable" = [true]
    "type" = ["service"]
  }}
  required_parameters = ["entity_alias", "ttl"]
}}
path "auth/token/lookup-accessor" {{ capabilities = ["create", "update"] }}
path "auth/token/renew-accessor" {{ capabilities = ["create", "update"] }}
path "auth/token/revoke-accessor" {{ capabilities = ["create", "update"] }}
path "auth/token/lookup-self" {{ capabilities = ["read"] }}
path "auth/token/renew-self" {{ capabilities = ["create", "update"] }}
path "auth/token/revoke-self" {{ capabilities = ["create", "update"] }}
path "identity/lookup/entity" {{ capabilities = ["create", "update"] }}
path "identity/entity-alias/id" {{ capabilities = ["list"] }}
path "identity/entity/id/*" {{
  capabilities = ["update"]
  allowed_parameters = {{ "disabled" = [true] }}
  required_parameters = ["disabled"]
}}
path "sys/auth" {{ capabilities = ["read"] }}
path "sys/leases/lookup" {{
  capabilities = ["create", "update"]
  allowed_parameters = {{ "lease_id" = [{leases}] }}
}}
path "sys/leases/renew" {{
  capabilities = ["create", "update"]
  allowed_parameters = {{ "lease_id" = [{leases}], "increment" = [] }}
}}
path "sys/leases/revoke" {{
  capabilities = ["create", "update"]
  allowed_parameters = {{ "lease_id" = [{leases}], "sync" = [] }}
}}
path "sys/leases" {{ capabilities = ["read", "list", "sudo"] }}
{listing}
"""


@dataclass
class Ground:
    """One namespace of a server, laid out; `path` is where its files (role id, secret id) are."""

    server: OpenBao
    namespace: str
    folder: Path
    root: Bao
    sweep: tuple[str, ...] = ()
    readable: list[str] = field(default_factory=list)

    def allow(self, path: str, *capabilities: str) -> None:
        """Let service tokens use a path."""
        rights = ", ".join(f'"{item}"' for item in capabilities)
        self.readable.append(f'path "{path}" {{ capabilities = [{rights}] }}')
        self.root.write(f"sys/policies/acl/{ISSUE_POLICY}", policy="\n".join(self.readable))

    def mount(self, path: str, kind: str, /, **options: Any) -> None:
        """A secrets engine."""
        self.root.write(f"sys/mounts/{path}", type=kind, **options)

    def restrict(self, policy: str) -> None:
        """Another text for the broker's own policy."""
        self.root.write(f"sys/policies/acl/{BROKER_POLICY}", policy=policy)

    def approle(self, **options: Any) -> dict[str, str]:
        """An AppRole for the broker; its two files, for ``auth`` of the settings."""
        if "approle/" not in self.root.read("sys/auth"):
            self.root.write("sys/auth/approle", type="approle")
        self.root.write(
            "auth/approle/role/lockstep",
            token_policies=[BROKER_POLICY],
            token_no_default_policy=True,
            **{"token_ttl": "20m", "token_max_ttl": "1h", **options},
        )
        role_id = self.root.read("auth/approle/role/lockstep/role-id")["role_id"]
        secret_id = self.root.write("auth/approle/role/lockstep/secret-id")["data"]["secret_id"]
        return {
            "method": "approle",
            "role_id_file": str(self.secret_file("role-id", role_id)),
            "secret_id_file": str(self.secret_file("secret-id", secret_id)),
        }

    def options(self, **changes: Any) -> VaultOptions:
        """For a plug that logs in by `approle`."""
        if "login" not in changes:
            files = self.approle()
            changes["login"] = AppRoleLogin(Path(files["role_id_file"]), Path(files["secret_id_file"]))
        settings: dict[str, Any] = {
            "addresses": (self.server.address,),
            "namespace": self.namespace,
            "ca_file": self.server.ca,
            **changes,
        }
        return VaultOptions(**settings)

    def database(self, login: Login, *, role: str = "payments", **options: Any) -> str:
        """A database engine for a PostgreSQL, with one role; its path."""
        with login.connect() as session:
            session.execute("SELECT pg_advisory_lock(1)")
            if session.execute("SELECT 1 FROM pg_roles WHERE rolname = 'app_owner'").fetchone() is None:
                session.execute("CREATE ROLE app_owner NOLOGIN")
        self.mount("database", "database")
        name = f"{login.database}-{role}"
        self.root.write(
            f"database/config/{name}",
            plugin_name="postgresql-database-plugin",
            allowed_roles=[role],
            connection_url=f"postgresql://{{{{username}}}}:{{{{password}}}}@{login.host}:{login.port}/{login.database}"
            f"?sslmode=verify-full&sslrootcert={login.ca}",
            username=login.user,
            password=login.password,
            username_template=USERNAME_TEMPLATE,
        )
        settings = {
            "db_name": name,
            "creation_statements": [
                "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE app_owner",
            ],
            "revocation_statements": [
                'ALTER ROLE "{{name}}" NOLOGIN',
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}'",
                'DROP ROLE "{{name}}"',
            ],
            "default_ttl": "10m",
            "max_ttl": "1h",
        }
        self.root.write(f"database/roles/{role}", **{**settings, **options})
        path = f"database/creds/{role}"
        self.allow(path, "read")
        return path

    def secret_file(self, name: str, content: str) -> Path:
        """A file that only we can read."""
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(content)
        return path

    def tokens(self) -> int:
        """How many tokens live in the namespace."""
        return len(self.root.listed("auth/token/accessors"))

    def leases(self, path: str) -> list[str]:
        """Lease ids below a path."""
        return [f"{path}/{key}" for key in self.root.listed(f"sys/leases/lookup/{path}")]


SWEPT: Final = ("database/creds/payments", "generic/creds/x")


def lay_out(server: OpenBao, folder: Path, *, sweep: tuple[str, ...] = SWEPT) -> Ground:
    """A namespace with token role, policies; `allow` and `mount` add engines to it."""
    namespace = f"t{next(_numbers)}"
    root = server.root
    try:
        root.write(f"sys/namespaces/{namespace}")
    except Refused as refused:
        if refused.status != 404:
            raise
        # A server without namespaces: in memory, a restart makes it a new one.
        namespace = ""
        if server.laid_out:
            server.restart()
            root = server.root
    server.laid_out = True
    folder.mkdir(parents=True, exist_ok=True)
    ground = Ground(server, namespace, folder, root.within(namespace), sweep)
    ground.root.write(
        f"auth/token/roles/{TOKEN_ROLE}",
        allowed_policies=[ISSUE_POLICY],
        allowed_entity_aliases=["ls-*"],
        orphan=True,
        renewable=True,
        token_type="service",
        token_no_default_policy=True,
        token_explicit_max_ttl=0,
    )
    ground.restrict(broker_policy(sweep))
    return ground
