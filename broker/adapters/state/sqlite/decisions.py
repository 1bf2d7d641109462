"""Decisions, and the text of every role version that one rests on."""

from __future__ import annotations

import json
from collections.abc import Sequence

from broker.adapters.state.codec import to_json
from broker.adapters.state.judgements import decision_json, read_decision
from broker.adapters.state.rules import capped
from broker.adapters.state.sqlite.session import Session
from broker.model.decision import Decision
from broker.model.role import Role


class SqliteDecisions:
    """Plug of `broker.ports.DecisionStore`."""

    __slots__ = ("_db",)

    def __init__(self, session: Session) -> None:
        self._db = session

    async def add(self, decision: Decision) -> None:
        """Keeps as many findings as `broker.adapters.state.rules` says. Raises `Conflict` where the id is taken."""
        self._db.change("decisions.add", (decision.id, decision.at, to_json(decision_json(capped(decision)))))

    async def get(self, decision_id: str) -> Decision | None:
        """The decision of an id."""
        row = self._db.one("decisions.get", (decision_id,))
        return None if row is None else read_decision(row[0], row[1], json.loads(row[2]))

    async def page(self, since: float, limit: int, after: str = "") -> Sequence[Decision]:
        """Made at or after `since`, in id order after an id."""
        # The first page skips to its time by one index, later ones go on in the other.
        if since > 0 and not after:
            rows = self._db.all("decisions.page_from", (since, limit))
        else:
            rows = self._db.all("decisions.page", (after, since, limit))
        return [read_decision(row[0], row[1], json.loads(row[2])) for row in rows]

    async def following(self, after: str, limit: int) -> Sequence[Decision]:
        """In the order in which they were committed, after the one of an id."""
        rows = self._db.all("decisions.following", (after, after, limit))
        return [read_decision(row[0], row[1], json.loads(row[2])) for row in rows]

    async def drop(self, ids: Sequence[str]) -> None:
        """Forget rows; unknown ids are passed over."""
        self._db.change_many("decisions.drop", [(item,) for item in ids])


class SqliteRoles:
    """Plug of `broker.ports.RoleVersionStore`."""

    __slots__ = ("_db",)

    def __init__(self, session: Session) -> None:
        self._db = session

    async def record(self, role: Role, now: float) -> None:
        """Idempotent by version."""
        # Asked first, since nearly every version is known and a look-up dirties no page.
        if self._db.one("decisions.role_text", (role.version,)) is None:
            self._db.change("decisions.record_role", (role.version, role.name, role.text, now))
        else:
            self._db.change_many("decisions.record_role", ())

    async def text(self, version: bytes) -> str | None:
        """The canonical text of a version."""
        row = self._db.one("decisions.role_text", (version,))
        return None if row is None else str(row[0])
