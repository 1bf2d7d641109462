"""Look at what a selector hits now, before anything is done about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from broker.belonging import Belonging, outside
from broker.errors import NotFound
from broker.ledger import wide_digests
from broker.model.attestation import Attestation
from broker.model.credential import Lease
from broker.model.reach import Reach
from broker.model.revocation import LogHead, Selector, SelectorKind
from broker.model.role import RoleBook
from broker.ports import Transaction

MOST: Final = 10_000
"""Instances that a look finds; there may be more."""
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


async def check_reach(
    tx: Transaction, book: RoleBook, reach: Reach, selector: Selector, seen: Look, *, ban: bool
) -> None:
    """Raises `Denied` (not_entitled) where a selector hits what is not within a right's scope, or may hit it later.

    Nobody's instances are within where it hits nobody: then nothing says whose it is.
    """
    belonging = Belonging(tx, book, reach)
    if not await belonging.owns_hits(selector, seen.attestations, seen.lease, ban=ban):
        raise outside()
