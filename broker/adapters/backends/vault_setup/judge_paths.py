"""The paths that roles take credentials from, and policies of workloads that a cut must reach."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Final

from broker.adapters.backends.vault_setup import acts, acts_engines
from broker.adapters.backends.vault_setup.acl import View
from broker.adapters.backends.vault_setup.acts import Act
from broker.adapters.backends.vault_setup.facts import Facts, Gate, Unseen
from broker.adapters.backends.vault_setup.finding import ADMIN, BATCH, Finding, Level
from broker.adapters.backends.vault_setup.usernames import USERNAME_TEMPLATE, misnamed
from broker.adapters.backends.vault_setup.wanted import Wanted

_ORPHANS: Final = "makes tokens that belong to no entity"
_ENABLES: Final = "writes entities, and enables what was disabled"
_MOVES: Final = "moves logins to another entity"
_POLICIES: Final = "writes policies"

ESCAPES: Final[Mapping[str, tuple[str, str]]] = {
    "auth/token/create-orphan": ("update", _ORPHANS),
    "auth/token/create": ("sudo", _ORPHANS),
    "auth/token/create/*": ("update", "makes tokens of any token role"),
    "auth/token/roles/*": ("update", "makes token roles"),
    "identity/entity": ("update", _ENABLES),
    "identity/entity/id/*": ("update", _ENABLES),
    "identity/entity/name/*": ("update", _ENABLES),
    "identity/entity-alias": ("update", _MOVES),
    "identity/entity-alias/id/*": ("update", _MOVES),
    "sys/policies/acl/*": ("update", _POLICIES),
    "sys/policy/*": ("update", _POLICIES),
}
"""Path → what a policy of a workload must not allow on it, and why: a cut ends nothing that got away so."""


def judge_paths(wanted: Wanted, facts: Facts) -> Iterator[Finding]:
    """Engines, gated policies, gates."""
    yield from _engines(wanted, facts)
    yield from _usernames(facts)
    yield from _gated(wanted, facts)
    for gate in facts.gates:
        found = [*_gate(gate)]
        yield from found or [Finding("gate", Level.GOOD, f"{gate.path} takes attestation tokens")]


def _engines(wanted: Wanted, facts: Facts) -> Iterator[Finding]:
    key = "engine"
    for use in {use.path: use for use in wanted.uses}.values():
        what = f"{use.path} ({', '.join(sorted({other.role for other in wanted.uses if other.path == use.path}))})"
        match facts.definitions.get(use.path, Unseen("no operator's token")):
            case Unseen(why):
                yield Finding(key, Level.UNSEEN, f"{what}: {why}", ADMIN)
            case True:
                yield Finding(key, Level.GOOD, what)
            case False if not _mounted(use.path, facts.mounts):
                mends = (acts_engines.engine(use.mount, use.engine), *acts_engines.targets((use,)))
                why = "no engine is mounted there"
                yield Finding(key, Level.MISSING, what, why, (*mends, acts_engines.role(use)))
            case False:
                mend = acts_engines.role(use)
                yield Finding(key, Level.MISSING, what, "the engine has no role of that name", (mend,))


def _mounted(path: str, mounts: Mapping[str, str] | Unseen) -> bool:
    return isinstance(mounts, Unseen) or any(path.startswith(mount) for mount in mounts)


def _usernames(facts: Facts) -> Iterator[Finding]:
    key = "engine.username"
    for path, template in facts.usernames.items():
        what = f"names of logins of {path}"
        if isinstance(template, Unseen):
            yield Finding(key, Level.UNSEEN, f"{what}: {template.why}", ADMIN)
        elif why := misnamed(template):
            mend = Act(path, ("write", path, f"username_template={USERNAME_TEMPLATE}"))
            yield Finding(key, Level.MISSING, f"{what} do not begin with the instance", why, (mend,))
        else:
            yield Finding(key, Level.GOOD, f"{what} begin with the instance")


def _gated(wanted: Wanted, facts: Facts) -> Iterator[Finding]:
    ours = {wanted.broker_policy, wanted.credentials_policy}
    for name, policy in facts.policies.items():
        if name in ours:
            continue
        key, what = "policy.gated", f"gated policy {name}"
        match policy:
            case None:
                yield Finding(key, Level.UNSEEN, f"{what}: there is none of that name", "is the name right?")
            case Unseen(why):
                yield Finding(key, Level.UNSEEN, f"{what}: {why}", ADMIN)
            case View() as view:
                found = [*_escapes(name, view)]
                yield from found or [Finding(key, Level.GOOD, f"{what} leaves no way past a cut")]


def _gate(gate: Gate) -> Iterator[Finding]:
    kind = str(gate.role.get("token_type", ""))
    if kind.endswith("batch"):
        mend = Act(gate.path, ("write", gate.path, "role_type=jwt", "token_type=service"))
        yield Finding("gate", Level.TOO_WIDE, f"{gate.path} makes {kind} tokens", BATCH, (mend,))
    claim = gate.role.get("user_claim")
    if claim != "sub":
        why = "one entity would stand for many instances: none of them could be stopped alone"
        mend = Act(gate.path, ("write", gate.path, "role_type=jwt", "user_claim=sub"))
        yield Finding("gate", Level.TOO_WIDE, f"{gate.path}: user_claim {claim}", why, (mend,))
    claims = gate.role.get("bound_claims") or {}
    if not {"lockstep_role", "lockstep_manifests"} & claims.keys():
        claims = {**claims, "lockstep_role": "ROLE", "lockstep_mode": "enforce"}
        body = shlex.quote(json.dumps({"role_type": "jwt", "bound_claims": claims}))
        line = f"echo {body} | {{tool}} write {gate.path} -"
        what = f"{gate.path}: bound_claims name no role and no manifest"
        why = "whatever code has any of our attestation tokens would be let in"
        yield Finding("gate", Level.TOO_WIDE, what, why, (Act(gate.path, by_hand=line),))


def _escapes(name: str, view: View) -> Iterator[Finding]:
    ways = {
        path: why
        for path, (capability, why) in ESCAPES.items()
        if capability in view.asked.get(path, frozenset())
    }
    for path, capabilities in view.asked.items():
        if path.startswith("auth/token/create/") and "update" in capabilities:
            ways.setdefault(path, "makes tokens of a token role")
    for path, why in ways.items():
        what = f"gated policy {name} allows {path}"
        because = f"{why}: revoking the instance would not end them"
        yield Finding("policy.gated", Level.TOO_WIDE, what, because, (acts.forbid(name, path),))
