"""What this process holds right now: its attestation, its secrets, and whether it still may use them.

Every reader asks here at every use, so that a revocation that has arrived is
obeyed at once, whatever any thread is doing.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lockstep_client.clock import Clock
from lockstep_client.errors import Denied, LockstepError, Revoked, Unavailable
from lockstep_client.secrets import Secret


@dataclass(frozen=True, slots=True)
class RoleStanding:
    """What the broker said of one role at the last attestation. `mode` is ``observe`` or ``enforce``."""

    role: str
    status: str
    mode: str
    granted: bool
    reason: str
    findings: int
    decision: str


@dataclass(frozen=True, slots=True)
class Attestation:
    """The broker's verdict on this process (RFC 9334: attestation result)."""

    id: str
    decision: str
    status: str
    assurance: str
    expires_at: dt.datetime
    roles: Mapping[str, RoleStanding]
    as_of: int
    ends: float = field(repr=False)
    """`Clock.steady` seconds."""
    lifetime: float = field(repr=False)
    """Seconds, as granted last."""
    silence_grace: float = field(default=30.0, repr=False)
    silence_then: str = field(default="drop", repr=False)


@dataclass(frozen=True, slots=True)
class Held:
    """One credential with its lease; the secrets hide themselves."""

    lease_id: str
    role: str
    mode: str
    decision: str
    revocability: str
    possession_required: bool
    renewable: bool
    expires_at: dt.datetime
    ends: float
    lifetime: float
    token: Secret | None
    fields: Mapping[str, Secret]
    parameters: Mapping[str, Any]
    issued: float = 0.0
    """`Clock.steady` seconds of the first grant of this secret; renewals keep it."""
    rotate_every: float = 0.0
    """Seconds after which a new secret takes its place; 0: never."""
    overlap: float = 0.0
    """Seconds that it is kept alive beside the new one."""

    @property
    def rotates(self) -> float:
        """When it is to be replaced, in `Clock.steady` seconds."""
        return self.issued + self.rotate_every if self.rotate_every else float("inf")

    def bare(self) -> Held:
        """The lease alone, for what is kept alive and not used any more."""
        return replace(self, token=None, fields={})


@dataclass(frozen=True, slots=True)
class Revocation:
    """What a revocation callback gets. `role` and `lease_id` are empty where everything was revoked."""

    reason: str
    decision: str
    revocation_id: str
    attestation_id: str
    at: dt.datetime | None
    role: str = ""
    lease_id: str = ""


class Holding:
    """Thread-safe; every method is short. A role's slot is a credential or the reason why there is none."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._attestation: Attestation | None = None
        self._slots: dict[str, Held | LockstepError] = {}
        self._doomed: dict[str, Denied] = {}
        self._revoked: Revoked | None = None

    @property
    def attestation(self) -> Attestation | None:
        """The last one, alive or not."""
        return self._attestation

    @property
    def revoked(self) -> Revoked | None:
        """Why everything is over, None while it is not."""
        return self._revoked

    def attested(self, attestation: Attestation) -> None:
        """A new or refreshed attestation."""
        with self._lock:
            self._attestation = attestation

    def put(self, held: Held) -> bool:
        """A new or renewed credential; False where a revocation came first, and nothing is kept."""
        with self._lock:
            if self._revoked is not None or isinstance(self._slots.get(held.role), Revoked):
                return False
            self._slots[held.role] = held
            self._doomed.pop(held.role, None)
            return True

    def get(self, role: str) -> Held:
        """What may be used now. Raises `Revoked`, `Denied` or `Unavailable`."""
        with self._lock:
            if self._revoked is not None:
                raise _again(self._revoked)
            slot = self._slots.get(role)
        if slot is None:
            raise Unavailable(f"no credential for {role!r} is held: ask for it with credential()")
        if isinstance(slot, LockstepError):
            raise _again(slot)
        if self._clock.steady() >= slot.ends:
            doom = self._doomed.get(role)
            if doom is not None:
                raise _again(doom)
            raise Unavailable(f"the credential for {role!r} ended at {slot.expires_at:%H:%M:%S}Z unrenewed")
        return slot

    def doom(self, roles: Iterable[str], error: Denied) -> None:
        """Renewal was refused: what is held may be used to its end, and then raises `error`."""
        with self._lock:
            self._doomed.update(dict.fromkeys(roles, error))

    @property
    def doomed(self) -> frozenset[str]:
        """Roles whose renewal was refused."""
        return frozenset(self._doomed)

    def held(self) -> tuple[Held, ...]:
        """Every credential that is held, usable or just past its end."""
        with self._lock:
            return tuple(slot for slot in self._slots.values() if isinstance(slot, Held))

    def roles(self) -> tuple[str, ...]:
        """Every role that was asked for, in order."""
        with self._lock:
            return tuple(self._slots)

    def lose(self, role: str, error: LockstepError) -> Held | None:
        """Forget one role's secret; later uses raise `error`. The credential that was held."""
        with self._lock:
            before = self._slots.get(role)
            self._slots[role] = error
        return before if isinstance(before, Held) else None

    def lose_all(self, error: LockstepError) -> None:
        """Forget every secret; they may come back. What was denied stays denied, for its own reason."""
        with self._lock:
            for role, slot in self._slots.items():
                if not isinstance(slot, Denied):
                    self._slots[role] = error

    def revoke(self, error: Revoked) -> bool:
        """Forget everything for good. False where that had happened before."""
        with self._lock:
            first = self._revoked is None
            if first:
                self._revoked = error
            self._slots = dict.fromkeys(self._slots, error)
        return first

    def wipe(self) -> None:
        """In a fork's child: nothing of the parent stays, not even a lock that it may have held."""
        self._lock = threading.Lock()
        self._attestation = None
        self._revoked = None
        self._slots = {}
        self._doomed = {}


def _again(error: LockstepError) -> LockstepError:
    """A copy to raise: one exception object must not gather tracebacks from many threads."""
    kind = type(error)
    copy = kind(error.message, reason=error.reason, decision=error.decision, count=error.count)
    if isinstance(copy, Unavailable) and isinstance(error, Unavailable):
        copy.retry_after = error.retry_after
    return copy
