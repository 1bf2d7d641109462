"""Look at what a selector hits now, before anything is done about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from broker.belonging import MOST, Belonging
from broker.errors import NotFound
from broker.ledger import wide_digests
from broker.model.attestation import Attestation
from broker.model.credential import Lease
from broker.model.proposal import Preview, PreviewInstance, preview_digest
from broker.model.requests import RevokeOrder
from broker.model.revocation import LogHead, Selector, SelectorKind
from broker.ports import Transaction

SHOWN: Final = 100
"""Instances of a preview that are named."""
_BY_LEASE: Final = (SelectorKind.LEASE, SelectorKind.TOKEN)


@dataclass(frozen=True, slots=True)
class Look:
    """What a selector hits at a position of the log: instances, how many of their leases are not settled, and the
    lease itself where one is named."""

    head: LogHead
    attestations: tuple[Attestation, ...]
    leases: int
    lease: Lease | None = None


async def look(tx: Transaction, selector: Selector) -> Look:
    """Raises `NotFound` for a lease or a token that nobody has, or an instance that does not live."""
    head = await tx.revocations.head()
    if selector.kind in _BY_LEASE:
        find = tx.leases.get if selector.kind is SelectorKind.LEASE else tx.leases.by_handle
        lease = await find(selector.value)
        if lease is None:
            raise NotFound(f"no such {selector.kind}")
        return Look(head, (), 1 if lease.state.live else 0, lease)
    selectors: Sequence[Selector] = (selector,)
    if selector.kind is SelectorKind.PACKAGE:
        digests = await wide_digests(tx, selector)
        selectors = [Selector(SelectorKind.DIGEST, digest.hex()) for digest in digests]
    found: dict[str, Attestation] = {}
    for one in selectors:
        for attestation in await tx.attestations.alive_by(one, MOST):
            found[attestation.id] = attestation
        if len(found) >= MOST:
            break
    if selector.kind is SelectorKind.ATTESTATION and not found:
        raise NotFound("no living attestation of this id")
    return Look(head, tuple(found.values()), await tx.leases.unsettled(tuple(found)))


async def preview_of(
    belonging: Belonging, tx: Transaction, seen: Look, order: RevokeOrder, *, ban: bool
) -> Preview:
    """What a proposal is bound to. Instances are named where somebody is to look at them before anything happens."""
    shown = []
    named = order.dry_run or order.needs > 1
    for attestation in seen.attestations[: SHOWN if named else 0]:
        roles = tuple(await belonging.roles(attestation))
        leases = await tx.leases.unsettled((attestation.id,))
        shown.append(PreviewInstance(attestation.id, attestation.identity.name, roles, leases))
    if named and seen.lease is not None:
        lease = seen.lease
        shown.append(PreviewInstance(lease.attestation_id, lease.identity, (lease.role,), seen.leases))
    ids = tuple(sorted(attestation.id for attestation in seen.attestations))
    found = Preview(seen.head, ids, seen.leases, instances=tuple(shown))
    return replace(found, digest=preview_digest(order.selector, ban, order.until, found))
