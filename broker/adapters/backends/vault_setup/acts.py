"""What sets a server up: each act as what is sent, and as the command that does the same."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from broker.adapters.backends.vault_setup.policy import render
from broker.adapters.backends.vault_setup.rules import broker_rules, credentials_rules, janitor_rules
from broker.adapters.backends.vault_setup.wanted import Login, Wanted

TOKEN_TTL: Final = 1_200
TOKEN_MAX_TTL: Final = 3_600
"""Seconds: of the broker's own token, which it renews, and replaces by a new login."""


@dataclass(frozen=True, slots=True)
class Act:
    """One change. `words` follow ``bao`` (or ``vault``); `stdin` is what they read.

    `path` and `body` are the same as one POST. Where `path` is empty it is for a
    person alone: `by_hand` is then a shell line, ``{tool}`` in it the command, or a
    comment where no command helps.
    """

    what: str
    words: tuple[str, ...] = ()
    stdin: str = ""
    path: str = ""
    body: Mapping[str, Any] = field(default_factory=dict)
    by_hand: str = ""

    def command(self, tool: str) -> str:
        """As a shell takes it."""
        if self.by_hand:
            return self.by_hand.replace("{tool}", tool)
        line = shlex.join((tool, *self.words))
        return f"{line} <<'EOF'\n{self.stdin}EOF" if self.stdin else line


def plan(wanted: Wanted) -> tuple[Act, ...]:
    """Everything that a server needs for this configuration but engines and their roles, in order."""
    return (
        broker_policy(wanted),
        *((credentials_policy(wanted), token_role(wanted)) if wanted.uses else ()),
        login_mount(wanted.login),
        *login_role(wanted),
        *login_files(wanted.login),
    )


def broker_policy(wanted: Wanted) -> Act:
    """The policy of the broker's own login."""
    about = "The broker's own login. It makes tokens and takes them back; it reads no secret."
    return _policy(wanted.broker_policy, render(broker_rules(wanted), about=about))


def credentials_policy(wanted: Wanted) -> Act:
    """The policy of the tokens that the broker makes."""
    about = "One token per instance has this: the credentials that roles name, and nothing else."
    return _policy(wanted.credentials_policy, render(credentials_rules(wanted), about=about))


def janitor_policy(wanted: Wanted) -> Act:
    """The policy of whoever deletes old entities; never the broker's."""
    about = (
        "Optional, for a login that the broker has not: it deletes entities that nothing can use any more."
    )
    return _policy(wanted.janitor_policy, render(janitor_rules(), about=about))


def _policy(name: str, text: str) -> Act:
    return Act(
        f"policy {name}", ("policy", "write", name, "-"), text, f"sys/policies/acl/{name}", {"policy": text}
    )


def token_role(wanted: Wanted) -> Act:
    """The role that makes the tokens."""
    path = f"auth/token/roles/{wanted.token_role}"
    return _write(f"token role {wanted.token_role}", path, wanted.token_role_body())


def login_mount(login: Login) -> Act:
    """The auth method."""
    return Act(
        f"auth method {login.mount}",
        ("auth", "enable", f"-path={login.mount}", login.method),
        path=f"sys/auth/{login.mount}",
        body={"type": login.method},
    )


def login_tune(login: Login) -> Act:
    """The auth method makes service tokens."""
    return Act(
        f"auth method {login.mount}",
        ("auth", "tune", "-token-type=default-service", login.mount),
        path=f"sys/auth/{login.mount}/tune",
        body={"token_type": "default-service"},
    )


def login_role(wanted: Wanted) -> Iterator[Act]:
    """The role that the broker logs in with."""
    login = wanted.login
    common = {
        "token_policies": [wanted.broker_policy],
        "token_no_default_policy": True,
        "token_type": "service",
        "token_ttl": TOKEN_TTL,
        "token_max_ttl": TOKEN_MAX_TTL,
    }
    what = f"login {login.path}"
    if login.method == "approle":
        yield _write(what, login.path, {**common, "token_num_uses": 0})
        return
    # Who may log in, only a person knows.
    bound = {
        "kubernetes": "bound_service_account_names=SERVICE_ACCOUNT bound_service_account_namespaces=NAMESPACE",
        "jwt": "role_type=jwt user_claim=sub bound_audiences=AUDIENCE bound_subject=SUBJECT",
        "cert": "certificate=@CA.pem allowed_uri_sans=SPIFFE_ID",
    }[login.method]
    yield Act(what, by_hand=f"{{tool}} write {login.path} {bound} {shlex.join(_pairs(common))}")


def login_role_tokens(wanted: Wanted) -> Act:
    """What an existing login role says of its tokens, put right; who may log in stays."""
    body = {
        # Unsaid, an update would take it for a role of OIDC.
        **({"role_type": "jwt"} if wanted.login.method == "jwt" else {}),
        "token_policies": [wanted.broker_policy],
        "token_no_default_policy": True,
        "token_type": "service",
        "token_num_uses": 0,
    }
    return _write(f"login {wanted.login.path}", wanted.login.path, body)


def login_files(login: Login) -> Iterator[Act]:
    """The files that an AppRole is used with; they hold secrets, so that they go straight into place."""
    if login.method != "approle":
        return
    for key, what in (("role_id_file", "role-id"), ("secret_id_file", "secret-id")):
        file = shlex.quote(login.files.get(key, what))
        verb, field_name = ("read", "role_id") if what == "role-id" else ("write -f", "secret_id")
        line = f"(umask 077; {{tool}} {verb} -field={field_name} {login.path}/{what} > {file})"
        yield Act(f"file {login.files.get(key, what)}", by_hand=line)


def engine(mount: str, name: str) -> Act:
    """A secrets engine, mounted; `name` as the configuration calls it, empty where nobody said."""
    kind = {"kv": "-version=2 kv", "generic": "ENGINE"}.get(name, name or "ENGINE")
    return Act(f"engine {mount}", by_hand=f"{{tool}} secrets enable -path={shlex.quote(mount)} {kind}")


def engine_role(where: str, name: str) -> Act:
    """An engine's role, as far as it can be said without knowing what it is for."""
    files = "deploy/vault/postgres"
    body = {
        "database": f"db_name=CONNECTION creation_statements=@{files}/creation.sql "
        f"revocation_statements=@{files}/revocation.sql default_ttl=1h max_ttl=24h",
        "pki": "allowed_domains=DOMAIN allow_subdomains=true no_store=false",
        "rabbitmq": """vhosts='{"/":{"read":"QUEUE"}}'""",
    }.get(name)
    if not where or not body:
        return Act("engine", by_hand="# make the engine's role: docs/vault.md, Engines")
    return Act(f"role {where}", by_hand=f"{{tool}} write {shlex.quote(where)} {body}")


def forbid(policy: str, path: str) -> Act:
    """A stanza that takes one path away from somebody's policy; the rest of it stays."""
    stanza = f'path "{path}" {{ capabilities = ["deny"] }}'
    line = f"{{ {{tool}} policy read {policy}; echo '{stanza}'; }} | {{tool}} policy write {policy} -"
    return Act(f"policy {policy}", by_hand=line)


def _write(what: str, path: str, body: Mapping[str, Any]) -> Act:
    return Act(what, ("write", path, *_pairs(body)), path=path, body=body)


def _pairs(body: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(f"{name}={_word(value)}" for name, value in body.items())


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
