"""How tokens are made: the token role of instances, and the broker's own login."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from broker.adapters.backends.vault_setup import acts
from broker.adapters.backends.vault_setup.facts import Facts, Unseen
from broker.adapters.backends.vault_setup.finding import ADMIN, BATCH, Finding, Level
from broker.adapters.backends.vault_setup.wanted import Wanted

Fault = tuple[Level, str, str]
"""(level, what is wrong, why it matters)."""

_NOBODY: Final = "the broker cannot log in"


def judge_login(wanted: Wanted, facts: Facts) -> Iterator[Finding]:
    """Token role, auth method, its role, and whether a login works."""
    if wanted.uses:
        yield from _token_role(wanted, facts.token_role)
    yield from _mount(wanted, facts)
    if facts.login_mount is not None:
        yield from _role(wanted, facts.login_role)
    yield _own(wanted, facts)


def _token_role(wanted: Wanted, role: Mapping[str, Any] | Unseen | None) -> Iterator[Finding]:
    key, what = "token_role", f"token role {wanted.token_role}"
    mends = (acts.token_role(wanted),)
    if role is None:
        yield Finding(key, Level.MISSING, what, "the broker can make no tokens", mends)
    elif isinstance(role, Unseen):
        yield Finding(key, Level.UNSEEN, f"{what} ({role.why})", ADMIN, mends)
    else:
        found = [
            Finding(f"{key}", level, f"{what}: {wrong}", why, mends)
            for level, wrong, why in _token_role_faults(wanted, role)
        ]
        good = Finding(key, Level.GOOD, f"{what} makes service tokens of {wanted.aliases} alone, orphans")
        yield from found or [good]


def _token_role_faults(wanted: Wanted, role: Mapping[str, Any]) -> Iterator[Fault]:
    kind = role.get("token_type")
    if kind != "service":
        # `default-service` lets whoever asks have a batch token.
        yield Level.TOO_WIDE, f"token_type {kind}", BATCH
    aliases = list(role.get("allowed_entity_aliases") or [])
    if aliases != [wanted.aliases]:
        level = Level.TOO_WIDE if aliases else Level.MISSING
        why = f"{wanted.aliases} is what instances have; any other entity may be somebody's"
        yield level, f"allowed_entity_aliases {', '.join(aliases) or 'none'}", why
    if role.get("orphan") is not True:
        yield Level.MISSING, "orphan is off", "its tokens would end with the broker's own, at its next login"
    if role.get("token_no_default_policy") is not True:
        why = "with it a token renews itself, looks about and wraps answers"
        yield Level.TOO_WIDE, "its tokens have the policy default", why
    policies = [*(role.get("allowed_policies") or []), *(role.get("allowed_policies_glob") or [])]
    if policies != [wanted.credentials_policy]:
        level = Level.MISSING if wanted.credentials_policy not in policies else Level.TOO_WIDE
        words = ", ".join(policies) or "none: those of whoever asks"
        yield level, f"allowed_policies {words}", f"{wanted.credentials_policy} alone is needed"
    if role.get("token_period"):
        why = "its tokens live as long as this, whatever the broker asks for"
        yield Level.TOO_WIDE, f"token_period {role['token_period']} s", why
    if role.get("renewable") is not True:
        yield Level.MISSING, "its tokens are not renewable", "they would end while the code is in order"


def _mount(wanted: Wanted, facts: Facts) -> Iterator[Finding]:
    login, key = wanted.login, "login.mount"
    match facts.login_mount:
        case None:
            what = f"auth method {login.method} at {login.mount}/"
            yield Finding(
                key, Level.MISSING, what, _NOBODY, (acts.login_mount(login), *acts.login_role(wanted))
            )
        case Unseen():
            return  # its role says it
        case mount:
            kind = str((mount.get("config") or {}).get("token_type", ""))
            if kind.endswith("batch"):
                what = f"auth method {login.mount} makes {kind} tokens"
                yield Finding(key, Level.TOO_WIDE, what, BATCH, (acts.login_tune(login),))


def _role(wanted: Wanted, role: Mapping[str, Any] | Unseen | None) -> Iterator[Finding]:
    key, what = "login.role", f"login {wanted.login.path}"
    if role is None:
        yield Finding(key, Level.MISSING, what, _NOBODY, tuple(acts.login_role(wanted)))
    elif isinstance(role, Unseen):
        yield Finding(key, Level.UNSEEN, f"{what} ({role.why})", ADMIN)
    else:
        mends = (acts.login_role_tokens(wanted),)
        found = [
            Finding(key, level, f"{what}: {wrong}", why, mends)
            for level, wrong, why in _tokens_faults(wanted, role)
        ]
        found += [*_bound_faults(wanted, role)]
        yield from found or [Finding(key, Level.GOOD, f"{what} gives {wanted.broker_policy} alone")]


def _tokens_faults(wanted: Wanted, role: Mapping[str, Any]) -> Iterator[Fault]:
    policies = list(role.get("token_policies") or [])
    if wanted.broker_policy not in policies:
        yield Level.MISSING, f"it does not give {wanted.broker_policy}", "the broker's login may do nothing"
    extra = [name for name in policies if name != wanted.broker_policy]
    if extra:
        yield Level.TOO_WIDE, f"it gives {', '.join(extra)}", f"{wanted.broker_policy} is enough"
    if role.get("token_no_default_policy") is not True:
        yield Level.TOO_WIDE, "it gives the policy default", f"{wanted.broker_policy} is enough"
    if str(role.get("token_type", "")).endswith("batch"):
        yield Level.TOO_WIDE, "it makes batch tokens", BATCH
    if role.get("token_num_uses"):
        yield Level.MISSING, f"its tokens end after {role['token_num_uses']} calls", "the broker makes more"


def _bound_faults(wanted: Wanted, role: Mapping[str, Any]) -> Iterator[Finding]:
    path, key = wanted.login.path, "login.role"
    if role.get("bind_secret_id") is False:
        mend = acts.Act(f"login {path}", ("write", path, "bind_secret_id=true"))
        what = f"login {path}: bind_secret_id is off"
        yield Finding(key, Level.TOO_WIDE, what, "the role id alone would do, and it is no secret", (mend,))
    for name in ("bound_service_account_names", "bound_service_account_namespaces"):
        if "*" in (role.get(name) or []):
            mend = acts.Act(f"login {path}", by_hand=f"{{tool}} write {path} {name}=NAME")
            what = f"login {path}: {name} is *"
            yield Finding(key, Level.TOO_WIDE, what, "somebody else could be the broker", (mend,))


def _own(wanted: Wanted, facts: Facts) -> Finding:
    key, files = "login.own", tuple(acts.login_files(wanted.login))
    if not isinstance(facts.own, Unseen):
        return Finding(key, Level.GOOD, "the broker can log in")
    what = f"the broker's own login ({facts.own.why})"
    if facts.own_refused:
        return Finding(key, Level.MISSING, what, _NOBODY, files)
    return Finding(key, Level.UNSEEN, what, "run it where the broker runs, as its user", files)
