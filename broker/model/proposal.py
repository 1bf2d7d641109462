"""Proposals: a revocation that takes more than one operator, bound to what it was seen to hit."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from broker.model.reach import Reach
from broker.model.revocation import LogHead, Selector
from lockstep.formats import canonical_json

SHORTEST_NAME: Final = 16
"""Hexadecimal digits of a preview's digest that name it."""


@dataclass(frozen=True, slots=True)
class PreviewInstance:
    """One instance that is hit, for people: with its roles, and how many of its leases are not settled."""

    attestation_id: str
    identity: str
    roles: tuple[str, ...]
    leases: int


@dataclass(frozen=True, slots=True)
class Preview:
    """What a revocation would hit at a position of the log: ids of instances in order, and how many leases.

    `instances` are the first of them; they are shown, and not kept.
    """

    head: LogHead
    attestations: tuple[str, ...]
    leases: int
    digest: bytes = b""
    instances: tuple[PreviewInstance, ...] = ()

    def grown(self, now: Preview, *, leases: bool = True) -> bool:
        """True where `now` hits an instance that this one does not, or more leases, where those count."""
        more = leases and now.leases > self.leases
        return more or not set(now.attestations) <= set(self.attestations)

    def named(self, name: str) -> bool:
        """True where `name` are the first digits of the digest, and enough of them."""
        return len(name) >= SHORTEST_NAME and self.digest.hex().startswith(name.lower())


def preview_digest(selector: Selector, ban: bool, until: float | None, preview: Preview) -> bytes:
    """SHA-256 over the canonical JSON of what is aimed at, how, from which position, and all that it hits."""
    content = {
        "selector": [selector.kind.value, selector.value],
        "ban": ban,
        "until": None if until is None else round(until * 1_000_000),
        "log": [preview.head.log_id, preview.head.seq],
        "attestations": list(preview.attestations),
        "leases": preview.leases,
    }
    return sha256(canonical_json(content)).digest()


class ProposalState(enum.StrEnum):
    """OPEN → CONFIRMED | WITHDRAWN; one that is OPEN after its time is EXPIRED, whatever its row says."""

    OPEN = "open"
    CONFIRMED = "confirmed"
    WITHDRAWN = "withdrawn"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Agreement:
    """One person's word. `identity` is the verified identity, which tells people apart; `at` in seconds, UTC; `reach`
    is how far the right went with which it was given."""

    actor: str
    identity: str
    at: float
    reach: Reach


@dataclass(frozen=True, slots=True)
class Proposal:
    """A revocation that waits until `needs` different people have agreed, the first of whom has proposed it.

    `id` is the revocation's once it is one. `grown` says that it was seen to
    hit more than was proposed: whoever agrees from then on names the preview.
    """

    id: str
    state: ProposalState
    selector: Selector
    ban: bool
    until: float | None
    reason: str
    ticket: str
    at: float
    expires_at: float
    needs: int
    agreed: tuple[Agreement, ...]
    preview: Preview
    decision_id: str
    grown: bool = False
    ended_by: str = ""
    ended_at: float = 0.0
    ended_reason: str = ""

    def state_at(self, now: float) -> ProposalState:
        """What it is at a moment (seconds, UTC)."""
        over = self.state is ProposalState.OPEN and now >= self.expires_at
        return ProposalState.EXPIRED if over else self.state

    @property
    def people(self) -> frozenset[str]:
        """The identities that have agreed."""
        return frozenset(item.identity for item in self.agreed)

    @property
    def actors(self) -> str:
        """How the log names those who have agreed."""
        return " and ".join(item.actor for item in self.agreed)
