"""Under which roles an instance stands: those of the book, and those that have left it while it holds their
credentials."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from broker.model.attestation import Attestation
from broker.model.credential import LeaseState
from broker.model.decision import Decision
from broker.model.role import AfterRevocation, Mode, Role, RoleBook
from broker.ports import Transaction

_USABLE = (LeaseState.PENDING, LeaseState.ACTIVE)
_MOST = 1000
"""More leases than an instance may have."""


@dataclass(frozen=True, slots=True)
class Stand:
    """What a report is held against: one role of an instance, of one version, with the manifests that admitted it.

    `manifests` are the digests of an alternative with its layers, empty where
    nothing is known to approve anything; `hold` as in `AfterRevocation`.
    """

    role: str
    version: bytes
    mode: Mode
    hold: bool
    application: str
    manifests: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Hit:
    """An instance that a report counts against, in some of its roles."""

    attestation: Attestation
    stands: tuple[Stand, ...]

    @property
    def enforced(self) -> bool:
        """True where one of the roles enforces."""
        return any(stand.mode is Mode.ENFORCE for stand in self.stands)

    @property
    def foremost(self) -> Stand:
        """The one that a decision names: the first that enforces, else the first."""
        return next((stand for stand in self.stands if stand.mode is Mode.ENFORCE), self.stands[0])

    @property
    def hold(self) -> bool:
        """True where the strictest of the roles holds an identity whose instances cannot be told apart."""
        return any(stand.hold for stand in self.stands)


async def stands(tx: Transaction, attestation: Attestation, book: RoleBook, now: float) -> Sequence[Stand]:
    """Every role that an instance has credentials of, or may get some of; at least the one that admitted it.

    A reload takes roles away, or gives them other applications. What was
    granted before lives on, and is judged by what it was granted on: the mode of
    the lease, the version of its role, the manifests of its decision.
    """
    found = {role.name: _of_book(role, attestation) for role in book.roles_for(attestation.identity)}
    current = {name: stand for name, stand in found.items() if stand is not None}
    left: dict[str, Stand] = {}
    for lease in await tx.leases.page(_USABLE, _MOST, "", attestation.id):
        if lease.role not in current and lease.expires_at > now:
            decision = await tx.decisions.get(lease.decision_id)
            stand = await _left(tx, lease.role, lease.role_version, lease.mode, decision)
            # Of several leases of one role, one that enforces is enough.
            if lease.role not in left or stand.mode is Mode.ENFORCE:
                left[lease.role] = stand
    if not current and not left:
        admitted = await tx.decisions.get(attestation.decision_id)
        if admitted is not None and admitted.role:
            mode = admitted.mode or Mode.ENFORCE
            left[admitted.role] = await _left(tx, admitted.role, admitted.role_version, mode, admitted)
    return (*current.values(), *left.values())


def _of_book(role: Role, attestation: Attestation) -> Stand | None:
    result = attestation.result_for(role.manifests)
    if result is None:
        return None
    hold = role.after_revocation is AfterRevocation.HOLD
    return Stand(role.name, role.version, role.mode, hold, result.application, result.manifests)


async def _left(tx: Transaction, name: str, version: bytes, mode: Mode, decision: Decision | None) -> Stand:
    return Stand(
        role=name,
        version=version,
        mode=mode,
        hold=await _held(tx, version),
        application=decision.application if decision is not None else "",
        manifests=decision.manifests if decision is not None else (),
    )


async def _held(tx: Transaction, version: bytes) -> bool:
    """Whether a recorded version of a role holds; one that is not known does."""
    text = await tx.roles.text(version)
    if text is None:
        return True
    said = json.loads(text).get("after_revocation", AfterRevocation.HOLD)
    return bool(said != AfterRevocation.RETRY)
