"""A detector's blast radius: what it has stopped in its period, and what one more act would."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from broker.ledger import Target
from broker.model.revocation import SelectorKind
from broker.model.role import DetectorPolicy
from broker.ports import Transaction
from broker.report.standing import Hit


async def siblings(tx: Transaction, targets: Sequence[Target], hits: Sequence[Hit]) -> int:
    """How many more instances the bans of identities among some targets stop, beside the hits themselves."""
    banned = {item.selector.value for item in targets if item.selector.kind is SelectorKind.IDENTITY}
    known = Counter(hit.attestation.identity.name for hit in hits)
    return sum([max(0, await tx.attestations.count_alive(name) - known[name]) for name in banned])


async def room(tx: Transaction, policy: DetectorPolicy, now: float, *, revokes: bool) -> int:
    """How many more instances a detector may revoke, or else put in quarantine, in its period; one is always in
    the cap itself.

    What it has put in quarantine takes no room from what it revokes, or a flood of weak signals would stop the strong
    ones; what it has revoked takes room from both.
    """
    since = now - policy.cap.period
    stopped = tx.detections
    revoked = await stopped.applied_instances(policy.name, since)
    named = revoked if revokes else await stopped.denied_instances(policy.name, since)
    used = named + await stopped.siblings(policy.name, since, revokes)
    # A share of those that were there before it began: what it has revoked is not alive any more.
    fleet = await tx.attestations.count_alive() + revoked
    return max(1, min(policy.cap.instances, int(policy.cap.share * fleet))) - used
