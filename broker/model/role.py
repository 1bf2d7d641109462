"""What an operator decided: roles, detectors, operators and verifiers, as frozen nouns."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from broker.model.evidence import Assurance
from broker.model.identity import IdentityMatch, WorkloadIdentity, matches_pattern


class Mode(enum.StrEnum):
    """observe: decide and record, refuse and revoke nothing for code; enforce: act."""

    OBSERVE = "observe"
    ENFORCE = "enforce"


class Revocability(enum.StrEnum):
    """How soon a backend can take a credential back, strongest first."""

    INSTANT = "instant"
    AT_TARGET = "at_target"
    UNTIL_EXPIRY = "until_expiry"
    NEVER = "never"

    @property
    def rank(self) -> int:
        """0 is the strongest."""
        return list(Revocability).index(self)


class AfterRevocation(enum.StrEnum):
    """What follows where a new instance cannot be told from the revoked one."""

    HOLD = "hold"
    RETRY = "retry"


class OnSilence(enum.StrEnum):
    """What a workload does when it hears nothing from any broker."""

    DROP = "drop"
    KEEP = "keep"
    EXIT = "exit"


@dataclass(frozen=True, slots=True)
class Silence:
    """`grace` in seconds."""

    grace: float = 30.0
    then: OnSilence = OnSilence.DROP


@dataclass(frozen=True, slots=True)
class Rotate:
    """A credential is replaced `every` so many seconds while it lives; the old one lives `overlap` seconds longer."""

    every: float
    overlap: float


@dataclass(frozen=True, slots=True)
class Role:
    """One role, of one version: `version` is the SHA-256 of its canonical text `text`.

    `ttl` maps an assurance level to seconds; a level that is absent is not
    granted. `manifests` are applications, alternatives to one another.
    `max_life` (seconds) bounds a lease with all its renewals.
    """

    name: str
    owner: str
    mode: Mode
    identity: IdentityMatch
    manifests: tuple[str, ...]
    backend: str
    parameters: Mapping[str, Any]
    assurance: Assurance
    ttl: Mapping[Assurance, float]
    revocability: Revocability
    silence: Silence
    after_revocation: AfterRevocation
    possession_required: bool
    static_accepted: bool
    max_life: float
    version: bytes
    text: str = field(repr=False)
    rotate: Rotate | None = None

    def ttl_at(self, level: Assurance) -> float | None:
        """Seconds granted at a level: that level's, or the nearest weaker one's; None below `assurance`."""
        if level < self.assurance:
            return None
        fitting = [known for known in self.ttl if known <= level]
        return self.ttl[max(fitting)] if fitting else None


class Action(enum.StrEnum):
    """What a detector's report of one kind does."""

    REVOKE = "revoke"
    QUARANTINE = "quarantine"
    OBSERVE = "observe"


class Beyond(enum.StrEnum):
    """What happens to reports beyond the blast-radius cap."""

    HOLD = "hold"


@dataclass(frozen=True, slots=True)
class Cap:
    """At most `instances`, and at most `share` of those alive, per `period` seconds."""

    instances: int
    share: float
    period: float
    beyond: Beyond = Beyond.HOLD


@dataclass(frozen=True, slots=True)
class Rate:
    """`count` per `period` seconds."""

    count: int
    period: float


@dataclass(frozen=True, slots=True)
class DetectorPolicy:
    """One configured detector. `roles` and `nodes` are patterns; empty means all."""

    name: str
    kind: str
    actions: Mapping[str, Action]
    default_action: Action
    roles: tuple[str, ...]
    nodes: tuple[str, ...]
    rate: Rate
    cap: Cap
    identity: IdentityMatch | None = None

    def action_for(self, kind: str) -> Action:
        """The action for a detection kind."""
        return self.actions.get(kind, self.default_action)

    def covers(self, role: str) -> bool:
        """True where the detector's scope has the role."""
        return not self.roles or any(matches_pattern(pattern, role) for pattern in self.roles)

    def covers_node(self, node: str) -> bool:
        """True where the detector's scope has the node; an unknown node only if the scope is all."""
        return not self.nodes or any(matches_pattern(pattern, node) for pattern in self.nodes)


@dataclass(frozen=True, slots=True)
class Scope:
    """Which roles a right reaches. `owners` and `roles` are patterns; what is empty narrows nothing, and where both
    are given both must hold."""

    owners: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()

    def covers(self, role: str, owner: str) -> bool:
        """True where the role is within; one without an owner is nobody's."""
        named = not self.roles or any(matches_pattern(pattern, role) for pattern in self.roles)
        owned = not self.owners or any(matches_pattern(pattern, owner) for pattern in self.owners)
        return named and owned


@dataclass(frozen=True, slots=True)
class Operator:
    """A person or pipeline with rights: `may` lists ``read, explain, publish, retire, withdraw, lower,
    lift, approve, introspect, revoke:KIND`` (or ``revoke:*``).

    `scope` None reaches every role. `quorum` says of a right to revoke (as in `may`) how many different people it
    takes; what it does not name takes one.
    """

    name: str
    identity: IdentityMatch
    may: frozenset[str]
    scope: Scope | None = None
    quorum: Mapping[str, int] = field(default_factory=dict)

    def permits(self, right: str) -> bool:
        """True where the right, or its family's ``family:*``, is listed."""
        family, colon, _ = right.partition(":")
        return right in self.may or (bool(colon) and f"{family}:*" in self.may)

    def needs(self, right: str) -> int:
        """How many different people a right takes: the stricter of what it and its family say."""
        return max(1, self.quorum.get(right, 1), self.quorum.get(f"{right.partition(':')[0]}:*", 1))


@dataclass(frozen=True, slots=True)
class ResourceServer:
    """Somebody who checks our tokens: may introspect and watch those of its audiences."""

    name: str
    identity: IdentityMatch
    audiences: frozenset[str]


@dataclass(frozen=True, slots=True)
class Application:
    """Who may sign an application's manifests: `threshold` of the named `signers`; what it includes.

    `published` is False where a signed folder is the source: nothing else may publish.
    """

    name: str
    signers: tuple[str, ...]
    threshold: int
    includes: tuple[str, ...] = ()
    published: bool = True


@dataclass(frozen=True, slots=True)
class RoleBook:
    """Everything that an operator configured and that a reload can change, of one generation."""

    roles: Mapping[str, Role]
    detectors: Mapping[str, DetectorPolicy]
    operators: Mapping[str, Operator]
    resource_servers: Mapping[str, ResourceServer]
    applications: Mapping[str, Application]

    def roles_for(self, identity: WorkloadIdentity) -> tuple[Role, ...]:
        """Roles whose identity match accepts a verified identity, in name order."""
        return tuple(
            self.roles[name] for name in sorted(self.roles) if self.roles[name].identity.accepts(identity)
        )

    def running(self, application: str) -> tuple[Role, ...]:
        """Roles that an application is a manifest of, by itself or in what another includes; in name order."""
        over = {application}
        grown = True
        while grown:
            above = {name for name, item in self.applications.items() if not over.isdisjoint(item.includes)}
            grown = not above <= over
            over |= above
        return tuple(
            self.roles[name] for name in sorted(self.roles) if not over.isdisjoint(self.roles[name].manifests)
        )

    def operator_for(self, identity: WorkloadIdentity) -> tuple[Operator, ...]:
        """Operators that an identity is."""
        return tuple(item for item in self.operators.values() if item.identity.accepts(identity))

    def resource_server_for(self, identity: WorkloadIdentity) -> ResourceServer | None:
        """The first resource server that an identity is."""
        return next((s for s in self.resource_servers.values() if s.identity.accepts(identity)), None)

    def detector_for(self, identity: WorkloadIdentity) -> DetectorPolicy | None:
        """The first detector that an identity is."""
        return next(
            (d for d in self.detectors.values() if d.identity is not None and d.identity.accepts(identity)),
            None,
        )
