"""What may be done about a report, in the order of preference: the first that a detector's cap allows is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from broker.ledger import Target, instance_targets, quarantine_targets
from broker.model.revocation import SelectorKind, taint
from broker.model.role import Action
from broker.report.match import Match
from broker.report.standing import Hit


@dataclass(frozen=True, slots=True)
class Sentence:
    """What is to be done about some hits.

    `identity` says whether one is banned too whose instances cannot be told
    apart; `cost` how many instances it takes of the detector's cap before the
    siblings that such a ban stops, 0 where no cap applies; `held` why a ban
    waits for an operator, empty where it does not; `note` what was left undone.
    """

    action: Action
    identity: bool = True
    cost: int = 0
    held: str = ""
    note: str = ""

    @property
    def revokes(self) -> bool:
        """True where it ends somebody, False where it only bans for a time."""
        return self.action is Action.REVOKE

    def targets(self, hits: Sequence[Hit], until: float) -> tuple[Target, ...]:
        """The log entries; `until` (seconds, UTC) ends a quarantine."""
        found: list[Target] = []
        for hit in hits:
            hold = hit.hold and self.identity
            if self.revokes:
                found += instance_targets(hit.attestation, hold=hold)
            else:
                found += quarantine_targets(hit.attestation, until, hold=hold)
        return tuple(found)


def sentences(match: Match, hits: Sequence[Hit], action: Action) -> Sequence[Sentence]:
    """What to try. Beyond a cap nothing is dropped: one instance waits in a timed ban, many wait for an operator."""
    if not match.exact:
        # It could be any of these: none gets anything new until somebody has looked. No identity is stopped
        # with all its instances for a guess.
        guess = f"could be any of {len(hits)}"
        return (Sentence(Action.QUARANTINE, identity=False, cost=len(hits), held=guess),)
    # A timed ban of the one that is named is what is left when a cap is used up, so that none applies to it.
    alone = match.instance and action is not Action.REVOKE
    whole = 1 if match.instance else len(hits)
    cost = 0 if alone else whole
    found = [Sentence(action, cost=cost)]
    if any(_bans_identity(hit) for hit in hits):
        note = "its identity is not banned, that is beyond the cap"
        found = [Sentence(action, cost=whole), Sentence(action, identity=False, cost=cost, note=note)]
    if match.instance and not alone:
        found.append(Sentence(Action.QUARANTINE, identity=False, held="beyond the cap"))
    return found


def _bans_identity(hit: Hit) -> bool:
    return any(item.kind is SelectorKind.IDENTITY for item in taint(hit.attestation, hold=hit.hold))
