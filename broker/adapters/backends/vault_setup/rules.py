"""What each login may, as data: the policies that Lockstep needs, and no more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from broker.adapters.backends.vault_setup.wanted import Wanted

READ: Final = frozenset({"read"})
UPDATE: Final = frozenset({"update"})
LIST: Final = frozenset({"list"})
SWEEP: Final = frozenset({"list", "sudo"})
ALARM: Final = frozenset({"read", "sudo"})


@dataclass(frozen=True, slots=True)
class Rule:
    """One stanza of a policy. `path` ends in ``*`` for a prefix.

    `allowed` names the parameters that may be sent, each with the values that it
    may have (none: any); None where the path takes what it likes. An `optional`
    rule may be absent.
    """

    path: str
    capabilities: frozenset[str]
    why: str
    allowed: Mapping[str, tuple[Any, ...]] | None = None
    needed: tuple[str, ...] = ()
    optional: bool = False


def broker_rules(wanted: Wanted) -> tuple[Rule, ...]:
    """What the broker's own login may: nothing of it reads a secret."""
    leases = tuple(f"{path}/*" for path in sorted({use.path for use in wanted.uses if use.leases}))
    ids = {"lease_id": leases}
    return (
        *(_making(wanted) if wanted.uses else ()),
        Rule("auth/token/lookup-accessor", UPDATE, "is it gone?"),
        Rule("auth/token/revoke-accessor", UPDATE, "it can revoke any token whose accessor it learns"),
        Rule("auth/token/lookup-self", READ, "its own token"),
        Rule("auth/token/renew-self", UPDATE, "its own token"),
        Rule("auth/token/revoke-self", UPDATE, "its own token, when it ends"),
        Rule("sys/auth", READ, "the accessor of the token store, which aliases are under"),
        Rule("identity/lookup/entity", UPDATE, "the entity of an alias whose token was never learned"),
        Rule("identity/entity-alias/id", LIST, "which instances exist"),
        Rule(
            "identity/entity/id/*",
            UPDATE,
            "the cut. Without the limit this is root in disguise: whoever may write an entity may\n"
            "give it policies. With it, it can still disable any entity of this namespace",
            allowed={"disabled": (True,)},
            needed=("disabled",),
        ),
        *(
            (
                Rule("sys/leases/lookup", UPDATE, "is it gone?", allowed=ids),
                Rule("sys/leases/renew", UPDATE, "only our leases", allowed={**ids, "increment": ()}),
                Rule("sys/leases/revoke", UPDATE, "only our leases", allowed={**ids, "sync": ()}),
            )
            if leases
            else ()
        ),
        *(
            Rule(f"sys/leases/lookup/{path}/*", SWEEP, "the sweep finds what no row knows")
            for path in wanted.swept()
        ),
        *(
            (Rule("sys/leases", ALARM, "ids of leases that could not be revoked, for the alarm"),)
            if wanted.swept()
            else ()
        ),
        *(
            Rule(f"{mount}/revoke", UPDATE, "certificates, into the list of revoked ones", optional=True)
            for mount in sorted({use.mount for use in wanted.uses if use.engine == "pki"})
        ),
        Rule("sys/capabilities-self", UPDATE, "what it may itself, for vault check", optional=True),
        Rule("sys/internal/ui/resultant-acl", READ, "the same, listed", optional=True),
    )


def credentials_rules(wanted: Wanted) -> tuple[Rule, ...]:
    """What the tokens of instances may: take exactly the credentials that roles name."""
    by_path: dict[str, tuple[set[str], list[str]]] = {}
    for use in wanted.uses:
        verbs, roles = by_path.setdefault(use.path, (set(), []))
        verbs.add(use.verb)
        roles.append(use.role)
    return tuple(
        Rule(path, frozenset(verbs), ", ".join(sorted(set(roles))))
        for path, (verbs, roles) in sorted(by_path.items())
    )


def janitor_rules() -> tuple[Rule, ...]:
    """What deletes entities that nothing can use any more: a login of its own, which the broker never has."""
    return (
        Rule("identity/entity-alias/id", LIST, "which instances exist"),
        Rule("identity/entity/id/*", frozenset({"read", "delete"}), "deleting one revives its logins"),
    )


def _making(wanted: Wanted) -> tuple[Rule, ...]:
    return (
        Rule(
            f"auth/token/create/{wanted.token_role}",
            UPDATE,
            "one service token per instance, through the token role and never beside it",
            allowed={
                "entity_alias": (wanted.aliases,),
                "ttl": (),
                "display_name": (),
                "policies": (),
                "no_default_policy": (True,),
                "renewable": (True,),
                "type": ("service",),
            },
            needed=("entity_alias", "ttl"),
        ),
        Rule("auth/token/renew-accessor", UPDATE, "while the attestation lives"),
    )
