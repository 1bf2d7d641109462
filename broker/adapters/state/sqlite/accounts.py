"""Accounts at backends as rows."""

from __future__ import annotations

import heapq
import json
from collections.abc import Sequence
from itertools import islice
from operator import attrgetter

from broker.adapters.state.codec import read_steps, steps_json, to_json
from broker.adapters.state.sqlite.session import Row, Session
from broker.model.account import Account, AccountState

_by_id = attrgetter("id")


class SqliteAccounts:
    """Plug of `broker.ports.AccountStore`. `id`, `attestation_id` and `backend` of an account never change."""

    __slots__ = ("_db",)

    def __init__(self, session: Session) -> None:
        self._db = session

    async def add(self, account: Account) -> None:
        """Raises `Conflict` where the id is taken."""
        self._db.change("accounts.add", _row(account))

    async def get(self, account_id: str) -> Account | None:
        """The account of an id."""
        row = self._db.one("accounts.get", (account_id,))
        return None if row is None else _read(row)

    async def replace(self, account: Account, expected: AccountState) -> bool:
        """Write the row where its state is still `expected`."""
        return self._db.change("accounts.replace", (*_row(account)[3:], account.id, expected)) > 0

    async def of_attestation(self, attestation_id: str) -> Sequence[Account]:
        """In id order."""
        return [_read(row) for row in self._db.all("accounts.of_attestation", (attestation_id,))]

    async def begin_closing(self, attestation_ids: Sequence[str], now: float) -> int:
        """OPENING and OPEN accounts of attestations become CLOSING, due at once; how many."""
        return self._db.change("accounts.begin_closing", (now, to_json(list(attestation_ids))))

    async def due(self, now: float, limit: int) -> Sequence[Account]:
        """What is to be closed at `now`, longest due first."""
        return [_read(row) for row in self._db.all("accounts.due", (now, limit))]

    async def unsettled(self, attestation_ids: Sequence[str]) -> int:
        """How many accounts of some attestations are not CLOSED."""
        row = self._db.one("accounts.unsettled", (to_json(list(attestation_ids)),))
        return 0 if row is None else int(row[0])

    async def page(self, states: Sequence[AccountState], limit: int, after: str = "") -> Sequence[Account]:
        """In id order; empty `states` is all."""
        if not states:
            return [_read(row) for row in self._db.all("accounts.page", (after, limit))]
        pages = (self._db.all("accounts.page_of_state", (state, after, limit)) for state in set(states))
        return list(islice(heapq.merge(*([_read(row) for row in page] for page in pages), key=_by_id), limit))


def _row(account: Account) -> Row:
    return (
        account.id,
        account.attestation_id,
        account.backend,
        account.replica,
        account.state,
        account.opened_at,
        account.accessor,
        account.closing_at,
        account.closed_at,
        account.attempts,
        account.next_attempt_at,
        account.detail,
        to_json(steps_json(account.steps)),
    )


def _read(row: Row) -> Account:
    values = row[1:]
    return Account(
        id=values[0],
        attestation_id=values[1],
        backend=values[2],
        replica=values[3],
        state=AccountState(values[4]),
        opened_at=values[5],
        accessor=values[6],
        closing_at=values[7],
        closed_at=values[8],
        attempts=values[9],
        next_attempt_at=values[10],
        detail=values[11],
        steps=read_steps(json.loads(values[12])),
    )
