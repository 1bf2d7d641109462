"""To which roles things belong: what an operator with a scope may see, and what it may act on.

It may see what belongs to a role of its scope among others, and act on what
belongs to roles of its scope alone. What belongs to no role is neither.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from broker.errors import Denied
from broker.ledger import entries_of
from broker.model.attestation import Attestation
from broker.model.credential import Lease
from broker.model.decision import Decision, DecisionKind
from broker.model.detection import DetectionRecord
from broker.model.proposal import Proposal
from broker.model.reach import Owned, Reach
from broker.model.revocation import EntryKind, Revocation, Selector, SelectorKind
from broker.model.role import RoleBook
from broker.ports import Transaction
from lockstep.formats import Reason

MOST: Final = 10_000
"""Instances that a look at one act finds; there may be more, and who may act on those has no scope."""
_OF_THE_INSTANCE: Final = (DecisionKind.ATTEST, DecisionKind.REATTEST)
_ANYBODY: Final = frozenset(
    {SelectorKind.DIGEST, SelectorKind.PACKAGE, SelectorKind.MANIFEST, SelectorKind.NODE}
)
"""Selectors that may hit any role's instances later: a ban of one is nobody's alone."""


def outside() -> Denied:
    """The no for what is not within a caller's scope."""
    return Denied(Reason.NOT_ENTITLED, "this is outside the scope of your right, or not of your roles alone")


class Belonging:
    """Of one transaction; looks every instance up once."""

    def __init__(self, tx: Transaction, book: RoleBook, reach: Reach) -> None:
        self._tx = tx
        self._book = book
        self._reach = reach
        self._roles: dict[str, frozenset[Owned]] = {}

    # --- seeing -----------------------------------------------------------------------------------

    async def sees_lease(self, lease: Lease) -> bool:
        """Also what it takes to act on one: a lease is of one role."""
        return self._reach.everything or self._reach.covers(await self._owned(lease.role, lease.role_version))

    async def sees_attestation(self, attestation: Attestation) -> bool:
        """An instance that may use a role of the scope."""
        return self._reach.everything or self._reach.touches(await self._of(attestation))

    async def seen(self, attestation_ids: Sequence[str]) -> tuple[str, ...]:
        """Those that are within."""
        return tuple([name for name in attestation_ids if await self._sees_id(name)])

    async def sees_revocation(self, revocation: Revocation) -> bool:
        """One that hit an instance or a lease that is within."""
        if self._reach.everything or await self._sees_selector(revocation.selector):
            return True
        return await self._sees_any(await self._hit(revocation))

    async def told(self, decision: Decision) -> Decision | None:
        """What may be said of a decision: all of it where it is about what is within, its part where it hit one that is
        within among others, and None where it is neither."""
        if self._reach.everything or await self._is_about(decision):
            return decision
        within = await self.seen(decision.instances)
        return decision.part(within) if within else None

    async def _is_about(self, decision: Decision) -> bool:
        """About a role, an instance, an identity or an application that is within."""
        if decision.role and self._reach.covers(await self._owned(decision.role, decision.role_version)):
            return True
        # What was judged of an instance is the same code for each of its roles; a grant is of one role.
        if decision.attestation_id and (not decision.role or decision.kind in _OF_THE_INSTANCE):
            return await self._sees_id(decision.attestation_id)
        if decision.role:
            return False
        revocation = (
            await self._tx.revocations.get(decision.revocation_id) if decision.revocation_id else None
        )
        if revocation is not None:
            return await self.sees_revocation(revocation)
        proposal = await self._tx.proposals.get(decision.revocation_id) if decision.revocation_id else None
        if proposal is not None:
            return await self.sees_proposal(proposal)
        if decision.application:
            return self._reach.touches_application(self._book, decision.application)
        return bool(decision.identity) and await self._sees_identity(decision.identity)

    async def sees_proposal(self, proposal: Proposal) -> bool:
        """One that would hit an instance or a lease that is within."""
        if self._reach.everything or await self._sees_selector(proposal.selector):
            return True
        return await self._sees_any(proposal.preview.attestations)

    async def sees_selector(self, selector: Selector) -> bool:
        """An instance, a lease, a token or an identity that is within. What names no one of them is not."""
        return self._reach.everything or await self._sees_selector(selector)

    # --- acting -----------------------------------------------------------------------------------

    async def owns_detection(self, record: DetectionRecord) -> bool:
        """All that a report hits is within."""
        return await self.owns_instances(record.instances)

    async def owns_instances(self, attestation_ids: Sequence[str]) -> bool:
        """There are instances, and all of them are within."""
        return self._reach.everything or await self._owns_all(attestation_ids)

    async def owns_revocation(self, revocation: Revocation, *, ban: bool = False) -> bool:
        """All that a revocation hit is within; with `ban`, also all that its bans keep out."""
        if self._reach.everything:
            return True
        if ban and revocation.selector.kind in _ANYBODY:
            return False
        if revocation.selector.kind in (SelectorKind.LEASE, SelectorKind.TOKEN):
            return await self._sees_selector(revocation.selector)
        return await self._owns_all(await self._hit(revocation))

    async def owns_proposal(self, proposal: Proposal) -> bool:
        """All that it would hit is within, and all that its ban could keep out."""
        if self._reach.everything:
            return True
        if proposal.selector.kind in (SelectorKind.LEASE, SelectorKind.TOKEN):
            return await self._sees_selector(proposal.selector)
        if proposal.ban and proposal.selector.kind in _ANYBODY:
            return False
        return await self._owns_all(proposal.preview.attestations)

    async def owns_hits(
        self, selector: Selector, attestations: Sequence[Attestation], lease: Lease | None, *, ban: bool
    ) -> bool:
        """All that a selector hits now is within, and all that a `ban` of it could keep out."""
        if self._reach.everything:
            return True
        if lease is not None:
            return await self.sees_lease(lease)
        if ban and selector.kind in _ANYBODY:
            return False
        if not 0 < len(attestations) < MOST:
            return False
        for attestation in attestations:
            if not self._reach.holds(await self._of(attestation)):
                return False
        return True

    # --- looking up -------------------------------------------------------------------------------

    async def roles(self, attestation: Attestation) -> Sequence[str]:
        """The names of its roles."""
        return sorted(owned.role for owned in await self._of(attestation))

    async def _sees_selector(self, selector: Selector) -> bool:
        match selector.kind:
            case SelectorKind.LEASE | SelectorKind.TOKEN:
                by_id = selector.kind is SelectorKind.LEASE
                look = self._tx.leases.get if by_id else self._tx.leases.by_handle
                lease = await look(selector.value)
                return lease is not None and await self.sees_lease(lease)
            case SelectorKind.ATTESTATION:
                return await self._sees_id(selector.value)
            case SelectorKind.IDENTITY:
                return await self._sees_identity(selector.value)
            case _:
                return False

    async def _sees_identity(self, identity: str) -> bool:
        known = await self._tx.attestations.page(0.0, 1, "", identity)
        return any([self._reach.touches(await self._of(attestation)) for attestation in known])

    async def _sees_any(self, ids: Sequence[str]) -> bool:
        for name in ids:
            if await self._sees_id(name):
                return True
        return False

    async def _sees_id(self, attestation_id: str) -> bool:
        return self._reach.touches(await self._of_id(attestation_id))

    async def _owns_all(self, ids: Sequence[str]) -> bool:
        if not 0 < len(ids) < MOST:
            return False
        for name in ids:
            if not self._reach.holds(await self._of_id(name)):
                return False
        return True

    async def _hit(self, revocation: Revocation) -> Sequence[str]:
        """Instances that a revocation ended, and those that it only bans."""
        found = dict.fromkeys(await self._tx.revocations.hits(revocation.id, MOST))
        if revocation.detection_id:
            record = await self._tx.detections.get(revocation.detection_id)
            found |= dict.fromkeys(record.instances if record is not None else ())
        # The log outlives the report's row, and says whom it bans.
        bodies = [entry.body for entry in await entries_of(self._tx, revocation)]
        found |= {
            body.selector.value: None
            for body in bodies
            if body.kind is EntryKind.REVOKED and body.selector.kind is SelectorKind.ATTESTATION
        }
        return tuple(found)

    async def _of_id(self, attestation_id: str) -> frozenset[Owned]:
        if attestation_id not in self._roles:
            attestation = await self._tx.attestations.get(attestation_id)
            self._roles[attestation_id] = (
                frozenset() if attestation is None else await self._look_up(attestation)
            )
        return self._roles[attestation_id]

    async def _of(self, attestation: Attestation) -> frozenset[Owned]:
        if attestation.id not in self._roles:
            self._roles[attestation.id] = await self._look_up(attestation)
        return self._roles[attestation.id]

    async def _look_up(self, attestation: Attestation) -> frozenset[Owned]:
        """Roles that its identity may use, and those that it has had credentials of; else the one that admitted it."""
        found = {Owned(role.name, role.owner) for role in self._book.roles_for(attestation.identity)}
        for lease in await self._tx.leases.of_attestation(attestation.id):
            found.add(await self._owned(lease.role, lease.role_version))
        if not found:
            admitted = await self._tx.decisions.get(attestation.decision_id)
            if admitted is not None and admitted.role:
                found.add(await self._owned(admitted.role, admitted.role_version))
        return frozenset(found)

    async def _owned(self, name: str, version: bytes) -> Owned:
        """A role as the book has it; one that has left it, as it was recorded."""
        role = self._book.roles.get(name)
        if role is not None:
            return Owned(name, role.owner)
        text = await self._tx.roles.text(version) if version else None
        return Owned(name, "" if text is None else str(json.loads(text).get("owner", "")))
