"""What a token may, asked of the server: the broker's own token, and tokens that have one policy each."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from broker.adapters.backends.vault.wire import Answer
from broker.adapters.backends.vault_setup.acl import View, normal, read_rights, sample
from broker.adapters.backends.vault_setup.eyes import Eyes
from broker.adapters.backends.vault_setup.facts import Unseen
from broker.adapters.backends.vault_setup.judge_paths import ESCAPES
from broker.adapters.backends.vault_setup.rules import broker_rules, credentials_rules
from broker.adapters.backends.vault_setup.wanted import Wanted

_LIFE: Final = "60s"

SENTINELS: Final = (
    *ESCAPES,
    "auth/token/accessors",
    "identity/entity/merge",
    "identity/entity/batch-delete",
    "identity/group",
    "sys/auth/*",
    "sys/mounts/*",
    "sys/leases/lookup",
    "sys/leases/lookup/*",
    "sys/leases/revoke-prefix/*",
    "sys/leases/revoke-force/*",
    "sys/raw/*",
    "sys/audit/*",
    "sys/seal",
    "sys/step-down",
)
"""What every token is asked about, since a list of rights leaves out paths with ``+``."""


async def own_rights(wanted: Wanted, eyes: Eyes) -> View | Unseen:
    """Of the token that `eyes` has, asked with itself."""
    listed = await eyes.ask("GET", "sys/internal/ui/resultant-acl")
    asked = await _asked(eyes, _paths(wanted))
    if not listed.ok and not asked:
        return Unseen("it may not ask what it may")
    rights = read_rights(listed.data, wanted.namespace) if listed.ok else ()
    return View(rights, asked, root=bool(listed.data.get("root")))


def _paths(wanted: Wanted) -> list[str]:
    rules = [*broker_rules(wanted), *credentials_rules(wanted)]
    return [*SENTINELS, *(rule.path for rule in rules)]


async def _asked(eyes: Eyes, paths: Iterable[str]) -> dict[str, frozenset[str]]:
    patterns = list(dict.fromkeys(paths))
    answer = await eyes.ask("POST", "sys/capabilities-self", {"paths": [sample(item) for item in patterns]})
    return _capabilities(answer, patterns)


def _capabilities(answer: Answer, patterns: Iterable[str]) -> dict[str, frozenset[str]]:
    if not answer.ok:
        return {}
    found = {item: answer.data.get(sample(item)) for item in patterns}
    return {item: normal(words) - {"deny"} for item, words in found.items() if isinstance(words, list)}


async def rights_of(name: str, text: str, wanted: Wanted, eyes: Eyes) -> View | Unseen:
    """What a token with one policy alone may, asked of the server by such a token."""
    alone = await _token(eyes, name, default=False)
    beside = await _token(eyes, name, default=True)
    try:
        if alone is None or beside is None:
            return Unseen("the token may not make one with it, to ask what it allows")
        # The policy itself need not let a token ask: `default` does, and what that adds is taken away again.
        listed = await eyes.ask("GET", "sys/internal/ui/resultant-acl", token=beside)
        rights = read_rights(listed.data, wanted.namespace) if listed.ok else ()
        everything = [*(right.path for right in rights), *_named(text), *_paths(wanted)]
        patterns = list(dict.fromkeys(everything))
        body = {"token": alone, "paths": [sample(item) for item in patterns]}
        answer = await eyes.ask("POST", "sys/capabilities", body)
        if not answer.ok:
            return Unseen("the token may not ask sys/capabilities")
        asked = _capabilities(answer, patterns)
        mine = (replace(right, capabilities=asked.get(right.path, frozenset())) for right in rights)
        return View(tuple(right for right in mine if right.capabilities), asked)
    finally:
        for token in (alone, beside):
            if token is not None:
                await eyes.ask("POST", "auth/token/revoke", {"token": token})


async def _token(eyes: Eyes, policy: str, *, default: bool) -> str | None:
    body = {
        "policies": [policy],
        "no_default_policy": not default,
        "ttl": _LIFE,
        "explicit_max_ttl": _LIFE,
        "renewable": False,
        "type": "service",
        "display_name": "lockstep-check",
    }
    answer = await eyes.ask("POST", "auth/token/create", body)
    token = answer.auth.get("client_token")
    return token if answer.ok and isinstance(token, str) else None


def _named(text: str) -> tuple[str, ...]:
    """Everything in a policy's text, HCL or JSON, that may be a path; the server is asked what is allowed on it."""
    quoted = re.findall(r'"([^"\n{}]+)"', text)
    return tuple(dict.fromkeys(item for item in quoted if "/" in item or item.endswith("*")))
