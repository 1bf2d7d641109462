"""What a person makes: engines, what they connect to, and their roles, as lines for a shell.

What the configuration does not say is a variable, ``${NAME:?}``: a line does
nothing before it is said.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final

from broker.adapters.backends.vault_setup.acts import Act, say, variable
from broker.adapters.backends.vault_setup.usernames import USERNAME_TEMPLATE
from broker.adapters.backends.vault_setup.wanted import Use, Wanted, definition

SHIPPED: Final = "deploy/vault/postgres"
"""Where the statements for PostgreSQL are; lines are for the root of the repository."""
LIFE: Final = {"default_ttl": "1h", "max_ttl": "24h"}
"""Of what a role makes; a lease of ours is shorter, and extended."""
URL: Final = (
    "postgresql://{{{{username}}}}:{{{{password}}}}@{host}:{port}/{database}"
    "?sslmode=verify-full&sslrootcert={ca}"
)
_LIFE: Final = " ".join(f"{name}={value}" for name, value in LIFE.items())
_PLAIN: Final = re.compile(r"[A-Za-z0-9._-]+")
_VARIABLE: Final = re.compile(r"\$\{([A-Z_][A-Z0-9_]*):\?\}")


def engines(wanted: Wanted) -> Iterator[Act]:
    """Everything that a fresh server needs beside `acts.plan`, in order."""
    uses = sorted({use.path: use for use in wanted.uses if use.mount}.values(), key=lambda use: use.mount)
    for mount, group in groupby(uses, key=lambda use: use.mount):
        of_mount = tuple(group)
        yield engine(mount, of_mount[0].engine)
        yield from targets(of_mount)
        for use in of_mount:
            yield role(use)


def variables(acts: Iterable[Act]) -> Sequence[str]:
    """What somebody has to say before the lines do anything."""
    return tuple(dict.fromkeys(name for act in acts for name in _VARIABLE.findall(act.by_hand)))


def engine(mount: str, name: str) -> Act:
    """A secrets engine, mounted; `name` as the configuration calls it, empty where nobody said."""
    kind = {"kv": "-version=2 kv", "generic": "", "": ""}.get(name, name) or say("ENGINE")
    return Act(f"engine {mount}", by_hand=f"{{tool}} secrets enable -path={shlex.quote(mount)} {kind}")


def targets(uses: Sequence[Use]) -> Iterator[Act]:
    """What the engine of one mount works with: databases, brokers, clusters, an authority of its own."""
    mount, kind = uses[0].mount, uses[0].engine
    if kind == "database":
        for name in dict.fromkeys(map(connection, uses)):
            yield _database(mount, name, [use for use in uses if connection(use) == name])
    elif kind == "rabbitmq":
        told = f"connection_uri={_say(mount, 'URL')} username={_say(mount, 'USER')} password=-"
        yield _write(f"{mount}/config/connection", told, password=_say(mount, "PASSWORD_FILE"))
    elif kind == "kubernetes":
        where = f"kubernetes_host={_say(mount, 'URL')} kubernetes_ca_cert=@{_say(mount, 'CA')}"
        yield _write(f"{mount}/config", f"{where} service_account_jwt=@{_say(mount, 'TOKEN_FILE')}")
    elif kind == "pki":
        told = f"common_name={_say(mount, 'COMMON_NAME')} key_type=ec ttl=8760h"
        yield _write(f"{mount}/root/generate/internal", told)
    elif kind == "ssh" and any(use.verb_of_path != "creds" for use in uses):
        yield _write(f"{mount}/config/ca", "generate_signing_key=true")


def role(use: Use) -> Act:
    """The engine's role that a path asks for; a comment where nobody but its operator can say it."""
    where, body = definition(use.path, use.engine), _role(use)
    if not where or not body:
        return Act("engine", by_hand=f"# {use.path}: make it as you like it; docs/vault.md, Engines")
    return Act(f"role {where}", by_hand=f"{{tool}} write {shlex.quote(where)} {body}")


def connection(use: Use) -> str:
    """What the database engine is to call its connection: one for each cutter, else for each role."""
    return use.cutter or use.path.rpartition("/")[2]


# --- parts ------------------------------------------------------------------------------------------


def _role(use: Use) -> str:
    name = use.path.rpartition("/")[2]
    match use.engine, use.verb_of_path:
        case "database", "creds":
            return f"db_name={shlex.quote(connection(use))} {_statements(use)} {_LIFE}"
        case "database", "static-creds":
            return (
                f"db_name={shlex.quote(connection(use))} username={_say(name, 'LOGIN')} rotation_period=24h"
            )
        case "pki", _:
            names = f"allowed_domains={_say(name, 'DOMAIN')} allow_subdomains=true"
            return f"{names} key_type=ec no_store=false max_ttl=24h"
        case "ssh", "creds":
            return f"key_type=otp default_user={_say(name, 'USER')} cidr_list={_say(name, 'CIDR')}"
        case "ssh", _:
            who = f"allowed_users={_say(name, 'USER')} default_user={_say(name, 'USER')}"
            return f"key_type=ca allow_user_certificates=true {who} ttl=5m max_ttl=1h"
        case "rabbitmq", _:
            return f"""vhosts='{{"/": {{"read": "'{_say(name, "QUEUE")}'"}}}}'"""
        case "kubernetes", _:
            where = f"allowed_kubernetes_namespaces={_say(name, 'NAMESPACE')} token_default_ttl=10m"
            # Only an account that is made for the lease ends with it.
            made, found = (
                f"kubernetes_role_name={_say(name, 'CLUSTER_ROLE')}",
                f"service_account_name={_say(name, 'SERVICE_ACCOUNT')}",
            )
            return f"{where} {made if use.swept else found}"
        case "ldap", "creds":
            return f"creation_ldif=@{_say(name, 'CREATION_LDIF')} deletion_ldif=@{_say(name, 'DELETION_LDIF')} {_LIFE}"
        case "ldap", _:
            return f"dn={_say(name, 'DN')} username={_say(name, 'LOGIN')} rotation_period=24h"
        case "aws", "sts":
            return f"credential_type=assumed_role role_arns={_say(name, 'ROLE_ARN')}"
        case "aws", _:
            return f"credential_type=iam_user policy_arns={_say(name, 'POLICY_ARN')}"
        case "azure", _:
            return f"azure_roles=@{_say(name, 'AZURE_ROLES')} ttl=1h max_ttl=24h"
    return ""


def _statements(use: Use) -> str:
    # `retire` comes with the cutter's functions; without them Vault's admin does what it can.
    revocation = "revocation" if use.cutter else "revocation-plain"
    owner = f'"$(sed s/app_owner/{_say(connection(use), "OWNER")}/g {SHIPPED}/creation.sql)"'
    return f"creation_statements={owner} revocation_statements=@{SHIPPED}/{revocation}.sql"


def connection_fields(uses: Sequence[Use]) -> Mapping[str, str]:
    """What a connection says beside where the database is and the admin's password."""
    return {
        "plugin_name": "postgresql-database-plugin",
        "allowed_roles": ",".join(use.path.rpartition("/")[2] for use in uses),
        "username": "lockstep_vault",
        "username_template": USERNAME_TEMPLATE,
    }


def _database(mount: str, name: str, uses: Sequence[Use]) -> Act:
    # Where the workload is told to go, the engine goes as well.
    target = next((use.target for use in uses if use.target), {})

    def known(key: str) -> str:
        found = str(target.get(key, ""))
        return found if _PLAIN.fullmatch(found) else _variable(name, key)

    port = target.get("port", 5432)
    url = URL.format(host=known("host"), port=port, database=known("database"), ca=_variable(name, "CA"))
    told = " ".join(f"{key}={shlex.quote(value)}" for key, value in connection_fields(uses).items())
    told = f'{told} connection_url="{url}" password=-'
    return _write(f"{mount}/config/{name}", told, password=_say(name, "PASSWORD_FILE"))


def _write(where: str, told: str, *, password: str = "") -> Act:
    """`password` is the file that has it: it goes neither into a command line nor into a shell's history."""
    line = f"{{tool}} write {shlex.quote(where)} {told}"
    return Act(where, by_hand=f"tr -d '\\n' <{password} | {line}" if password else line)


def _say(of: str, what: str) -> str:
    return f'"{_variable(of, what)}"'


def _variable(of: str, what: str) -> str:
    name = re.sub(r"[^A-Z0-9]+", "_", f"{of}_{what}".upper())
    return variable(name if name[0].isalpha() else f"_{name}")
