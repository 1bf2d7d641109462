"""Proposals, as rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from broker.adapters.state.codec import to_json
from broker.adapters.state.sqlite.session import Row, Session
from broker.model.proposal import Agreement, Preview, Proposal, ProposalState
from broker.model.reach import Reach
from broker.model.revocation import LogHead, Selector, SelectorKind
from broker.model.role import Scope


class SqliteProposals:
    """Plug of `broker.ports.ProposalStore`."""

    __slots__ = ("_db",)

    def __init__(self, session: Session) -> None:
        self._db = session

    async def put(self, proposal: Proposal) -> None:
        """Insert or replace by id."""
        self._db.change(
            "proposals.put", (proposal.id, proposal.state, proposal.expires_at, _details(proposal))
        )

    async def get(self, proposal_id: str) -> Proposal | None:
        """The proposal of an id."""
        row = self._db.one("proposals.get", (proposal_id,))
        return None if row is None else _read(row)

    async def page(self, limit: int, after: str = "") -> Sequence[Proposal]:
        """In id order after an id."""
        return [_read(row) for row in self._db.all("proposals.page", (after, limit))]

    async def waiting(self, now: float) -> int:
        """How many are OPEN and not over."""
        row = self._db.one("proposals.waiting", (now,))
        return 0 if row is None else int(row[0])


def _details(proposal: Proposal) -> str:
    preview = proposal.preview
    return to_json(
        {
            "selector": [proposal.selector.kind, proposal.selector.value],
            "ban": proposal.ban,
            "until": proposal.until,
            "reason": proposal.reason,
            "ticket": proposal.ticket,
            "at": proposal.at,
            "needs": proposal.needs,
            "agreed": [_agreement(item) for item in proposal.agreed],
            "preview": {
                "head": [preview.head.log_id, preview.head.seq, preview.head.hash.hex()],
                "attestations": preview.attestations,
                "leases": preview.leases,
                "digest": preview.digest.hex(),
            },
            "decision_id": proposal.decision_id,
            "grown": proposal.grown,
            "ended_by": proposal.ended_by,
            "ended_at": proposal.ended_at,
            "ended_reason": proposal.ended_reason,
        }
    )


def _agreement(item: Agreement) -> list[object]:
    scopes = item.reach.scopes
    reach = None if scopes is None else [[scope.owners, scope.roles] for scope in scopes]
    return [item.actor, item.identity, item.at, reach]


def _read_agreement(row: Sequence[Any]) -> Agreement:
    actor, identity, at, scopes = row
    found = None if scopes is None else tuple(Scope(tuple(owners), tuple(roles)) for owners, roles in scopes)
    return Agreement(actor, identity, at, Reach(found))


def _read(row: Row) -> Proposal:
    proposal_id, state, expires_at, text = row
    details = json.loads(text)
    kind, value = details.pop("selector")
    preview = details.pop("preview")
    log_id, seq, digest = preview["head"]
    return Proposal(
        id=proposal_id,
        state=ProposalState(state),
        expires_at=expires_at,
        selector=Selector(SelectorKind(kind), value),
        agreed=tuple(_read_agreement(item) for item in details.pop("agreed")),
        preview=Preview(
            LogHead(log_id, seq, bytes.fromhex(digest)),
            tuple(preview["attestations"]),
            preview["leases"],
            bytes.fromhex(preview["digest"]),
        ),
        **details,
    )
