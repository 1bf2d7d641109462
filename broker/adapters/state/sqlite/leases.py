"""Leases as rows."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from itertools import islice
from operator import attrgetter
from typing import Final

from broker.adapters.state.codec import to_json
from broker.adapters.state.sqlite.session import Row, Session
from broker.model.credential import Lease, LeaseState
from broker.model.evidence import Assurance
from broker.model.role import Mode, Revocability

_FIELDS: Final = 24
_ADDED: Final = 26
"""Columns that came later stand after the generated one."""
_by_id = attrgetter("id")


class SqliteLeases:
    """Plug of `broker.ports.LeaseStore`. `id`, `attestation_id`, `request_id`, `account_id` and `cutter` of a lease
    never change."""

    __slots__ = ("_db",)

    def __init__(self, session: Session) -> None:
        self._db = session

    async def open(self, lease: Lease) -> None:
        """Raises `Conflict` where the id is taken."""
        self._db.change("leases.open", _row(lease))

    async def get(self, lease_id: str) -> Lease | None:
        """The lease of an id."""
        return _first(self._db.one("leases.get", (lease_id,)))

    async def by_request(self, attestation_id: str, request_id: str) -> Lease | None:
        """The latest lease of a request id."""
        return _first(self._db.one("leases.by_request", (attestation_id, request_id)))

    async def by_handle(self, handle: str) -> Lease | None:
        """The latest lease of a handle; the empty handle has none."""
        return _first(self._db.one("leases.by_handle", (handle,)))

    async def by_stem(self, stem: str) -> Lease | None:
        """The latest lease whose handle begins with `stem` and a colon; the empty stem has none."""
        # What follows the colon in the order of texts is the semicolon.
        return _first(self._db.one("leases.by_stem", (f"{stem}:", f"{stem};"))) if stem else None

    async def replace(self, lease: Lease, expected: LeaseState) -> bool:
        """Write the row where its state is still `expected`."""
        row = _row(lease)
        # What never changes stays out.
        return self._db.change("leases.replace", (*row[2:8], *row[9:_FIELDS], lease.id, expected)) > 0

    async def begin_revoking(self, attestation_ids: Sequence[str]) -> int:
        """PENDING and ACTIVE leases of attestations become REVOKING, due at once; how many."""
        return self._db.change("leases.begin_revoking", (to_json(list(attestation_ids)),))

    async def of_attestation(self, attestation_id: str) -> Sequence[Lease]:
        """In id order."""
        return [_read(row) for row in self._db.all("leases.of_attestation", (attestation_id,))]

    async def page(
        self, states: Sequence[LeaseState], limit: int, after: str = "", attestation_id: str = ""
    ) -> Sequence[Lease]:
        """In id order; empty `states` is all."""
        if attestation_id:
            rows = self._db.all("leases.of_attestation", (attestation_id,))
            found = (_read(row) for row in rows if row[1] > after)
            return list(islice((lease for lease in found if not states or lease.state in states), limit))
        if not states:
            return [_read(row) for row in self._db.all("leases.page", (after, limit))]
        pages = (self._db.all("leases.page_of_state", (state, after, limit)) for state in set(states))
        merged = heapq.merge(*([_read(row) for row in page] for page in pages), key=_by_id)
        return list(islice(merged, limit))

    async def due(self, now: float, limit: int) -> Sequence[Lease]:
        """What needs upkeep at `now`, longest due first."""
        return [_read(row) for row in self._db.all("leases.due", (now, limit))]

    async def unsettled(self, attestation_ids: Sequence[str]) -> int:
        """How many leases of some attestations are live."""
        if len(attestation_ids) == 1:  # every grant asks this
            row = self._db.one("leases.unsettled_of", (attestation_ids[0],))
        else:
            row = self._db.one("leases.unsettled", (to_json(list(attestation_ids)),))
        return 0 if row is None else int(row[0])

    async def count(self) -> Mapping[LeaseState, int]:
        """Live states that have any."""
        return {LeaseState(state): number for state, number in self._db.all("leases.count")}

    async def drop(self, ids: Sequence[str]) -> None:
        """Forget rows; unknown ids are passed over."""
        self._db.change_many("leases.drop", [(item,) for item in ids])


def _row(lease: Lease) -> Row:
    return (
        lease.id,
        lease.attestation_id,
        lease.role,
        lease.role_version,
        lease.backend,
        lease.state,
        lease.mode,
        lease.decision_id,
        lease.request_id,
        lease.identity,
        lease.audience,
        lease.assurance,
        lease.handle,
        lease.revocability,
        lease.possession_required,
        lease.issued_at,
        lease.expires_at,
        lease.max_expires_at,
        lease.as_of,
        lease.renewable,
        lease.ended_at,
        lease.attempts,
        lease.next_attempt_at,
        lease.detail,
        lease.account_id,
        lease.cutter,
    )


def _first(row: Row | None) -> Lease | None:
    return None if row is None else _read(row)


def _read(row: Row) -> Lease:
    values = [*row[1 : 1 + _FIELDS], *row[_ADDED:]]
    values[5] = LeaseState(values[5])
    values[6] = Mode(values[6])
    values[11] = Assurance(values[11])
    values[13] = Revocability(values[13])
    values[14] = bool(values[14])
    values[19] = bool(values[19])
    return Lease(*values)
