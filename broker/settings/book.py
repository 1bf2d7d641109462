"""From tables to nouns: the role book that verbs and doors read, each role with the digest of its text."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from broker.model.identity import IdentityMatch
from broker.model.role import (
    Application,
    Cap,
    DetectorPolicy,
    Operator,
    Rate,
    ResourceServer,
    Role,
    RoleBook,
    Rotate,
    Scope,
    Silence,
)
from broker.settings.operators import OperatorTable
from broker.settings.tables import (
    ApplicationTable,
    Backend,
    Cutter,
    DetectorTable,
    IdentitySource,
    MatchTable,
    ResourceServerTable,
    RoleTable,
    RotateTable,
)
from broker.settings.values import File
from lockstep.formats import canonical_json


@dataclass(slots=True)
class Tables:
    """Every named table, understood; what was not is absent."""

    identity: dict[str, IdentitySource] = field(default_factory=dict)
    signers: dict[str, File] = field(default_factory=dict)
    manifests: dict[str, ApplicationTable] = field(default_factory=dict)
    backends: dict[str, Backend] = field(default_factory=dict)
    cutters: dict[str, Cutter] = field(default_factory=dict)
    roles: dict[str, RoleTable] = field(default_factory=dict)
    parameters: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    detectors: dict[str, DetectorTable] = field(default_factory=dict)
    operators: dict[str, OperatorTable] = field(default_factory=dict)
    resource_servers: dict[str, ResourceServerTable] = field(default_factory=dict)


def book(tables: Tables) -> RoleBook:
    """The role book of some tables; `Tables.parameters` has each role's, with the backend's defaults."""
    return RoleBook(
        roles={name: role(name, table, tables.parameters[name]) for name, table in tables.roles.items()},
        detectors={name: _detector(name, table) for name, table in tables.detectors.items()},
        operators={name: _operator(name, table) for name, table in tables.operators.items()},
        resource_servers={
            name: ResourceServer(name, _match(table.identity), frozenset(table.audiences))
            for name, table in tables.resource_servers.items()
        },
        applications={
            name: Application(
                name, table.signers, table.threshold, table.includes, published=table.source is None
            )
            for name, table in tables.manifests.items()
        },
    )


def role(name: str, table: RoleTable, parameters: Mapping[str, Any]) -> Role:
    """One role. Its text is canonical JSON of everything that it says, defaults included."""
    text = canonical_json(
        {
            "name": name,
            "owner": table.owner,
            "mode": table.mode.value,
            "identity": {
                "from": table.identity.source,
                "subject": table.identity.subject,
                "spiffe_id": table.identity.spiffe_id,
                "claims": dict(table.identity.claims),
            },
            "manifests": list(table.manifests),
            "backend": {"use": table.backend.use, **parameters},
            "assurance": table.assurance.word,
            "ttl": {level.word: _milliseconds(seconds) for level, seconds in table.ttl.items()},
            "revocability": table.revocability.value,
            "silence": {"grace": _milliseconds(table.silence.grace), "then": table.silence.then.value},
            "after_revocation": table.after_revocation.value,
            "possession": table.possession,
            "static": table.static,
            "max_life": _milliseconds(table.max_life),
            "units": "durations are milliseconds",
            **({} if table.rotate is None else {"rotate": _rotate(table.rotate)}),
        }
    )
    return Role(
        name=name,
        owner=table.owner,
        mode=table.mode,
        identity=_match(table.identity),
        manifests=table.manifests,
        backend=table.backend.use,
        parameters=dict(parameters),
        assurance=table.assurance,
        ttl=dict(table.ttl),
        revocability=table.revocability,
        silence=Silence(table.silence.grace, table.silence.then),
        after_revocation=table.after_revocation,
        possession_required=table.possession == "required",
        static_accepted=table.static == "accepted",
        max_life=table.max_life,
        version=hashlib.sha256(text).digest(),
        text=text.decode(),
        rotate=None if table.rotate is None else Rotate(table.rotate.every, table.rotate.overlap),
    )


def _rotate(table: RotateTable) -> dict[str, int]:
    return {"every": _milliseconds(table.every), "overlap": _milliseconds(table.overlap)}


def _milliseconds(seconds: float) -> int:
    # Integers, so that canonical JSON has one spelling for each.
    return round(seconds * 1000)


def _match(table: MatchTable) -> IdentityMatch:
    return IdentityMatch(table.source, table.subject, table.spiffe_id, dict(table.claims))


def _operator(name: str, table: OperatorTable) -> Operator:
    scope = None if table.scope is None else Scope(table.scope.owners, table.scope.roles)
    return Operator(name, _match(table.identity), frozenset(table.may), scope, dict(table.quorum))


def _detector(name: str, table: DetectorTable) -> DetectorPolicy:
    return DetectorPolicy(
        name=name,
        kind=table.kind,
        actions={kind.value: action for kind, action in table.actions.items()},
        default_action=table.default_action,
        roles=table.scope.roles,
        nodes=table.scope.nodes,
        rate=Rate(table.rate.reports, table.rate.per),
        cap=Cap(table.cap.instances, table.cap.share, table.cap.per, table.cap.beyond),
        identity=None if table.identity is None else _match(table.identity),
    )
