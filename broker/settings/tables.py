"""Tables of the role file: who callers are, what they may get, who may take it back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from broker.adapters.identity.oidc import OidcRules
from broker.adapters.identity.presets import KNOWN_CLAIMS, Preset
from broker.crypto.jwk import ALGORITHMS
from broker.model.detection import DetectionKind
from broker.model.evidence import Assurance
from broker.model.role import Action, AfterRevocation, Beyond, Mode, OnSilence, Revocability
from broker.settings.cutters import PostgresCutter
from broker.settings.gate import GateBackend
from broker.settings.problems import nearest
from broker.settings.server import Table
from broker.settings.values import Count, File, Seconds, Subject, Text, Url
from broker.settings.vault import VaultBackend


def _level(value: Any) -> Any:
    words = {level.word: level for level in Assurance}
    if isinstance(value, str):
        if value not in words:
            raise ValueError(f'"{value}" is no assurance level{nearest(value, words)}')
        return words[value]
    return value


def _folder(value: Any) -> Any:
    return None if value == "state" else value


def _with_port(host: str) -> str:
    # A port is what stands behind the last colon, and inside brackets there is none.
    bare = ":" not in host or host.endswith("]")
    return f"{host}:443" if bare else host


TrustDomain = Annotated[str, Field(pattern=r"^[a-z0-9._-]{1,255}$")]
Level = Annotated[Assurance, BeforeValidator(_level)]


# --- identity sources -------------------------------------------------------------------------------


class OidcSource(Table):
    """Bearer JWTs of one issuer (OIDC, Kubernetes service accounts, CI jobs, SPIRE JWT-SVIDs).

    Keys come from `jwks_file`, from `jwks_url`, or are discovered at the issuer.
    `preset` names an issuer whose claims are known, `claims` further ones that
    roles may match.
    """

    kind: Literal["oidc"]
    issuer: Url = ""
    audience: Text
    algorithms: Annotated[tuple[str, ...], Field(min_length=1)]
    preset: Preset = Preset.OIDC
    trust_domain: TrustDomain = ""
    claims: tuple[Text, ...] = ()
    other_audiences: bool = False
    max_age: Seconds | None = None
    leeway: Seconds = 30.0
    jwks_file: File | None = None
    jwks_url: Url | None = None
    jwks_hosts: tuple[Annotated[Text, AfterValidator(_with_port)], ...] = ()
    ca_file: File | None = None

    @model_validator(mode="after")
    def _sound(self) -> OidcSource:
        for name in self.algorithms:
            if name not in ALGORITHMS:
                raise ValueError(f'algorithm "{name}" cannot be used{nearest(name, ALGORITHMS)}')
        if self.jwks_file and self.jwks_url:
            raise ValueError("names both jwks_file and jwks_url; keep one")
        if not self.jwks_file and not (self.jwks_url or self.issuer).startswith("https://"):
            raise ValueError("its keys would be fetched without TLS; use https, or give jwks_file")
        self.rules("")
        return self

    def rules(self, name: str) -> OidcRules:
        """What the plug holds tokens to. Raises ``ValueError``."""
        return OidcRules(
            name=name,
            issuer=self.issuer,
            audience=self.audience,
            algorithms=frozenset(self.algorithms),
            preset=self.preset,
            trust_domain=self.trust_domain,
            claims=self.claims,
            max_age=self.max_age,
            leeway=self.leeway,
            other_audiences=self.other_audiences,
        )

    def known_claims(self) -> frozenset[str]:
        """Claims that a match may name."""
        return frozenset((*KNOWN_CLAIMS[self.preset], *self.claims))


class SpiffeSource(Table):
    """X.509-SVIDs of one trust domain, on the `mtls` listener."""

    kind: Literal["spiffe"]
    trust_domain: TrustDomain
    bundle: File


IdentitySource = OidcSource | SpiffeSource


class MatchTable(Table):
    """Which identities of a source are meant; all conditions must hold."""

    model_config = ConfigDict(populate_by_name=True)

    source: Annotated[str, Field(alias="from")]
    subject: Subject = ""
    spiffe_id: Subject = ""
    claims: Mapping[str, Subject] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _somebody(self) -> MatchTable:
        if not (self.subject or self.spiffe_id):
            raise ValueError("accepts nobody; give subject or spiffe_id")
        return self


# --- manifests and backends -------------------------------------------------------------------------


class ApplicationTable(Table):
    """Who may sign an application's manifests. `source` is ``"state"``, or a folder of signed envelopes."""

    signers: Annotated[tuple[str, ...], Field(min_length=1)]
    threshold: Count = 1
    includes: tuple[str, ...] = ()
    source: Annotated[File | None, BeforeValidator(_folder)] = None


class JwtBackend(Table):
    """The built-in signer; `audience` and `scope` are defaults for its roles."""

    class Parameters(Table):
        """What a role may say beside `use`."""

        audience: Text | None = None
        scope: Text | None = None
        claims: Mapping[str, str] = Field(default_factory=dict)

    kind: Literal["jwt"]
    audience: Text | None = None
    scope: Text | None = None


Backend = JwtBackend | VaultBackend | GateBackend
Cutter = PostgresCutter


# --- roles ------------------------------------------------------------------------------------------


class UseTable(Table):
    """`use` names a backend; the other keys are that backend's parameters."""

    model_config = ConfigDict(extra="allow")

    use: str


class SilenceTable(Table):
    """What the workload does when it hears nothing from any broker."""

    grace: Seconds = 30.0
    then: OnSilence = OnSilence.DROP


SHORTEST_ROTATION = 10.0
"""Seconds: each rotation is a new secret, made outside."""


class RotateTable(Table):
    """How often a credential is replaced while it lives, and how long both work."""

    every: Seconds
    overlap: Seconds

    @model_validator(mode="after")
    def _sound(self) -> RotateTable:
        if self.every < SHORTEST_ROTATION:
            raise ValueError(f"every is shorter than {SHORTEST_ROTATION:g} s; lengthen it")
        if self.overlap > self.every:
            raise ValueError("overlap is longer than every: ever more credentials would live; shorten it")
        return self


class RoleTable(Table):
    """One role; `ttl` is per assurance level, or one duration for `assurance`."""

    owner: str = ""
    mode: Mode
    identity: MatchTable
    manifests: Annotated[tuple[str, ...], Field(min_length=1)]
    backend: UseTable
    assurance: Level = Assurance.SELF
    ttl: Annotated[Mapping[Level, Seconds], Field(min_length=1)]
    rotate: RotateTable | None = None
    revocability: Revocability = Revocability.AT_TARGET
    silence: SilenceTable = Field(default_factory=SilenceTable)
    after_revocation: AfterRevocation = AfterRevocation.HOLD
    possession: Literal["required", "bearer"] = "bearer"
    static: Literal["refused", "accepted"] = "refused"
    max_life: Seconds = 86_400.0

    @model_validator(mode="before")
    @classmethod
    def _one_ttl(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("ttl", {}), str | int | float):
            level = value.get("assurance", "self")
            # What is no level is told once, as a fault of `assurance`.
            return {**value, "ttl": {level if isinstance(level, str) else "self": value["ttl"]}}
        return value


# --- detectors, resource servers ---------------------------------------------------------------------


class ScopeTable(Table):
    """Patterns; empty means all."""

    roles: tuple[Text, ...] = ()
    nodes: tuple[Text, ...] = ()


class RateTable(Table):
    """`reports` per `per`."""

    reports: Count = 100
    per: Seconds = 60.0


class CapTable(Table):
    """The blast radius: at most `instances`, and at most `share` of those alive, per `per`."""

    instances: Count = 3
    share: Annotated[float, Field(gt=0, le=1)] = 0.2
    per: Seconds = 600.0
    beyond: Beyond = Beyond.HOLD


class DetectorTable(Table):
    """Somebody who reports code: signs webhooks with `keys`, or has an `identity` on a stream."""

    kind: Literal["standard"]
    keys: tuple[File, ...] = ()
    identity: MatchTable | None = None
    scope: ScopeTable = Field(default_factory=ScopeTable)
    actions: Mapping[DetectionKind, Action] = Field(default_factory=dict)
    default_action: Action = Action.OBSERVE
    rate: RateTable = Field(default_factory=RateTable)
    cap: CapTable = Field(default_factory=CapTable)

    @model_validator(mode="after")
    def _somebody(self) -> DetectorTable:
        if not (self.keys or self.identity):
            raise ValueError("cannot prove who it is; give keys (files) or identity")
        return self


class ResourceServerTable(Table):
    """Somebody who checks our tokens: may introspect and watch those of its audiences."""

    identity: MatchTable
    audiences: Annotated[tuple[Text, ...], Field(min_length=1)]


class KindTable(Table):
    """Just enough of a plug's table to choose its schema."""

    model_config = ConfigDict(extra="ignore")

    kind: str


IDENTITY_KINDS: Mapping[str, type[IdentitySource]] = {"oidc": OidcSource, "spiffe": SpiffeSource}
BACKEND_KINDS: Mapping[str, type[Backend]] = {
    "jwt": JwtBackend,
    "vault": VaultBackend,
    "gate": GateBackend,
}
CUTTER_KINDS: Mapping[str, type[Cutter]] = {"postgres": PostgresCutter}
DETECTOR_KINDS: Mapping[str, type[DetectorTable]] = {"standard": DetectorTable}
