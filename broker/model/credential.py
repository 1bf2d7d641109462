"""Leases and the secrets that they stand for. A secret is never stored and its repr hides it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from broker.model.account import Account
from broker.model.evidence import Assurance
from broker.model.role import Mode, Revocability


class LeaseState(enum.StrEnum):
    """PENDING → ACTIVE → REVOKING → REVOKED | EXPIRED, or STUCK (retried until confirmed).

    A lease for which the backend made nothing is REVOKED at once.
    """

    PENDING = "pending"
    ACTIVE = "active"
    REVOKING = "revoking"
    REVOKED = "revoked"
    EXPIRED = "expired"
    STUCK = "stuck"

    @property
    def live(self) -> bool:
        """True where a credential may exist."""
        return self in (LeaseState.PENDING, LeaseState.ACTIVE, LeaseState.REVOKING, LeaseState.STUCK)


@dataclass(frozen=True, slots=True)
class Lease:
    """One credential handed out, or about to be. All times are seconds since the epoch, UTC.

    `handle` is what the backend needs to take the credential back (a `jti`, an
    accessor, a lease id): never the secret, and empty until a backend with an
    outside has answered. `as_of` is the sequence of the
    revocation log that the grant was evaluated at. `audience` is whose watchers
    see it. `max_expires_at` bounds all renewals. `account_id` is the account
    that it hangs on and `cutter` what ends its sessions at the target; both are
    empty where there is none.
    """

    id: str
    attestation_id: str
    role: str
    role_version: bytes
    backend: str
    state: LeaseState
    mode: Mode
    decision_id: str
    request_id: str
    identity: str
    audience: str
    assurance: Assurance
    handle: str
    revocability: Revocability
    possession_required: bool
    issued_at: float
    expires_at: float
    max_expires_at: float
    as_of: int
    renewable: bool = True
    ended_at: float = 0.0
    attempts: int = 0
    next_attempt_at: float = 0.0
    detail: str = ""
    account_id: str = ""
    cutter: str = ""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a backend may put into a credential: facts, decided before it is called.

    `ttl` in seconds; `key_thumbprint` is the RFC 7638 thumbprint for ``cnf.jkt``;
    `account` the open account that the credential is to hang on, where the
    backend keeps accounts.
    """

    lease: Lease
    subject: str
    parameters: Mapping[str, Any]
    ttl: float
    key_thumbprint: bytes
    manifests: tuple[bytes, ...]
    node: str = ""
    pod_uid: str = ""
    container_id: str = ""
    account: Account | None = None


@dataclass(frozen=True, slots=True)
class Credential:
    """The secret: a token, or named fields. Exists only on its way to the caller."""

    token: str = field(default="", repr=False)
    fields: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Issued:
    """A backend's answer: the secret, the handle, and when it really ends (the backend decides)."""

    credential: Credential
    handle: str
    expires_at: float
    parameters: Mapping[str, Any] = field(default_factory=dict)


class Confirmation(enum.StrEnum):
    """What a backend found when it looked whether a credential is gone."""

    GONE = "gone"
    ALIVE = "alive"
    UNTIL_EXPIRY = "until_expiry"


@dataclass(frozen=True, slots=True)
class Confirmed:
    """`method` says how it was checked, for the receipt; `until` (seconds, UTC) how long it may live."""

    result: Confirmation
    method: str
    until: float = 0.0
