"""Tables of the server itself: where it listens, its certificate, state, keys and limits."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from broker.settings.values import Bytes, Count, File, Listener, Name, Seconds, Url


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


class Keys(Table):
    """Private keys, each for one purpose. `challenge` is made at first start, beside the state, where absent."""

    credentials: Annotated[KeyRing, BeforeValidator(_ring)]
    receipts: File
    challenge: File | None = None


class Limits(Table):
    """What one caller may cost (`protocol.md`, Limits). Sizes in bytes, times in seconds."""

    message: Bytes = 4 * 1024 * 1024
    evidence_units: Count = 20_000
    evidence_items: Count = 4
    streams: Count = 10_000
    streams_per_identity: Count = 16
    attestations_per_identity: Count = 5
    attestations_per_address: Count = 20
    failures_per_instance: Count = 5
    failures_per: Seconds = 600.0
    webhook: Bytes = 256 * 1024
    proof_window: Seconds = 60.0
    report_age: Seconds = 300.0
    challenge: Seconds = 30.0
    attestation: Seconds = 300.0
    ttl_shortest: Seconds = 10.0
    ttl_longest: Seconds = 86_400.0
    state_age: Seconds = 2.0
    poll: Seconds = 0.5
    watch_queue: Count = 1_024
    watch_silence: Seconds = 6.0
    state_queue: Count = 4_096
    connection_age: Seconds = 1_800.0
    drain: Seconds = 10.0


class Server(Table):
    """Everything that only the main file may say."""

    cluster: Name = "lockstep"
    issuer: Url
    reflection: bool = False
    listen: Listen
    tls: Tls
    state: State
    keys: Keys
    limits: Limits = Field(default_factory=Limits)
