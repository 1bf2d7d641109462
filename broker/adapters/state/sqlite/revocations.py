"""The log with its one counter, and the acts that wrote it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence

from broker.adapters.state.codec import (
    read_steps,
    read_unconfirmed,
    steps_json,
    to_json,
    unconfirmed_json,
)
from broker.adapters.state.rules import chained, check_anew
from broker.adapters.state.sqlite.connection import driver_errors
from broker.adapters.state.sqlite.session import Row, Session
from broker.model.revocation import (
    GENESIS,
    EntryKind,
    LogEntry,
    LogHead,
    NewEntry,
    Revocation,
    RevocationState,
    Selector,
    SelectorKind,
)


def start_log(connection: sqlite3.Connection, queries: Mapping[str, str], log_id: str) -> None:
    """Give the log its id where it has none yet."""
    with driver_errors():
        connection.execute(queries["revocations.start_log"], (log_id, GENESIS))


class SqliteRevocations:
    """Plug of `broker.ports.RevocationStore`."""

    __slots__ = ("_db",)

    def __init__(self, session: Session) -> None:
        self._db = session

    async def head(self) -> LogHead:
        """Where the log stands."""
        return LogHead(*self._db.all("revocations.head")[0])

    async def append(self, entries: Sequence[NewEntry]) -> Sequence[LogEntry]:
        """Advance the counter and write, chained."""
        written = chained(await self.head(), entries)
        self._db.change_many("revocations.append", [_entry_row(entry) for entry in written])
        if written:
            self._db.change("revocations.advance", (written[-1].seq, written[-1].hash))
        return written

    async def since(self, seq: int, limit: int) -> Sequence[LogEntry]:
        """Entries after a sequence; what was pruned is missing."""
        return [_read_entry(row) for row in self._db.all("revocations.since", (seq, limit))]

    async def entry(self, seq: int) -> LogEntry | None:
        """One entry."""
        row = self._db.one("revocations.entry", (seq,))
        return None if row is None else _read_entry(row)

    async def live(self) -> Sequence[LogEntry]:
        """Everything that was not pruned, in order."""
        return [_read_entry(row) for row in self._db.all("revocations.live")]

    async def prune(self, seqs: Sequence[int]) -> None:
        """Drop entries; the head stays."""
        self._db.change_many("revocations.prune", [(seq,) for seq in seqs])

    async def begin_anew(self, head: LogHead, decision_id: str) -> None:
        """The log goes on as another one, from `head` on."""
        before = await self.head()
        check_anew(before, head)
        row = (head.log_id, head.seq, head.hash, before.log_id, before.seq, decision_id)
        self._db.change("revocations.add_restoration", row)
        self._db.change("revocations.begin_anew", (head.log_id, head.seq, head.hash))

    async def restored(self) -> LogHead | None:
        """Where the log began anew last."""
        row = self._db.one("revocations.restored")
        return None if row is None else LogHead(*row)

    async def put(self, revocation: Revocation) -> None:
        """Insert or replace by id."""
        self._db.change(
            "revocations.put",
            (revocation.id, revocation.state, revocation.at, _details(revocation), revocation.receipt),
        )

    async def get(self, revocation_id: str) -> Revocation | None:
        """The act of an id."""
        row = self._db.one("revocations.get", (revocation_id,))
        return None if row is None else _read(row)

    async def page(
        self, limit: int, after: str = "", state: RevocationState | None = None
    ) -> Sequence[Revocation]:
        """In id order after an id."""
        if state is None:
            rows = self._db.all("revocations.page", (after, limit))
        else:
            rows = self._db.all("revocations.page_of_state", (state, after, limit))
        return [_read(row) for row in rows]

    async def newest(self, limit: int, state: RevocationState) -> Sequence[Revocation]:
        """The last ones in id order, the last first."""
        return [_read(row) for row in self._db.all("revocations.newest", (state, limit))]

    async def hit(self, revocation_id: str, attestation_ids: Sequence[str]) -> None:
        """Record whom a revocation ended."""
        self._db.change_many("revocations.hit", [(revocation_id, item) for item in attestation_ids])

    async def hits(self, revocation_id: str, limit: int, after: str = "") -> Sequence[str]:
        """Attestation ids in order, after an id."""
        return [row[0] for row in self._db.all("revocations.hits", (revocation_id, after, limit))]


def _entry_row(entry: LogEntry) -> Row:
    body = entry.body
    return (
        entry.seq,
        entry.hash,
        body.kind,
        body.revocation_id,
        body.selector.kind,
        body.selector.value,
        body.cut,
        body.ban,
        body.at,
        body.until,
        body.actor,
        body.reason,
        body.ticket,
        body.decision_id,
        body.refers_to,
        body.audience,
    )


def _read_entry(row: Row) -> LogEntry:
    seq, digest, kind, revocation_id, selector_kind, selector_value, cut, ban, *rest = row
    selector = Selector(SelectorKind(selector_kind), selector_value)
    return LogEntry(
        seq, digest, NewEntry(EntryKind(kind), revocation_id, selector, bool(cut), bool(ban), *rest)
    )


def _details(revocation: Revocation) -> str:
    return to_json(
        {
            "selector": [revocation.selector.kind, revocation.selector.value],
            "cut": revocation.cut,
            "ban": revocation.ban,
            "actor": revocation.actor,
            "reason": revocation.reason,
            "ticket": revocation.ticket,
            "decision_id": revocation.decision_id,
            "detection_id": revocation.detection_id,
            "until": revocation.until,
            "first_seq": revocation.first_seq,
            "last_seq": revocation.last_seq,
            "steps": steps_json(revocation.steps),
            "unconfirmed": unconfirmed_json(revocation.unconfirmed),
            "attestations": revocation.attestations,
            "leases": revocation.leases,
            "expanded": revocation.expanded,
            "lifted_at": revocation.lifted_at,
        }
    )


def _read(row: Row) -> Revocation:
    revocation_id, state, at, text, receipt = row
    details = json.loads(text)
    kind, value = details.pop("selector")
    return Revocation(
        id=revocation_id,
        state=RevocationState(state),
        at=at,
        receipt=receipt,
        selector=Selector(SelectorKind(kind), value),
        steps=read_steps(details.pop("steps")),
        unconfirmed=read_unconfirmed(details.pop("unconfirmed")),
        **details,
    )
