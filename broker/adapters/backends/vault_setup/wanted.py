"""What a configuration needs of its Vault or OpenBao: policies as data, a token role, a login, and paths to use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from broker.adapters.backends.vault import (
    AppRoleLogin,
    CertificateLogin,
    JwtLogin,
    KubernetesLogin,
    VaultOptions,
)
from broker.adapters.backends.vault import login as logins
from broker.adapters.backends.vault.engines import Method, plan
from broker.model.role import Revocability

BROKER_POLICY: Final = "lockstep-broker"
CREDENTIALS_POLICY: Final = "lockstep-credentials"
JANITOR_POLICY: Final = "lockstep-janitor"
TOKEN_ROLE: Final = "lockstep"
ALIASES: Final = "ls-*"
"""Entity aliases that the token role may use: every instance's begins so."""

DEFINITIONS: Final[Mapping[str, Mapping[str, str]]] = {
    "database": {"creds": "roles", "static-creds": "static-roles"},
    "pki": {"issue": "roles", "sign": "roles"},
    "ssh": {"creds": "roles", "sign": "roles", "issue": "roles"},
    "rabbitmq": {"creds": "roles"},
    "kubernetes": {"creds": "roles"},
    "aws": {"creds": "roles", "sts": "roles"},
    "azure": {"creds": "roles"},
    "ldap": {"creds": "role", "static-cred": "static-role"},
}
"""Engine → what is asked for → where the engine's role is defined."""


@dataclass(frozen=True, slots=True)
class Use:
    """A path that a role of ours takes credentials from.

    `verb` is how it is asked for: ``read``, or ``update`` where the engine wants
    parameters (pki, ssh, kubernetes). `leases` is False where nothing hangs on it
    (KV), `swept` True where every lease below the path is ours and is taken back.
    `cutter` names what ends its logins at the database. `mount` and `engine` are
    the engine's, as the configuration has them, `target` where the workload is told
    to go with it.
    """

    role: str
    path: str
    verb: Literal["read", "update"] = "read"
    leases: bool = True
    swept: bool = True
    cutter: str = ""
    mount: str = ""
    engine: str = ""
    target: Mapping[str, str | int] = field(default_factory=dict)

    @property
    def verb_of_path(self) -> str:
        """What the path asks the engine for: ``creds``, ``issue``, ``sts`` …"""
        return self.path.split("/")[-2]


@dataclass(frozen=True, slots=True)
class Login:
    """How the broker logs in: the auth method's type, where it is mounted, and its role there.

    `files` are what the method reads (role id, secret id, a token file …), by the key
    in the configuration.
    """

    method: Literal["approle", "kubernetes", "jwt", "cert"]
    mount: str
    role: str
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Where the auth method keeps the role."""
        kind = "certs" if self.method == "cert" else "role"
        return f"auth/{self.mount}/{kind}/{self.role}"


def login_of(login: logins.Login, role: str) -> Login:
    """`role` is the AppRole's name, which no file says."""
    match login:
        case AppRoleLogin():
            files = {"role_id_file": str(login.role_id_file), "secret_id_file": str(login.secret_id_file)}
            return Login("approle", login.mount, role, files)
        case KubernetesLogin():
            return Login("kubernetes", login.mount, login.role)
        case JwtLogin():
            return Login("jwt", login.mount, login.role)
        case CertificateLogin():
            return Login("cert", login.mount, login.role or role)


def uses_of(options: VaultOptions, roles: Mapping[str, Mapping[str, Any]]) -> tuple[Use, ...]:
    """Parameters of roles (by name) as paths. Raises ``ValueError`` for such that no secret could be made of."""
    uses = []
    for role, parameters in sorted(roles.items()):
        found = plan(parameters, options.mounts)
        uses.append(
            Use(
                role,
                found.path,
                "update" if found.method is Method.WRITE else "read",
                leases=found.engine.name != "kv",
                swept=found.revocability is Revocability.AT_TARGET,
                cutter=str(parameters.get("cutter", "")),
                mount=found.mount,
                engine=found.engine.kind,
                target=dict(parameters.get("target", {})),
            )
        )
    return tuple(uses)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Everything that one backend of a configuration asks of the server. Durations are seconds."""

    backend: str
    login: Login
    uses: tuple[Use, ...] = ()
    namespace: str = ""
    token_role: str = TOKEN_ROLE
    broker_policy: str = BROKER_POLICY
    credentials_policy: str = CREDENTIALS_POLICY
    janitor_policy: str = JANITOR_POLICY
    aliases: str = ALIASES
    max_request: float = 30.0
    gate_issuer: str = ""

    @classmethod
    def of(
        cls,
        backend: str,
        options: VaultOptions,
        roles: Mapping[str, Mapping[str, Any]],
        *,
        login_role: str = TOKEN_ROLE,
        gate_issuer: str = "",
    ) -> Wanted:
        """From the backend's options and the parameters of its roles. Raises ``ValueError``."""
        return cls(
            backend=backend,
            login=login_of(options.login, login_role),
            uses=uses_of(options, roles),
            namespace=options.namespace.strip("/"),
            token_role=options.token_role,
            credentials_policy=options.policies[0] if options.policies else CREDENTIALS_POLICY,
            max_request=options.max_request_duration,
            gate_issuer=gate_issuer,
        )

    def swept(self) -> tuple[str, ...]:
        """Paths below which every lease is ours."""
        return tuple(sorted({use.path for use in self.uses if use.swept}))

    def token_role_body(self) -> Mapping[str, Any]:
        """The token role, as it is written: also what is empty, for a role that is there is not made anew."""
        return {
            "allowed_policies": [self.credentials_policy],
            "allowed_policies_glob": [],
            "allowed_entity_aliases": [self.aliases],
            "orphan": True,
            "renewable": True,
            "token_type": "service",
            "token_no_default_policy": True,
            "token_period": 0,
        }


def definition(path: str, engine: str) -> str:
    """Where an engine keeps the role that a path asks for; "" where that is not known.

    `path` is ``MOUNT/VERB/NAME``, `engine` the type of the mount.
    """
    parts = path.rsplit("/", 2)
    place = DEFINITIONS.get(engine, {}).get(parts[-2], "") if len(parts) == 3 else ""
    return f"{parts[0]}/{place}/{parts[2]}" if place else ""
