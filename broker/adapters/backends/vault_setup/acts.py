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
    person alone: `by_hand` is then a shell line, ``{tool}`` in it the command and
    ``${NAME:?}`` what only that person knows, or a comment where no command helps.
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


def variable(name: str) -> str:
    """What only a person knows, in a line for a shell: nothing is done before it is said."""
    return f"${{{name}:?}}"


def say(name: str) -> str:
    """The same as a word of its own."""
    return f'"{variable(name)}"'


def plan(wanted: Wanted) -> tuple[Act, ...]:
    """Everything that a server needs for this configuration but engines (`acts_engines`), in order."""
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
        "kubernetes": f"bound_service_account_names={say('SERVICE_ACCOUNT')} "
        f"bound_service_account_namespaces={say('NAMESPACE')}",
        "jwt": f"role_type=jwt user_claim=sub bound_audiences={say('AUDIENCE')} bound_subject={say('SUBJECT')}",
        "cert": f"certificate=@{say('CLIENT_CA')} allowed_uri_sans={say('SPIFFE_ID')}",
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


def no_standby_reads(product: str) -> Act:
    """Only the active node answers; `product` is ``openbao`` or ``vault``."""
    setting = "disable_standby_reads" if product == "openbao" else "disable_performance_standby"
    return Act(
        "server", by_hand=f"# in the configuration file of every node, then restart it: {setting} = true"
    )


def request_duration(seconds: float) -> Act:
    """No request lasts longer."""
    line = f'max_request_duration = "{seconds:g}s"'
    return Act("server", by_hand=f"# in every listener of every node's file, then restart it: {line}")


def node_settings(wanted: Wanted, product: str) -> tuple[Act, ...]:
    """What no command changes: the files of the nodes."""
    return (no_standby_reads(product), request_duration(wanted.max_request))


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
