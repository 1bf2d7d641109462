"""Tables of the server itself: where it listens, its certificate, state, keys and limits."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from broker.settings.values import Bytes, Count, File, Listener, Name, Seconds, Url

Age = Annotated[Seconds, Field(ge=86_400.0)]


class Table(BaseModel):
    """A table of the file: unknown keys are refused, nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Listen(Table):
    """`tls` is for callers with a JWT, `mtls` for SPIFFE callers, `http` for webhooks, keys and introspection."""

    tls: Listener | None = None
    mtls: Listener | None = None
    http: Listener | None = None


class Tls(Table):
    """PEM files; `client_ca` is the union of the trust domains' bundles and needed for `listen.mtls`."""

    certificate: File
    key: File
    client_ca: File | None = None


class State(Table):
    """`path` is the SQLite file; one broker at a time holds it."""

    kind: Literal["sqlite"] = "sqlite"
    path: File


def _ring(value: Any) -> Any:
    return {"active": value} if isinstance(value, str) else value


class KeyRing(Table):
    """One active private key; `old` are public keys that still verify, or will soon, during an overlap."""

    active: File
    old: tuple[File, ...] = ()


class Audit(Table):
    """`path` is a file of JSON lines, chained by hash; absent: ``audit.jsonl`` beside the state.
    `checkpoint` is how often (seconds) its head is signed, where it has moved."""

    path: File | None = None
    checkpoint: Seconds = 300.0


class Retention(Table):
    """How long (seconds, at least a day) the state keeps rows of what is over; the audit log keeps every decision."""

    leases: Age = 30 * 86_400.0
    detections: Age = 400 * 86_400.0
    decisions: Age = 90 * 86_400.0


class Http(Table):
    """`metrics` says who may scrape: everybody who reaches the port, or this host only."""

    metrics: Literal["anyone", "loopback"] = "loopback"


class Keys(Table):
    """Private keys, each for one purpose. `gate` signs the attestation tokens that Vault's own JWT login takes;
    it is needed where a backend of kind "gate" is. `challenge` is made at first start, beside the state, where
    it is absent."""

    credentials: Annotated[KeyRing, BeforeValidator(_ring)]
    receipts: File
    gate: Annotated[KeyRing | None, BeforeValidator(_ring)] = None
    challenge: File | None = None


class Limits(Table):
    """What one caller may cost (`protocol.md`, Limits). Sizes in bytes, times in seconds, rates a second."""

    request: Bytes = 64 * 1024
    evidence: Bytes = 8 * 1024 * 1024
    evidence_units: Count = 50_000
    manifest: Bytes = 16 * 1024 * 1024
    webhook: Bytes = 256 * 1024

    calls_per_address: Count = 1_000
    calls_per_identity: Count = 200
    attestations_per_address: Count = 50
    reports_per_workload: Count = 10
    refusals: Count = 20
    refusals_per: Seconds = 600.0
    leases_per_attestation: Count = 100
    proposals: Count = 100

    streams: Count = 20_000
    streams_per_caller: Count = 16
    streams_per_connection: Count = 256
    public_streams: Count = 1_000
    public_streams_per_address: Count = 32
    http_connections: Count = 1_000
    http_connections_per_address: Count = 128
    watch_queue: Count = 1_024
    state_queue: Count = 8_192

    call: Seconds = 30.0
    backend: Seconds = 60.0
    state: Seconds = 10.0
    challenge: Seconds = 30.0
    evidence_age: Seconds = 300.0
    proof_window: Seconds = 30.0
    report_age: Seconds = 60.0
    attestation: Seconds = 300.0
    manifest_grace: Seconds = 86_400.0
    quarantine: Seconds = 900.0
    proposal: Seconds = 3_600.0
    ttl_shortest: Seconds = 10.0
    ttl_longest: Seconds = 86_400.0
    instance: Seconds = 400 * 86_400.0
    state_age: Seconds = 2.0
    poll: Seconds = 0.5
    settle: Seconds = 8.0
    connection_age: Seconds = 3_600.0
    connection_grace: Seconds = 60.0
    drain: Seconds = 10.0


class Server(Table):
    """Everything that only the main file may say."""

    cluster: Name = "lockstep"
    issuer: Url
    reflection: bool = True
    listen: Listen
    tls: Tls
    state: State
    keys: Keys
    audit: Audit = Field(default_factory=Audit)
    retention: Retention = Field(default_factory=Retention)
    http: Http = Field(default_factory=Http)
    limits: Limits = Field(default_factory=Limits)


def gate_issuer(issuer: str) -> str:
    """The ``iss`` of gate tokens: an issuer of its own below the broker's."""
    return f"{issuer.rstrip('/')}/gate"
